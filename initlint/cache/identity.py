"""What a file holds and what code judges it, in short: the parts of a cache key."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from initlint.cache.folder import Folder

HASHED_BYTES = 4 << 30
"""Files of a target up to this many bytes together are known by their content, read by the parent
while the worker reads them, so that the disk is asked once. Larger ones, which the page cache may
not hold until the second reader comes, are known by their status alone: touching or copying them
costs a new run, never a wrong answer."""

_PIECE = 1 << 20
_SAMPLES = 64
_PAGE = 4096

RACY_SECONDS = 2.0
"""A file that changed less than this before it was looked at may change again with the same time
stamp (two seconds on FAT, a tick of the kernel elsewhere): its status is then no evidence."""


@dataclass(frozen=True, slots=True)
class Status:
    """What `os.stat` tells of a file without reading it."""

    size: int
    marks: tuple[int, int, int, int]
    changed: float

    @classmethod
    def of(cls, path: str) -> Status | None:
        """The status of a regular file; None for anything else."""
        try:
            info = os.stat(path)
        except (OSError, ValueError):
            return None
        if not stat.S_ISREG(info.st_mode):
            return None
        marks = (info.st_dev, info.st_ino, info.st_mtime_ns, info.st_ctime_ns)
        return cls(info.st_size, marks, max(info.st_mtime, info.st_ctime))

    def settled(self, now: float) -> bool:
        """True when a later change would show in the time stamps."""
        return not -RACY_SECONDS < now - self.changed < RACY_SECONDS


@dataclass(frozen=True, slots=True)
class Fact:
    """One file as an entry of the cache knows it.

    Attributes:
        path: relative to the target's folder, or absolute.
        size: bytes.
        marks: device, inode and times; None when they are no evidence.
        sample: digest of some pages: a cheap sign that the content changed.
        content: digest of all bytes; None for files that are known by status alone.
    """

    path: str
    size: int
    marks: tuple[int, ...] | None
    sample: str
    content: str | None

    def to_list(self) -> list[Any]:
        """The JSON form."""
        return [self.path, self.size, self.marks and list(self.marks), self.sample, self.content]

    @classmethod
    def parse(cls, value: Any) -> Fact:
        """From the JSON form.

        Raises:
            ValueError: for any other shape.
        """
        path, size, marks, sample, content = value
        texts = isinstance(path, str) and isinstance(sample, str)
        if not texts or not isinstance(size, int) or not isinstance(content, str | None):
            raise ValueError("no fact about a file")
        return cls(path, size, None if marks is None else tuple(map(int, marks)), sample, content)


def read_fact(
    path: str, shown: str, *, whole: bool, stop: Callable[[], bool] = lambda: False
) -> Fact | None:
    """Read what identifies a file; None when it is not regular or changes meanwhile.

    Args:
        path: where it is.
        shown: how the entry names it.
        whole: digest all of it, not only some pages.
        stop: True when the answer is not wanted any more.
    """
    now = time.time()
    before = Status.of(path)
    if before is None:
        return None
    try:
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb", 0) as file:
            sample = _sample(file.fileno(), before.size)
            content = _digest(file, stop) if whole else None
    except OSError:
        return None
    if Status.of(path) != before or stop():
        return None
    marks = before.marks if before.settled(now) else None
    return Fact(shown, before.size, marks, sample, content)


def still_holds(fact: Fact, path: str) -> Fact | None:
    """The fact, with its status renewed, when the file still has that content; else None."""
    status = Status.of(path)
    if status is None or status.size != fact.size:
        return None
    if fact.marks is not None and status.marks == fact.marks:
        return fact
    if fact.content is None:
        return None
    first = read_fact(path, fact.path, whole=False)
    if first is None or first.sample != fact.sample:
        return None
    found = read_fact(path, fact.path, whole=True)
    return found if found is not None and found.content == fact.content else None


def _sample(descriptor: int, size: int) -> str:
    digest = blake2b(digest_size=16)
    if hasattr(os, "pread"):
        step = max(_PAGE, size // _SAMPLES // _PAGE * _PAGE)
        for offset in range(0, min(size, step * _SAMPLES), step):
            digest.update(os.pread(descriptor, _PAGE, offset))
        digest.update(os.pread(descriptor, _PAGE, max(size - _PAGE, 0)))
    return digest.hexdigest()


def _digest(file: Any, stop: Callable[[], bool]) -> str:
    digest = blake2b(digest_size=20)
    buffer = memoryview(bytearray(_PIECE))
    while not stop() and (got := file.readinto(buffer)):
        digest.update(buffer[:got])
    return digest.hexdigest()


def names_digest(folder: str) -> str:
    """Digest of the names in a folder; empty when it cannot be listed."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return ""
    text = "\0".join(names).encode("utf-8", "surrogatepass")
    return blake2b(text, digest_size=16).hexdigest()


