"""Bandwidth of `initlint.measure.moments` beside `numpy.sum`'s.

Run ``python benchmarks/moments.py [MEBIBYTES] [--rounds N]``. Each tensor holds that many mebibytes
as stored. Rounds of everything are interleaved, so that a busy machine slows all alike; medians are
compared: with `numpy.sum` over float32 in stored bytes a second, and with `numpy.sum` over the same
type, where NumPy has it.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable
from statistics import median
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from initlint.load.decode import BytesSource
from initlint.measure import moments as module
from initlint.model import Tensor


def stored(dtype: str, size: int) -> NDArray[np.generic]:
    """Elements drawn from N(0, 0.02), as a file would hold them."""
    rng = np.random.default_rng(0)
    values = np.concatenate(
        [rng.standard_normal(1 << 22, dtype=np.float32) for _ in range(min(4, -(-size >> 22)))]
    )
    values = np.resize(values * np.float32(0.02), size)
    if dtype == "bfloat16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    if dtype in ("int8", "uint8"):
        quantised = (values * 1000).round().clip(-128, 127).astype(np.int8)
        return quantised if dtype == "int8" else quantised.view(np.uint8)
    return values.astype(dtype)


def tensor_over(dtype: str, array: NDArray[np.generic]) -> Tensor:
    """A tensor over an array's own memory: reading it copies nothing."""
    source = BytesSource(memoryview(array).cast("B"), dtype, array.size)
    return Tensor("weight", dtype, array.shape, source)


def measured(tensor: Tensor, native: object) -> Callable[[], object]:
    """The moments of a tensor, with the compiled module or without."""

    def run() -> object:
        before, module._native = module._native, native
        try:
            return module.moments(tensor)
        finally:
            module._native = before

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mebibytes", nargs="?", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    runs: dict[str, tuple[int, Callable[[], object]]] = {}
    for dtype in ("float32", "bfloat16", "float16", "int8", "uint8", "float64"):
        width = {"float32": 4, "float64": 8, "int8": 1, "uint8": 1}.get(dtype, 2)
        array = stored(dtype, (given.mebibytes << 20) // width)
        tensor = tensor_over(dtype, array)
        if dtype != "bfloat16":
            runs[f"numpy.sum {dtype}"] = array.nbytes, array.sum
        if module._native is not None:
            runs[f"moments {dtype}"] = array.nbytes, measured(tensor, module._native)
        if dtype in ("float32", "bfloat16"):
            runs[f"moments {dtype}, NumPy alone"] = array.nbytes, measured(tensor, None)
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(given.rounds + 1):
        for name, (_, run) in runs.items():
            start = perf_counter()
            run()
            seconds[name].append(perf_counter() - start)
    speed = {name: size / median(seconds[name][1:]) for name, (size, _) in runs.items()}
    print(f"{'':32}{'GB/s':>8}{'of float32 sum':>16}{'of its own sum':>16}")
    for name, value in speed.items():
        own = speed.get("numpy.sum " + name.partition(" ")[2].partition(",")[0])
        ratio = "" if own is None else f"{value / own:.2f}"
        print(f"{name:32}{value / 1e9:8.2f}{value / speed['numpy.sum float32']:16.2f}{ratio:>16}")


if __name__ == "__main__":
    main()
