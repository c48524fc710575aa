"""Every speed ratio in one table, from one run: against the bare minimum, and against peers.

``python benchmarks/performance.py [--rounds N] [--peers PYTHON] [--write]``

Each row is two whole processes on the same input, ours and another, run in turn after one round
that is not counted; the table shows the ratio of their median times, and the greatest resident
memory of either (of the largest process of its tree). Peers run in an environment of their own
(``benchmarks/peers.txt``). ``--write`` puts the table into ``docs/performance.md``.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
INITLINT = (sys.executable, "-m", "initlint")
RESNET = "tests/architectures.py:resnet50"
SHAPE = (16, 3, 64, 64)

BARE_RUN = """
import os, sys
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
session = onnxruntime.InferenceSession(sys.argv[1], options)
first = session.get_inputs()[0]
shape = [side if isinstance(side, int) else 256 for side in first.shape]
session.run(None, {first.name: numpy.zeros(shape, numpy.float32)})
"""

BARE_TRAINING = f"""
import torch
from tests.architectures import resnet50
torch.manual_seed(0)
model = resnet50()
batch = torch.randn({SHAPE})
loss = torch.nn.functional.cross_entropy(model(batch), torch.randint(0, 1000, ({SHAPE[0]},)))
loss.backward()
"""

READ = """
import sys
with open(sys.argv[1], "rb", buffering=0) as stream:
    while stream.read(1 << 23):
        pass
"""

SUM = """
import sys, numpy
numpy.fromfile(sys.argv[1], numpy.float32, offset=1 << 12).sum()
"""

RESNET_OF_PEERS = """
import torch
from tests.architectures import resnet50
torch.manual_seed(0)
model = resnet50()
x, y = torch.randn(16, 3, 64, 64), torch.randint(0, 1000, (16,))
"""

PEERS = {
    "onnx.checker": "import onnx, sys; onnx.checker.check_model(sys.argv[1], full_check=True)",
    "onnx-doctor": "{bin}/onnx-doctor check {argument}",
    "weightwatcher": RESNET_OF_PEERS
    + "import weightwatcher; weightwatcher.WeightWatcher(model=model).analyze()",
    "torchtest2": RESNET_OF_PEERS + "import torchtest2\n"
    "torchtest2.check_model(model, x, y, loss_fn=torch.nn.functional.cross_entropy,"
    " optimizer=torch.optim.SGD(model.parameters(), 0.01))",
    "torch-audit": RESNET_OF_PEERS + "import torch_audit\n"
    "torch_audit.audit(model)\n"
    "torch.nn.functional.cross_entropy(model(x), y).backward()\n"
    "torch_audit.audit(model, phase='backward', batch=(x, y))",
    "torchlens": RESNET_OF_PEERS
    + "from torchlens import debug, trace\n"
    + "debug.audit_params(model); debug.audit_trace(trace(model, x))",
    "modelscan": "{bin}/modelscan -p {argument}",
}
"""What each peer is asked to do: its own one-call use, as Python code or as a command."""


@dataclass(frozen=True)
class Pair:
    """One row: a command of ours beside another on the same input.

    Attributes:
        what: what is measured.
        ours: our command.
        other: the command beside it.
        against: what that is.
        bar: greatest ratio allowed; None where there is no bar.
    """

    what: str
    ours: Sequence[str]
    other: Sequence[str]
    against: str
    bar: float | None = None


def python(code: str, *arguments: str, executable: str = sys.executable) -> tuple[str, ...]:
    """A command that runs code."""
    return (executable, "-W", "ignore", "-c", code, *arguments)


def bare(folder: Path) -> Iterator[Pair]:
    """Against the least that the same job can cost."""
    five, many, weights = folder / "five.onnx", folder / "many", folder / "weights.safetensors"
    typer = python("import typer")
    yield Pair("--version", (*INITLINT, "--version"), typer, "import typer", 1.5)
    yield Pair("--help", (*INITLINT, "--help"), typer, "import typer", 1.5)
    static = (*INITLINT, str(five), "--no-probe", "--exit-zero")
    imports = python("import onnx, networkx, numpy, typer")
    yield Pair("static lint, 5 MB of ONNX", static, imports, "the imports alone", 1.5)
    whole = (*INITLINT, str(many), "--no-probe", "--exit-zero")
    one = (*INITLINT, str(many / "net00.onnx"), "--no-probe", "--exit-zero")
    yield Pair("50 small files in one call", whole, one, "one of them", None)
    probed = (*INITLINT, str(five), "--exit-zero")
    run = python(BARE_RUN, str(five))
    yield Pair("lint with a probe", probed, run, "onnxruntime: load and one run", None)
    checkpoint = (*INITLINT, str(weights), "--exit-zero")
    yield Pair("checkpoint of 1 GB", checkpoint, python(READ, str(weights)), "reading it", None)
    yield Pair("checkpoint of 1 GB", checkpoint, python(SUM, str(weights)), "numpy.sum of it", None)
    module = (*INITLINT, RESNET, "--input-shape", ",".join(map(str, SHAPE)), "--exit-zero")
    yield Pair("ResNet-50, module", module, python(BARE_TRAINING), "forward and backward", 1.5)


def peers(folder: Path, executable: str) -> Iterator[Pair]:
    """Against tools for the same files and modules."""
    five, weights = folder / "five.onnx", folder / "weights.pt"
    static = (*INITLINT, str(five), "--no-probe", "--exit-zero")
    module = (*INITLINT, RESNET, "--input-shape", ",".join(map(str, SHAPE)), "--exit-zero")
    checkpoint = (*INITLINT, str(weights), "--exit-zero")
    jobs = {
        "onnx.checker": (static, "static lint, 5 MB of ONNX", str(five)),
        "onnx-doctor": (static, "static lint, 5 MB of ONNX", str(five)),
        "weightwatcher": (module, "ResNet-50, module", ""),
        "torchtest2": (module, "ResNet-50, module", ""),
        "torch-audit": (module, "ResNet-50, module", ""),
        "torchlens": (module, "ResNet-50, module", ""),
        "modelscan": (checkpoint, "a pickled checkpoint of 100 MB", str(weights)),
    }
    for name, (ours, what, argument) in jobs.items():
        code = PEERS[name]
        if code.startswith("{bin}"):
            other = tuple(code.format(bin=Path(executable).parent, argument=argument).split())
        else:
            other = python(code, argument, executable=executable)
        yield Pair(what, ours, other, name)


def write_inputs(folder: Path) -> None:
    """The files that the rows read."""
    import numpy as np

    from benchmarks.startup import example

    example(folder / "five.onnx")
    many = folder / "many"
    many.mkdir()
    model = [sys.executable, "-m", "fixtures.onnx_models", "good_deep_relu_he"]
    subprocess.run([*model, str(many / "net00.onnx")], cwd=ROOT, check=True, env=environment())
    for index in range(1, 50):
        shutil.copy(many / "net00.onnx", many / f"net{index:02}.onnx")
    rng = np.random.default_rng(0)
    count, side = 16, 4096
    size = side * side * 4
    entries = ",".join(
        f'"layers.{i}.weight":{{"dtype":"F32","shape":[{side},{side}],'
        f'"data_offsets":[{i * size},{(i + 1) * size}]}}'
        for i in range(count)
    )
    header = f"{{{entries}}}".encode()
    header += b" " * ((1 << 12) - 8 - len(header))
    with (folder / "weights.safetensors").open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        for _ in range(count):
            values = rng.standard_normal(side * side, dtype=np.float32) * np.float32(side**-0.5)
            stream.write(values.tobytes())
    subprocess.run([sys.executable, "-c", PICKLE, str(folder / "weights.pt")], cwd=ROOT, check=True)


PICKLE = """
import sys, torch
from tests.architectures import resnet50
torch.manual_seed(0)
torch.save(resnet50().state_dict(), sys.argv[1])
"""


def environment() -> dict[str, str]:
    """The caller's environment, with this tree on Python's path."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "rules")))}


