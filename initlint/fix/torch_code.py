"""The lines of ``torch.nn.init`` that a repair amounts to, with where the layers were built."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import isclose, sqrt
from typing import Any

import numpy as np

from initlint.fix.changes import Change, by_stored_name
from initlint.lint.code import rolled
from initlint.model import Kind, Model, Op

Record = dict[str, Any]


def code_for(model: Model, changes: Sequence[Change]) -> list[Record]:
    """Code to paste behind the construction of a module; empty for other targets.

    One entry per construction site and kind of change: ``file``, ``line``, ``params``, ``code``.
    """
    if model.kind is not Kind.TORCH:
        return []
    entries: dict[tuple[Any, ...], Record] = {}
    for stored, blocks in by_stored_name(changes).items():
        where = model.graph[blocks[0].layer].where
        line = _line(model, stored, blocks)
        key = (where.file, where.line, line.replace(expression(stored), "{}"))
        entry = entries.setdefault(
            key, {"file": where.file, "line": where.line, "params": [], "code": []}
        )
        entry["params"].append(stored)
        entry["code"].append(line)
    for entry in entries.values():
        entry["code"] = rolled(entry["code"])
    return list(entries.values())


def expression(stored: str) -> str:
    """``layers.3.weight`` as Python reaches it: ``model.layers[3].weight``."""
    return "model" + re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", f".{stored}")


def _line(model: Model, stored: str, blocks: Sequence[Change]) -> str:
    place = expression(stored)
    first = blocks[0]
    if len(blocks) == 1 and first.param.packed <= 1:
        return f"{_call(model, first, place)}"
    if {block.scheme for block in blocks} == {"orthogonal"} and len(blocks) == first.param.packed:
        gain = first.arguments.get("gain", 1.0)
        return (
            f"for gate in {place}.data.chunk({len(blocks)}): "
            f"torch.nn.init.orthogonal_(gate, gain={gain:.4g})"
        )
    if {block.scheme for block in blocks} == {"chrono"} and len(blocks) == first.param.packed:
        return _chrono(place, blocks)
    if {block.scheme for block in blocks} == {"identity"} and len(blocks) == first.param.packed:
        return f"for gate in {place}.data.chunk({len(blocks)}): torch.nn.init.eye_(gate)"
    names = ", ".join(block.param.gate or "" for block in blocks)
    return f"{_call(model, first, place)}  # the {names} rows alone"


def _chrono(place: str, blocks: Sequence[Change]) -> str:
    """Gate by gate: the logarithm of a time scale, its negative, or zero."""
    parts = []
    for index, block in enumerate(blocks):
        gate, steps = f"{place}.data.chunk({len(blocks)})[{index}]", block.arguments.get("steps", 2)
        sign = {"forget": "", "update": "", "input": ".neg_()"}.get(block.param.gate or "")
        if sign is None or not block.values.any():
            parts.append(f"{gate}.zero_()")
        else:
            parts.append(f"{gate}.uniform_(1, {max(steps - 1, 2)}).log_(){sign}")
    return "; ".join(parts)


def _call(model: Model, change: Change, place: str) -> str:
    layer, param = model.graph[change.layer], change.param
    arguments = change.arguments
    if change.scheme == "orthogonal":
        return f"torch.nn.init.orthogonal_({place}, gain={arguments.get('gain', 1.0):.4g})"
    if change.scheme == "identity":
        return f"torch.nn.init.eye_({place})"
    if change.scheme == "dirac":
        groups = int(layer.attrs.get("groups", 1) or 1)
        return f"torch.nn.init.dirac_({place}, groups={groups})"
    if change.scheme == "centred":
        weight = f"{place.removesuffix('bias')}weight"
        return f"{place}.data.copy_(-0.5 * {weight}.data.flatten(1).sum(1))"
    if change.scheme in ("zeros", "zero_gamma", "rezero"):
        return f"torch.nn.init.zeros_({place})"
    if change.scheme == "ones":
        return f"torch.nn.init.ones_({place})"
    if change.scheme in ("constant", "layer_scale", "forget_gate_bias"):
        return f"torch.nn.init.constant_({place}, {float(np.mean(change.values)):.6g})"
    std = float(np.sqrt(np.mean(np.square(change.values, dtype=np.float64))))
    fan_in = float(np.prod(param.shape[1:])) if len(param.shape) > 1 else 0.0
    plain = layer.op in (Op.LINEAR, Op.CONV) and fan_in > 0
    if plain and isclose(std, sqrt(2 / fan_in), rel_tol=0.05):
        return f'torch.nn.init.kaiming_normal_({place}, nonlinearity="relu")'
    return f"torch.nn.init.normal_({place}, std={std:.4g})"
