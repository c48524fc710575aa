"""``python -m benchmarks.outcome COMMAND``: see the package's documentation."""

from __future__ import annotations

import argparse
import time

import torch

from benchmarks.outcome import evaluate, judging, training
from benchmarks.outcome.models import ARCHITECTURES, ZOO


def train(pattern: str, seeds: int) -> None:
    """Train what is not in the file yet."""
    record = training.load()
    for architecture in ARCHITECTURES:
        missing = [
            (entry, seed)
            for entry in ZOO
            for seed in training.SEEDS[:seeds]
            if entry.architecture == architecture and f"{entry.name}#{seed}" not in record
        ]
        if not missing or pattern not in architecture:
            continue
        started = time.process_time()
        record.update(training.train_starts(missing))
        training.save(record)
        print(f"{architecture}: {time.process_time() - started:.1f} s", flush=True)
    for name, score in training.scores(record, ZOO).items():
        print(f"{score:.2f} {training.outcome(score):<7} {name}")


def judge(pattern: str, road: str) -> None:
    """Lint every model before any step."""
    record = judging.load()
    for entry in ZOO:
        if pattern in entry.architecture:
            record[f"{entry.name}@{road}"] = judging.judge(entry, road)
            judging.save(record)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("train", "judge", "fit", "evaluate"))
    parser.add_argument("--only", default="", help="part of the names of the architectures")
    parser.add_argument("--seeds", type=int, default=len(training.SEEDS), help="seeds to train")
    parser.add_argument("--road", choices=judging.ROADS, default="module")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.command == "train":
        train(arguments.only, arguments.seeds)
    elif arguments.command == "judge":
        judge(arguments.only, arguments.road)
    elif arguments.command == "fit":
        evaluate.print_fit(arguments.road)
    else:
        evaluate.evaluate(arguments.road)


if __name__ == "__main__":
    main()
