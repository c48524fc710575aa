"""What a cold start costs beside the imports that nobody can avoid.

``python benchmarks/startup.py [MODEL.onnx] [--rounds N]``. Each command runs in a process of its
own; rounds of all commands are interleaved, so that a busy machine slows all of them, and medians
are compared. CPU time, which a busy machine disturbs less, counts all processes of a command.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[1]
INITLINT = (sys.executable, "-m", "initlint")
WIDTH, DEPTH = 512, 5


def example(path: Path) -> None:
    """A ReLU network of 5 MB with He initialisation."""
    rng = np.random.default_rng(0)
    nodes, weights, tensor = [], [], "input"
    for index in range(DEPTH):
        weight = rng.standard_normal((WIDTH, WIDTH), dtype=np.float32) * (2.0 / WIDTH) ** 0.5
        weights.append(numpy_helper.from_array(weight.astype(np.float32), f"layers.{index}.weight"))
        nodes.append(helper.make_node("MatMul", [tensor, weights[-1].name], [f"product{index}"]))
        nodes.append(helper.make_node("Relu", [f"product{index}"], [f"active{index}"]))
        tensor = f"active{index}"
    shape = [1, WIDTH]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(tensor, TensorProto.FLOAT, shape)],
        weights,
    )
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)


def measure(commands: dict[str, tuple[str, ...]], rounds: int) -> dict[str, tuple[float, float]]:
    """Median wall clock and CPU seconds of each command."""
    wall, cpu = defaultdict(list), defaultdict(list)
    for _ in range(rounds + 1):
        for name, command in commands.items():
            before, start = os.times(), perf_counter()
            subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
            wall[name].append(perf_counter() - start)
            after = os.times()
            cpu[name].append(
                after.children_user
                + after.children_system
                - before.children_user
                - before.children_system
            )
    return {name: (median(wall[name][1:]), median(cpu[name][1:])) for name in commands}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = given.model or os.path.join(folder, "network.onnx")
        if given.model is None:
            example(Path(model))
        typer, imports = "import typer", "import onnx, networkx, numpy, typer"
        commands = {
            typer: (sys.executable, "-c", typer),
            "--version": (*INITLINT, "--version"),
            "--help": (*INITLINT, "--help"),
            imports: (sys.executable, "-c", imports),
            "static lint": (*INITLINT, os.path.abspath(model), "--no-probe"),
        }
        found = measure(commands, given.rounds)
    print(f"{'':38}{'wall':>9}{'CPU':>9}{'wall ratio':>12}{'CPU ratio':>11}")
    base = {"--version": typer, "--help": typer, "static lint": imports}
    for name, (wall, cpu) in found.items():
        against = found[base.get(name, name)]
        print(
            f"{name:38}{wall * 1e3:6.0f} ms{cpu * 1e3:6.0f} ms"
            f"{wall / against[0]:12.2f}{cpu / against[1]:11.2f}"
        )


if __name__ == "__main__":
    main()
