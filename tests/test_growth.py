"""Work grows with the graph, not with its square: counted in calls, which no machine disturbs."""

from __future__ import annotations

from collections.abc import Callable
from cProfile import Profile
from pathlib import Path
from pstats import Stats

import pytest

from benchmarks.growth_networks import (
    BUILDERS,
    FAULTY,
    WIDTH,
    Builder,
    Fault,
    chain,
    shifted,
    spoil,
)
from initlint.engine import lint
from initlint.fix.repair import repair
from initlint.fix.search import FixOptions
from initlint.load import load
from initlint.model import Model
from initlint.settings import Settings

FEW, MANY = 400, 1600
COSTLY = {"recurrent": 4}
"""Networks whose layers cost several times as much as others: so many times fewer nodes."""

EXPONENT_CALLS = 1.25
"""Calls may grow by the ratio of nodes to this power: sorting and chance findings add to linear."""


Work = Callable[[Model, Settings], object]


def calls(path: Path, work: Work = lint) -> int:
    """Function calls, built-in ones included, of work on a file without a probe."""
    profile = Profile()
    profile.runcall(lambda: work(load(str(path)), Settings(probe=False)))
    return int(Stats(profile).total_calls)  # type: ignore[attr-defined]


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_calls_grow_with_the_number_of_nodes(build: Builder, tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    divisor = COSTLY.get(build.__name__, 1)
    build(path, FEW // divisor, WIDTH)
    calls(path)  # what is imported or tabulated once counts in no run
    few = calls(path)
    build(path, MANY // divisor, WIDTH)
    assert calls(path) < few * (MANY / FEW) ** EXPONENT_CALLS


@pytest.mark.parametrize(
    ("build", "fault"), FAULTY, ids=lambda item: str(getattr(item, "__name__", item))
)
def test_calls_grow_with_the_number_of_faults(build: Builder, fault: Fault, tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    divisor = COSTLY.get(build.__name__, 1)
    counted = []
    for nodes in (FEW, FEW, MANY):
        build(path, nodes // divisor, WIDTH)
        spoil(path, fault)
        counted.append(calls(path))
    assert counted[-1] < counted[-2] * (MANY / FEW) ** EXPONENT_CALLS


def test_calls_of_a_repair_grow_with_the_number_of_nodes(tmp_path: Path) -> None:
    def work(model: Model, settings: Settings) -> object:
        return repair(model, settings, FixOptions())

    path = tmp_path / "network.onnx"
    counted = []
    for nodes in (FEW // 4, FEW // 4, FEW):
        chain(path, nodes, WIDTH)
        spoil(path, shifted)
        counted.append(calls(path, work))
    assert counted[-1] < counted[-2] * (FEW / (FEW // 4)) ** EXPONENT_CALLS
