"""Lint models that no rule was tuned on, over both roads, and print what is found.

    python -m benchmarks.unseen [NAME ...] [--road module|onnx] [--seed N] [--verbose]

A fault counts as found when a warning or error names an accepted cause and layer; a healthy model
with any warning or error is a false alarm.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from typing import Any

import torch

import initlint
from benchmarks.unseen.collection import CLEAN, FAULTS
from benchmarks.unseen.parts import Fault

ROADS = ("module", "onnx")


def findings(build: Any, road: str, seed: int = 0) -> list[dict[str, Any]]:
    """Findings of a freshly built model by one road; a failed rule or probe is an error."""
    torch.manual_seed(seed)
    module, inputs = build()
    via = {"via": "onnx"} if road == "onnx" else {}
    report = initlint.check(module, *inputs, **via)
    if report.record["failures"]:
        raise RuntimeError(report.record["failures"][0])
    if report.record["probe"]["status"] != "ok":
        raise RuntimeError(f"probe: {report.record['probe']['detail']}")
    return report.findings


def loud(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Findings from a warning on."""
    return [item for item in found if item["severity"] != "info"]


def is_right(fault: Fault, item: dict[str, Any]) -> bool:
    """True when a finding names an accepted cause and one of the layers at fault."""
    named = item["name"] in fault.rules
    return named and any(
        layer.startswith(prefix) for layer in item["layers"] for prefix in fault.layers
    )


def show(found: list[dict[str, Any]], mark: str = " ") -> None:
    """One line per finding."""
    for item in found:
        layers = ", ".join(item["layers"][:4]) + (" …" if len(item["layers"]) > 4 else "")
        print(f"    {mark} {item['severity']:7} {item['name']}: {item['message'][:110]} [{layers}]")


def main(arguments: list[str]) -> int:
    """Lint everything asked for; 1 when a fault is missed or a healthy model is blamed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--road", choices=ROADS)
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--verbose", action="store_true", help="show findings of right ones too")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    bad = 0
    for road in [options.road] if options.road else ROADS:
        missed, alarms, broken, mild = [], [], [], []
        jobs = [(name, fault.build, fault) for name, fault in FAULTS.items()]
        jobs += [(name, build, None) for name, build in CLEAN.items()]
        jobs = [job for job in jobs if not options.names or job[0] in options.names]
        for name, build, fault in jobs:
            try:
                found = findings(build, road, options.seed)
            except Exception as error:
                broken.append(name)
                print(f"  {road} {name}: {type(error).__name__}: {str(error)[:200]}")
                continue
            serious = loud(found)
            right = any(is_right(fault, item) for item in serious) if fault else not serious
            if not right:
                (missed if fault else alarms).append(name)
                if fault and any(is_right(fault, item) for item in found):
                    mild.append(name)
            if not right or options.verbose:
                kind = "MISSED" if fault else "ALARM"
                print(f"  {road} {name}: {'ok' if right else kind}")
                show(serious)
                if not right and fault:
                    show([item for item in found if item["severity"] == "info"], "·")
        faults = sum(1 for job in jobs if job[2])
        print(
            f"{road}: {faults - len(missed)} of {faults} kinds of faults found with the right "
            f"cause and layer at a warning or error, {len(mild)} more as an info "
            f"({', '.join(mild) or 'none'}); {len(alarms)} of {len(jobs) - faults} healthy "
            f"ones blamed; {len(broken)} not linted ({', '.join(broken) or 'none'})"
        )
        bad += len(missed) + len(alarms) + len(broken)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
