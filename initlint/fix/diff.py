"""Two states of one network: what moved, what did not, what broke, what was added or lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import isnan, log10, nan, sqrt
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initlint.engine import lint, run_probe
from initlint.measure.measures import Measures
from initlint.measure.result import Stage
from initlint.model import BUFFERS, RELU_FAMILY, Kind, Layer, Model, Op, Param, Role
from initlint.probe.result import ProbeStatus
from initlint.rows import location_record
from initlint.settings import Settings

Array = NDArray[Any]
Record = dict[str, Any]

STEP_RATIO = 1e-3
"""Rms of one update over the rms of what it updates, as a healthy run shows it (Karpathy 2015,
CS231n: "should be somewhere around 1e-3")."""

TOLERATED = 10.0
"""A decade around it is seen in healthy runs, by layer and schedule; beyond it the learning rate or
the scale of the layer is off."""

OUTLIER = 30.0
"""Times the median ratio of all weights, whatever the number of steps. One and a half decades is
more than tensors of one network differ under one learning rate."""

UNRELATED = 0.1
"""Largest cosine between old and new values that chance explains in tensors of 2,500 values at five
standard errors (1/√n each); smaller tensors get their own 5/√n."""

DIED = 1e-3
"""A unit whose incoming weights fell below a thousandth of their norm gives a thousandth of its
signal."""

SILENCED = 0.5
"""Share of a layer's units that must fall silent: with less than half of its units a layer still
carries most of its signal, and training switches single units off as a matter of course."""

WEIGHTS = (Role.WEIGHT, Role.RECURRENT_WEIGHT, Role.PROJECTION)


@dataclass(frozen=True, slots=True)
class Move:
    """How one parameter block changed.

    Attributes:
        layer, param: of the later model.
        ratio: rms(after - before) / rms(before); NaN where before was all zero.
        cosine: between before and after; NaN where one of them is zero.
        equal: every value is what it was.
        zero_before, zero_after: all values are zero.
        non_finite: values that became NaN or infinite.
        dead: units whose incoming weights vanished.
        units: number of units.
    """

    layer: Layer
    param: Param
    ratio: float
    cosine: float
    equal: bool
    zero_before: bool
    zero_after: bool
    non_finite: int
    dead: int
    units: int


def diff(before: Model, after: Model, steps: int | None = None) -> Record:
    """The difference between two states as JSON: findings, and one row per parameter.

    Args:
        before: the earlier state.
        after: the later one.
        steps: optimiser steps between them; None: unknown.
    """
    old, new = _params(before), _params(after)
    measures = Measures(after)
    moves: list[Move] = []
    findings: list[Record] = []
    for key, (layer, param) in new.items():
        if key not in old:
            continue
        was = old[key][1]
        if was.shape != param.shape:  # one side may see the block that a layer reads
            was, param = _stored(was), _stored(param)
        if was.shape != param.shape:
            findings.append(_reshaped(layer, was, param))
        elif (move := _move(was, layer, param)) is not None:
            moves.append(move)
    findings += _gone(old, new)
    findings += _moved(moves, measures, steps)
    findings += _silenced(before, after)
    if any(not move.equal for move in moves):
        findings += _unmoved(after, old, str(after.metadata.get("prefix") or ""))
    order = {"error": 0, "warning": 1, "info": 2}
    findings.sort(key=lambda item: (order[item["severity"]], item["code"], item["layer"]))
    counts = {name: sum(item["severity"] == name for item in findings) for name in order}
    return {
        "schema": 1,
        "before": before.target,
        "after": after.target,
        "steps": steps,
        "compared": len(moves),
        "summary": counts,
        "findings": findings,
        "params": [_row(move) for move in moves],
        "notices": [*before.notices, *after.notices],
    }


def _params(model: Model) -> dict[str, tuple[Layer, Param]]:
    """Parameter blocks by name, without the prefix that wrappers add."""
    prefix = str(model.metadata.get("prefix") or "")
    found: dict[str, tuple[Layer, Param]] = {}
    for layer, param in model.graph.params:
        if param.tied_to is None:
            found.setdefault(param.key.removeprefix(prefix), (layer, param))
    for param in model.loose:
        if "float" in param.dtype:
            layer = Layer(param.name, Op.OTHER)
            found.setdefault(param.key.removeprefix(prefix), (layer, param))
    return found


def _stored(param: Param) -> Param:
    """The whole tensor that holds a parameter block."""
    tensor = param.tensor
    if tensor is None or not tensor.views:
        return param
    return replace(param, shape=tensor.stored_shape, tensor=replace(tensor, views=()))


def _move(was: Param, layer: Layer, param: Param) -> Move | None:
    if was.tensor is None or param.tensor is None:
        return None
    old = np.asarray(was.tensor.read(), dtype=np.float64)
    new = np.asarray(param.tensor.read(), dtype=np.float64)
    broken = int(np.count_nonzero(np.isfinite(old) & ~np.isfinite(new)))
    fine = np.isfinite(old) & np.isfinite(new)
    a, b = np.where(fine, old, 0.0), np.where(fine, new, 0.0)
    norm_a, norm_b = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    product = float(np.vdot(a, b))
    return Move(
        layer,
        param,
        ratio=float(np.linalg.norm(b - a)) / norm_a if norm_a else nan,
        cosine=product / (norm_a * norm_b) if norm_a and norm_b else nan,
        equal=bool(np.array_equal(old, new, equal_nan=True)),
        zero_before=not norm_a,
        zero_after=not norm_b and not broken,
        non_finite=broken,
        dead=_dead(a, b) if param.role in WEIGHTS else 0,
        units=param.shape[0] if param.shape else 0,
    )


def _dead(before: Array, after: Array) -> int:
    if before.ndim < 2:
        return 0
    rows = [np.linalg.norm(array.reshape(len(array), -1), axis=1) for array in (before, after)]
    return int(np.count_nonzero((rows[0] > 0) & (rows[1] <= DIED * rows[0])))


def _finding(
    code: str, name: str, severity: str, layer: Layer, param: Param, message: str, **evidence: Any
) -> Record:
    return {
        "code": code,
        "name": name,
        "severity": severity,
        "layer": layer.id,
        "param": param.key,
        "message": message,
        "evidence": evidence,
        "location": location_record(layer.where),
        "params": [param.key],
    }


def _reshaped(layer: Layer, was: Param, param: Param) -> Record:
    return _finding(
        "DIF102",
        "shape-changed",
        "error",
        layer,
        param,
        f"{param.key} was {list(was.shape)} and is {list(param.shape)}",
    )


def _gone(
    old: Mapping[str, tuple[Layer, Param]], new: Mapping[str, tuple[Layer, Param]]
) -> Iterator[Record]:
    """One finding for all that was lost, and one for all that was added."""
    lost = [item for key, item in old.items() if key not in new]
    added = [item for key, item in new.items() if key not in old]
    for items, code, name, severity, word in (
        (lost, "DIF101", "parameter-lost", "error", "gone"),
        (added, "DIF103", "parameter-added", "warning", "new"),
    ):
        if items:
            layer, param = items[0]
            more = f" and {len(items) - 1} more are" if len(items) > 1 else " is"
            found = _finding(
                code, name, severity, layer, param, f"{param.key}{more} {word}", count=len(items)
            )
            yield {**found, "params": [each.key for _, each in items]}


def _moved(moves: list[Move], measures: Measures, steps: int | None) -> Iterator[Record]:
    weights = [move for move in moves if move.param.role not in BUFFERS]
    still = [move for move in weights if move.equal]
    if weights and len(still) == len(weights):
        first = still[0]
        yield _finding(
            "DIF201",
            "nothing-moved",
            "error",
            first.layer,
            first.param,
            f"none of {len(weights)} parameters moved: nothing was trained, or the same file",
            count=len(weights),
        )
        return
    ratios = [
        move.ratio
        for move in weights
        if move.param.role in WEIGHTS and move.ratio > 0 and not isnan(move.ratio)
    ]
    typical = median(ratios) if ratios else nan
    for move in moves:
        yield from _broken(move)
        if move.param.role in WEIGHTS and not (move.equal or move.zero_before or move.zero_after):
            yield from _size(move, measures, typical, steps)


def _unmoved(after: Model, old: Mapping[str, tuple[Layer, Param]], prefix: str) -> Iterator[Record]:
    """What rests while the rest moved, as the rule about it (unchanged-between) says."""
    earlier = {
        param.key: was.tensor
        for param in (*(param for _, param in after.graph.params), *after.loose)
        if (was := old.get(param.key.removeprefix(prefix), (None, None))[1]) is not None
        and was.tensor is not None
    }
    both = replace(after, metadata={**after.metadata, "earlier": earlier})
    settings = Settings(select=("unchanged-between",), probe=False)
    for found in lint(both, settings)["findings"]:
        keys = ("code", "name", "severity", "layer", "message", "evidence", "location")
        params = list(found["evidence"]["params"])
        yield {**{key: found[key] for key in keys}, "param": params[0], "params": params}


def _broken(move: Move) -> Iterator[Record]:
    key = move.param.key
    if move.non_finite:
        yield _finding(
            "DIF301",
            "became-non-finite",
            "error",
            move.layer,
            move.param,
            f"{move.non_finite} values of {key} are no longer finite",
            count=move.non_finite,
        )
    if move.zero_after and not move.zero_before:
        yield _finding(
            "DIF302",
            "became-zero",
            "error" if move.param.role in WEIGHTS else "warning",
            move.layer,
            move.param,
            f"all values of {key} became zero",
        )
    elif move.dead:
        yield _finding(
            "DIF303",
            "units-died",
            "warning",
            move.layer,
            move.param,
            f"{move.dead} of {move.units} units of {key} lost their incoming weights",
            dead=move.dead,
            units=move.units,
        )


def _silenced(before: Model, after: Model) -> Iterator[Record]:
    """Layers of rectifiers that fired and do so no longer, where both networks can be run.

    The inputs are made up, and a trained unit may wait for what they do not show: only what falls
    silent in half of a layer is told.
    """
    if any(model.kind not in (Kind.ONNX, Kind.TORCH) for model in (before, after)):
        return
    seen = [run_probe(model, Settings(), Stage.TRAINED) for model in (before, after)]
    if any(one.status is not ProbeStatus.OK for one in seen):
        return
    earlier, later = (one.outputs for one in seen)
    for key, stats in later.items():
        layer = after.graph[key]
        if layer.op not in RELU_FAMILY or key not in earlier or not stats.units:
            continue
        newly = stats.dead_units - earlier[key].dead_units
        if newly < SILENCED * stats.units:
            continue
        feeding = next((one for one in after.graph.effective_producers(key) if one.params), layer)
        if feeding.params:
            yield _finding(
                "DIF304",
                "units-silenced",
                "error" if stats.dead_units == stats.units else "warning",
                feeding,
                feeding.params[0],
                f"{stats.dead_units} of {stats.units} units of {key} no longer fire on any of "
                f"{stats.rows} made-up inputs, {earlier[key].dead_units} before",
                dead=stats.dead_units,
                before=earlier[key].dead_units,
                units=stats.units,
            )


def _size(move: Move, measures: Measures, typical: float, steps: int | None) -> Iterator[Record]:
    key, ratio = move.param.key, move.ratio
    chance = max(UNRELATED, 5 / sqrt(max(move.param.size, 1)))
    if abs(move.cosine) < chance:
        fresh = measures.stage(move.param) is Stage.FRESH
        yield _finding(
            "DIF401",
            "re-initialised" if fresh else "replaced",
            "error" if fresh else "warning",
            move.layer,
            move.param,
            f"{key} has no trace of its old values (cosine {move.cosine:+.3f})"
            + (" and looks freshly drawn" if fresh else ""),
            cosine=move.cosine,
            update_ratio=ratio,
        )
        return
    if steps is not None and ratio > TOLERATED * STEP_RATIO * steps:
        yield _finding(
            "DIF402",
            "moved-too-much",
            "warning",
            move.layer,
            move.param,
            f"{key} moved {ratio / steps:.2g} of its size a step over {steps} steps "
            f"(usual: {STEP_RATIO:g})",
            update_ratio=ratio,
            per_step=ratio / steps,
        )
    elif ratio > OUTLIER * typical:
        yield _finding(
            "DIF402",
            "moved-too-much",
            "warning",
            move.layer,
            move.param,
            f"{key} moved {ratio:.2g} of its size, 10^{log10(ratio / typical):.1f} times the "
            "median",
            update_ratio=ratio,
            median=typical,
        )


def _row(move: Move) -> Record:
    return {
        "param": move.param.key,
        "layer": move.layer.id,
        "role": move.param.role.value,
        "shape": list(move.param.shape),
        "update_ratio": None if isnan(move.ratio) else move.ratio,
        "cosine": None if isnan(move.cosine) else move.cosine,
        "moved": not move.equal,
    }