_LIBRARIES = ("numpy-", "onnx-", "onnxruntime-", "networkx-", "protobuf-", "ml_dtypes-")
"""Distributions whose version can change a number in a report."""


def code_fingerprint(folder: Folder) -> str:
    """Digest of everything that judges: initlint, all rule packs by content, library versions.

    The content of a source tree is remembered by its files' status, so that a later run reads
    none of them.
    """
    digest = blake2b(digest_size=20)
    digest.update(
        repr(
            (sys.version, sys.platform, os.uname().machine if hasattr(os, "uname") else "")
        ).encode()
    )
    for line in _library_versions():
        digest.update(line.encode())
    for root in _code_roots():
        digest.update(_tree_digest(root, folder).encode())
    return digest.hexdigest()


def _library_versions() -> list[str]:
    from initlint.lint.entry_points import distributions

    found = (name for entry in sys.path for name in distributions(entry or "."))
    return sorted({name for name in found if name.lower().startswith(_LIBRARIES)})


def _code_roots() -> Iterator[str]:
    """The packages of initlint and of every rule pack; found, not imported."""
    from importlib.util import find_spec

    from initlint.lint.entry_points import GROUP, entry_points

    yield os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for point in sorted(entry_points(GROUP)):
        top = point.value.partition(":")[0].partition(".")[0]
        try:
            spec = find_spec(top)
        except (ImportError, ValueError):
            spec = None
        if spec is None:
            yield f"missing {point.value}"
        elif spec.submodule_search_locations:
            yield from spec.submodule_search_locations
        elif spec.origin:
            yield spec.origin


def _tree_digest(root: str, folder: Folder) -> str:
    """Digest of the content of all source files below a folder."""
    files = sorted(_sources(root))
    listing = repr([(path, status.size, status.marks) for path, status in files])
    key = blake2b(listing.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()
    known = folder.read("code", key)
    if isinstance(known, str):
        return known
    digest = blake2b(digest_size=20)
    for path, _ in files:
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError:
            content = b""
        name = os.path.relpath(path, root)
        digest.update(f"{name}\0{len(content)}\0".encode("utf-8", "surrogatepass") + content)
    now = time.time()
    if all(status.settled(now) for _, status in files):
        folder.write("code", key, digest.hexdigest())
    return digest.hexdigest()


def _sources(root: str) -> Iterator[tuple[str, Status]]:
    if os.path.isfile(root):
        paths = [root]
    else:
        paths = [
            os.path.join(folder, name)
            for folder, subfolders, names in os.walk(root)
            if not _skip(subfolders)
            for name in names
            if not name.endswith((".pyc", ".pyo"))
        ]
    for path in paths:
        status = Status.of(path)
        if status is not None:
            yield path, status


def _skip(subfolders: list[str]) -> bool:
    """Keep `os.walk` out of compiled copies."""
    subfolders[:] = [name for name in subfolders if name != "__pycache__"]
    return False
