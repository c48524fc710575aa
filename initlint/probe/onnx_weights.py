"""Large weights apart from the graph, so that nobody copies them into a message and out again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from math import prod
from typing import Any

import numpy as np

from initlint.probe.request import CARRIERS, HANDED_OVER, NUMPY_TYPES, External

LARGE = 1 << 16
"""Bytes from which a weight travels by itself. Shapes, axes and the like, whose values onnxruntime
reads while it loads a graph, are smaller."""

_RAW_DATA_TAG = 1
"""Bytes of the tag of ``TensorProto.raw_data``, field 9."""


def taken_apart(model: Any) -> tuple[Any, tuple[External, ...]]:
    """A copy of an ``onnx.ModelProto`` without its large weights, and those.

    The copy names them as data of another file, which is how onnxruntime takes weights from memory.
    The weights are read when they are sent, one at a time. The model itself when there are none.
    """
    names = Counter(tensor.name for tensor in model.graph.initializer)
    large = {
        tensor.name: size
        for tensor in model.graph.initializer
        if names[tensor.name] == 1 and (size := _raw_size(tensor)) >= LARGE
    }
    if not large:
        return model, ()
    copy = type(model)()
    _copy_fields(model, copy, "graph")
    _copy_fields(model.graph, copy.graph, "initializer")
    for tensor in model.graph.initializer:
        kept = copy.graph.initializer.add()
        if tensor.name not in large:
            kept.CopyFrom(tensor)
            continue
        kept.name, kept.data_type, kept.data_location = tensor.name, tensor.data_type, 1
        kept.dims.extend(tensor.dims)
        kept.external_data.add(key="location", value="memory")
    return copy, tuple(_weights(model.graph, large))


def _weights(graph: Any, sizes: dict[str, int]) -> Iterator[External]:
    for tensor in graph.initializer:
        if tensor.name in sizes:
            read = partial(getattr, tensor, "raw_data")
            dims = tuple(tensor.dims)
            yield External(tensor.name, tensor.data_type, dims, sizes[tensor.name], read)


def _raw_size(tensor: Any) -> int:
    """Bytes of a tensor that holds as many raw ones as its shape says, otherwise 0.

    Asking for the bytes would copy them, so they are told from the size of the whole message. Only
    a forged message is as long without holding them; `Request.pieces` ends there.
    """
    raw = tensor.HasField("raw_data")  # a list of numbers can be just as long
    if tensor.data_type not in HANDED_OVER or tensor.data_location or not raw:
        return 0
    dtype = CARRIERS.get(tensor.data_type) or NUMPY_TYPES[tensor.data_type]
    size = prod(tensor.dims) * np.dtype(dtype).itemsize
    if size < LARGE or min(tensor.dims) < 0:
        return 0
    rest = type(tensor)(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    length = (size.bit_length() + 6) // 7
    return size if tensor.ByteSize() == rest.ByteSize() + _RAW_DATA_TAG + length + size else 0


def _copy_fields(source: Any, target: Any, without: str) -> None:
    """Copy the fields of a message, all but one."""
    for field, value in source.ListFields():
        if field.name == without:
            continue
        if hasattr(value, "extend"):  # what says so of a field depends on protobuf's version
            getattr(target, field.name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(target, field.name).CopyFrom(value)
        else:
            setattr(target, field.name, value)
