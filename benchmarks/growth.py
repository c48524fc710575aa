"""How time grows with parameters and with nodes: the static lint of networks of growing size.

``python benchmarks/growth.py [--most-nodes N] [--most-parameters N] [--rules]``. Each network is
linted in this process without a probe (reading, graph, measures, theory, all rules); times are
CPU seconds, which a busy machine disturbs least. The last column is the exponent of growth between
two rows: 1 is linear. With ``--rules`` the largest network's slowest rules are listed.

A last table takes networks of 1,000 weighted layers apart: loading, measuring the weights, and
theory with all rules, which have a second.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from math import log
from pathlib import Path
from time import perf_counter, process_time

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.growth_networks import BUILDERS, WIDTH, chain, residual
from initlint.engine import lint
from initlint.load import load
from initlint.measure.measures import Measures
from initlint.settings import Settings

LAYERS = 1_000


def seconds(path: Path) -> tuple[float, float]:
    """Wall clock and CPU seconds of one lint."""
    wall, cpu = perf_counter(), process_time()
    lint(load(str(path)), Settings(probe=False))
    return perf_counter() - wall, process_time() - cpu


def table(title: str, sizes: list[int], build: Callable[[Path, int], None], folder: Path) -> None:
    print(f"\n{title:>34}{'wall':>10}{'CPU':>10}{'exponent':>10}")
    before: tuple[int, float] | None = None
    for size in sizes:
        path = folder / "network.onnx"
        build(path, size)
        wall, cpu = seconds(path)
        exponent = "" if before is None else f"{log(cpu / before[1]) / log(size / before[0]):.2f}"
        print(f"{size:>34,}{wall:>9.2f}s{cpu:>9.2f}s{exponent:>10}", flush=True)
        before = size, cpu
        path.unlink()


def parts(path: Path) -> tuple[float, float, float]:
    """CPU seconds of loading, of measuring the weights, and of theory and all rules."""
    started = process_time()
    model = load(str(path))
    loaded = process_time()
    Measures(model).model_stage  # noqa: B018 - reads and judges every weight
    measured = process_time()
    lint(model, Settings(probe=False))
    whole = process_time() - measured
    return loaded - started, measured - loaded, whole - (measured - loaded)


def layers(folder: Path) -> None:
    print(f"\n{'1,000 layers':>34}{'loading':>10}{'weights':>10}{'the rest':>10}")
    for build, count in ((chain, 2 * LAYERS), (residual, 5 * LAYERS // 2)):
        for width in (16, 64):
            path = folder / "network.onnx"
            build(path, count, width)
            times = [min(column) for column in zip(*(parts(path) for _ in range(3)), strict=True)]
            name = f"{build.__name__}, width {width}"
            print(f"{name:>34}" + "".join(f"{time:>9.2f}s" for time in times), flush=True)
            path.unlink()


def slowest(path: Path) -> None:
    """The rules and functions that take longest on one network."""
    from cProfile import Profile
    from pstats import Stats

    profile = Profile()
    profile.runcall(seconds, path)
    Stats(profile).sort_stats("cumulative").print_stats(r"initlint", 40)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most-nodes", type=int, default=100_000)
    parser.add_argument("--most-parameters", type=int, default=1 << 28)
    parser.add_argument("--rules", action="store_true")
    given = parser.parse_args()
    nodes = [size for size in (1_000, 3_000, 10_000, 30_000, 100_000) if size <= given.most_nodes]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        chain(folder / "warm.onnx", 10, WIDTH)
        seconds(folder / "warm.onnx")
        for build in BUILDERS:
            table(f"nodes ({build.__name__})", nodes, lambda p, n, b=build: b(p, n, WIDTH), folder)
        sizes = [4**power for power in range(10, 15) if 4**power <= given.most_parameters]
        table(
            "parameters (8 square layers)",
            sizes,
            lambda path, size: chain(path, 16, round((size / 8) ** 0.5)),
            folder,
        )
        layers(folder)
        if given.rules:
            residual(folder / "largest.onnx", nodes[-1], WIDTH)
            slowest(folder / "largest.onnx")


if __name__ == "__main__":
    main()
