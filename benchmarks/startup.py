"""What a cold start costs beside the imports that nobody can avoid.

``python benchmarks/startup.py [MODEL.onnx] [--rounds N]``. Each command runs in a process of its
own; rounds of all commands are interleaved, so that a busy machine slows all of them, and medians
are compared. CPU time, which a busy machine disturbs less, counts all processes of a command.
Bytecode is compiled before, as an installer does; the packages compared with have theirs.

A call with many small models is compared with a call with one of them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from compileall import compile_dir
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[1]
INITLINT = (sys.executable, "-m", "initlint")
WIDTH, DEPTH = 512, 5
MANY, SMALL_WIDTH = 50, 32


def example(path: Path, width: int = WIDTH, seed: int = 0) -> None:
    """A ReLU network with He initialisation; one of 5 MB unless told otherwise."""
    rng = np.random.default_rng(seed)
    nodes, weights, tensor = [], [], "input"
    for index in range(DEPTH):
        weight = rng.standard_normal((width, width), dtype=np.float32) * (2.0 / width) ** 0.5
        weights.append(numpy_helper.from_array(weight.astype(np.float32), f"layers.{index}.weight"))
        nodes.append(helper.make_node("MatMul", [tensor, weights[-1].name], [f"product{index}"]))
        nodes.append(helper.make_node("Relu", [f"product{index}"], [f"active{index}"]))
        tensor = f"active{index}"
    shape = [1, width]
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
        several = Path(folder) / "several"
        several.mkdir()
        for number in range(MANY):
            example(several / f"{number:02}.onnx", SMALL_WIDTH, number)
        for package in (ROOT / "initlint", ROOT / "rules"):
            compile_dir(package, quiet=1)
        one, many = str(several / "00.onnx"), str(several)
        typer, imports = "import typer", "import onnx, networkx, numpy, typer"
        commands = {
            typer: (sys.executable, "-c", typer),
            "--version": (*INITLINT, "--version"),
            "--help": (*INITLINT, "--help"),
            imports: (sys.executable, "-c", imports),
            "static lint": (*INITLINT, os.path.abspath(model), "--no-probe"),
            "one small model, static": (*INITLINT, one, "--no-probe"),
            f"{MANY} small models, static": (*INITLINT, many, "--no-probe"),
            "one small model, run": (*INITLINT, one),
            f"{MANY} small models, run": (*INITLINT, many),
        }
        found = measure(commands, given.rounds)
    print(f"{'':38}{'wall':>9}{'CPU':>9}{'wall ratio':>12}{'CPU ratio':>11}")
    base = {"--version": typer, "--help": typer, "static lint": imports}
    base |= {f"{MANY} small models, {how}": f"one small model, {how}" for how in ("static", "run")}
    for name, (wall, cpu) in found.items():
        against = found[base.get(name, name)]
        print(
            f"{name:38}{wall * 1e3:6.0f} ms{cpu * 1e3:6.0f} ms"
            f"{wall / against[0]:12.2f}{cpu / against[1]:11.2f}"
        )


if __name__ == "__main__":
    main()
