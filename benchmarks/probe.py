"""The probe on real models: which run, and what it costs against bare onnxruntime.

    python benchmarks/probe.py FOLDER [--repeat 3]

For every ``.onnx`` file below FOLDER: how the probe ended, and its wall time over that of a bare
process that imports onnxruntime, loads the file and runs it once on the batch of one probe run,
with the probe's settings (one thread, no optimisation, which an untrusted graph does not get), and
over that of one with onnxruntime's own optimisations. Medians over interleaved repetitions. Then
fresh networks exported from PyTorch, where torch is installed.
"""

from __future__ import annotations

import argparse
import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from initlint.load.onnx import load_onnx
from initlint.model import LoadError, Model
from initlint.probe.child import run_in_child
from initlint.probe.inputs import Array, InputSpec, Sizes, synthesise
from initlint.probe.onnx_inputs import input_specs
from initlint.probe.result import Activations, ProbeStatus

BARE = """
import os, sys
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
if sys.argv[3] == "plain":
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
session = onnxruntime.InferenceSession(sys.argv[1], options)
with numpy.load(sys.argv[2]) as feeds:
    session.run(None, {
        name: feeds[name].astype(object) if feeds[name].dtype.kind == "U" else feeds[name]
        for name in feeds.files
    })
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    print(
        f"{'model':38} {'probe':8} {'layers':>9} {'load':>6} {'probe s':>8} {'bare s':>7}  ratio  "
        "optimised"
    )
    ran, ratios, others = [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        files = [*sorted(options.folder.rglob("*.onnx")), *exported(Path(scratch))]
        for path in files:
            status, found = row(path, options.repeat, Path(scratch))
            ran.append(status is ProbeStatus.OK)
            if found is not None:
                ratios.append(found[0])
                others.append(found[1])
    print(f"{sum(ran)} of {len(ran)} run ({sum(ran) / len(ran):.1%})", end="; ")
    for name, values in (("bare", ratios), ("optimised bare", others)):
        middle = statistics.median(values)
        print(f"probe over {name}: median {middle:.2f}, greatest {max(values):.2f}")


def row(path: Path, repeat: int, scratch: Path) -> tuple[ProbeStatus, tuple[float, float] | None]:
    started = time.perf_counter()
    try:
        model = load_onnx(str(path))
    except LoadError as error:
        print(f"{path.name:38} {error}")
        return ProbeStatus.FAILED, None
    load = time.perf_counter() - started
    found = run_in_child(model, timeout=120)
    layers = f"{len(found.outputs)}/{len(model.graph)}"
    if found.status is not ProbeStatus.OK:
        print(f"{path.name:38} {found.status:8} {layers:>9} {found.detail}")
        return found.status, None
    feeds = scratch / "feeds.npz"
    np.savez(feeds, **same_feeds(model, found))
    probes, bares, optimised = [], [], []
    for _ in range(repeat):
        probes.append(run_in_child(model, timeout=120).seconds)
        bares.append(bare(path, feeds, "plain"))
        optimised.append(bare(path, feeds, "optimised"))
    probe_s, bare_s = statistics.median(probes), statistics.median(bares)
    other = probe_s / statistics.median(optimised)
    print(
        f"{path.name[:38]:38} {found.status:8} {layers:>9} {load:6.2f} {probe_s:8.2f} "
        f"{bare_s:7.2f} {probe_s / bare_s:6.2f} {other:10.2f}  {found.detail}",
        flush=True,
    )
    return found.status, (probe_s / bare_s, other)


def same_feeds(model: Model, found: Activations) -> dict[str, Array]:
    """Arrays of the shapes that the probe says it fed."""
    specs = input_specs(list(model.runnable.inputs), model.runnable.model.graph)
    arrays: dict[str, Array] = {}
    for spec in specs:
        sides = found.inputs[spec.name].split("[", 1)[1].split("]", 1)[0]
        shape = [int(side) for side in sides.split(",") if side]
        length = max((side for side in shape[1:2]), default=16)
        array = synthesise([fixed(spec, shape)], Sizes(1, 1, length), seed=0)[spec.name]
        arrays[spec.name] = array.astype(str) if array.dtype == object else array
    return arrays


def fixed(spec: InputSpec, shape: list[int]) -> InputSpec:
    axes = [["fixed", side] for side in shape]
    return InputSpec.from_json({**spec.to_json(), "axes": axes})


def bare(path: Path, feeds: Path, how: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", BARE, str(path), str(feeds), how], check=True)
    return time.perf_counter() - started


def exported(folder: Path, *, resnet: bool = False) -> Iterator[Path]:
    """Fresh networks as PyTorch's default exporter writes them; also a ResNet-50 where asked."""
    try:
        import torch
        from torch import nn
    except ImportError:
        return

    class Sequence(nn.Module):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.embedding = nn.Embedding(1000, 64)
            self.body = body

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            found = self.body(self.embedding(ids))
            return found[0] if isinstance(found, tuple) else found

    image, ids = torch.randn(2, 3, 64, 64), torch.randint(1000, (2, 12))
    plain = [nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10)]
    convolutional = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(2)]
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    nets: dict[str, tuple[nn.Module, torch.Tensor, tuple[int, ...]]] = {
        "mlp": (nn.Sequential(*plain), torch.randn(2, 32), (0,)),
        "cnn": (nn.Sequential(*convolutional), image, (0,)),
        "lstm": (Sequence(nn.LSTM(64, 64, 2, batch_first=True)), ids, (0, 1)),
        "transformer": (Sequence(nn.TransformerEncoder(layer, 2)), ids, (0, 1)),
    }
    if resnet:
        from tests.architectures import resnet50

        nets["resnet50"] = resnet50(), image, (0,)
    for name, (net, example, open_axes) in nets.items():
        path = folder / f"fresh-{name}.onnx"
        shapes = (dict.fromkeys(open_axes, torch.export.Dim.AUTO),)
        stream, sys.stdout = sys.stdout, io.StringIO()
        try:
            torch.onnx.export(
                net.eval(), (example,), str(path), dynamic_shapes=shapes, external_data=False
            )
        finally:
            sys.stdout = stream
        yield path


if __name__ == "__main__":
    main()
