"""``initlint fix``, ``diff`` and ``compare`` as a user calls them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from fixtures.onnx_models import MODELS

ROOT = Path(__file__).parents[2]


def call(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'rules'}"}
    return subprocess.run(
        [sys.executable, "-m", "initlint", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    onnx.save(MODELS["bad_mlp_duplicated_units"](0), tmp_path / "bad.onnx")
    return tmp_path / "bad.onnx"


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_fix_writes_a_file_that_lints_clean(bad, tmp_path):
    ended = call("fix", "bad.onnx", "-o", "good.onnx", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "symmetric-units" in ended.stdout
    assert "fixed and verified" in ended.stdout
    assert "written:" in ended.stdout
    assert call("good.onnx", "--fail-on", "warning", cwd=tmp_path).returncode == 0
    assert listing(tmp_path) == ["bad.onnx", "good.onnx"]
    difference = call("diff", "bad.onnx", "good.onnx", "--format", "json", cwd=tmp_path)
    moved = [row["param"] for row in json.loads(difference.stdout)["params"] if row["moved"]]
    assert moved == ["fc2.weight"]


def test_diff_option_writes_nothing(bad, tmp_path):
    before = bad.read_bytes()
    ended = call("fix", "bad.onnx", "--diff", "--format", "json", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    record = json.loads(ended.stdout)
    assert record["verdict"]["status"] == "fixed"
    assert record["written"] is None
    assert {change["applicability"] for change in record["changes"]} == {"unsafe"}
    assert listing(tmp_path) == ["bad.onnx"]
    assert bad.read_bytes() == before


def test_in_place_is_only_what_was_asked_for(bad, tmp_path):
    before = bad.read_bytes()
    for arguments in ((), ("-o", "bad.onnx"), ("-o", "x.onnx", "--in-place"), ("-o", "x.bin")):
        ended = call("fix", "bad.onnx", *arguments, cwd=tmp_path)
        assert ended.returncode == 2
        assert len(ended.stderr.strip().splitlines()) == 1
        assert bad.read_bytes() == before
    assert call("fix", "bad.onnx", "--in-place", cwd=tmp_path).returncode == 0
    assert bad.read_bytes() != before
    assert listing(tmp_path) == ["bad.onnx"]


def test_what_the_configuration_allows_is_left_alone(bad, tmp_path):
    (tmp_path / "initlint.toml").write_text(
        '[[allow]]\nrule = "symmetric-units"\ntarget = "bad.onnx"\nreason = "grown later"\n'
    )
    before = bad.read_bytes()
    ended = call("fix", "bad.onnx", "--in-place", cwd=tmp_path)
    assert bad.read_bytes() == before
    assert "changed" not in ended.stdout


def test_without_a_run_a_fix_is_not_called_good(bad, tmp_path):
    ended = call("fix", "bad.onnx", "-o", "good.onnx", "--no-probe", cwd=tmp_path)
    assert ended.returncode == 2
    assert "NOT VERIFIED" in ended.stdout


def test_a_module_gives_a_state_dict_and_code_with_its_place(tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\n"
        "def build():\n"
        "    layers = []\n"
        "    for _ in range(12):\n"
        "        layers += [nn.Linear(64, 64), nn.ReLU()]\n"
        "    return nn.Sequential(*layers, nn.Linear(64, 4))\n"
    )
    ended = call("fix", "net.py:build", "-o", "start.safetensors", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "net.py:7" in ended.stdout
    assert "torch.nn.init.orthogonal_(model[i].weight, gain=1.414)" in ended.stdout
    from safetensors.torch import load_file

    assert len(load_file(tmp_path / "start.safetensors")) == 26


def test_bad_targets_are_one_line_and_exit_code_two(tmp_path):
    (tmp_path / "torn.onnx").write_bytes(b"\x08\x07\x12")
    for arguments in (
        ("fix", "nobody.onnx", "--diff"),
        ("fix", "torn.onnx", "--diff"),
        ("diff", "torn.onnx", "torn.onnx"),
        ("compare", "torn.onnx"),
    ):
        ended = call(*arguments, cwd=tmp_path)
        assert ended.returncode == 2, arguments
        assert ended.stderr.startswith("initlint: ")
        assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr


@pytest.mark.parametrize(
    ("places", "told"),
    [
        ((), "say where the result goes: -o FILE, --in-place, or --diff to write nothing"),
        (
            ("-o", "out.onnx", "--diff"),
            "-o and --diff exclude each other: say -o FILE, --in-place, or --diff to write nothing",
        ),
    ],
)
def test_the_result_goes_to_one_place(places, told, bad, tmp_path):
    ended = call("fix", "bad.onnx", *places, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (2, f"initlint: {told}\n")
    assert listing(tmp_path) == ["bad.onnx"]


def test_compare_ranks(bad, tmp_path):
    ended = call("compare", "bad.onnx", "--schemes", "he_normal", "--seeds", "1", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "best for this network" in ended.stdout
    assert listing(tmp_path) == ["bad.onnx"]
