"""Weights normalised where they are used: a stored gain beside a stored direction.

``w = g v / |v|`` (Salimans & Kingma 2016), as `torch.nn.utils.weight_norm` and its parametrisation
store it. Any weight can be written through them: g takes its norms, v its directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from initlint.fix.canonical import WRITABLE, Array, read_stored
from initlint.model import Tensor

CLOSE = 1e-4
"""Largest difference from ``g v / |v|``, relative to the largest element: float32 leaves 1e-6 of
it, and half precision is normalised in float32."""

PARALLEL = 1e-6
"""1 - cosine of what still has its direction, so that a change of scale leaves v as it is."""


@dataclass(frozen=True, slots=True)
class Factors:
    """What a normalised weight is stored as.

    Attributes:
        gain: norms, of the weight's shape with 1 for the axes they are taken over (or a scalar).
        direction: of the weight's shape.
    """

    gain: Tensor
    direction: Tensor

    @property
    def axes(self) -> tuple[int, ...]:
        """Axes that norms are taken over."""
        shape, gain = self.direction.stored_shape, self.gain.stored_shape
        if len(gain) != len(shape):
            return tuple(range(len(shape)))
        return tuple(axis for axis, side in enumerate(gain) if side == 1)

    def product(self) -> Array:
        """The weight that the stored factors give, in their stored orientation."""
        gain, direction = read_stored(self.gain), read_stored(self.direction)
        with np.errstate(invalid="ignore", divide="ignore"):  # no direction: NaN there as well
            return np.asarray(gain * (direction / _norms(direction, self.axes)))

    def through(self, weight: Array) -> dict[str, Array]:
        """The factors that give a weight, by stored name.

        A direction is kept where the weight has it already, or has none (a unit of zeros).
        """
        direction = read_stored(self.direction)
        norms, lengths = _norms(weight, self.axes), _norms(direction, self.axes)
        along = np.sum(weight * direction, axis=self.axes, keepdims=True)
        kept = (norms == 0.0) | (along >= (1.0 - PARALLEL) * norms * lengths)
        gain = norms.reshape(self.gain.stored_shape)
        return {self.gain.name: gain, self.direction.name: np.where(kept, direction, weight)}


def _norms(array: Array, axes: tuple[int, ...]) -> Array:
    squares = np.square(array, dtype=np.float64)
    return np.asarray(np.sqrt(squares.sum(axis=axes, keepdims=True)))


def factors(tensor: Tensor) -> Factors | None:
    """The gain and the direction that a weight is computed from; None for any other weight."""
    if len(tensor.operands) != 2 or any(item.dtype not in WRITABLE for item in tensor.operands):
        return None
    weight = read_stored(tensor)
    for gain, direction in permutations(tensor.operands):
        found = Factors(gain, direction)
        if direction.stored_shape != weight.shape or not _normalises(found):
            continue
        with np.errstate(invalid="ignore"):
            error = np.abs(found.product() - weight).max(initial=0.0)
        if error <= CLOSE * np.abs(weight).max(initial=0.0):
            return found
    return None


def _normalises(found: Factors) -> bool:
    """True for one norm for each index of one axis at most."""
    shape, gain = found.direction.stored_shape, found.gain.stored_shape
    if not found.axes:
        return False
    if len(gain) != len(shape):
        return gain in ((), (1,))
    return all(one in (1, side) for one, side in zip(gain, shape, strict=True))
