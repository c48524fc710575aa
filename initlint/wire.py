"""How the worker's records travel: a length in four bytes, then JSON."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

Record = dict[str, Any]

_LENGTH = struct.Struct(">I")

LIMIT = 256 << 20
"""Bytes of one record: a table of 10^5 layers at 2.5 kB each; a longer one is refused."""


class GarbledRecord(ValueError):  # noqa: N818 - says what arrived
    """Bytes that are no record: the sender was overwritten or is not a worker."""


def _plain(value: Any) -> Any:
    """JSON form of a NumPy number or array, without importing NumPy."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


def encode(record: Record) -> bytes:
    """One record as bytes."""
    body = json.dumps(record, default=_plain, separators=(",", ":")).encode("ascii")
    return _LENGTH.pack(len(body)) + body


class Decoder:
    """Cuts a stream of bytes into records."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Record]:
        """The records that ``data`` completes.

        Raises:
            GarbledRecord: for a length over `LIMIT`, invalid JSON, or anything but an object.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > LIMIT:
                raise GarbledRecord(f"a record of {length} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            try:
                record = json.loads(body)
            except (ValueError, RecursionError) as error:
                raise GarbledRecord("a record that is not JSON") from error
            if not isinstance(record, dict):
                raise GarbledRecord("a record that is not an object")
            yield record
