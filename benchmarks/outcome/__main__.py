"""``python -m benchmarks.outcome COMMAND``: see the package's documentation."""

from __future__ import annotations

import argparse
import time

import torch

from benchmarks.outcome import evaluate, judging, training
from benchmarks.outcome.models import ARCHITECTURES, ZOO
from benchmarks.outcome.sets import SETS, held_out_set


def train(pattern: str, seeds: int) -> None:
    """Train what is not in the file yet."""
    record = training.load()
    for architecture in ARCHITECTURES:
        missing = [
            (entry, seed)
            for entry in ZOO
            for seed in training.SEEDS[:seeds]
            if entry.architecture == architecture
            and not training.complete(record.get(f"{entry.name}#{seed}"))
        ]
        if not missing or pattern not in architecture:
            continue
        started = time.process_time()
        found = training.train_starts(missing)
        record.update(found)
        training.save(found)  # another run may have written the others meanwhile
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


def held_out(pattern: str, number: int, road: str) -> None:
    """Train and judge networks of other kinds, and print both, with the risk as it is shipped."""
    group = held_out_set(number)
    losses, said = training.load(group.losses), judging.load(group.verdicts)
    for architecture in group.architectures:
        if pattern not in architecture:
            continue
        starts = [(entry, 0) for entry in group.zoo if entry.architecture == architecture]
        missing = [start for start in starts if f"{start[0].name}#0" not in losses]
        if missing:
            losses.update(training.train_starts(missing))
            training.save(losses, group.losses)
        for entry, _ in starts:
            said[f"{entry.name}@{road}"] = judging.judge(entry, road)
        judging.save(said, group.verdicts)
    found = evaluate.cases(road, group.zoo, losses, said)
    evaluate.table(found)
    evaluate.figures([case for case in found if case["risk"] is not None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("train", "judge", "fit", "evaluate", "held-out"))
    parser.add_argument("--only", default="", help="part of the names of the architectures")
    parser.add_argument("--seeds", type=int, default=len(training.SEEDS), help="seeds to train")
    parser.add_argument("--set", type=int, choices=SETS, default=1, help="held-out set")
    parser.add_argument("--road", choices=judging.ROADS, default="module")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.command == "train":
        train(arguments.only, arguments.seeds)
    elif arguments.command == "judge":
        judge(arguments.only, arguments.road)
    elif arguments.command == "fit":
        evaluate.print_fit(arguments.road)
    elif arguments.command == "held-out":
        held_out(arguments.only, arguments.set, arguments.road)
    else:
        evaluate.evaluate(arguments.road)


if __name__ == "__main__":
    main()
