"""Work grows with the graph, not with its square: counted in calls, which no machine disturbs."""

from __future__ import annotations

from cProfile import Profile
from pathlib import Path
from pstats import Stats

import pytest

from benchmarks.growth_networks import BUILDERS, WIDTH, Builder
from initlint.engine import lint
from initlint.load import load
from initlint.settings import Settings

FEW, MANY = 400, 1600
COSTLY = {"recurrent": 4}
"""Networks whose layers cost several times as much as others: so many times fewer nodes."""

EXPONENT_CALLS = 1.25
"""Calls may grow by the ratio of nodes to this power: sorting and chance findings add to linear."""


def calls(path: Path) -> int:
    """Function calls, built-in ones included, of loading and linting a file without a probe."""
    profile = Profile()
    profile.runcall(lambda: lint(load(str(path)), Settings(probe=False)))
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
