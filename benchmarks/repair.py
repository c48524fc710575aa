"""Of the models that start badly, how many train like their healthy twins once they are repaired?

    python -m benchmarks.repair                # fix and train what is not in the file, and report
    python -m benchmarks.repair --only lstm    # architectures whose names hold this
    python -m benchmarks.repair --fix-only     # only what ``initlint.fix`` says, without training
    python -m benchmarks.repair --again        # fix all again, and train what comes out differently
    python -m benchmarks.repair --held-out 2   # networks of other kinds, set 1 to 5

Every start of the outcome benchmark (`benchmarks.outcome`) is given to `initlint.fix` with a batch
of its task, and trained again beside its healthy twin with the same batches, optimisers and
learning rates. Losses are kept in ``repair.json`` beside this file, of a held-out set in another.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import initlint
from benchmarks.outcome import training
from benchmarks.outcome.models import ZOO, Entry
from benchmarks.outcome.sets import held_out_set

LOSSES = Path(__file__).resolve().parent / "repair.json"
HELD_OUT = {
    1: LOSSES.with_name("repair_held_out.json"),
    2: LOSSES.with_name("repair_held_out_two.json"),
    3: LOSSES.with_name("repair_held_out_three.json"),
    4: LOSSES.with_name("repair_held_out_four.json"),
    5: LOSSES.with_name("repair_held_out_five.json"),
}

WORSE = 0.05
"""Relative progress by which a start that was fine may fall before it counts as made worse: the
spread of one start over seeds (`docs/evaluation.md`)."""

Record = dict[str, Any]
Known = Mapping[str, Record]


class Repaired:
    """An entry of the zoo after ``initlint.fix``: builds the repaired start."""

    def __init__(self, entry: Entry) -> None:
        self.entry, self.name, self.task = entry, entry.name, entry.task
        self.reports: dict[int, Record] = {}

    def build(self, seed: int) -> nn.Module:
        """The repaired model; the report of the repair is kept."""
        model = self.entry.build(seed)
        if seed not in self.reports:
            began = time.process_time()
            report = initlint.fix(model, *self.entry.inputs(seed)).to_dict()
            self.reports[seed] = {
                "status": report["verdict"]["status"],
                "schemes": dict(Counter(change["scheme"] for change in report["changes"])),
                "risk": report["risk"],
                "findings": [
                    [f"{item['severity']} {item['name']}" for item in report[when]["findings"]]
                    for when in ("before", "after")
                ],
                "seconds": round(time.process_time() - began, 2),
                "weights": digest(model),
            }
            self._states = {**getattr(self, "_states", {}), seed: model.state_dict()}
        model.load_state_dict(self._states[seed])
        return model


def digest(model: nn.Module) -> str:
    """What tells two starts apart, whatever changed them."""
    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        found.update(name.encode() + value.contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def load(path: Path) -> dict[str, Record]:
    """What was repaired and trained so far, by ``entry#seed``."""
    found: dict[str, Record] = json.loads(path.read_text()) if path.exists() else {}
    return found


def save(record: Known, path: Path) -> None:
    """Write it, one start per line, beside what another run has written meanwhile."""
    record = {**load(path), **record}
    lines = [f"{json.dumps(key)}: {json.dumps(record[key])}" for key in sorted(record)]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def repair(entries: Iterable[Entry], seed: int, *, train: bool, known: Known) -> Known:
    """Repair starts of one architecture, and train what came out changed and is not known yet."""
    repaired = [Repaired(entry) for entry in entries]
    for item in repaired:
        item.build(seed)
        print(f"{item.name}#{seed}: {json.dumps(item.reports[seed])}", flush=True)
    if not train:
        return {}
    losses: dict[str, training.Losses] = {}
    fresh = []
    for item in repaired:
        held = known.get(f"{item.name}#{seed}")
        if held is not None and held.get("weights") == item.reports[seed]["weights"]:
            losses[item.name] = held["losses"]
        elif item.reports[seed]["schemes"]:
            fresh.append(item)
    if fresh:
        losses.update(training.train(fresh, seed))  # type: ignore[arg-type]
    return {
        f"{item.name}#{seed}": {**item.reports[seed], "losses": losses.get(item.name)}
        for item in repaired
    }


def rows(
    record: Known, trained: Mapping[str, Any], zoo: Iterable[Entry]
) -> Iterable[tuple[str, ...]]:
    """Entry, outcome before, relative progress before and after, and what was done."""
    for entry in zoo:
        before, after, done = [], [], []
        for seed in training.SEEDS:
            key, twin = f"{entry.name}#{seed}", f"{entry.twin.name}#{seed}"
            if key not in record or key not in trained or twin not in trained:
                continue
            was = training.progress(trained[key], trained[twin], entry.task)
            losses = record[key]["losses"]
            now = was if losses is None else training.progress(losses, trained[twin], entry.task)
            before.append(was)
            after.append(now)
            done.append(f"{record[key]['status']} {record[key]['schemes'] or ''}")
        if before:
            was, now = sum(before) / len(before), sum(after) / len(after)
            yield entry.name, training.outcome(was), f"{was:.2f}", f"{now:.2f}", done[0]


def report(record: Known, trained: Mapping[str, Any], zoo: Iterable[Entry]) -> None:
    """The table, and the two shares that count."""
    table = list(rows(record, trained, zoo))
    for row in table:
        print(f"{row[0]:<42}{row[1]:<8}{row[2]:>6} -> {row[3]:<6}{row[4]}")
    bad = [row for row in table if row[1] != training.FINE]
    cured = [row for row in bad if training.outcome(float(row[3])) == training.FINE]
    fine = [row for row in table if row[1] == training.FINE]
    worse = [row for row in fine if float(row[3]) < min(float(row[2]), 1.0) - WORSE]
    if bad:
        share = len(cured) / len(bad)
        print(f"train like their twins after fix: {len(cured)} of {len(bad)} ({share:.0%})")
    print(f"fine before and worse after: {len(worse)} of {len(fine)}")
    for row in worse:
        print(f"  {row[0]} {row[2]} -> {row[3]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of the names of the architectures")
    parser.add_argument("--fix-only", action="store_true", help="repair without training")
    parser.add_argument("--again", action="store_true", help="also what is in the file")
    parser.add_argument("--report", action="store_true", help="only print what is in the file")
    parser.add_argument("--seeds", type=int, default=len(training.SEEDS), help="seeds to train")
    parser.add_argument("--held-out", type=int, choices=HELD_OUT, help="set of other kinds")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    zoo, path, twins = ZOO, LOSSES, training.LOSSES
    if arguments.held_out:
        group = held_out_set(arguments.held_out)
        zoo, path, twins = group.zoo, HELD_OUT[arguments.held_out], group.losses
    for seed in () if arguments.report else training.SEEDS[: arguments.seeds]:
        for architecture in dict.fromkeys(entry.architecture for entry in zoo):
            if arguments.only not in architecture:
                continue
            record = load(path)
            entries = [
                entry
                for entry in zoo
                if entry.architecture == architecture
                and (arguments.again or f"{entry.name}#{seed}" not in record)
            ]
            found = repair(entries, seed, train=not arguments.fix_only, known=record)
            if found:
                save(found, path)
    report(load(path), training.load(twins), zoo)


if __name__ == "__main__":
    main()
