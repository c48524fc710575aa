"""``python -m benchmarks.mutants COMMAND``: see the package's documentation."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from random import Random
from typing import Any

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


def _all(network: str, sample: int, draws: Iterable[int]) -> list[Mutant]:
    """The original and its mutants in each draw, or as many of them, seeded by their name."""
    found = []
    for draw in draws:
        made = list(mutants(network, draw))
        seed = network if draw == 1 else f"{network} {draw}"
        found += [Mutant(network, draw=draw)]
        found += Random(seed).sample(made, sample) if sample else made
    return found


def train(pattern: str, sample: int, draws: Sequence[int]) -> None:
    """Train what is not in the record yet."""
    record = load(LOSSES)
    for network, draw in product(_networks(pattern), draws):
        started, healthy = time.perf_counter(), Mutant(network, draw=draw)
        if healthy.key not in record:
            record.update(training.train([healthy], {}))
        missing = [m for m in _all(network, sample, [draw]) if m.key not in record]
        while missing:
            part, missing = missing[:12], missing[12:]
            record.update(training.train(part, record[healthy.key]))
            save(LOSSES, record)
        print(f"{network}, draw {draw}: {time.perf_counter() - started:.0f} s", flush=True)


def lint(
    pattern: str, road: str, afresh: bool, fault: str, sample: int, draws: Sequence[int]
) -> None:
    """Lint what is not in the record yet, or everything."""
    name = f"said-{road}.json"
    record = load(name)
    for network in _networks(pattern):
        for mutant in _all(network, sample, draws):
            if (afresh or mutant.key not in record) and fault in mutant.name:
                record[mutant.key] = linting.lint(mutant, road)
        save(name, record)
        print(f"{network}: linted", flush=True)


Verdict = dict[str, Any]


def _judged(road: str, draws: Sequence[int]) -> Iterator[tuple[Mutant, float, list[Verdict]]]:
    """Every mutant that was trained and linted, its progress, and what was said of its draws."""
    losses, said = load(LOSSES), load(f"said-{road}.json")
    for network in HEALTHY:
        guesses = {draw: training.guess(Mutant(network, draw=draw)) for draw in draws}
        for first in _all(network, 0, draws[:1]):
            trained, verdicts = [], []
            for draw in draws:
                mutant = replace(first, draw=draw)
                original = losses.get(Mutant(network, draw=draw).key)
                if original and mutant.key in losses:
                    trained.append((losses[mutant.key], original, guesses[draw]))
                    verdicts += [said[mutant.key]] if mutant.key in said else []
            if trained and verdicts:
                yield first, training.progress(trained), verdicts


def evaluate(road: str, draws: Sequence[int]) -> int:
    """Recall by fault and by network; 1 where the bar is missed or an original is blamed."""
    by_fault: dict[str, list[int]] = defaultdict(lambda: [0] * 6)
    by_network: dict[str, list[int]] = defaultdict(lambda: [0] * 6)
    blamed: list[str] = []
    several = originals = 0
    for mutant, progress, verdicts in _judged(road, draws):
        column = 0 if progress < training.FAILS else 2 if progress < training.HARMED else 4
        for verdict in verdicts:
            loud = verdict["said"]
            names = ", ".join(f"{item[1]} at {item[2]}" for item in loud[:3]) or "nothing"
            if not mutant.fault:
                originals += 1
                blamed += [f"{mutant.network}: {names}"] if loud else []
                continue
            several += len(loud) > 1
            right = bool(verdict["found"]) if column < 4 else bool(loud)
            for row in (by_fault[mutant.fault], by_network[mutant.network]):
                row[column] += 1
                row[column + 1] += right
            if column == 0 and not right:
                where = ", ".join(verdict["layers"][:3])
                print(f"missed: {mutant.name} ({where}), progress {progress:.2f}: said {names}")
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
        f"{len(blamed)} of {originals} originals blamed {'; '.join(blamed)}"
    )
    return 0 if recall >= BAR and not blamed else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("train", "lint", "evaluate"))
    parser.add_argument("--only", default="", help="part of the names of the networks")
    parser.add_argument("--fault", default="", help="part of the names of the mutants")
    parser.add_argument("--sample", type=int, default=0, help="that many mutants of a network")
    parser.add_argument("--draws", type=int, default=3, help="seeds of weights and data")
    parser.add_argument("--road", choices=("module", "onnx"), default="module")
    parser.add_argument("--afresh", action="store_true", help="lint again what was linted")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    draws = range(1, options.draws + 1)
    if options.command == "train":
        train(options.only, options.sample, draws)
    elif options.command == "lint":
        lint(options.only, options.road, options.afresh, options.fault, options.sample, draws)
    else:
        return evaluate(options.road, draws)
    return 0


if __name__ == "__main__":
    sys.exit(main())
