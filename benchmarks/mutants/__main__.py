"""``python -m benchmarks.mutants COMMAND``: see the package's documentation."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from random import Random

import torch

from benchmarks.mutants import linting, training
from benchmarks.mutants.faults import FAULTS, WHOLE, Mutant, mutants
from benchmarks.mutants.networks import HEALTHY
from benchmarks.mutants.records import load, save

LOSSES = "losses.json"
BAR = 0.95
"""Recall that is asked for."""


def _networks(pattern: str) -> list[str]:
    return [name for name in HEALTHY if pattern in name]


def _all(network: str, sample: int = 0) -> list[Mutant]:
    """The original and its mutants, or as many of them, seeded by the network's name."""
    found = list(mutants(network))
    return [Mutant(network), *(Random(network).sample(found, sample) if sample else found)]


def train(pattern: str, sample: int) -> None:
    """Train what is not in the record yet."""
    record = load(LOSSES)
    for network in _networks(pattern):
        started, healthy = time.perf_counter(), Mutant(network)
        if healthy.name not in record:
            record.update(training.train([healthy], {}))
        missing = [m for m in _all(network, sample) if m.name not in record]
        while missing:
            part, missing = missing[:12], missing[12:]
            record.update(training.train(part, record[healthy.name]))
            save(LOSSES, record)
            print(
                f"{network}: {len(missing)} left, {time.perf_counter() - started:.0f} s", flush=True
            )


def lint(pattern: str, road: str, afresh: bool, fault: str, sample: int) -> None:
    """Lint what is not in the record yet, or everything."""
    name = f"said-{road}.json"
    record = load(name)
    for network in _networks(pattern):
        for mutant in _all(network, sample):
            if (afresh or mutant.name not in record) and fault in mutant.name:
                record[mutant.name] = linting.lint(mutant, road)
                save(name, record)
        print(f"{network}: linted", flush=True)


def _judged(road: str) -> Iterator[tuple[Mutant, float, dict[str, object]]]:
    """Every mutant that was trained and linted, its progress, and what was said."""
    losses, said = load(LOSSES), load(f"said-{road}.json")
    for network in HEALTHY:
        original = losses.get(Mutant(network).name)
        if original is None:
            continue
        guess = training.guess(Mutant(network))
        for mutant in _all(network):
            if mutant.name in losses and mutant.name in said:
                progress = training.progress(losses[mutant.name], original, guess)
                yield mutant, progress, said[mutant.name]


def evaluate(road: str) -> int:
    """Recall by fault and by network; 1 where the bar is missed or an original is blamed."""
    by_fault: dict[str, list[int]] = defaultdict(lambda: [0] * 6)
    by_network: dict[str, list[int]] = defaultdict(lambda: [0] * 6)
    blamed: list[str] = []
    several = 0
    for mutant, progress, said in _judged(road):
        loud = said["said"]
        assert isinstance(loud, list)
        if not mutant.fault:
            blamed += [f"{mutant.network}: {', '.join(item[1] for item in loud)}"] if loud else []
            continue
        several += len(loud) > 1
        column = 0 if progress < training.FAILS else 2 if progress < training.HARMED else 4
        right = bool(said["found"]) if column < 4 else bool(loud)
        for row in (by_fault[mutant.fault], by_network[mutant.network]):
            row[column] += 1
            row[column + 1] += right
        if column == 0 and not right:
            names = ", ".join(f"{item[1]} at {item[2]}" for item in loud[:3]) or "nothing"
            print(f"missed: {mutant.name} ({', '.join(said['layers'][:3])}): said {names}")  # type: ignore[index]
    print(f"\n{'':26} failing found  harmed found  fine  spoken of")
    for title in (*HEALTHY, "", *FAULTS, *WHOLE):
        row = by_network.get(title) or by_fault.get(title)
        if row or not title:
            print(f"{title:26} {''.join(f'{number:6}' for number in row or ())}")
    whole = [sum(row[i] for row in by_network.values()) for i in range(6)]
    recall = whole[1] / max(whole[0], 1)
    print(
        f"\n{whole[0] + whole[2] + whole[4]} mutants of {len(by_network)} networks, by {road}: of "
        f"{whole[0]} that fail in training {whole[1]} are found in the right layer "
        f"({recall:.1%}), of {whole[2]} that are slowed down {whole[3]}; of {whole[4]} that train "
        f"as well as the original {whole[5]} get a warning or error; {several} with more than one; "
        f"{len(blamed)} originals blamed {'; '.join(blamed)}"
    )
    return 0 if recall >= BAR and not blamed else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("train", "lint", "evaluate"))
    parser.add_argument("--only", default="", help="part of the names of the networks")
    parser.add_argument("--fault", default="", help="part of the names of the mutants")
    parser.add_argument("--sample", type=int, default=0, help="that many mutants of a network")
    parser.add_argument("--road", choices=("module", "onnx"), default="module")
    parser.add_argument("--afresh", action="store_true", help="lint again what was linted")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if options.command == "train":
        train(options.only, options.sample)
    elif options.command == "lint":
        lint(options.only, options.road, options.afresh, options.fault, options.sample)
    else:
        return evaluate(options.road)
    return 0


if __name__ == "__main__":
    sys.exit(main())
