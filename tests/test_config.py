"""Configuration: where it is found, and what is wrong with it, with file and line."""

from __future__ import annotations

from datetime import date

import pytest

from initlint.config import OPTIONS, ConfigError, load_config


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def load(tmp_path, text, name="pyproject.toml"):
    write(tmp_path / name, text)
    return load_config(None, tmp_path)


def fault(tmp_path, text, name="pyproject.toml"):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, name)
    return str(caught.value)


def test_nothing_there(tmp_path):
    config = load_config(None, tmp_path / "a")
    assert not config.options


def test_nearest_file_wins_and_projects_without_the_table_are_passed_over(tmp_path):
    write(tmp_path / "pyproject.toml", '[tool.initlint]\nselect = ["SCL"]\n')
    write(tmp_path / "a" / "pyproject.toml", "[project]\nname = 'x'\n")
    (tmp_path / "a" / "b").mkdir()
    assert load_config(None, tmp_path / "a" / "b").options == {"select": ["SCL"]}
    write(tmp_path / "a" / "initlint.toml", "seed = 3\n")
    assert load_config(None, tmp_path / "a" / "b").options == {"seed": 3}


def test_explicit_file(tmp_path):
    path = write(tmp_path / "other.toml", 'fail-on = "warning"\n')
    assert load_config(path, tmp_path).options == {"fail-on": "warning"}
    with pytest.raises(ConfigError, match=r"missing\.toml: cannot be read: no such file"):
        load_config(tmp_path / "missing.toml", tmp_path)


def test_paths_are_relative_to_the_file(tmp_path):
    write(tmp_path / "initlint.toml", 'input = "x.npz"\n')
    (tmp_path / "sub").mkdir()
    assert load_config(None, tmp_path / "sub").options["input"] == str(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[project]\nname = 'x'\n[tool.initlint]\nselct = []\n",
            "pyproject.toml:4: unknown option 'selct'; did you mean 'select'?",
        ),
        (
            "[tool.initlint]\nfail_on = 'info'\n",
            "pyproject.toml:2: unknown option 'fail_on'; did you mean 'fail-on'?",
        ),
        (
            "[tool.initlint]\n\nfail-on = 'erorr'\n",
            "pyproject.toml:3: fail-on must be one of info, warning, error, never, not 'erorr'",
        ),
        (
            "[tool.initlint]\nselect = 'SCL'\n",
            "pyproject.toml:2: select must be a list of strings, not 'SCL'",
        ),
        (
            "[tool.initlint]\nno-probe = 1\n",
            "pyproject.toml:2: no-probe must be true or false, not 1",
        ),
        (
            "[tool.initlint]\nseed = -1\n",
            "pyproject.toml:2: seed must be a whole number, not -1",
        ),
        (
            "[tool]\ninitlint.seed = true\n",
            "pyproject.toml:2: seed must be a whole number, not True",
        ),
        (
            "[tool.initlint]\n[tool.initlint.rules]\nzero-weight = 3\n",
            "pyproject.toml:2: write rule options as [tool.initlint.rules.<name>]",
        ),
        (
            "[[tool.initlint.allow]]\nrule = 'a'\nreason = 'b'\n\n"
            "[[tool.initlint.allow]]\nrule = 'a'\n",
            "pyproject.toml:5: allow needs a reason",
        ),
        (
            "[[tool.initlint.allow]]\nrule = 'a'\nreason = 'b'\nlayr = '*'\n",
            "pyproject.toml:1: unknown key 'layr' in allow; did you mean 'layer'?",
        ),
        (
            "[[tool.initlint.allow]]\nrule = 'a'\nreason = 'b'\nexpires = 'soon'\n",
            "pyproject.toml:1: expires must be a date like 2027-01-31",
        ),
    ],
)
def test_faults_have_file_line_and_advice(tmp_path, text, message):
    assert fault(tmp_path, text) == message


def test_invalid_toml(tmp_path):
    assert fault(tmp_path, "[tool.initlint\n").startswith("pyproject.toml: is not valid TOML")


def test_allows(tmp_path):
    config = load(
        tmp_path,
        """
[[tool.initlint.allow]]
rule = "zero-weight"
target = "*.onnx"
layer = "adapter.*"
reason = "LoRA B starts at zero"
expires = 2027-01-31
""",
    )
    (allow,) = config.allows
    assert (allow.rule, allow.target, allow.layer) == ("zero-weight", "*.onnx", "adapter.*")
    assert allow.expires == date(2027, 1, 31)
    assert allow.place == "pyproject.toml:2"


def test_rule_options(tmp_path):
    config = load(tmp_path, "[tool.initlint.rules.zero-weight]\nshare = 0.5\n")
    assert config.rule_options == {"zero-weight": {"share": 0.5}}
    assert config.places["rules.zero-weight"] == "pyproject.toml:1"


def test_every_option_is_one_of_the_command_lines():
    from dataclasses import fields

    from initlint.cli.options import Options

    names = {option.name.replace("_", "-") for option in fields(Options)}
    assert set(OPTIONS) <= names
