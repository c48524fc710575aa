"""What keeping results saves: a repository of many models, linted again.

``python benchmarks/cache.py [--models 200]`` lints them once without the cache, once to fill it,
and again while nothing has changed; it prints seconds, processor seconds, and the ratio to the bare
``import typer`` that every command pays.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.scaling import write_checkpoint  # noqa: E402


def timed(command: Sequence[str], folder: Path) -> tuple[float, float]:
    """Seconds and processor seconds of a command."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    environment = {**os.environ, "INITLINT_CACHE_DIR": str(folder / "cache")}
    before, started = used(), time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started, used() - before


def main() -> int:
    """Generate, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cache-") as name:
        folder = Path(name)
        names = []
        for number in range(options.models):
            path = folder / f"m{number}.safetensors"
            write_checkpoint(path, 2 + number % 5, 64, "F32")
            os.utime(path, (1_700_000_000, 1_700_000_000))
            names.append(path.name)
        lint = [sys.executable, "-m", "initlint", *names, "-q", "--exit-zero", "--timeout", "600"]
        python = [sys.executable, "-c", "import typer"]
        cold = timed(lint, folder)
        filling = timed([*lint, "--cache"], folder)
        again, bare = [], []
        for _ in range(options.repeats):
            bare.append(timed(python, folder))
            again.append(timed([*lint, "--cache"], folder))
        rows = {
            "without the cache": cold,
            "filling it": filling,
            "again, nothing changed": tuple(np.median(again, axis=0)),
            "import typer": tuple(np.median(bare, axis=0)),
        }
        print(f"{options.models} models\n\n| run | seconds | processor seconds |\n|---|--:|--:|")
        for row, (seconds, processor) in rows.items():
            print(f"| {row} | {seconds:.2f} | {processor:.2f} |")
        ratio = statistics.median(a[1] / b[1] for a, b in zip(again, bare, strict=True))
        print(f"\nagain / import typer, processor time: {ratio:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
