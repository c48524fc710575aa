"""Bandwidth of `initlint.measure.moments` as a share of `numpy.sum`'s, on the same float32 array.

Run ``python benchmarks/moments.py [MEBIBYTES]``. Rounds of both are interleaved, so that a busy
machine slows both; the medians are compared.
"""

from __future__ import annotations

import sys
from statistics import median
from time import perf_counter

import numpy as np

from initlint.measure.moments import moments
from initlint.model import from_array

ROUNDS = 9


def main() -> None:
    mebibytes = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    array = np.random.default_rng(0).standard_normal(mebibytes << 18, dtype=np.float32) * 0.02
    tensor = from_array("weight", array)
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(ROUNDS):
        start = perf_counter()
        np.sum(array)
        theirs.append(perf_counter() - start)
        start = perf_counter()
        moments(tensor)
        ours.append(perf_counter() - start)
    gigabytes = array.nbytes / 1e9
    print(f"numpy.sum          {gigabytes / median(theirs):6.2f} GB/s")
    print(f"initlint moments   {gigabytes / median(ours):6.2f} GB/s")
    print(f"ratio              {median(theirs) / median(ours):6.2f}")


if __name__ == "__main__":
    main()
