"""Protobuf's wire format: where the fields of a message lie, without parsing what they hold.

Field 7 of ModelProto is the graph, field 5 of GraphProto an initializer, fields 8 and 9 of
TensorProto its name and raw data (onnx/onnx.proto).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from initlint.model import LoadError

GRAPH, INITIALIZER, NAME, RAW_DATA = 7, 5, 8, 9

_WINDOW = 1 << 12
"""Bytes read at once: the beginnings of several nodes, or of one tensor."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message: its number, wire type, where it starts and where its value lies."""

    number: int
    wire: int
    start: int
    value: int
    stop: int


class Octets(Protocol):
    """Bytes that can be asked for one by one."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int, /) -> int: ...


def varint(data: Octets, position: int) -> tuple[int, int]:
    """The number that begins at a position, and where it ends.

    Raises:
        LoadError: it does not end.
    """
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


def fields(data: Octets, start: int, stop: int) -> Iterator[Field]:
    """The fields of the message between two offsets.

    Raises:
        LoadError: it is not well-formed.
    """
    while start < stop:
        key, value = varint(data, start)
        wire = key & 7
        if wire == 0:
            _, end = varint(data, value)
        elif wire == 1:
            end = value + 8
        elif wire == 5:
            end = value + 4
        elif wire == 2:
            length, value = varint(data, value)
            end = value + length
        else:
            raise LoadError(f"the protobuf holds a field of wire type {wire}")
        if end > stop:
            raise LoadError("the protobuf is damaged: a field reaches beyond its message")
        yield Field(key >> 3, wire, start, value, end)
        start = end


class _Windows:
    """An open file, of which the part around the last byte that was asked for is held."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        self._held, self._start = b"", 0

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, position: int) -> int:
        if not 0 <= position - self._start < len(self._held):
            self._held, self._start = os.pread(self._descriptor, _WINDOW, position), position
            if not self._held:
                raise LoadError("the file ends early")
        return self._held[position - self._start]

    def text(self, field: Field) -> str:
        """What a field of text holds."""
        data = os.pread(self._descriptor, field.stop - field.value, field.value)
        return data.decode("utf-8", "surrogateescape")


def raw_places(descriptor: int) -> Mapping[str, tuple[int, int]]:
    """Offset and length of the raw data of the main graph's initializers, by name.

    Those whose name or data comes in several pieces are left out; all are, where the graph does or
    the file cannot be read so.

    Args:
        descriptor: the open file.
    """
    found: dict[str, list[tuple[int, int]]] = {}
    data = _Windows(descriptor)
    try:
        graphs = [part for part in fields(data, 0, len(data)) if part.number == GRAPH]
        if len(graphs) != 1 or graphs[0].wire != 2:
            return {}
        for message in fields(data, graphs[0].value, graphs[0].stop):
            if message.number != INITIALIZER or message.wire != 2:
                continue
            parts = [p for p in fields(data, message.value, message.stop) if p.wire == 2]
            names = [part for part in parts if part.number == NAME]
            raws = [part for part in parts if part.number == RAW_DATA]
            if len(names) == len(raws) == 1:
                place = raws[0].value, raws[0].stop - raws[0].value
                found.setdefault(data.text(names[0]), []).append(place)
    except (LoadError, OSError):
        return {}
    return {name: places[0] for name, places in found.items() if len(places) == 1}
