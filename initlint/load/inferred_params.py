"""Building `Param` records for tensors of a checkpoint."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from initlint.load.decode import FLOATING, Array
from initlint.load.naming import Group
from initlint.load.stored import Stored
from initlint.model import Param, Role, Tensor


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes parameters, knowing the whole file.

    Attributes:
        first: the first name under which each stored run of elements appears.
        states_gradients: True when the file says of some tensor that it needs a gradient; then
            it says so of each.
    """

    first: Mapping[Hashable, str]
    states_gradients: bool

    @classmethod
    def of(cls, tensors: Mapping[str, Stored]) -> Maker:
        """A maker for these tensors."""
        first: dict[Hashable, str] = {}
        for name, stored in tensors.items():
            if stored.identity is not None and stored.tensor.size:
                first.setdefault(stored.identity, name)
        return cls(first, any(stored.requires_grad for stored in tensors.values()))

    def param(
        self,
        role: Role,
        group: Group,
        stem: str,
        tensor: Tensor | None = None,
        *,
        trainable: bool = True,
        **fields: Any,
    ) -> Param:
        """The parameter ``stem`` of a module; ``tensor`` is its canonical view when it differs."""
        stored, name = group.members[stem], group.names[stem]
        view = tensor or stored.tensor
        first = self.first.get(stored.identity, name)
        frozen = self.states_gradients and stored.requires_grad is False
        return Param(
            role,
            f"{group.path}.{public_stem(stem)}"
            if group.path and stem != public_stem(stem)
            else name,
            view.shape,
            stored.tensor.dtype,
            view,
            trainable=trainable and not frozen and stored.tensor.dtype in FLOATING,
            tied_to=None if first == name else first,
            stored_name=name,
            quantised=stored.quantised,
            **fields,
        )


def public_stem(stem: str) -> str:
    """``weight`` for the names under which reparametrisations store it."""
    return "weight" if stem in ("weight_v", "weight_orig") else stem


def effective_weight(group: Group, stem: str) -> Tensor:
    """The weight that the layer computes with: for weight norm, direction times magnitude."""
    direction = group.members[stem].tensor
    magnitude = group.members.get("weight_g")
    if stem != "weight_v" or magnitude is None:
        return direction
    sides = magnitude.tensor.shape
    wide = [axis for axis, side in enumerate(sides) if side != 1]
    axis = wide[0] if wide else 0
    if len(wide) > 1 or not sides or len(sides) > len(direction.shape):
        return direction
    if sides[axis] != direction.shape[axis]:
        return direction
    source = WeightNormSource(direction, magnitude.tensor, axis)
    return Tensor(direction.name, direction.dtype, direction.shape, source)


@dataclass(frozen=True, slots=True)
class WeightNormSource:
    """Elements of ``g · v / ‖v‖``, the norm over all axes but one (arXiv 1602.07868)."""

    direction: Tensor
    magnitude: Tensor
    axis: int = 0

    def read(self, start: int, stop: int) -> Array:
        """Elements ``start`` to ``stop``; along the first axis, only their rows are read."""
        row = max(prod(self.direction.shape[1:]), 1)
        if self.axis:
            return self._scaled(self.direction, self.magnitude).reshape(-1)[start:stop]
        first, last = start // row, -(-stop // row)
        rows = self.direction.take(0, first, last)
        scaled = self._scaled(rows, self.magnitude.take(0, first, last))
        return scaled.reshape(-1)[start - first * row : stop - first * row]

    def _scaled(self, direction: Tensor, magnitude: Tensor) -> Array:
        values = direction.read()
        others = tuple(axis for axis in range(values.ndim) if axis != self.axis)
        norms = np.sqrt(np.square(values, dtype=np.float64).sum(axis=others, keepdims=True))
        gains = magnitude.read().reshape(norms.shape)
        factors = np.divide(gains, norms, out=np.zeros_like(norms), where=norms > 0)
        scaled: Array = (values * factors).astype(values.dtype)
        return scaled
