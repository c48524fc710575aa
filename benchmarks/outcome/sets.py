"""The sets of networks that nothing is fitted on, each with its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.outcome.models import Architecture, Entry, entries

HERE = Path(__file__).resolve().parent

SETS = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class HeldOutSet:
    """Architectures, and where their losses and verdicts are kept."""

    architectures: Mapping[str, Architecture]
    losses: Path
    verdicts: Path

    @property
    def zoo(self) -> tuple[Entry, ...]:
        """Every start, the healthy one of an architecture first."""
        return entries(self.architectures)


def held_out_set(number: int) -> HeldOutSet:
    """One of the sets; only that one is imported."""
    if number == 1:
        from benchmarks.outcome.held_out import HELD_OUT

        return _kept(HELD_OUT, "held_out")
    if number == 2:
        from benchmarks.outcome.held_out_two import HELD_OUT_TWO

        return _kept(HELD_OUT_TWO, "held_out_two")
    if number == 3:
        from benchmarks.outcome.held_out_three import HELD_OUT_THREE

        return _kept(HELD_OUT_THREE, "held_out_three")
    if number == 4:
        from benchmarks.outcome.held_out_four import HELD_OUT_FOUR

        return _kept(HELD_OUT_FOUR, "held_out_four")
    from benchmarks.outcome.held_out_five import HELD_OUT_FIVE

    return _kept(HELD_OUT_FIVE, "held_out_five")


def _kept(architectures: Mapping[str, Architecture], stem: str) -> HeldOutSet:
    return HeldOutSet(architectures, HERE / f"{stem}_losses.json", HERE / f"{stem}_verdicts.json")
