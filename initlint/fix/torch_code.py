"""The lines of ``torch.nn.init`` that a repair amounts to, with where the layers were built."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import exp, isclose, log, sqrt
from typing import Any

import numpy as np

from initlint.fix.changes import Change, by_stored_name, factors_of
from initlint.fix.normalised import Factors
from initlint.fix.schemes import law_std
from initlint.fix.slot import slot_of
from initlint.lint.code import rolled
from initlint.model import RECURRENT, Kind, Model, Op

Record = dict[str, Any]

SHAPED = frozenset({"orthogonal", "identity"})
"""Schemes whose law is one for the whole block, not for each element."""

GAUSSIAN = frozenset({"scale_preserving", "he_normal", "xavier_normal", "lecun_normal"})
"""Normal laws whose standard deviation follows from the place of the layer."""

ALIKE = 0.1
"""Relative difference of scale between the blocks of one draw: five standard errors of the scale of
1,250 values, and less than what a finding about scale speaks of."""


def code_for(model: Model, changes: Sequence[Change]) -> list[Record]:
    """Code to paste behind the construction of a module; empty for other targets.

    One entry per construction site and kind of change: ``file``, ``line``, ``params``, ``code``.
    """
    if model.kind is not Kind.TORCH:
        return []
    entries: dict[tuple[Any, ...], Record] = {}
    for stored, blocks in by_stored_name(_evened(model, changes)).items():
        where = model.graph[blocks[0].layer].where
        for line in _lines(model, stored, blocks):
            key = (where.file, where.line, line.replace(expression(stored), "{}"))
            entry = entries.setdefault(
                key, {"file": where.file, "line": where.line, "params": [], "code": []}
            )
            entry["params"].append(stored)
            entry["code"].append(line)
    for entry in entries.values():
        entry["code"] = rolled(entry["code"])
    return list(entries.values())


def _evened(model: Model, changes: Sequence[Change]) -> list[Change]:
    """The changes with one factor for equal layers of one construction site.

    Each factor undoes what its own sample happened to be; what will be drawn in its place is
    another sample.
    """
    groups: dict[tuple[Any, ...], list[float]] = {}
    for change in filter(_multiplied, changes):
        groups.setdefault(_site(model, change), []).append(float(change.arguments["factor"]))
    found = []
    for change in changes:
        factors = groups.get(_site(model, change), ()) if _multiplied(change) else ()
        if len(factors) > 1 and max(factors) < (1 + ALIKE) * min(factors):
            factor = exp(sum(map(log, factors)) / len(factors))
            change = replace(change, arguments={**change.arguments, "factor": factor})
        found.append(change)
    return found


def _site(model: Model, change: Change) -> tuple[Any, ...]:
    """Where a layer is built, with its parameter's name without numbers and its shape."""
    where = model.graph[change.layer].where
    plain = re.sub(r"(^|\.)\d+(?=\.|$)", "", change.param.name)
    return where.file, where.line, plain, change.param.shape


def expression(stored: str) -> str:
    """``layers.3.weight`` as Python reaches it: ``model.layers[3].weight``."""
    return "model" + re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", f".{stored}")


def _lines(model: Model, stored: str, blocks: Sequence[Change]) -> list[str]:
    parts = factors_of(model, blocks[0].param)
    if parts is not None:
        return [_normalised(model, parts, blocks)]
    return _plain_lines(model, expression(stored), blocks)


def _normalised(model: Model, parts: Factors, blocks: Sequence[Change]) -> str:
    """Lines for what a normalised weight is stored as: its direction drawn, its norms behind."""
    gain, direction = expression(parts.gain.name), expression(parts.direction.name)
    if len(blocks) == 1 and (_multiplied(blocks[0]) or not blocks[0].values.any()):
        return _call(model, blocks[0], gain)
    axes = f"dim={parts.axes}, keepdim=True" if parts.gain.stored_shape else ""
    drawn = _plain_lines(model, direction, blocks)
    return "; ".join([*drawn, f"{gain}.data.copy_({direction}.norm({axes}))"])


