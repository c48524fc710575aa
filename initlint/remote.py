"""Object stores through fsspec: what a URL stands for, and the bytes that a worker asks for.

fsspec and the package of the protocol (s3fs, gcsfs, huggingface_hub…) are imported when a URL is
met, outside the wall; no format is parsed here.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_URL = re.compile(r"(?P<protocol>[a-z][a-z0-9+.-]*)(::|://).+", re.S)

PIECE = 8 << 20
STREAMS = 4
"""A longer range is fetched in pieces by several streams: one stream of an object store gives 50 to
100 MB/s."""

MOST_ENTRIES = 100_000
MOST_BYTES = 1 << 30
"""Bytes of one request; a reader asks for a tensor, or for a span of a larger one."""


class RemoteError(Exception):
    """A URL that cannot be read: one line."""


def is_remote(text: str) -> bool:
    """True for ``s3://bucket/model.onnx`` and the like, and chains such as ``zip::s3://…``."""
    return _URL.fullmatch(text) is not None


def open_store(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it.

    Raises:
        RemoteError: fsspec or the package of the protocol is missing, or nobody knows the protocol.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise RemoteError("URLs are read with fsspec: pip install 'initlint[remote]'") from error
    protocol = url.partition(":")[0]
    try:
        store, path = url_to_fs(url)
    except ImportError as error:
        raise RemoteError(
            f"{protocol}:// needs a package beside initlint[remote]: {_line(error)}"
        ) from error
    except Exception as error:  # each store has exceptions of its own
        raise RemoteError(describe_error(error)) from error
    return store, str(path)


def _line(error: object) -> str:
    return " ".join(str(error).split())[:200]


def describe_error(error: Exception) -> str:
    """One line for what a store raised."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, PermissionError):
        return f"access denied: {_line(error)}" if str(error) else "access denied"
    return f"cannot be read: {type(error).__name__}: {_line(error)}"


class Store:
    """One URL's surroundings: nothing outside of its folder is served.

    Args:
        urls: the targets, each a file or a folder.
    """

    def __init__(self, urls: Iterable[str]) -> None:
        self._stores = [(url, *open_store(url)) for url in urls]
        self._pool: ThreadPoolExecutor | None = None

    def close(self) -> None:
        """Give up the streams."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def answer(self, request: Mapping[str, Any]) -> bytes:
        """The answer to a worker's request, as a frame (`initlint.load.remote.Link`)."""
        try:
            body, failed = self.fetch(request), 0
        except RemoteError as error:
            body, failed = str(error).encode(), 1
        return bytes([failed]) + len(body).to_bytes(8, "big") + body

    def fetch(self, request: Mapping[str, Any]) -> bytes:
        """What a request asks for.

        Raises:
            RemoteError: it asks for something elsewhere, or the store does not give it.
        """
        kinds: dict[str, Callable[[Any, str, Mapping[str, Any]], Any]] = {
            "size": _size,
            "has": lambda store, path, _: bool(store.exists(path)),
            "folder": lambda store, path, _: bool(store.isdir(path)),
            "names": _names,
        }
        what = request.get("what")
        store, path = self._locate(request.get("path"))
        try:
            if what == "range":
                return self._range(store, path, request)
            return json.dumps(kinds[str(what)](store, path, request)).encode()
        except RemoteError:
            raise
        except Exception as error:  # each store has exceptions of its own
            raise RemoteError(describe_error(error)) from error

    def _locate(self, url: Any) -> tuple[Any, str]:
        if not isinstance(url, str) or "\0" in url or ".." in url.split("/"):
            raise RemoteError("refused: a model may only name files in its own folder")
        for target, store, path in self._stores:
            folder = posixpath.dirname(target)
            if url == target:
                return store, path
            for above, inside in ((target, path), (folder, posixpath.dirname(path))):
                if url == above or url.startswith(above.rstrip("/") + "/"):
                    rest = url[len(above.rstrip("/")) :].lstrip("/")
                    return store, f"{inside.rstrip('/')}/{rest}" if rest else inside
        raise RemoteError("refused: a model may only name files in its own folder")

    def _range(self, store: Any, path: str, request: Mapping[str, Any]) -> bytes:
        offset, length = request.get("offset"), request.get("length")
        if not isinstance(offset, int) or not isinstance(length, int):
            raise RemoteError("refused: a range without numbers")
        if offset < 0 or not 0 <= length <= MOST_BYTES:
            raise RemoteError(f"refused: a range of {length} bytes")
        if length <= PIECE:
            return bytes(store.cat_file(path, start=offset, end=offset + length))
        if self._pool is None:
            self._pool = ThreadPoolExecutor(STREAMS)
        ends = range(offset, offset + length, PIECE)
        parts = self._pool.map(
            lambda start: store.cat_file(path, start=start, end=min(start + PIECE, ends.stop)), ends
        )
        return b"".join(parts)


def _size(store: Any, path: str, _: Mapping[str, Any]) -> dict[str, Any]:
    info = store.info(path)
    if info.get("type") == "directory" or info.get("size") is None:
        raise RemoteError("is no file of known size")
    marks = ("ETag", "etag", "mtime", "LastModified", "last_modified", "created", "blob_id")
    version = [str(info[mark]) for mark in marks if info.get(mark) is not None]
    return {"size": int(info["size"]), "version": [int(info["size"]), *version]}


def _names(store: Any, path: str, _: Mapping[str, Any]) -> list[str]:
    names = [posixpath.basename(str(name).rstrip("/")) for name in store.ls(path, detail=False)]
    if len(names) > MOST_ENTRIES:
        raise RemoteError(f"there are more than {MOST_ENTRIES} files in this folder")
    return sorted(filter(None, names))
