"""The whole command on a full-size ResNet-50, beside plain Python that trains one step's worth.

Prints the ratio of medians: ``initlint tests/architectures.py:resnet50`` against a script that
imports torch, builds the model and runs one forward and one backward pass on the same batch. The
two are run in turn, so that what else the machine does weighs on both.

    python benchmarks/module.py [ROUNDS]
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
BATCH = (16, 3, 64, 64)
"""What initlint works out for a network of pictures without a fixed size; given to both."""

PLAIN = f"""
import torch
from tests.architectures import resnet50
torch.manual_seed(0)
model = resnet50()
model.train()
batch = torch.randn({BATCH})
loss = torch.nn.functional.cross_entropy(model(batch), torch.randint(0, 1000, ({BATCH[0]},)))
loss.backward()
"""

COMMANDS = {
    "plain": [sys.executable, "-c", PLAIN],
    "initlint": [
        *(sys.executable, "-m", "initlint", "tests/architectures.py:resnet50"),
        *("--input-shape", ",".join(map(str, BATCH)), "--exit-zero"),
    ],
}


def measured(command: list[str]) -> float:
    """Wall-clock seconds of one run."""
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main(rounds: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            times[name].append(measured(command))
    for name, found in times.items():
        print(f"{name:<9} median {median(found):.2f} s, best {min(found):.2f} s of {rounds}")
    print(f"ratio of medians {median(times['initlint']) / median(times['plain']):.2f} (limit 1.5)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
