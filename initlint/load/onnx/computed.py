"""Constants that are computed from other constants when they are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from initlint.load.files import shown
from initlint.model import LoadError, Tensor
from initlint.model.tensor import Array

Evaluator = Callable[[list[Array]], Array]


@dataclass(slots=True)
class _Latest:
    owner: object = None
    array: Any = None


_latest = _Latest()


@dataclass(frozen=True, slots=True, eq=False)
class ComputedSource:
    """A tensor computed from other tensors when it is read (a `initlint.model.Source`).

    The last one computed is kept, because a stream reads it piece by piece.

    Attributes:
        evaluate: the computation, on the operands' arrays.
        operands: what it is computed from.
        shape: shape of the result.
    """

    evaluate: Evaluator
    operands: tuple[Tensor, ...]
    shape: tuple[int, ...]

    def read(self, start: int, stop: int) -> Array:
        """Elements ``start`` to ``stop`` of the flattened result."""
        global _latest
        latest = _latest
        if latest.owner is not self:
            latest = _latest = _Latest(self, self._compute())
        piece: Array = latest.array[start:stop]
        return piece

    def _compute(self) -> Array:
        try:
            with np.errstate(all="ignore"):
                result = np.asarray(self.evaluate([operand.read() for operand in self.operands]))
            if result.dtype not in (np.float32, np.float64):
                result = result.astype(np.float32)
            return np.broadcast_to(result, self.shape).reshape(-1)
        except (ValueError, IndexError, TypeError, MemoryError) as error:
            name = self.operands[0].name
            raise LoadError(
                f"the constant computed from {shown(name)!r} cannot be computed: {error}"
            ) from None
