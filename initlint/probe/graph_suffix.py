"""Bytes that add to a serialised ``ModelProto``, which is not parsed for it.

Protobuf defines the concatenation of two messages as their merge, which appends to repeated fields.
Field numbers are those of onnx.proto3.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Graph = bytes
"""Fields of a ``GraphProto``."""


def added(fields: Iterable[Graph]) -> bytes:
    """What to put behind a ``ModelProto`` so that its graph has these fields, too."""
    graph = b"".join(fields)
    return _field(7, graph) if graph else b""


def output(name: str) -> Graph:
    """A graph output; its type is left out, onnxruntime infers it."""
    return _field(12, _field(1, _text(name)))


def node(op: str, inputs: Sequence[str], result: str, attributes: Sequence[bytes] = ()) -> Graph:
    """A node with one output, by which it is named."""
    body = b"".join(_field(1, _text(name)) for name in inputs)
    body += _field(2, _text(result)) + _field(3, _text(result)) + _field(4, _text(op))
    return _field(1, body + b"".join(_field(5, item) for item in attributes))


def integer(name: str, value: int) -> bytes:
    """An attribute that is one integer, not negative."""
    return _field(1, _text(name)) + _number(3, value) + _number(20, 2)


def constant(result: str, values: Sequence[int]) -> Graph:
    """A node that gives a vector of int64."""
    data = b"".join(value.to_bytes(8, "little", signed=True) for value in values)
    tensor = _number(1, len(values)) + _number(2, 7) + _field(9, data)
    return node("Constant", (), result, [_field(1, b"value") + _field(5, tensor) + _number(20, 4)])


def _text(name: str) -> bytes:
    return name.encode("utf-8", "replace")


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
