"""Files in an object store, read by byte ranges that somebody else fetches.

The worker may open no socket. It asks over its pipe, and the process outside the wall, which knows
the network and no file format, answers with bytes.
"""

from __future__ import annotations

import json
import threading
from bisect import bisect_right, insort
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initlint.load.files import File, Folder, components, shown
from initlint.model import LoadError

Ask = Callable[[dict[str, Any]], bytes]
"""Answers a request of `RemoteFile` or `RemoteFolder`; raises `LoadError` with the reason."""

BLOCK = 256 << 10
"""Bytes fetched at least: a round trip to an object store takes as long as this on its way, and
headers and small tensors lie side by side."""

HELD_BYTES = 1 << 30
"""Fetched bytes that are kept: rules look at a tensor more than once, and fetching costs."""


class _Held:
    """What was fetched of all files, the least recently used let go."""

    def __init__(self) -> None:
        self._parts: OrderedDict[tuple[str, int], NDArray[np.uint8]] = OrderedDict()
        self._starts: dict[str, list[int]] = {}
        self._bytes = 0

    def get(self, name: str, offset: int, length: int) -> NDArray[np.uint8] | None:
        """A part that holds these bytes, cut to them."""
        starts = self._starts.get(name, [])
        place = bisect_right(starts, offset)
        for start in starts[max(place - _OVERLAPPING, 0) : place][::-1]:
            part = self._parts[name, start]
            if offset + length <= start + part.size:
                self._parts.move_to_end((name, start))
                return part[offset - start : offset - start + length]
        return None

    def put(self, name: str, offset: int, part: NDArray[np.uint8]) -> None:
        """Hold a part."""
        self._drop(name, offset)
        self._parts[name, offset] = part
        insort(self._starts.setdefault(name, []), offset)
        self._bytes += part.size
        while self._bytes > HELD_BYTES and len(self._parts) > 1:
            self._drop(*next(iter(self._parts)))

    def _drop(self, name: str, offset: int) -> None:
        part = self._parts.pop((name, offset), None)
        if part is not None:
            self._bytes -= part.size
            self._starts[name].remove(offset)


_OVERLAPPING = 3
"""Parts looked at: a tensor, and blocks of small reads that begin inside of it."""

_held = _Held()
_lock = threading.Lock()


class RemoteFile(File):
    """A file behind a URL, with the interface of a local one."""

    local = False

    def __init__(self, name: str, ask: Ask) -> None:
        self.name = name
        self._ask = ask
        told = json.loads(ask({"what": "size", "path": name}))
        self.size = int(told["size"])
        self._version = told["version"]
        self._key = f"{name}\0{self._version}"

    def close(self) -> None:
        """Nothing is held open."""

    def read_at(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``.

        Raises:
            LoadError: the file does not hold these bytes, or changed while it was read.
        """
        return self.read_array(offset, length).tobytes()

    def read_array(self, offset: int, length: int) -> NDArray[np.uint8]:
        """``length`` bytes from ``offset`` as a fresh, writeable array. Raises as `read_at`."""
        self._check_range(offset, length)
        with _lock:
            held = _held.get(self._key, offset, length)
            if held is not None:
                return held.copy()
            if length >= BLOCK:
                return self._part(offset, length).copy()
            buffer = np.empty(length, dtype=np.uint8)
            done = 0
            while done < length:
                start = (offset + done) // BLOCK * BLOCK
                block = self._part(start, min(BLOCK, self.size - start))
                skip = offset + done - start
                piece = block[skip : skip + length - done]
                buffer[done : done + piece.size] = piece
                done += piece.size
            return buffer

    def _part(self, offset: int, length: int) -> NDArray[np.uint8]:
        held = _held.get(self._key, offset, length)
        if held is not None:
            return held
        request = {"what": "range", "path": self.name, "offset": offset, "length": length}
        part = np.frombuffer(self._ask(request), dtype=np.uint8)
        if part.size != length:
            raise self._changed()
        _held.put(self._key, offset, part)
        return part

    def check_unchanged(self) -> None:
        """Raise `LoadError` when the store has another version of the file by now."""
        told = json.loads(self._ask({"what": "size", "path": self.name}))
        if told["version"] != self._version:
            raise self._changed()


class RemoteFolder(Folder):
    """A folder behind a URL; the answering side lets nothing above it be read."""

    def __init__(self, path: str, ask: Ask) -> None:
        self.path = path.rstrip("/")
        self._ask = ask

    def close(self) -> None:
        """Nothing is held open."""

    def open(self, relative: str, hold: bool = True) -> File:
        """A file below this folder. Raises as `Folder.open`."""
        return RemoteFile(f"{self.path}/{'/'.join(components(relative))}", self._ask)

    def has(self, relative: str) -> bool:
        """True when `open` would find something of that name."""
        try:
            path = f"{self.path}/{'/'.join(components(relative))}"
        except LoadError:
            return False
        return bool(json.loads(self._ask({"what": "has", "path": path})))

    def names(self) -> tuple[str, ...]:
        """Names of the entries of this folder, sorted."""
        names = json.loads(self._ask({"what": "names", "path": self.path}))
        return tuple(sorted(str(name) for name in names))


def is_folder(path: str, ask: Ask) -> bool:
    """True for a URL that names a folder of the store."""
    return bool(json.loads(ask({"what": "folder", "path": path})))


class Link:
    """Requests over the worker's pipes: a record out, a frame back.

    A frame is one byte (0: bytes, 1: the reason why not), the length in eight, and the bytes. The
    end of the stream means that the parent has gone, and so goes the worker.

    Args:
        emit: sends a record.
        read: reads up to so many bytes of the answers.
        gone: called when there are no more answers.
    """

    def __init__(
        self,
        emit: Callable[[dict[str, Any]], None],
        read: Callable[[int], bytes],
        gone: Callable[[], None],
    ) -> None:
        self._emit = emit
        self._read = read
        self._gone = gone
        self._lock = threading.Lock()

    def ask(self, request: dict[str, Any]) -> bytes:
        """The answer to a request.

        Raises:
            LoadError: it could not be fetched.
        """
        with self._lock:
            self._emit({"type": "fetch", **request})
            failed, *length = self._exactly(9)
            body = bytes(self._exactly(int.from_bytes(bytes(length), "big")))
        if failed:
            raise LoadError(f"{shown(request['path'])}: {body.decode('utf-8', 'replace')}")
        return body

    def _exactly(self, length: int) -> bytearray:
        data = bytearray(length)
        view, done = memoryview(data), 0
        while done < length:
            piece = self._read(min(length - done, 1 << 20))
            if not piece:
                self._gone()
            view[done : done + len(piece)] = piece
            done += len(piece)
        return data
