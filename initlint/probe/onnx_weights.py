"""Large weights apart from the graph, so that nobody copies them into a message and out again."""

from __future__ import annotations

from collections import Counter
from functools import partial
from math import prod
from typing import Any

import numpy as np

from initlint.load.onnx_runnable import LeftOut
from initlint.probe.request import CARRIERS, HANDED_OVER, NUMPY_TYPES, External

LARGE = 1 << 16
"""Bytes from which a weight travels by itself. Shapes, axes and the like, whose values onnxruntime
reads while it loads a graph, are smaller."""

_RAW_DATA_TAG = 1
"""Bytes of the tag of ``TensorProto.raw_data``, field 9."""


def taken_apart(model: Any, left_out: LeftOut | None = None) -> tuple[Any, tuple[External, ...]]:
    """A copy of an ``onnx.ModelProto`` without its large weights, and those.

    The copy names them as data of another file, which is how onnxruntime takes weights from memory.
    The weights are read when they are sent, one at a time. The model itself when there are none.

    Args:
        model: the message.
        left_out: raw data that it does not hold.
    """
    names = Counter(tensor.name for tensor in model.graph.initializer)
    large: dict[str, External] = {}
    absent: dict[str, tuple[int, int]] = {}
    for tensor in model.graph.initializer:
        if names[tensor.name] != 1:
            continue
        place = _place(tensor, left_out)
        if place is not None:
            absent[tensor.name] = place
        weight = _in_message(tensor) if place is None else _in_file(tensor, *place, left_out)
        if weight is not None:
            large[tensor.name] = weight
    if not large and not absent:
        return model, ()
    copy = type(model)()
    _copy_fields(model, copy, "graph")
    _copy_fields(model.graph, copy.graph, "initializer")
    for tensor in model.graph.initializer:
        kept = copy.graph.initializer.add()
        if tensor.name not in large:
            kept.CopyFrom(tensor)
            if left_out is not None and tensor.name in absent:
                kept.raw_data = left_out.read(*absent[tensor.name])
            continue
        kept.name, kept.data_type, kept.data_location = tensor.name, tensor.data_type, 1
        kept.dims.extend(tensor.dims)
        kept.external_data.add(key="location", value="memory")
    return copy, tuple(large.values())


def _place(tensor: Any, left_out: LeftOut | None) -> tuple[int, int] | None:
    """Where the elements of a tensor lie that the message does not hold."""
    if left_out is None or tensor.data_location or len(tensor.raw_data):
        return None
    return left_out.places.get(tensor.name)


def _in_file(tensor: Any, offset: int, length: int, left_out: LeftOut | None) -> External | None:
    """None where onnxruntime does not take such elements from memory."""
    if left_out is None or length != _size(tensor):
        return None
    read = partial(left_out.read, offset, length)
    return External(tensor.name, tensor.data_type, tuple(tensor.dims), length, read, offset)


def _in_message(tensor: Any) -> External | None:
    size = _raw_size(tensor)
    if size < LARGE:
        return None
    read = partial(getattr, tensor, "raw_data")
    return External(tensor.name, tensor.data_type, tuple(tensor.dims), size, read)


def _size(tensor: Any) -> int:
    """Bytes that the raw data of a tensor of this shape has; 0 where it cannot be handed over."""
    if tensor.data_type not in HANDED_OVER or min(tensor.dims, default=0) < 0:
        return 0
    dtype = CARRIERS.get(tensor.data_type) or NUMPY_TYPES[tensor.data_type]
    return int(prod(tensor.dims)) * np.dtype(dtype).itemsize


def _raw_size(tensor: Any) -> int:
    """Bytes of a tensor that holds as many raw ones as its shape says, otherwise 0.

    Asking for the bytes would copy them, so they are told from the size of the whole message. Only
    a forged message is as long without holding them; `Request.pieces` ends there.
    """
    # a list of numbers can be just as long
    if tensor.data_location or not tensor.HasField("raw_data"):
        return 0
    size = _size(tensor)
    if size < LARGE:
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
