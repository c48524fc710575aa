"""What initlint says of a mutant, and whether that is right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

import initlint
from benchmarks.mutants.faults import Mutant, candidates

Said = list[Any]
"""Severity, rule, first layer and all layers of a finding."""


def lint(mutant: Mutant, road: str) -> dict[str, Any]:
    """The findings from a warning on, and whether they name the fault's layers."""
    torch.manual_seed(0)
    (net, inputs), names = mutant.build()
    report = initlint.check(net, *inputs, **({"via": "onnx"} if road == "onnx" else {}))
    if report.record["failures"]:
        raise RuntimeError(report.record["failures"][0])
    said = [
        [item["severity"], item["name"], item["layer"], item["layers"]]
        for item in report.findings
        if item["severity"] != "info"
    ]
    total = len(candidates(net))
    return {"layers": names, "found": is_right(said, names, total), "said": said}


def is_right(said: Sequence[Said], names: Sequence[str], total: int) -> bool:
    """True when some finding holds the fault's layers without blaming most of the others."""
    for _, _, head, named in said:
        first, *layers = (key.split("#")[0] for key in (head, *named))  # a layer's later calls
        hit = {
            name
            for name in names
            if any(key == name or key.startswith(f"{name}.") for key in layers)
        }
        if len(names) == 1:
            if hit and (first.startswith(names[0]) or len(layers) <= max(3, total // 2)):
                return True
        elif len(hit) >= 0.5 * len(names) or first in names:
            return True
    return False
