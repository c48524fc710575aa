"""Measurements of one run, written down as they arrive, for the run after an interrupt."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

from initlint.cache.identity import Fact

MOST_BYTES = 64 << 20
"""Bytes read back: 100,000 measurements of 600 bytes."""


class Journal:
    """An append-only file of lines with checksums; a torn line costs that measurement.

    Attributes:
        files: paths of the files whose identity is written.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.files: set[str] = set()

    @classmethod
    def open(cls, path: Path) -> Journal:
        """The journal at a path, to be continued; it keeps nothing where none can be."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
            return cls(os.open(path, flags, 0o600))
        except OSError:
            return cls(-1)

    def add_file(self, path: str, fact: Fact | None) -> None:
        """Write down which file the measurements that name it are of."""
        self.files.add(path)
        if fact is not None:
            self._write({"file": fact.to_list()})

    def add(self, path: str, name: str, value: Any) -> None:
        """Write down one measurement."""
        self._write({"path": path, "name": name, "value": value})

    def _write(self, line: dict[str, Any]) -> None:
        if self._descriptor < 0:
            return
        body = json.dumps(line, separators=(",", ":")).encode("ascii")
        with suppress(OSError):
            os.write(self._descriptor, _checksum(body) + body + b"\n")

    def close(self) -> None:
        """Give the descriptor back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _checksum(body: bytes) -> bytes:
    return blake2b(body, digest_size=8).hexdigest().encode()


def read_journal(path: Path, same: Callable[[Fact], bool]) -> dict[str, Any]:
    """The measurements by name, of those files that are the same; none where anything is wrong.

    Args:
        path: the journal.
        same: whether a file is as it was.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            return {}
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return {}
    files: dict[str, bool] = {}
    found: dict[str, Any] = {}
    for line in lines:
        if line[:16] != _checksum(line[16:]):
            continue
        try:
            entry = json.loads(line[16:])
            if "file" in entry:
                fact = Fact.parse(entry["file"])
                files[fact.path] = same(fact)
                if not files[fact.path]:  # measurements before this line were of another file
                    found = {key: held for key, held in found.items() if held[0] != fact.path}
            elif files.get(entry["path"]):
                found[entry["name"]] = entry["path"], entry["value"]
        except (ValueError, TypeError, KeyError):
            continue
    return {name: value for name, (_, value) in found.items()}
