"""What must hold over many runs: no leak, no torn answer, no trace, and always the same bytes.

``python benchmarks/endurance.py [--files N] [--swaps N] [--write]`` prints a table; ``--write``
puts it into ``docs/security.md``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.hostile import command, environment  # noqa: E402
from tests.hostile import CASES  # noqa: E402
from tests.hostile.safetensors_files import entry, file_of  # noqa: E402


def run(scratch: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[bytes]:
    """One run of the command with an empty HOME and TMPDIR."""
    for name in ("home", "tmp"):
        (scratch / name).mkdir(exist_ok=True)
    return subprocess.run(
        command(*arguments),
        cwd=scratch,
        env={**environment(scratch), **more},
        capture_output=True,
        check=False,
    )


def steady(report: bytes) -> str:
    """A digest of a JSON report without the times it took."""
    text = re.sub(rb'"seconds": ?[0-9.e-]+', b'"seconds": 0', report)
    return hashlib.sha256(text).hexdigest()[:12]


def sample(scratch: Path) -> list[str]:
    """A few models of every format, and two that are refused."""
    names = ("names-onnx_ansi", "names-pickle_ansi", "names-safetensors_ansi")
    names += ("valid_but_odd-onnx_float16", "valid_but_odd-sharded", "pickle_gadgets-os_system")
    return [str(case.make(scratch / "cases")) for case in CASES if case.name in names]


def same_bytes(scratch: Path) -> tuple[str, str, str]:
    """Repeated runs, hash seeds, and eight at once."""
    paths = sample(scratch)
    digests = [
        steady(run(scratch, "--format", "json", *paths, PYTHONHASHSEED=seed).stdout)
        for seed in ("0", "1", "77", "random")
    ]
    with ThreadPoolExecutor(8) as pool:
        runs = [pool.submit(run, scratch, "--format", "json", *paths) for _ in range(8)]
        digests += [steady(future.result().stdout) for future in runs]
    return "different reports over 4 hash seeds and 8 runs at once", "1", str(len(set(digests)))


def leaks(scratch: Path, count: int) -> tuple[str, str, str]:
    """Many files in one call: descriptors, processes and files left over."""
    folder = scratch / "many"
    folder.mkdir()
    for number in range(count):
        (folder / f"m{number}.safetensors").write_bytes(file_of({f"w{number}": entry()}))
    script = (
        "import os, sys; from initlint.__main__ import main;"
        "first = len(os.listdir('/proc/self/fd'));"
        f"code = main([{str(folder)!r}, '--format', 'concise', '--jobs', '2']);"
        "last = len(os.listdir('/proc/self/fd')); print(code, last - first, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=scratch,
        env=environment(scratch),
        capture_output=True,
        text=True,
        check=False,
    )
    code, descriptors = done.stderr.split()[-2:]
    temporary = sum(len(list((scratch / name).iterdir())) for name in ("home", "tmp"))
    left = _alive(scratch)
    measured = f"{descriptors}, {left}, {temporary} (exit code {code})"
    return (
        f"descriptors, processes, files left after {count} files in one call",
        "0, 0, 0",
        measured,
    )


def _alive(scratch: Path) -> int:
    """Processes that were started with this HOME, and still run."""
    mark = f"HOME={scratch / 'home'}".encode()
    found = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            found += mark in Path(f"/proc/{name}/environ").read_bytes()
        except OSError:
            continue
    return found


def swaps(scratch: Path, count: int) -> tuple[str, str, str]:
    """A file that is swapped, truncated and relinked all the time while it is linted."""
    folder = scratch / "swapped"
    folder.mkdir()
    target = folder / "model.safetensors"
    header = {f"w{n}": entry((256, 256), n << 18, (n + 1) << 18) for n in range(16)}
    good = file_of(header, os.urandom(16 << 18))
    target.write_bytes(good)
    done = threading.Event()

    def disturb() -> None:
        step = 0
        while not done.wait(0.003):
            step += 1
            if step % 3 == 0 and not target.is_symlink():
                os.truncate(target, 5000)
            else:
                other = folder / "other"
                if step % 3 == 1:
                    other.write_bytes(good)
                else:
                    other.symlink_to("/etc/passwd")
                os.replace(other, target)

    thread = threading.Thread(target=disturb)
    thread.start()
    bad = 0
    for _ in range(count):
        result = run(scratch, "--format", "json", str(target))
        lines = result.stderr.decode().splitlines()
        clean = result.returncode in (0, 1) or (result.returncode == 2 and len(lines) == 1)
        bad += not clean or b"root:" in result.stdout + result.stderr
    done.set()
    thread.join()
    return (
        f"crashes, hangs or leaks of another file in {count} runs on a swapped file",
        "0",
        str(bad),
    )


def interrupts(scratch: Path) -> tuple[str, str, str]:
    """Ctrl-C while a model that never ends is being run."""
    case = next(case for case in CASES if case.name == "onnx_bombs-loop_without_limit")
    path = str(case.make(scratch / "loop"))
    worst, left = 0.0, 0
    for delay in (0.1, 0.4, 0.8, 1.5, 3.0):
        process = subprocess.Popen(
            command(path),
            cwd=scratch,
            env=environment(scratch),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(delay)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(30)
        worst = max(worst, time.monotonic() - started)
        time.sleep(0.2)
        left += _alive(scratch)
    return "longest end after Ctrl-C, and processes left", "1 s, 0", f"{worst:.2f} s, {left}"


def kills(scratch: Path) -> tuple[str, str, str]:
    """SIGKILL while a baseline is written: the old one or a new one, never a torn one."""
    paths = sample(scratch / "kill")
    good = [path for path in paths if "gadget" not in path]
    baseline = scratch / "baseline.jsonl"
    run(scratch, "--write-baseline", str(baseline), *good)
    torn = 0
    for step in range(12):
        process = subprocess.Popen(
            command("--no-probe", "--write-baseline", str(baseline), *good),
            cwd=scratch,
            env=environment(scratch),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(0.3 + 0.12 * step)
        process.kill()
        process.wait()
        try:
            for line in baseline.read_text().splitlines():
                json.loads(line)
        except ValueError:
            torn += 1
    return "torn baselines after 12 kills", "0", str(torn)


def isolation(scratch: Path) -> tuple[str, str, str]:
    """What the wall costs per process, in a child that raises it, median of 15."""
    script = (
        "import time, numpy, ctypes; from initlint import sandbox; start = time.perf_counter();"
        "missing = sandbox.lock_down(('/tmp',)); print(time.perf_counter() - start, missing)"
    )
    times = []
    for _ in range(15):
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=environment(scratch),
            cwd=scratch,
            capture_output=True,
            text=True,
            check=True,
        )
        times.append(float(done.stdout.split()[0]))
    spawn = []
    for _ in range(15):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-I", "-S", "-c", ""], check=True)
        spawn.append(time.perf_counter() - started)
    cost = statistics.median(times) + statistics.median(spawn)
    return "cost of isolation: a process and its wall", "100 ms", f"{1000 * cost:.0f} ms"


def large(scratch: Path) -> tuple[str, str, str]:
    """Most memory on a safetensors file of 5 GB (sparse on disk), and no torch in the worker."""
    path = scratch / "large.safetensors"
    side = 8192
    size = 4 * side * side
    header = {f"w{n}": entry((side, side), n * size, (n + 1) * size) for n in range(20)}
    with open(path, "wb") as file:
        file.write(file_of(header, b""))
        file.truncate(file.tell() + 20 * size)
    timed = ["/usr/bin/time", "-f", "%M"] if shutil.which("/usr/bin/time") else []
    done = subprocess.run(
        [*timed, *command("-q", "--timeout", "300", str(path))],
        env=environment(scratch),
        cwd=scratch,
        capture_output=True,
        text=True,
        check=False,
    )
    peak = done.stderr.split()[-1] if timed else "?"
    megabytes = f"{int(peak) >> 10} MB" if peak.isdigit() else "not measured"
    return (
        "largest process on 5 GB of safetensors",
        "500 MB",
        f"{megabytes} (exit {done.returncode})",
    )


_BEGIN, _END = "<!-- endurance: begin -->", "<!-- endurance: end -->"


def main() -> int:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--swaps", type=int, default=40)
    parser.add_argument("--only", default="")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    parts: Mapping[str, Callable[[Path], tuple[str, str, str]]] = {
        "same": same_bytes,
        "leaks": lambda scratch: leaks(scratch, options.files),
        "swaps": lambda scratch: swaps(scratch, options.swaps),
        "interrupts": interrupts,
        "kills": kills,
        "isolation": isolation,
        "large": large,
    }
    lines = ["| bar | must be | measured |", "|---|--:|--:|"]
    for name, part in parts.items():
        if options.only and options.only != name:
            continue
        with tempfile.TemporaryDirectory(prefix="endurance-") as folder:
            scratch = Path(os.path.realpath(folder))
            for sub in ("home", "tmp"):
                (scratch / sub).mkdir()
            lines.append(f"| {' | '.join(part(scratch))} |")
            print(lines[-1], flush=True)
    if options.write:
        path = ROOT / "docs" / "security.md"
        page = path.read_text()
        head, _, rest = page.partition(_BEGIN)
        text = "\n".join(lines)
        path.write_text(f"{head}{_BEGIN}\n{text}\n{_END}{rest.partition(_END)[2]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
