"""The compiled sums of `initlint.probe.summary`; absent where there was no compiler.

Blocks are contiguous float32 buffers of finite elements. A buffer of another size than stated
raises ValueError.
"""

from typing import Any

def summary(
    block: Any, outer: int, units: int, after: int, low: Any, high: Any, /
) -> tuple[float, float, int]:
    """Sum, sum of squares and number of zeros of a block ``(outer, units, after)``.

    Smallest and largest elements of each unit are written to ``low`` and ``high``, float32 buffers.
    """

def deviation(block: Any, centre: float, /) -> float:
    """Sum of the squared differences from a centre."""

def contrast(block: Any, rows: int, columns: Any, /) -> tuple[float, int, float]:
    """Squared length of the sum of the rows' directions, rows that are not zero, mean variance.

    The variance is that of a column. ``columns`` is an int64 buffer of those that count; an empty
    one means all.
    """

def directions(block: Any, outer: int, units: int, after: int, /) -> tuple[float, int]:
    """Squared length of the sum of the directions of all vectors of units; those not zero."""

def histogram(values: Any, step: int, low: float, scale: float, counts: Any, /) -> None:
    """Count every ``step``-th element v in the bin ⌊(v − low)·scale⌋ of ``counts``.

    ``counts`` is an int64 buffer of 64 bins at most. What lies beyond is counted in the first or
    the last.
    """

def silent(slope: float, rows: float, step: float, /) -> float:
    """The sum in `initlint.probe.summary.dead_chance`."""
