"""``python -m benchmarks.outcome train``: see the package's documentation."""

from __future__ import annotations

import argparse
import time

import torch

from benchmarks.outcome import training
from benchmarks.outcome.models import ARCHITECTURES, ZOO


def train(pattern: str) -> None:
    """Train what is not in the file yet."""
    record = training.load()
    for seed in training.SEEDS:
        for architecture in ARCHITECTURES:
            entries = [entry for entry in ZOO if entry.architecture == architecture]
            missing = [e for e in entries if f"{e.name}#{seed}" not in record]
            if not missing or pattern not in architecture:
                continue
            started = time.process_time()
            for name, losses in training.train(missing, seed).items():
                record[f"{name}#{seed}"] = losses
            training.save(record)
            print(f"{architecture} {seed}: {time.process_time() - started:.1f} s", flush=True)
    for name, score in training.scores(record, ZOO).items():
        print(f"{score:.2f} {training.outcome(score):<7} {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("train",))
    parser.add_argument("--only", default="", help="part of the names of the architectures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train(arguments.only)


if __name__ == "__main__":
    main()
