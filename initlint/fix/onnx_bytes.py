"""Initializers of an ONNX file replaced byte for byte, nothing else touched.

The file is not parsed and written again, which would lose unknown fields and change orders and
encodings: the spans of the elements are located in the wire format (field 7 of ModelProto is the
graph, field 5 of GraphProto an initializer; onnx/onnx.proto) and overwritten. Elements that fields
of another width hold (half precision in ``int32_data``) become ``raw_data``, and only the lengths
around them change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from initlint.model import LoadError

_GRAPH, _INITIALIZER = 7, 5
_NAME, _RAW, _EXTERNAL = 8, 9, 13
_ELEMENTS = {4: "float_data", 5: "int32_data", 10: "double_data"}
_KEY, _VALUE = 1, 2


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message: its number, wire type, where it starts and where its value lies."""

    number: int
    wire: int
    start: int
    value: int
    stop: int


@dataclass(frozen=True, slots=True)
class Stored:
    """One initializer in the file.

    Attributes:
        message: the field that holds it.
        elements: the fields that hold its elements (``raw_data`` or one of the typed ones).
        external: where its elements lie when in another file: ``location``, ``offset``.
    """

    message: Field
    elements: tuple[Field, ...]
    external: Mapping[str, str]


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise LoadError("the protobuf is damaged: a number does not end")
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7


def _to_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def fields(data: memoryview, start: int, stop: int) -> Iterator[Field]:
    """The fields of the message between two offsets.

    Raises:
        LoadError: it is not well-formed.
    """
    while start < stop:
        key, value = _varint(data, start)
        wire = key & 7
        if wire == 0:
            _, end = _varint(data, value)
        elif wire == 1:
            end = value + 8
        elif wire == 5:
            end = value + 4
        elif wire == 2:
            length, value = _varint(data, value)
            end = value + length
        else:
            raise LoadError(f"the protobuf holds a field of wire type {wire}")
        if end > stop:
            raise LoadError("the protobuf is damaged: a field reaches beyond its message")
        yield Field(key >> 3, wire, start, value, end)
        start = end


def locate(data: bytes) -> dict[str, Stored]:
    """The initializers of the main graph by name."""
    view = memoryview(data)
    found: dict[str, Stored] = {}
    for graph in _graphs(view):
        for message in fields(view, graph.value, graph.stop):
            if message.number == _INITIALIZER and message.wire == 2:
                name, stored = _initializer(view, message)
                found[name] = stored
    return found


def _graphs(view: memoryview) -> list[Field]:
    return [item for item in fields(view, 0, len(view)) if item.number == _GRAPH and item.wire == 2]


def _initializer(view: memoryview, message: Field) -> tuple[str, Stored]:
    name = ""
    elements: list[Field] = []
    external: dict[str, str] = {}
    for item in fields(view, message.value, message.stop):
        if item.number == _NAME:
            name = bytes(view[item.value : item.stop]).decode("utf-8", "surrogateescape")
        elif item.number == _RAW or item.number in _ELEMENTS:
            elements.append(item)
        elif item.number == _EXTERNAL:
            external.update([_entry(view, item)])
    return name, Stored(message, tuple(elements), external)


def _entry(view: memoryview, item: Field) -> tuple[str, str]:
    texts = {
        part.number: bytes(view[part.value : part.stop]).decode("utf-8", "surrogateescape")
        for part in fields(view, item.value, item.stop)
        if part.wire == 2
    }
    return texts.get(_KEY, ""), texts.get(_VALUE, "")


def replaced(data: bytes, values: Mapping[str, bytes]) -> bytes:
    """The file with the elements of these initializers replaced.

    Args:
        data: the file.
        values: little-endian elements by initializer name, in the stored type.

    Raises:
        LoadError: an initializer is not in the main graph, or lies in another file.
    """
    view = memoryview(data)
    stored = locate(data)
    out = bytearray(data)
    resized: dict[str, bytes] = {}
    for name, elements in values.items():
        if name not in stored or stored[name].external:
            raise LoadError(f"initializer {name!r} is not stored in the model file itself")
        held = stored[name].elements
        if len(held) == 1 and held[0].stop - held[0].value == len(elements):
            out[held[0].value : held[0].stop] = elements
        elif elements:
            resized[name] = elements
    return _resized(view, out, stored, resized) if resized else bytes(out)


def _resized(
    view: memoryview, out: bytearray, stored: Mapping[str, Stored], values: Mapping[str, bytes]
) -> bytes:
    """Replace whole initializers by ones with ``raw_data``, and the length of their graph."""
    messages = {stored[name].message.start: name for name in values}
    graphs = _graphs(view)
    if len(graphs) != 1:
        raise LoadError(f"the protobuf holds {len(graphs)} graphs in pieces")
    graph = graphs[0]
    body = bytearray()
    for item in fields(view, graph.value, graph.stop):
        name = messages.get(item.start)
        if name is None:
            body += out[item.start : item.stop]
            continue
        dropped = {element.start for element in stored[name].elements}
        tensor = bytearray()
        for part in fields(view, item.value, item.stop):
            if part.start not in dropped:
                tensor += out[part.start : part.stop]
        tensor += _to_varint(_RAW << 3 | 2) + _to_varint(len(values[name])) + values[name]
        body += _to_varint(_INITIALIZER << 3 | 2) + _to_varint(len(tensor)) + tensor
    head = _to_varint(_GRAPH << 3 | 2) + _to_varint(len(body))
    return bytes(out[: graph.start]) + head + bytes(body) + bytes(out[graph.stop :])
