"""Files and folders that may be hostile: regular files only, never outside their folder.

Reads are `pread` calls against an open descriptor. Nothing is memory-mapped: a mapped file that
shrinks kills the process, a short `pread` is a sentence.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import weakref
from collections.abc import Callable
from dataclasses import astuple
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from initlint.model import LoadError
from initlint.model.record import record

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_HUB_SNAPSHOT = re.compile(r"(?P<repo>.*/models--[^/]+)/snapshots/[^/]+(?:/.*)?")
_BLOB_NAME = re.compile(r"[0-9A-Za-z]{1,128}")
_URL = re.compile(r"[a-z][a-z0-9+.-]*(::|://)")
_LONGEST_NAME = 80
"""Two names and a sentence stay below 300 characters."""
MAX_HELD = 64
"""Files of one model kept open between reads: a process may have 256 descriptors, or a thousand."""
_PREAD_LIMIT = 1 << 30
"""Linux moves at most 2 GiB minus a page in one call, macOS 2 GiB minus one byte."""


def shown(name: object) -> str:
    """A name from a file as one printable line of bounded length, for an error message.

    A long one is cut in the middle: a path tells most at its end.
    """
    text = str(name)
    if len(text) > _LONGEST_NAME:
        text = f"{text[: _LONGEST_NAME // 3]}…{text[-(_LONGEST_NAME * 2 // 3) :]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


Observer = Callable[[dict[str, Any]], None]

_observers: list[Observer] = []


def observe(observer: Observer) -> None:
    """Have every file that is opened, listed or looked for told, for the rest of this process.

    ``{"kind": "file", "path", "identity"}``, ``{"kind": "names", "path"}`` of a folder, and
    ``{"kind": "has", "path", "found"}``: what a result that is kept depends on.
    """
    _observers.append(observer)


def _tell(kind: str, path: str, **more: Any) -> None:
    for observer in _observers:
        observer({"kind": kind, "path": path, **more})


@record(frozen=True, slots=True)
class _Identity:
    """What must stay the same while a file is read."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, descriptor: int) -> _Identity:
        info = os.fstat(descriptor)
        return cls(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)


Result = TypeVar("Result")


