"""Integers behind a scale, as the real numbers they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np

from initlint.load.onnx.computed import ComputedSource
from initlint.load.onnx.values import Fixed, scaled, shifted
from initlint.model import Tensor
from initlint.model.tensor import Array


def dequantised(operand: Fixed, scale: Fixed, zero: Fixed | None, axis: int, block: int) -> Fixed:
    """``(x - zero) * scale`` per tensor, per axis, or per block of an axis."""
    rank = len(operand.shape)
    axis = axis % rank if rank else 0

    def spread(array: Array) -> Array:
        if array.size == 1:
            return array.reshape(())
        if block > 0 and array.ndim == rank:
            return np.repeat(array, block, axis=axis).take(range(operand.shape[axis]), axis=axis)
        return array.reshape([-1 if at == axis else 1 for at in range(rank)])

    quantised = operand.integer or operand.quantised or operand.tensor.dtype.startswith("float8")
    changes: dict[str, Any] = {"integer": False, "quantised": quantised}
    if scale.small and (zero is None or zero.small) and not (block and scale.size > 1):
        tensor = operand.tensor
        if zero is not None and zero.values().any():
            tensor = shifted(tensor, -spread(zero.values()))
        return operand.seen_as(scaled(tensor, spread(scale.values())), **changes)

    def evaluate(arrays: list[Array]) -> Array:
        value = arrays[0] - spread(arrays[2]) if len(arrays) > 2 else arrays[0]
        result: Array = value * spread(arrays[1])
        return result

    operands = tuple(part.tensor for part in (operand, scale, zero) if part is not None)
    source = ComputedSource(evaluate, operands, operand.shape)
    tensor = Tensor(operand.tensor.name, operand.tensor.dtype, operand.shape, source)
    return operand.seen_as(tensor, **changes)
