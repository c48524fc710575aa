"""Every speed ratio in one table, from one run: against the bare minimum, and against peers.

``python benchmarks/performance.py [--rounds N] [--seconds S] [--only TEXT] [--peers PYTHON]
[--gigabytes G] [--write]``

Each row is two whole processes on the same input, ours and another, in an environment with the
packages of this one and initlint as an ordinary installation has it, run in turn after one round
that is not counted; the table shows the ratio of their median times, and the greatest resident
memory of either (of the largest process of its tree). A row that has taken ``--seconds`` ends with
the rounds it has, one at least. A sharded checkpoint of ``--gigabytes`` (20; 0 for none) is written
to the temporary folder. Peers have an environment of their own (``benchmarks/peers.txt``).
``--write`` puts the table into ``docs/performance.md``.
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
CACHE = Path(tempfile.gettempdir()) / f"initlint-performance-{os.getpid()}"
INSTALLED = Path(tempfile.gettempdir()) / f"initlint-installed-{os.getpid()}"
PYTHON = str(INSTALLED / "bin" / "python")
INITLINT = (PYTHON, "-m", "initlint")
NODES = (10_000, 100_000)
PROBED = {
    "five": "5 MB of linear layers",
    "transformer": "a transformer",
    "resnet50": "ResNet-50",
}
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
with numpy.load(sys.argv[2]) as feeds:
    session.run(None, dict(feeds))
"""
"""Loads the network and runs it on the probe's own batch, with the probe's own settings."""

PROBE = """
import sys
from initlint.load.onnx import load_onnx
from initlint.probe.child import run_in_child
print(run_in_child(load_onnx(sys.argv[1])).seconds)
"""
"""Prints what the probe alone takes: a process, its imports, the session, the runs, statistics."""

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
buffer = bytearray(1 << 22)
for name in sys.argv[1:]:
    with open(name, "rb", buffering=0) as stream:
        while stream.readinto(buffer):
            pass
"""

SUM = """
import sys, numpy
numpy.fromfile(sys.argv[1], numpy.float32, offset=1 << 12).sum()
"""

ELEMENTS = 1 << 26
"""Elements of a tensor whose moments are taken: 256 MB of float32."""

MOMENTS = f"""
import sys
from time import perf_counter
from benchmarks.moments import measured, module, stored, tensor_over
run = measured(tensor_over(sys.argv[1], stored(sys.argv[1], {ELEMENTS})), module._native)
run()
started = perf_counter()
for _ in range(5):
    run()