def _plain_lines(model: Model, place: str, blocks: Sequence[Change]) -> list[str]:
    first = blocks[0]
    if len(blocks) == 1 and first.param.packed <= 1:
        return [_call(model, first, place)]
    if len(blocks) == first.param.packed and (whole := _whole(model, place, blocks)):
        return [whole]
    if model.graph[first.layer].op in RECURRENT:
        parts = f"{place}.data.chunk({first.param.packed})"
        calls = (_call(model, block, f"{parts}[{_position(model, block)}]") for block in blocks)
        return ["; ".join(calls)]
    lines = []
    for block in blocks:
        part = _part(place, block)
        call = _call(model, block, part or place)
        lines.append(call if part else f"{call}  # the {block.param.gate} rows alone")
    return lines


def _part(place: str, change: Change) -> str | None:
    """The rows of a packed tensor that a block stands in; None where they are no plain part."""
    views = change.param.tensor.views if change.param.tensor is not None else ()
    last = max((number for number, view in enumerate(views) if view.kind == "slice"), default=-1)
    found = place
    for view in views[: last + 1]:
        if view.kind == "slice":
            axis, start, stop = view.argument
            found += f"[{':, ' * axis}{start}:{stop}]"
        elif view.kind == "reshape":
            found += f".view{tuple(view.argument)}"
        elif view.kind == "transpose":
            found += f".permute{tuple(view.argument)}"
        else:
            return None
    return found if last >= 0 else None


def _whole(model: Model, place: str, blocks: Sequence[Change]) -> str | None:
    """One call for a packed tensor all of whose blocks were changed alike; None if they differ."""
    if not any(block.values.any() for block in blocks):
        return f"torch.nn.init.zeros_({place})"
    schemes = {block.scheme for block in blocks}
    if len(schemes) > 1:
        return None
    if schemes == {"chrono"}:
        return _chrono(place, blocks)
    if _multiplied(blocks[0]) and len({block.arguments["factor"] for block in blocks}) == 1:
        return _call(model, blocks[0], place)
    if schemes <= SHAPED:
        calls = {_call(model, block, "gate") for block in blocks}
        loop = f"for gate in {place}.data.chunk({len(blocks)})"
        return f"{loop}: {calls.pop()}" if len(calls) == 1 else None
    together = replace(blocks[0], values=np.concatenate([block.values for block in blocks]))
    if all(isclose(_rms(block), _rms(together), rel_tol=ALIKE) for block in blocks):
        return _call(model, together, place)
    return None


def _position(model: Model, change: Change) -> int:
    """Which block of its stored tensor a change is for."""
    assert change.param.tensor is not None
    name = change.param.tensor.name
    params = model.graph[change.layer].params
    blocks = [param.key for param in params if param.tensor and param.tensor.name == name]
    return blocks.index(change.param.key)


def _multiplied(change: Change) -> bool:
    """True where the draws stayed and have no law to be named: a factor is the whole change."""
    return change.scheme in ("rescale", "lsuv") and not change.arguments.get("to")


def _std(model: Model, change: Change) -> float:
    """The law's standard deviation, one number for equal layers; else the sample's."""
    if change.scheme not in GAUSSIAN:
        return _rms(change)
    slot = slot_of(model.graph, model.graph[change.layer], change.param)
    factor = float(change.arguments.get("factor", 1.0))
    return factor * law_std(slot, change.scheme, change.arguments)


def _rms(change: Change) -> float:
    return float(np.sqrt(np.mean(np.square(change.values, dtype=np.float64))))


_SIGNS = {"forget": 1, "update": 1, "input": -1}
"""Sign of the logarithm of a time scale in a gate's bias."""