class File:
    """A regular file open for reading at any offset.

    A file that is not held reopens itself for each read, and refuses to go on when it finds
    another file there: a checkpoint may have more shards than a process may have descriptors.

    Attributes:
        name: how messages name the file.
        size: bytes when it was opened.
        local: `use` can be called; False for a file behind a URL.
    """

    local = True

    def __init__(self, name: str, opener: Callable[[], int], hold: bool = True) -> None:
        self.name = name
        self._opener = opener
        descriptor = opener()
        self._identity = _Identity.of(descriptor)
        _opened.add(self)
        self.size = self._identity.size
        if _observers:
            _tell("file", name, identity=list(astuple(self._identity)))
        self._descriptor: int | None = None
        self._closer: Callable[[], Any] = lambda: None
        if hold:
            self._descriptor = descriptor
            self._closer = weakref.finalize(self, os.close, descriptor)
        else:
            os.close(descriptor)

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptor back; reading after this reopens the file, if it is the same."""
        self._descriptor = None
        self._closer()

    def is_same(self, descriptor: int) -> bool:
        """True when another descriptor has this file open, unchanged since this one was."""
        return _Identity.of(descriptor) == self._identity

    def read_at(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``.

        Raises:
            LoadError: the file does not hold these bytes, or changed while it was read.
        """
        if length > _PREAD_LIMIT:
            return self.read_array(offset, length).tobytes()

        def read(descriptor: int) -> bytes:
            return os.pread(descriptor, length, offset)

        data = self.use(offset, length, read)
        return data if len(data) == length else self.read_array(offset, length).tobytes()

    def read_array(self, offset: int, length: int) -> NDArray[np.uint8]:
        """``length`` bytes from ``offset`` as a fresh, writeable array. Raises as `read_at`."""
        self._check_range(offset, length)
        if self._descriptor is not None:
            return self._read(self._descriptor, offset, length)
        descriptor = self._reopen()
        try:
            return self._read(descriptor, offset, length)
        finally:
            os.close(descriptor)

    def use(self, offset: int, length: int, reader: Callable[[int], Result]) -> Result:
        """What a reader of ``length`` bytes from ``offset`` makes of the open file.

        Args:
            offset: first byte that it reads.
            length: how many it reads.
            reader: called with a descriptor; raises `EOFError` where the file ends too soon.

        Raises:
            LoadError: as `read_at`.
        """
        self._check_range(offset, length)
        held = self._descriptor
        descriptor = self._reopen() if held is None else held
        try:
            return reader(descriptor)
        except EOFError:
            raise self._changed() from None
        except OSError as error:
            raise LoadError(f"{shown(self.name)}: cannot be read: {error.strerror}") from None
        finally:
            if held is None:
                os.close(descriptor)

    def check_unchanged(self) -> None:
        """Raise `LoadError` when size, modification time or inode differ from the opening."""
        if self._descriptor is None:
            os.close(self._reopen())
        elif _Identity.of(self._descriptor) != self._identity:
            raise self._changed()

    def _check_range(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise LoadError(
                f"{shown(self.name)}: truncated or damaged: {length} bytes at offset {offset} "
                f"are not in a file of {self.size} bytes"
            )

    def _read(self, descriptor: int, offset: int, length: int) -> NDArray[np.uint8]:
        buffer = np.empty(length, dtype=np.uint8)
        done = 0
        while done < length:
            piece = buffer.data[done : done + _PREAD_LIMIT]
            try:
                got = os.preadv(descriptor, [piece], offset + done)
            except OSError as error:
                raise LoadError(f"{shown(self.name)}: cannot be read: {error.strerror}") from None
            if got == 0:
                raise self._changed()
            done += got
        return buffer

    def _reopen(self) -> int:
        descriptor = self._opener()
        if _Identity.of(descriptor) != self._identity:
            os.close(descriptor)
            raise self._changed()
        return descriptor

    def _changed(self) -> LoadError:
        return LoadError(f"{shown(self.name)}: changed while it was read; run again")


_opened: weakref.WeakSet[File] = weakref.WeakSet()


def check_unchanged() -> None:
    """Raise `LoadError` when a file that something here may still read is not what it was."""
    for file in sorted(_opened, key=lambda file: file.name):
        file.check_unchanged()


_links: list[Callable[[dict[str, Any]], bytes]] = []


def connect(ask: Callable[[dict[str, Any]], bytes]) -> None:
    """Have URLs read through ``ask`` (`initlint.load.remote.Ask`) in this process."""
    _links[:] = [ask]


def _remote(path: str) -> bool:
    return bool(_links) and _URL.match(path) is not None


def is_folder(path: str) -> bool:
    """True for a folder, also of an object store."""
    if _remote(path):
        from initlint.load import remote

        return remote.is_folder(path, _links[0])
    return os.path.isdir(path)


def open_file(path: str) -> File:
    """The file that the user named; the path may be or contain symbolic links, or be a URL.

    Raises:
        LoadError: missing, unreadable, or not a regular file.
    """
    if _remote(path):
        from initlint.load.remote import RemoteFile

        return RemoteFile(path, _links[0])
    return File(path, lambda: _open_regular(path, path, _FLAGS, None))


def reach(path: str) -> tuple[str, ...]:
    """Every path that reading the target at ``path`` may open, or that lies above such a file.

    The folder of a file, because external data and shards are beside it, the file itself, because
    the user may have named a link to it, and the blobs of a Hugging Face hub cache.
    """
    folder = path if os.path.isdir(path) else os.path.dirname(path) or "."
    real = os.path.realpath(folder)
    hub = _HUB_SNAPSHOT.fullmatch(real)
    blobs = (os.path.join(hub["repo"], "blobs"),) if hub else ()
    return (real, os.path.realpath(path), *blobs)


class Folder:
    """A folder that reads stay inside of, whoever renames or links things meanwhile.

    Every component of a relative path is opened by descriptor and without following symbolic
    links, and ``..`` is refused, which confines as openat2's RESOLVE_BENEATH does. Hard links are
    accepted. One link is followed: in a Hugging Face hub cache, the files of
    ``models--*/snapshots/REV`` link into ``blobs`` of the same repository.
    """

    def __init__(self, path: str) -> None:
        self.path = path or "."
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise _cannot_open(self.path, error) from None
        self._closer = weakref.finalize(self, os.close, self._descriptor)
        hub = _HUB_SNAPSHOT.fullmatch(os.path.realpath(self.path))
        self._hub_repo = hub["repo"] if hub else None

    @classmethod
    def of(cls, path: str) -> Folder:
        """The folder at ``path``, which may be a URL.

        Raises:
            LoadError: missing, unreadable, or not a folder.
        """
        if _remote(path):
            from initlint.load.remote import RemoteFolder

            return RemoteFolder(path, _links[0])
        return cls(path)

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptor back. Files that are held stay readable, others do not reopen."""
        self._descriptor = -1
        self._closer()

    def open(self, relative: str, hold: bool = True) -> File:
        """A file below this folder.

        Args:
            relative: path with ``/`` between components, as a model file states it.
            hold: keep the descriptor open between reads.

        Raises:
            LoadError: the path leaves the folder or goes through a symbolic link, or the file is
                missing, unreadable, or not a regular file.
        """
        parts = components(relative)
        name = os.path.join(self.path, relative)
        return File(name, lambda: self._descend(parts, name), hold)

    def has(self, relative: str) -> bool:
        """True when `open` would find something of that name."""
        try:
            parts = components(relative)
            os.stat("/".join(parts), dir_fd=self._descriptor, follow_symlinks=False)
        except (LoadError, OSError, ValueError):
            found = False
        else:
            found = True
        _tell("has", os.path.join(self.path, relative), found=found)
        return found

    def names(self) -> tuple[str, ...]:
        """Names of the entries of this folder, sorted."""
        _tell("names", self.path)
        return tuple(sorted(os.listdir(self._descriptor)))

    def _descend(self, parts: tuple[str, ...], name: str) -> int:
        current, opened = self._descriptor, -1
        try:
            for part in parts[:-1]:
                following = _open_directory(part, name, current)
                if opened >= 0:
                    os.close(opened)
                current = opened = following
            blob = self._blob(parts, current)
            if blob is not None:
                return blob
            return _open_regular(parts[-1], name, _FLAGS | os.O_NOFOLLOW, current)
        finally:
            if opened >= 0:
                os.close(opened)

    def _blob(self, parts: tuple[str, ...], parent: int) -> int | None:
        """Descriptor of the blob that a hub cache entry links to, None for anything else."""
        if self._hub_repo is None:
            return None
        try:
            link = os.readlink(parts[-1], dir_fd=parent)
        except OSError:
            return None
        folder = os.path.join(os.path.realpath(self.path), *parts[:-1])
        target = os.path.normpath(os.path.join(folder, link))
        blobs = os.path.join(self._hub_repo, "blobs")
        blob = os.path.basename(target)
        if os.path.dirname(target) != blobs or not _BLOB_NAME.fullmatch(blob):
            return None
        directory = _open_directory(blobs, blobs, None)
        try:
            return _open_regular(blob, target, _FLAGS | os.O_NOFOLLOW, directory)
        finally:
            os.close(directory)


def components(relative: str) -> tuple[str, ...]:
    """The parts of a path that a model states; raises `LoadError` when it leaves the folder."""
    parts = tuple(part for part in relative.split("/") if part != ".")
    bad = not parts or any(part in ("", "..") or "\\" in part or "\0" in part for part in parts)
    if bad or os.path.isabs(relative):
        raise LoadError(
            f"refused to read {shown(relative)!r}: a model may only name files in its own folder"
        )
    return parts


def _open_directory(path: str, name: str, parent: int | None) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, dir_fd=parent)
    except (OSError, ValueError) as error:
        raise _cannot_open(name, error) from None


def _open_regular(path: str, name: str, flags: int, parent: int | None) -> int:
    try:
        descriptor = os.open(path, flags, dir_fd=parent)
    except (OSError, ValueError) as error:
        raise _cannot_open(name, error) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise LoadError(f"{shown(name)}: not a regular file")
    return descriptor


def _cannot_open(name: str, error: OSError | ValueError) -> LoadError:
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.ENOENT:
        return LoadError(f"{shown(name)}: no such file")
    if code in (errno.ELOOP, errno.EMLINK):
        return LoadError(f"{shown(name)}: refused to follow a symbolic link out of the folder")
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return LoadError(f"{shown(name)}: cannot be opened: {reason}")