@dataclass
class Measured:
    """Seconds of each round, greatest memory in bytes, and how the last round ended."""

    seconds: list[float]
    memory: int = 0
    code: int = 0


def run(command: Sequence[str], found: Measured) -> None:
    """One round of one command."""
    started = time.perf_counter()
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    found.seconds.append(time.perf_counter() - started)
    found.memory = max(found.memory, usage.ru_maxrss * 1024)
    found.code = child.returncode


def rows(pairs: Sequence[Pair], rounds: int) -> Iterator[str]:
    """The table, line by line."""
    yield "| what | against | ours | other | ratio | bar | our memory | other's |"
    yield "|---|---|--:|--:|--:|--:|--:|--:|"
    for pair in pairs:
        ours, other = Measured([]), Measured([])
        for _ in range(rounds + 1):
            run(pair.ours, ours)
            run(pair.other, other)
        ours_s, other_s = median(ours.seconds[1:] or [0]), median(other.seconds[1:] or [0])
        ratio = f"{ours_s / other_s:.2f}" if other_s and not ours.code else "–"
        failed = f" (exit {other.code})" if other.code not in (0, 1) else ""
        yield (
            f"| {pair.what} | {pair.against}{failed} | {ours_s:.2f} s | {other_s:.2f} s | "
            f"{ratio} | {pair.bar or ''} | {ours.memory >> 20} MB | {other.memory >> 20} MB |"
        )


def machine() -> str:
    """Processor, cores, system and versions."""
    names = ("numpy", "onnx", "onnxruntime", "networkx", "typer", "torch")
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    cores = os.cpu_count()
    kind = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text() or "")
    processor = kind[1] if kind else platform.processor()
    return (
        f"{processor}, {cores} cores, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, {', '.join(found)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", help="Python of the environment that holds the peers")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--inputs", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inputs:
        sys.path[:0] = [str(ROOT)]
        write_inputs(given.inputs)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        # In a process of its own: a child counts what its parent held when it was started.
        subprocess.run([sys.executable, __file__, "--inputs", scratch], cwd=ROOT, check=True)
        pairs = list(bare(folder))
        if given.peers:
            pairs += peers(folder, given.peers)
        lines = [f"Medians of {given.rounds} rounds on {machine()}.", ""]
        for line in rows(pairs, given.rounds):
            print(line, flush=True)
            lines.append(line)
    if given.write:
        text = PAGE.read_text()
        begin, end = "<!-- measured: begin -->", "<!-- measured: end -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        PAGE.write_text(before + begin + "\n" + "\n".join(lines) + "\n" + end + after)


if __name__ == "__main__":
    main()