print(perf_counter() - started)
"""

SUM_ALONE = f"""
import sys
from time import perf_counter
from benchmarks.moments import stored
array = stored("float32", {ELEMENTS} * int(sys.argv[1]) // 4)
array.sum()
started = perf_counter()
for _ in range(5):
    array.sum()
print(perf_counter() - started)
"""
"""``numpy.sum`` over float32 of as many stored bytes as the element type's width asks for."""

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
        limit: seconds that ours may take; None where there is no such bar.
        told: ours prints the seconds that count.
        both_told: the other does, too.
        cold: what is dropped from the page cache before every run: a file, or those of a folder.
    """

    what: str
    ours: Sequence[str]
    other: Sequence[str]
    against: str
    bar: float | None = None
    limit: float | None = None
    told: bool = False
    both_told: bool = False
    cold: Path | None = None


def python(code: str, *arguments: str, executable: str = PYTHON) -> tuple[str, ...]:
    """A command that runs code."""
    return (executable, "-W", "ignore", "-c", code, *arguments)


def _lint(path: Path) -> tuple[str, ...]:
    return (*INITLINT, str(path), "--exit-zero")


def _static(path: Path) -> tuple[str, ...]:
    return (*_lint(path), "--no-probe")


def bare(folder: Path) -> Iterator[Pair]:
    """Against the least that the same job can cost."""
    five, many, weights = folder / "five.onnx", folder / "many", folder / "weights.safetensors"
    typer = python("import typer")
    yield Pair("--version", (*INITLINT, "--version"), typer, "import typer", 1.5)
    yield Pair("--help", (*INITLINT, "--help"), typer, "import typer", 1.5)
    static = _static(five)
    imports = python("import onnx, networkx, numpy, typer")
    yield Pair("static lint, 5 MB of ONNX", static, imports, "the imports alone", 1.5)
    whole, one = _static(many), _static(many / "net00.onnx")
    yield Pair("50 small files in one call", whole, one, "one of them")
    again = (*whole, "--cache")
    yield Pair("the same 50 from the cache", again, typer, "import typer", limit=1.0)
    for name in PROBED:
        path, feeds = folder / f"{name}.onnx", folder / f"{name}.npz"
        run = python(BARE_RUN, str(path), str(feeds))
        probe = python(PROBE, str(path))
        against = "onnxruntime: load and one run"
        yield Pair(f"probe alone, {PROBED[name]}", probe, run, against, 1.5, told=True)
    checkpoint = _lint(weights)
    read = python(READ, str(weights))
    yield Pair("checkpoint of 1 GB", checkpoint, read, "reading it from disk", cold=weights)
    yield Pair("checkpoint of 1 GB", checkpoint, read, "reading it from memory")
    yield Pair("checkpoint of 1 GB", checkpoint, python(SUM, str(weights)), "numpy.sum of it")
    yield from moments()
    module = (*INITLINT, RESNET, "--input-shape", ",".join(map(str, SHAPE)), "--exit-zero")
    yield Pair("ResNet-50, module", module, python(BARE_TRAINING), "forward and backward", 1.5)
    sizes = {size: folder / f"nodes{size}.onnx" for size in NODES}
    lints = {n: _static(path) for n, path in sizes.items()}
    few, lot = NODES
    what = f"static lint, {lot:,} nodes"
    yield Pair(what, lints[lot], lints[few], f"{few:,} nodes", lot / few, limit=10.0)
    load = python("import onnx, sys; onnx.load(sys.argv[1])", str(sizes[lot]))
    yield Pair(what, lints[lot], load, "onnx.load")
    fresh = {n: _static(folder / f"fresh{n}.onnx") for n in NODES}
    named = f"{lot:,} nodes, {2 * lot // 5:,} fresh matrices"
    yield Pair(named, fresh[lot], fresh[few], f"{few:,} nodes, {2 * few // 5:,}", lot / few)


def moments() -> Iterator[Pair]:
    """All moments of a tensor in memory, beside its bytes' sum."""
    for dtype, width, share in (
        ("float32", 4, 0.6),
        ("bfloat16", 2, 0.4),
        ("float16", 2, 0.4),
        ("int8", 1, 0.4),
    ):
        yield Pair(
            f"moments of {ELEMENTS * width >> 20} MB of {dtype}",
            python(MOMENTS, dtype),
            python(SUM_ALONE, str(width)),
            "numpy.sum over as many bytes of float32",
            round(1 / share, 2),
            told=True,
            both_told=True,
        )


def big(folder: Path, gigabytes: float) -> Iterator[Pair]:
    """A sharded checkpoint that no memory holds."""
    index = folder / "big" / "model.safetensors.index.json"
    lint = _lint(index)
    read = python(READ, *map(str, sorted(index.parent.glob("*.safetensors"))))
    what = f"sharded checkpoint of {gigabytes:g} GB"
    yield Pair(what, lint, read, "reading it from disk", 1.3, cold=index.parent)


def peers(folder: Path, executable: str) -> Iterator[Pair]:
    """Against tools for the same files and modules."""
    five, weights = folder / "five.onnx", folder / "weights.pt"
    module = (*INITLINT, RESNET, "--input-shape", ",".join(map(str, SHAPE)), "--exit-zero")
    resnet = folder / "resnet50.onnx"
    jobs = (
        ("onnx.checker", _static(five), "static lint, 5 MB of ONNX", str(five)),
        ("onnx-doctor", _static(five), "static lint, 5 MB of ONNX", str(five)),
        ("onnx-doctor", _static(resnet), "static lint, ResNet-50 of 100 MB", str(resnet)),
        ("weightwatcher", module, "ResNet-50, module", ""),
        ("weightwatcher", (*module, "--no-probe"), "ResNet-50, module, not run", ""),
        ("torchtest2", module, "ResNet-50, module", ""),
        ("torch-audit", module, "ResNet-50, module", ""),
        ("torchlens", module, "ResNet-50, module", ""),
        ("modelscan", _lint(weights), "a pickled checkpoint of 100 MB", str(weights)),
    )
    for name, ours, what, argument in jobs:
        code = PEERS[name]
        if code.startswith("{bin}"):
            other = tuple(code.format(bin=Path(executable).parent, argument=argument).split())
        else:
            other = python(code, argument, executable=executable)
        yield Pair(what, ours, other, name)


def write_inputs(folder: Path, gigabytes: float) -> None:
    """The files that the rows read."""
    import numpy as np

    from benchmarks.big_checkpoint import generate
    from benchmarks.growth_networks import residual
    from benchmarks.startup import example

    example(folder / "five.onnx")
    many = folder / "many"
    many.mkdir()
    for index in range(50):
        example(many / f"net{index:02}.onnx", 32, index)
    for size in NODES:
        residual(folder / f"nodes{size}.onnx", size, 4)
        residual(folder / f"fresh{size}.onnx", size, 8)
    write_probed(folder)
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
    if gigabytes:
        (folder / "big").mkdir()
        generate(folder / "big", int(gigabytes * 1e9), as_trained=False)


def write_probed(folder: Path) -> None:
    """Networks as PyTorch exports them, and the batches that the probe runs them on."""
    import numpy as np

    from benchmarks.probe import exported, same_feeds
    from initlint.load.onnx import load_onnx
    from initlint.probe.child import run_in_child

    for path in exported(folder, resnet=True):
        name = path.stem.removeprefix("fresh-")
        if name in PROBED:
            path.rename(folder / f"{name}.onnx")
    for name in PROBED:
        model = load_onnx(str(folder / f"{name}.onnx"))
        np.savez(folder / f"{name}.npz", **same_feeds(model, run_in_child(model)))


PICKLE = """
import sys, torch
from tests.architectures import resnet50
torch.manual_seed(0)
torch.save(resnet50().state_dict(), sys.argv[1])
"""


def environment() -> dict[str, str]:
    """The caller's environment, with this tree on Python's path for what peers are shown."""
    return {**os.environ, "INITLINT_CACHE_DIR": str(CACHE), "PYTHONPATH": str(ROOT)}


def install() -> None:
    """An environment of this one's packages and this tree, as an ordinary installation has them.

    An editable one runs code of its own at every start of the interpreter.
    """
    import sysconfig
    import venv

    venv.create(INSTALLED, symlinks=True)
    inside = {"base": str(INSTALLED), "platbase": str(INSTALLED)}
    packages = Path(sysconfig.get_path("purelib", "venv", inside))
    paths = (sysconfig.get_path("purelib"), ROOT, ROOT / "rules")
    (packages / "installed.pth").write_text("".join(f"{path}\n" for path in paths))


@dataclass
class Measured:
    """Seconds of each round, greatest memory in bytes, and how the last round ended."""

    seconds: list[float]
    memory: int = 0
    code: int = 0


def run(command: Sequence[str], found: Measured, *, told: bool, cold: Path | None) -> None:
    """One round of one command."""
    if cold is not None:
        evict(cold)
    started = time.perf_counter()
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE if told else subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    said = child.stdout.read() if child.stdout is not None else b""
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    whole = time.perf_counter() - started
    found.seconds.append(float(said) if told and not child.returncode else whole)
    found.memory = max(found.memory, usage.ru_maxrss * 1024)
    found.code = child.returncode


def evict(path: Path) -> None:
    """Drop a file, or those of a folder, from the page cache; they are on disk already."""
    if path.is_dir():
        for file in sorted(path.iterdir()):
            evict(file)
        return
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def rows(pairs: Sequence[Pair], rounds: int, seconds: float) -> Iterator[str]:
    """The table, line by line."""
    yield "| what | against | ours | other | ratio | bar | rounds | our memory | other's |"
    yield "|---|---|--:|--:|--:|--:|--:|--:|--:|"
    for pair in pairs:
        ours, other = Measured([]), Measured([])
        started = time.perf_counter()
        for number in range(rounds + 1):
            run(pair.ours, ours, told=pair.told, cold=pair.cold)
            run(pair.other, other, told=pair.both_told, cold=pair.cold)
            if number and time.perf_counter() - started > seconds:
                break
        ours_s, other_s = median(ours.seconds[1:]), median(other.seconds[1:])
        ratio = f"{ours_s / other_s:.2f}" if other_s and ours.code in (0, 1) else "–"
        failed = f" (exit {other.code})" if other.code not in (0, 1) else ""
        bars = [f"{pair.bar:g}"] if pair.bar is not None else []
        bars += [f"{pair.limit:g} s"] if pair.limit is not None else []
        yield (
            f"| {pair.what} | {pair.against}{failed} | {ours_s:.2f} s | {other_s:.2f} s | "
            f"{ratio} | {', '.join(bars)} | {len(ours.seconds) - 1} | {ours.memory >> 20} MB | "
            f"{other.memory >> 20} MB |"
        )


def versions(names: Sequence[str]) -> Mapping[str, str]:
    """Versions of what is installed here."""
    found = {}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def versions_of_peers(executable: str) -> str:
    """The same of the peers' environment, as text."""
    code = (
        "import importlib.metadata as m\n"
        f"for name in {[name for name in PEERS if name != 'onnx.checker']!r}:\n"
        "    print(name, m.version(name))"
    )
    said = subprocess.run([executable, "-c", code], capture_output=True, text=True, check=False)
    return ", ".join(said.stdout.splitlines())


def machine() -> str:
    """Processor, cores, system and versions."""
    names = ("numpy", "onnx", "onnxruntime", "networkx", "typer", "torch")
    found = [f"{name} {number}" for name, number in versions(names).items()]
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
    parser.add_argument("--seconds", type=float, default=60.0, help="a row's time, about")
    parser.add_argument("--only", default="", help="rows whose first two columns hold this text")
    parser.add_argument("--peers", help="Python of the environment that holds the peers")
    parser.add_argument("--gigabytes", type=float, default=20.0, help="of the large checkpoint")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--inputs", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inputs:
        sys.path[:0] = [str(ROOT)]
        write_inputs(given.inputs, given.gigabytes)
        return
    started = time.perf_counter()
    # As an installer leaves it: what has changed since would be compiled at every start.
    compiled = [str(ROOT / name) for name in ("initlint", "rules")]
    subprocess.run([sys.executable, "-m", "compileall", "-q", *compiled], check=True)
    install()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        # In a process of its own: a child counts what its parent held when it was started.
        size = ["--gigabytes", str(given.gigabytes)]
        subprocess.run([sys.executable, __file__, "--inputs", scratch, *size], cwd=ROOT, check=True)
        pairs = list(bare(folder))
        if given.gigabytes:
            pairs += big(folder, given.gigabytes)
        if given.peers:
            pairs += peers(folder, given.peers)
        pairs = [pair for pair in pairs if given.only in f"{pair.what} {pair.against}"]
        beside = f" Peers: {versions_of_peers(given.peers)}." if given.peers else ""
        lines = [f"Medians of up to {given.rounds} rounds on {machine()}.{beside}", ""]
        for line in rows(pairs, given.rounds, given.seconds):
            print(line, flush=True)
            lines.append(line)
    for left in (CACHE, INSTALLED):
        shutil.rmtree(left, ignore_errors=True)
    minutes = (time.perf_counter() - started) / 60
    lines += ["", f"The whole run took {minutes:.0f} minutes."]
    print(lines[-1])
    if given.write:
        text = PAGE.read_text()
        begin, end = "<!-- measured: begin -->", "<!-- measured: end -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        PAGE.write_text(before + begin + "\n" + "\n".join(lines) + "\n" + end + after)


if __name__ == "__main__":
    main()
