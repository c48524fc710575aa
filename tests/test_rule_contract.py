"""Every rule keeps its contract: names, documentation, executed examples, fixtures."""

from __future__ import annotations

import inspect
import re
import textwrap
from importlib import import_module
from pathlib import Path

import pytest

from initlint.engine import lint
from initlint.lint.registry import all_rules, summary
from initlint.settings import Settings
from initlint.testing import as_model, run_rule

ROOT = Path(__file__).parent.parent
RULES = all_rules()


def findings(target, rule=None):
    settings = Settings(extend_select=(rule,) if rule else ())
    record = lint(as_model(target), settings)
    assert record["failures"] == []
    return record["findings"]


def example(rule, heading):
    text = inspect.getdoc(rule)
    match = re.search(rf"^{heading}\n-+\n(.*?)(?=^\S[^\n]*\n-+\n|\Z)", text, re.M | re.S)
    block = match.group(1).partition("::\n")[2]
    namespace = {}
    exec(compile(textwrap.dedent(block), f"<{rule.name}: {heading}>", "exec"), namespace)
    return namespace["model"]


def fixtures(rule):
    return import_module(f"fixtures.rules.{rule.name.replace('-', '_')}")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_name_is_file_name(rule):
    file = Path(inspect.getsourcefile(rule))
    assert file.stem == rule.name.replace("-", "_")
    assert 10 <= len(summary(rule)) <= 100


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_bad_example_gives_exactly_this_rule(rule):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    found = findings(example(rule, "Example")(), rule.name)
    serious = {item["name"] for item in found if item["severity"] != "info"}
    assert rule.name in {item["name"] for item in found}
    assert serious <= {rule.name}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_good_example_gives_nothing(rule):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    found = findings(example(rule, "Use instead")(), rule.name)
    assert [item for item in found if item["name"] == rule.name] == []
    assert [item for item in found if item["severity"] != "info"] == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_fixtures(rule):
    module = fixtures(rule)
    functions = dict(inspect.getmembers(module, inspect.isfunction))
    bad = {name: make for name, make in functions.items() if name.startswith("bad_")}
    good = {name: make for name, make in functions.items() if name.startswith("good_")}
    assert bad
    assert good
    for name, make in bad.items():
        found = run_rule(rule, make())
        assert found, name
        wanted = set((make.__doc__ or "").split())
        assert wanted, f"{name} names no layer"
        named = {layer for finding in found for layer in finding.layers or (finding.layer,)}
        assert wanted <= named, (name, named)
    for name, make in good.items():
        assert run_rule(rule, make()) == [], name


def test_every_fixture_has_its_rule():
    names = {rule.name.replace("-", "_") for rule in RULES}
    stems = {file.stem for file in (ROOT / "fixtures" / "rules").glob("*.py")}
    assert stems - {"__init__"} == names