def _chrono(place: str, blocks: Sequence[Change]) -> str:
    """Gate by gate: the logarithm of a time scale, its negative, or zero."""
    signs = [_SIGNS.get(block.param.gate or "", 0) if block.values.any() else 0 for block in blocks]
    longest = max((block.arguments for block in blocks), key=lambda item: item.get("steps", 2))
    return (
        f"for gate, sign in zip({place}.data.chunk({len(blocks)}), {tuple(signs)}): "
        f"gate{_time_scales(longest)}.mul_(sign)"
    )


def _time_scales(arguments: Mapping[str, Any]) -> str:
    shortest = arguments.get("shortest", 1)
    longest = max(arguments.get("steps", 2) - 1, shortest + 1)
    return f".uniform_({shortest:g}, {longest:g}).log_()"


def _rows(model: Model, change: Change, place: str) -> str:
    """One gate of a bias that several share; the others are zeros, or stay what they are."""
    first, end = change.arguments["rows"]
    arguments = {name: value for name, value in change.arguments.items() if name != "rows"}
    part = replace(change, values=change.values[first:end], arguments=arguments)
    call = _call(model, part, f"{place}[{first}:{end}]")
    others = np.delete(change.values, np.s_[first:end])
    return call if others.any() else f"torch.nn.init.zeros_({place}); {call}"


def _call(model: Model, change: Change, place: str) -> str:
    layer, param = model.graph[change.layer], change.param
    arguments = change.arguments
    if "rows" in arguments:
        return _rows(model, change, place)
    if param.tensor is not None and any(view.kind == "exp" for view in param.tensor.views):
        if _multiplied(change):
            return f"{place}.data.add_({log(arguments['factor']):.4g})"
        return f"torch.nn.init.constant_({place}, {float(np.mean(np.log(change.values))):.6g})"
    if change.scheme == "orthogonal":
        gain = arguments.get("gain", 1.0) * arguments.get("factor", 1.0)
        return f"torch.nn.init.orthogonal_({place}, gain={gain:.4g})"
    if change.scheme == "identity":
        return f"torch.nn.init.eye_({place})"
    if change.scheme == "dirac":
        groups = int(layer.attrs.get("groups", 1) or 1)
        return f"torch.nn.init.dirac_({place}, groups={groups})"
    if change.scheme == "centred":
        weight = f"{place.removesuffix('bias')}weight"
        return f"{place}.data.copy_(-0.5 * {weight}.data.flatten(1).sum(1))"
    if change.scheme == "chrono":
        if not change.values.any():
            return f"torch.nn.init.zeros_({place})"
        sign = arguments.get("opening") or _SIGNS.get(param.gate or "", 1)
        turned = "" if sign == 1 else f".mul_({sign:g})"
        return f"{place}.data{_time_scales(arguments)}{turned}"
    if change.scheme == "two_scales":
        units = len(change.values)
        kept = f"(torch.arange({units}) >= {units // 2}) * {float(change.values[-1]):.4g}"
        return f"{place}.data.copy_({kept})"
    if change.scheme in ("zeros", "zero_gamma", "rezero"):
        return f"torch.nn.init.zeros_({place})"
    if change.scheme == "ones":
        return f"torch.nn.init.ones_({place})"
    if change.scheme in ("constant", "layer_scale", "forget_gate_bias"):
        return f"torch.nn.init.constant_({place}, {float(np.mean(change.values)):.6g})"
    if _multiplied(change):
        return f"{place}.data.mul_({arguments['factor']:.4g})"
    std = _std(model, change)
    fan_in = float(np.prod(param.shape[1:])) if len(param.shape) > 1 else 0.0
    plain = layer.op in (Op.LINEAR, Op.CONV) and fan_in > 0
    if plain and isclose(std, sqrt(2 / fan_in), rel_tol=0.05):
        return f'torch.nn.init.kaiming_normal_({place}, nonlinearity="relu")'
    return f"torch.nn.init.normal_({place}, std={std:.4g})"
