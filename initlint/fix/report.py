"""The record of a repair: what was changed, what it did to findings, risk and signal."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np

from initlint.fix.changes import Change
from initlint.fix.repair import Repair, wanted
from initlint.fix.search import RISKY, unnamed_risk
from initlint.fix.torch_code import code_for
from initlint.model import WEIGHTED, Model
from initlint.probe.result import Activations
from initlint.rows import location_record

Record = dict[str, Any]


def repair_record(model: Model, result: Repair, reasons: Sequence[str]) -> Record:
    """A repair as JSON.

    ``verdict.status`` is ``nothing`` (no change was called for), ``fixed`` (verified, and no
    finding that was to be cured is left), ``improved`` (verified, some are left), ``unverified`` or
    ``failed`` (nothing helped).
    """
    return {
        "schema": 1,
        "target": model.target,
        "kind": model.kind.value,
        "verdict": _verdict(result, reasons),
        "before": result.before,
        "after": result.after,
        "risk": {"before": result.before.get("risk"), "after": result.after.get("risk")},
        "changes": [_change_record(model, change) for change in result.changes],
        "code": code_for(model, result.changes),
        "untouched": [{"name": item.name, "reason": item.reason} for item in result.untouched],
        "profile": _profile(model, result.seen_before, result.seen_after),
        "notes": list(result.notes),
    }


def _verdict(result: Repair, reasons: Sequence[str]) -> Record:
    left = {item["fingerprint"] for item in result.after["findings"]}
    called = [item for item in wanted(result.before, None) if item["severity"] != "info"]
    cured = sorted({item["name"] for item in called if item["fingerprint"] not in left})
    risk = unnamed_risk(result.before)
    if not result.changes and risk >= RISKY:
        status = "failed"
        reasons = [f"the predicted risk of harm is {risk:.2f}, and no weights tried lower it"]
    elif not result.changes:
        status = "failed" if called else "nothing"
    elif reasons:
        status = "unverified"
    else:
        remaining = [item for item in result.after["findings"] if item["severity"] != "info"]
        status = "improved" if remaining else "fixed"
    return {"status": status, "reasons": list(reasons), "cured": cured}


def _change_record(model: Model, change: Change) -> Record:
    param = change.param
    assert param.tensor is not None
    old = param.tensor.read()
    return {
        "param": param.name,
        "key": param.key,
        "stored": param.tensor.name,
        "layer": change.layer,
        "location": location_record(model.graph[change.layer].where),
        "shape": list(param.shape),
        "dtype": param.dtype,
        "scheme": change.scheme,
        "arguments": {key: _plain(value) for key, value in change.arguments.items()},
        "applicability": "unsafe",
        "cures": list(change.cures),
        "before": _numbers(old),
        "after": _numbers(change.values),
        "elements": int(np.count_nonzero(old != change.values)),
    }


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, (np.floating, np.integer)) else value


def _numbers(values: Any) -> Record:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return {"mean": None, "std": None}
    return {
        "mean": float(finite.mean(dtype=np.float64)),
        "std": float(finite.std(dtype=np.float64)),
    }


def _profile(model: Model, before: Activations | None, after: Activations | None) -> list[Record]:
    """Signal and gradient at each weighted layer, before and after."""
    rows = []
    for layer in model.graph.order:
        if layer.op not in WEIGHTED:
            continue
        row: Record = {"layer": layer.id, "op": layer.op.value}
        for when, seen in (("before", before), ("after", after)):
            stats = seen.outputs.get(layer.id) if seen else None
            gradient = seen.backward.get(layer.id) if seen else None
            row[f"rms_{when}"] = _finite(stats.rms) if stats else None
            row[f"dead_{when}"] = stats.dead_units if stats else None
            row[f"gradient_{when}"] = _finite(gradient) if gradient is not None else None
        rows.append(row)
    return rows


def _finite(value: float) -> float | None:
    return float(value) if isfinite(value) else None
