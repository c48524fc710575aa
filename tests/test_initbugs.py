"""Initialisation bugs that shipped: the fault is found where it is, its repair is silent."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from initlint.engine import lint  # noqa: E402
from initlint.settings import Settings  # noqa: E402
from initlint.testing import as_model  # noqa: E402

FOLDER = Path(__file__).parent.parent / "fixtures" / "initbugs"
BUGS = sorted(file.stem for file in FOLDER.glob("*.py") if file.stem != "__init__")


def findings(make):
    torch.manual_seed(0)
    record = lint(as_model(make()), Settings())
    assert record["failures"] == []
    return record["findings"]


@pytest.mark.parametrize("name", BUGS)
def test_bug_is_found_where_it_is(name):
    module = import_module(f"fixtures.initbugs.{name}")
    found = [item for item in findings(module.bug) if item["name"] == module.RULE]
    assert found
    assert set(module.LAYERS) <= {layer for item in found for layer in item["layers"]}


@pytest.mark.parametrize("name", BUGS)
def test_fix_is_silent(name):
    module = import_module(f"fixtures.initbugs.{name}")
    found = findings(module.fix)
    assert [item for item in found if item["severity"] != "info"] == []
    assert [item for item in found if item["name"] == module.RULE] == []


def test_fresh_batch_norms_are_not_dead():
    """matterport/Mask_RCNN issue 753: a tool that calls every fresh BatchNorm dead."""

    def make():
        layers = [torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU()]
        pool = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 10)]
        return torch.nn.Sequential(*layers, *pool)

    assert [item for item in findings(make) if item["severity"] != "info"] == []
