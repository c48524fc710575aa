"""Which part of a large tensor is judged, and in which order large tensors are read."""

from __future__ import annotations

from math import prod
from typing import Any

from numpy.typing import NDArray

from initlint.model import Model, Tensor

Array = NDArray[Any]

WHOLE_ELEMENTS = 1 << 24
"""Tensors up to this many elements are read whole, once (64 MiB of float32). Larger ones are
streamed for their moments, and their distribution is judged on leading rows of this many elements:
a sample that finds a relative change of the scale of 4·0.71/√2²⁴ = 7e-4."""

VERY_LARGE = 1 << 27
"""Elements of a model (0.5 GB of float32) from which reading it should take the time: its large
tensors are then judged on shorter leading rows, `JUDGED_ELEMENTS` in all."""

JUDGED_SHARE = 32
JUDGED_ELEMENTS = 1 << 27
"""Of a very large model one element in 32 is judged, and no more than these: a judgement takes up
to 20 ns an element, the moments of all elements 0.3, reading them from a disk 1 to 8 ns. In smaller
models every tensor is judged as `WHOLE_ELEMENTS` says."""

LEAST_BLOCK = 1 << 19
"""Leading elements that are judged whatever the number of tensors: the scale is then known to
4·0.71/√2¹⁹ = 0.4 %, less than `scheme.SCALE_SLACK`, and `scheme.SAMPLE_ELEMENTS` says what twice as
large a sample refuses."""


def whole_elements(model: Model) -> int:
    """Elements up to which a tensor of this model is judged whole."""
    sizes = [
        param.size
        for _, param in model.graph.params
        if param.tensor is not None and param.tied_to is None and param.size > LEAST_BLOCK
    ]
    total = sum(sizes)
    if total <= VERY_LARGE:
        return WHOLE_ELEMENTS
    judged = min(JUDGED_ELEMENTS, total // JUDGED_SHARE)
    return min(WHOLE_ELEMENTS, max(LEAST_BLOCK, judged // len(sizes)))


def leading_block(tensor: Tensor, elements: int) -> Array:
    """About ``elements`` elements of a larger tensor, whole stored rows, in its orientation."""
    order = [view.kind for view in tensor.views]
    rows = tensor.stored_shape[0]
    count = max(1, elements // max(1, prod(tensor.stored_shape[1:])))
    if order in ([], ["transpose"]) and count < rows:
        block = Tensor(tensor.name, tensor.dtype, tensor.stored_shape, tensor.source)
        block = block.take(0, 0, count)
        return (block.transpose(*tensor.views[0].argument) if order else block).read()
    return tensor.read()


def position(tensor: Tensor) -> tuple[str, int]:
    """Where a tensor begins on disk, as far as its source tells; read in this order."""
    source = tensor.source
    return str(getattr(getattr(source, "file", None), "name", "")), getattr(source, "offset", 0)
