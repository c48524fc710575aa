"""The record of initialisation choices that is kept with an experiment."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import sqrt
from typing import Any

import numpy as np

from initlint.measure.measures import Measures
from initlint.measure.result import Family
from initlint.model import Draws, Model, Op, Param, Tensor

Record = dict[str, Any]

_FIXED = frozenset(
    {
        Family.ZEROS,
        Family.ONES,
        Family.CONSTANT,
        Family.IDENTITY,
        Family.DIRAC,
        Family.HADAMARD,
        Family.DETERMINISTIC,
    }
)
"""Values that no seed changes."""


def complete(record: Record, model: Model, measures: Measures, draws: Draws | None) -> Record:
    """A table of layers with gain, seed-dependence and hash of every parameter, and of them all.

    Args:
        record: what the engine says of the layers, in the order of ``model.graph``.
        model: the model.
        measures: of its tensors.
        draws: how the weights depend on the seed, where the target was built several times.
    """
    whole = hashlib.sha256()
    for layer, row in zip(model.graph.order, _ordered(record["layers"], model), strict=True):
        for param, told in zip(layer.params, row["params"], strict=True):
            fan = told["fan_in"]
            told["gain"] = None
            if fan and told["std"] is not None and layer.op is not Op.EMBEDDING:
                told["gain"] = float(told["std"]) * sqrt(fan)
            told["seed"] = _seed(measures, param, draws)
            told["hash"] = None if param.tensor is None else digest(param.tensor)
            whole.update(f"{param.key}\0{told['hash']}\0".encode("utf-8", "surrogatepass"))
    return {**record, "hash": whole.hexdigest()[:16]}


def _ordered(rows: Sequence[Record], model: Model) -> list[Record]:
    by_id = {row["id"]: row for row in rows}
    return [by_id.get(layer.id, {"params": []}) for layer in model.graph.order]


def digest(tensor: Tensor) -> str:
    """SHA-256 of the values at the operator, in short: the same in whatever file they stand."""
    found = hashlib.sha256(str(tuple(tensor.shape)).encode())
    for chunk in tensor.chunks():
        values = np.ascontiguousarray(chunk)
        if values.dtype.kind == "f" and values.dtype.itemsize < 4:
            values = values.astype(np.float32)
        found.update(values.tobytes())
    return found.hexdigest()[:16]


def _seed(measures: Measures, param: Param, draws: Draws | None) -> str:
    """Whether the values depend on the seed: ``varies``, ``fixed``, ``same``, ``unrepeatable``.

    ``fixed``: constants and exact structures. ``same``: random, and the same for every seed that
    was tried. ``unknown`` where one file cannot tell.
    """
    if draws is not None:
        if param.name in draws.random:
            return "varies"
        if param.name in draws.insensitive:
            return "same"
        if any(param.name == item.name for item in draws.irreproducible):
            return "unrepeatable"
        return "fixed"
    if param.tensor is None:
        return "unknown"
    return "fixed" if measures.identify(param).family in _FIXED else "unknown"
