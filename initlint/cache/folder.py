"""The folder of the cache: where it is, whole files or none, bounded size."""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

LAYOUT = "v1"
"""Name of the subfolder; another layout of entries gets another name."""

MOST_BYTES = 256 << 20
"""Bytes of all entries; beyond them the least recently used go, down to three quarters."""

MOST_ENTRY = 64 << 20
"""Bytes of one entry when unpacked; a longer record is not kept."""


def location() -> Path:
    """``INITLINT_CACHE_DIR``, else initlint's folder among the platform's caches."""
    chosen = os.environ.get("INITLINT_CACHE_DIR")
    if chosen:
        return Path(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "initlint"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "initlint"
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if os.path.isabs(base) else Path.home() / ".cache") / "initlint"


class Folder:
    """Entries by kind and key. No method raises for what the disk does: it is only a cache."""

    def __init__(self, root: Path) -> None:
        self.root = root / LAYOUT

    def path(self, kind: str, key: str) -> Path:
        """Where an entry is kept."""
        return self.root / kind / key[:2] / key

    def usable(self) -> bool:
        """True when the folder is there, or could be made, and nobody else can write to it."""
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            status = os.stat(self.root)
        except OSError:
            return False
        own = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
        return own and not status.st_mode & 0o022 and os.access(self.root, os.W_OK)

    def read(self, kind: str, key: str) -> Any:
        """The entry; None when there is none, or when it is not as it was written."""
        path = self.path(kind, key)
        try:
            data = path.read_bytes()
            digest, packed = data[:32], data[32:]
            if blake2b(packed, digest_size=16).hexdigest().encode() != digest:
                return None
            unpack = zlib.decompressobj()
            text = unpack.decompress(packed, MOST_ENTRY)
            value = json.loads(text) if unpack.eof else None
        except (OSError, ValueError, zlib.error, RecursionError):
            return None
        with suppress(OSError):
            os.utime(path)  # used now: not the next to go
        return value

    def write(self, kind: str, key: str, value: Any) -> bool:
        """Keep an entry, whole or not at all; False when it could not be kept."""
        path = self.path(kind, key)
        temporary = path.with_name(f".{key[:16]}.{os.urandom(6).hex()}")
        try:
            text = json.dumps(value, separators=(",", ":")).encode("ascii")
            if len(text) > MOST_ENTRY:
                return False
            packed = zlib.compress(text, 1)
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
            with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
                file.write(blake2b(packed, digest_size=16).hexdigest().encode() + packed)
            os.replace(temporary, path)
        except (OSError, ValueError, TypeError):
            with suppress(OSError):
                temporary.unlink()
            return False
        return True

    def remove(self, kind: str, key: str) -> None:
        """Forget an entry."""
        with suppress(OSError):
            self.path(kind, key).unlink()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock: what is read, changed and written again loses no other's change.

        Where locks are missing (Windows, some network disks) a change may be lost: a miss later.
        """
        try:
            import fcntl

            descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except (ImportError, OSError):
            yield
            return
        try:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def entries(self) -> list[tuple[float, int, str]]:
        """Last use, bytes and path of every file, the lock apart; temporary ones included."""
        found: list[tuple[float, int, str]] = []
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = os.path.join(folder, name)
                if name == "lock":
                    continue
                with suppress(OSError):
                    status = os.lstat(path)
                    found.append((status.st_mtime, status.st_size, path))
        return found

    def evict(self, most: int = MOST_BYTES) -> None:
        """Remove the least recently used entries when there are more bytes than ``most``."""
        found = self.entries()
        total = sum(size for _, size, _ in found)
        if total <= most:
            return
        for _, size, path in sorted(found):
            if total <= most * 3 // 4:
                return
            with suppress(OSError):
                os.unlink(path)
                total -= size

    def clean(self) -> tuple[int, int]:
        """Remove every entry; how many, and how many bytes."""
        count = freed = 0
        for _, size, path in self.entries():
            with suppress(OSError):
                os.unlink(path)
                count += 1
                freed += size
        for folder, _, _ in os.walk(self.root, topdown=False):
            with suppress(OSError):
                os.rmdir(folder)
        return count, freed
