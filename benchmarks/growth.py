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
import tempfile
from collections.abc import Callable
from math import log
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from initlint.engine import Settings, lint
from initlint.load import load
from initlint.measure.measures import Measures

LAYERS = 1_000


def _save(path: Path, nodes: list[Any], weights: list[Any], width: int, last: str) -> None:
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, width])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, [1, width])],
        weights,
    )
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)


def _weight(rng: np.random.Generator, width: int, name: str) -> Any:
    values = rng.standard_normal((width, width), dtype=np.float32) * np.float32((2 / width) ** 0.5)
    return numpy_helper.from_array(values, name)


def chain(path: Path, count: int, width: int) -> None:
    """Linear layers and ReLUs, one after the other: ``count`` nodes."""
    rng = np.random.default_rng(0)
    nodes, weights, tensor = [], [], "input"
    for index in range(count // 2):
        weights.append(_weight(rng, width, f"layers.{index}.weight"))
        nodes.append(helper.make_node("MatMul", [tensor, weights[-1].name], [f"product{index}"]))
        nodes.append(helper.make_node("Relu", [f"product{index}"], [f"active{index}"]))
        tensor = f"active{index}"
    _save(path, nodes, weights, width, tensor)


def residual(path: Path, count: int, width: int) -> None:
    """Blocks of normalisation, two linear layers and a skip connection: ``count`` nodes."""
    rng = np.random.default_rng(0)
    ones = numpy_helper.from_array(np.ones(width, np.float32), "ones")
    zeros = numpy_helper.from_array(np.zeros(width, np.float32), "zeros")
    nodes, weights, tensor = [], [ones, zeros], "input"
    for index in range(count // 5):
        up, down = f"blocks.{index}.up.weight", f"blocks.{index}.down.weight"
        weights += [_weight(rng, width, up), _weight(rng, width, down)]
        name = [f"b{index}.{part}" for part in range(5)]
        nodes += [
            helper.make_node("LayerNormalization", [tensor, "ones", "zeros"], [name[0]]),
            helper.make_node("MatMul", [name[0], up], [name[1]]),
            helper.make_node("Relu", [name[1]], [name[2]]),
            helper.make_node("MatMul", [name[2], down], [name[3]]),
            helper.make_node("Add", [tensor, name[3]], [name[4]]),
        ]
        tensor = name[4]
    _save(path, nodes, weights, width, tensor)


def dense(path: Path, count: int, width: int) -> None:
    """Each layer feeds a running sum that the next one reads, and a common output: wide fan-out."""
    rng = np.random.default_rng(0)
    nodes, weights, total = [], [], "input"
    for index in range(count // 3):
        weights.append(_weight(rng, width, f"layers.{index}.weight"))
        nodes += [
            helper.make_node("MatMul", ["input", weights[-1].name], [f"p{index}"]),
            helper.make_node("Relu", [f"p{index}"], [f"r{index}"]),
            helper.make_node("Add", [total, f"r{index}"], [f"s{index}"]),
        ]
        total = f"s{index}"
    _save(path, nodes, weights, width, total)


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
        chain(folder / "warm.onnx", 10, 8)
        seconds(folder / "warm.onnx")
        for build in (chain, residual, dense):
            table(f"nodes ({build.__name__})", nodes, lambda p, n, b=build: b(p, n, 4), folder)
        sizes = [4**power for power in range(10, 15) if 4**power <= given.most_parameters]
        table(
            "parameters (8 square layers)",
            sizes,
            lambda path, size: chain(path, 16, round((size / 8) ** 0.5)),
            folder,
        )
        layers(folder)
        if given.rules:
            residual(folder / "largest.onnx", nodes[-1], 4)
            slowest(folder / "largest.onnx")


if __name__ == "__main__":
    main()
