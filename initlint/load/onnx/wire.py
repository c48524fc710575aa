"""Protobuf's wire format: where the fields of a message lie, without parsing what they hold.

Field 7 of ModelProto is the graph, field 5 of GraphProto an initializer, fields 8 and 9 of
TensorProto its name and raw data (onnx/onnx.proto).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from initlint.model import LoadError

GRAPH, INITIALIZER, NAME, RAW_DATA = 7, 5, 8, 9

LARGE = 1 << 18
"""Bytes of raw data from which it stays in the file. Shapes, axes and the statistics of a
normaliser, which are looked at in the message, are shorter."""

_SHARE = 1 << 14
"""Bytes of a file for each field that is looked at: with smaller ones, parsing copies little."""

_FIRST = 256
"""Fields that are looked at in any file."""

_WINDOW = 1 << 12
"""Bytes read at once: the beginnings of several nodes, or of one tensor."""

_EMPTY = bytes((RAW_DATA << 3 | 2, 0))
"""Raw data of no length."""


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


def to_varint(value: int) -> bytes:
    """A number as the wire has it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


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


Places = Mapping[str, tuple[int, int]]
"""Offset and length of raw data, by the name of its tensor."""


class _TooManyError(Exception):
    """The file holds more fields than it is worth looking at."""


class _Windows:
    """A file, of which the part around the last byte that was asked for is held."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        self.read = read
        self._size = size
        self._held, self._start = b"", 0
        self._fields = _FIRST + size // _SHARE

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, position: int) -> int:
        if not 0 <= position - self._start < len(self._held):
            length = min(_WINDOW, self._size - position)
            self._held, self._start = self.read(position, length), position
        return self._held[position - self._start]

    def fields(self, start: int, stop: int) -> Iterator[Field]:
        """As `fields`, while there are not too many."""
        for field in fields(self, start, stop):
            self._fields -= 1
            if self._fields < 0:
                raise _TooManyError
            yield field

    def between(self, start: int, stop: int) -> bytes:
        """What lies between two offsets."""
        return self.read(start, stop - start)


def without_raw(read: Callable[[int, int], bytes], size: int) -> tuple[bytes, Places] | None:
    """A model without the large raw data of its main graph's initializers, and where that lies.

    None where there is none, where it takes more than parsing would to find it, and for a file that
    is not well-formed or in which a name or a graph comes twice: parsing tells what is wrong.

    Args:
        read: gives so many bytes from an offset on.
        size: bytes of the file.
    """
    data = _Windows(read, size)
    try:
        top = list(data.fields(0, size))
        graphs = [part for part in top if part.number == GRAPH]
        if len(graphs) != 1 or graphs[0].wire != 2:
            return None
        found = _lightened(data, graphs[0])
    except (LoadError, _TooManyError):
        return None
    if found is None or not found[1]:
        return None
    (graph,), (body, places) = graphs, found
    head = data.between(0, graph.start) + to_varint(GRAPH << 3 | 2) + to_varint(len(body))
    return head + body + data.between(graph.stop, size), places


def _lightened(data: _Windows, graph: Field) -> tuple[bytes, Places] | None:
    """The graph without large raw data; None where two tensors have one name."""
    parts: list[bytes] = []
    places: dict[str, tuple[int, int]] = {}
    done = graph.value
    for message in data.fields(graph.value, graph.stop):
        if message.number != INITIALIZER or message.stop - message.value < LARGE:
            continue
        inside = [part for part in data.fields(message.value, message.stop) if part.wire == 2]
        names = [part for part in inside if part.number == NAME]
        raws = [part for part in inside if part.number == RAW_DATA]
        if not len(names) == len(raws) == 1 or raws[0].stop - raws[0].value < LARGE:
            continue
        (named,), (raw,) = names, raws
        name = data.between(named.value, named.stop).decode("utf-8", "surrogateescape")
        if name in places:
            return None
        places[name] = raw.value, raw.stop - raw.value
        kept = (
            data.between(message.value, raw.start) + _EMPTY + data.between(raw.stop, message.stop)
        )
        parts.append(data.between(done, message.start))
        parts += to_varint(INITIALIZER << 3 | 2), to_varint(len(kept)), kept
        done = message.stop
    parts.append(data.between(done, graph.stop))
    return b"".join(parts), places
