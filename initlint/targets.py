"""What a target string on the command line means, decided with the standard library alone."""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import Any

from initlint.remote import RemoteError, describe_error, is_remote, open_store

SPEC = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*|.+\.py):[^\W\d]\w*(\.[^\W\d]\w*)*")
"""``pkg.module:attr`` and ``path/file.py:attr``; nothing else ever runs code."""

_INDEX = re.compile(r".*\.(safetensors|bin)\.index\.json")
_SHARD = re.compile(r".*-\d{5}-of-\d{5}\.(safetensors|bin)")

_PICKLES = (".pt", ".pth", ".bin", ".ckpt")
_EXTENSIONS = (".onnx", ".safetensors", ".pt2", *_PICKLES)

_NOT_WEIGHTS = frozenset(
    {"optimizer", "scheduler", "scaler", "training_args", "rng_state", "random_states"}
)
"""Stems of files that trainers write beside the weights."""

_FOREIGN = {
    ".h5": "a Keras file",
    ".hdf5": "a Keras file",
    ".keras": "a Keras file",
    ".tflite": "a TensorFlow Lite file",
    ".pb": "a TensorFlow graph",
    ".gguf": "a GGUF file",
    ".ggml": "a GGML file",
    ".npz": "a NumPy archive",
    ".npy": "a NumPy array",
    ".msgpack": "a Flax checkpoint",
    ".mlmodel": "a Core ML model",
    ".engine": "a TensorRT engine",
    ".pkl": "a bare pickle",
    ".pickle": "a bare pickle",
    ".joblib": "a joblib pickle",
}

_SNIFF_BYTES = 512

FOLDER_LIMIT = 100_000
"""Entries looked at in a folder, so that a mistyped ``/`` ends."""


class Form(str, Enum):
    """What kind of thing a target is; how the worker is started depends on it."""

    FILE = "file"
    FOLDER = "folder"
    SPEC = "spec"


class TargetError(Exception):
    """A target that cannot be what the user meant; one line."""


@dataclass(frozen=True, slots=True)
class Target:
    """One model to lint.

    Attributes:
        text: the target as the user wrote it, or the path found in a folder or by a pattern.
        form: file, Hugging Face folder, or Python spec.
        size: bytes of weights on disk that belong to it, as far as names tell.
        files: number of files among them.
    """

    text: str
    form: Form
    size: int = 0
    files: int = 1

    @property
    def python(self) -> bool:
        """True for the user's own code, which runs without isolation."""
        return self.form is Form.SPEC


def is_spec(text: str) -> bool:
    """True for ``pkg.module:attr`` and ``file.py:attr``, unless a file has that very name."""
    return SPEC.fullmatch(text) is not None and not os.path.lexists(text)


def resolve(text: str, commands: Iterable[str] = ()) -> list[Target]:
    """The models that a target string stands for.

    Args:
        text: a file, folder, glob pattern or Python spec.
        commands: names of the command line's commands, to recognise a mistyped one.

    Raises:
        TargetError: when it stands for none, with one line that says why.
    """
    if "\0" in text:
        raise TargetError("a path cannot hold a NUL character")
    if is_spec(text):
        return [_spec(text)]
    if is_remote(text):
        return _remote(text)
    try:
        status = os.stat(text)
    except FileNotFoundError as error:
        found = _matches(text)
        if found is None:
            raise TargetError(_missing(text, commands)) from error
        return found
    except (OSError, ValueError) as error:
        raise TargetError(_os_reason(error)) from error
    if stat.S_ISDIR(status.st_mode):
        return _folder(text)
    check_file(text)
    return [_file(text)]


def _remote(url: str) -> list[Target]:
    """The models behind a URL: a file, a pattern, or a folder and all below it."""
    try:
        store, path = open_store(url)
        if glob.has_magic(path):
            names = [name for name in store.glob(path) if _names_model(str(name))]
            if not names:
                raise TargetError("no model matches this pattern")
            return [_remote_file(store, url, path, str(name)) for name in sorted(names)]
        if not store.isdir(path):
            _check_head(url, bytes(store.cat_file(path, start=0, end=_SNIFF_BYTES)))
            return [_remote_file(store, url, path, path)]
        found = list(_remote_walk(store, url, path))
    except RemoteError as error:
        raise TargetError(str(error)) from error
    except TargetError:
        raise
    except Exception as error:  # each store has exceptions of its own
        raise TargetError(describe_error(error)) from error
    if not found:
        kinds = " ".join(f"*{extension}" for extension in _EXTENSIONS)
        raise TargetError(f"there is no model in this folder (looked for {kinds})")
    return found


def _remote_walk(store: Any, url: str, top: str) -> Iterator[Target]:
    seen = 0
    for folder, subfolders, files in store.walk(top, detail=True):
        seen += len(files) + len(subfolders)
        if seen > FOLDER_LIMIT:
            raise TargetError(f"there are more than {FOLDER_LIMIT} files in this folder")
        names = sorted(files)
        if is_hugging_face(names):
            weights = [name for name in names if name.endswith((".safetensors", ".bin"))]
            size = sum(int(files[name].get("size") or 0) for name in weights)
            yield Target(_url_of(url, top, folder), Form.FOLDER, size, len(weights))
            names = [name for name in names if name.endswith(".onnx")]
        indexed = {name.removesuffix(".index.json") for name in names if _INDEX.fullmatch(name)}
        for name in names:
            if not name.startswith(".") and name not in indexed and _names_model(name):
                yield _remote_file(store, url, top, f"{folder.rstrip('/')}/{name}")


def _remote_file(store: Any, url: str, path: str, name: str) -> Target:
    """One file as a target; for an index the bytes are those of all shards beside it."""
    size, files = int(store.info(name).get("size") or 0), 1
    if _INDEX.fullmatch(os.path.basename(name)) or name.endswith(".onnx"):
        for entry in store.ls(os.path.dirname(name), detail=True):
            other = str(entry["name"])
            data = other.endswith((".data", ".onnx_data", ".bin", ".weight"))
            if other != name and (data or _SHARD.fullmatch(os.path.basename(other))):
                size += int(entry.get("size") or 0)
                files += 1
    return Target(_url_of(url, path, name), Form.FILE, size, files)


def _url_of(url: str, path: str, name: str) -> str:
    """The URL of what the store calls ``name``, where ``url`` is what it calls ``path``."""
    if name.rstrip("/") == path.rstrip("/"):
        return url
    plain = re.split(r"[*?\[]", path)[0].rpartition("/")[0] if glob.has_magic(path) else path
    base = re.split(r"[*?\[]", url)[0].rpartition("/")[0] if glob.has_magic(path) else url
    return f"{base.rstrip('/')}/{name[len(plain.rstrip('/')) :].lstrip('/')}"


def _names_model(path: str) -> bool:
    """True for a name that says it holds weights; bare ``.bin`` files say nothing."""
    name = os.path.basename(path)
    stem, extension = os.path.splitext(name.lower())
    if _SHARD.fullmatch(name) or stem.split("-")[0] in _NOT_WEIGHTS or extension == ".bin":
        return False
    return extension in _EXTENSIONS or _INDEX.fullmatch(name) is not None


def _spec(text: str) -> Target:
    module = text.rpartition(":")[0]
    if module.endswith(".py") and not os.path.isfile(module):
        raise TargetError(f"there is no file {module}")
    return Target(text, Form.SPEC)


def _os_reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror.lower()}"
    return f"cannot be read: {error}"


def _missing(text: str, commands: Iterable[str]) -> str:
    near = get_close_matches(text, list(commands), 1, 0.7)
    if near and not os.path.splitext(text)[1]:
        return f"there is no such file; did you mean the command `initlint {near[0]}`?"
    folder, name = os.path.split(text)
    try:
        names = sorted(os.listdir(folder or "."))
    except OSError:
        return "there is no such file or folder"
    close = get_close_matches(name, names, 1, 0.8)
    if close:
        return f"there is no such file; did you mean {os.path.join(folder, close[0])}?"
    if ":" in text:
        return "there is no such file, and it is not a spec like pkg.module:Net or file.py:build"
    return "there is no such file or folder"


def _matches(pattern: str) -> list[Target] | None:
    """Targets that a glob pattern matches; None when it is no pattern."""
    if not glob.has_magic(pattern):
        return None
    targets: dict[str, Target] = {}
    for path in _expand(pattern):
        if os.path.isdir(path):
            targets.update((target.text, target) for target in _walk(path))
        elif _is_model(path):
            targets[path] = _file(path)
    if not targets:
        raise TargetError("no model matches this pattern")
    return list(targets.values())


def _expand(pattern: str) -> list[str]:
    """Paths that a pattern matches, in order.

    ``**`` stands for a folder and all below it that are not hidden and no links: `glob` would
    follow links, round in circles too.
    """
    head, recursive, tail = pattern.partition("**")
    if not recursive or (head and not head.endswith(os.sep)) or (tail and tail[0] != os.sep):
        return sorted(glob.glob(pattern))
    tops = glob.glob(head) if glob.has_magic(head) else [head]
    if not tail.strip(os.sep):  # a folder is searched all the way down anyhow
        return sorted(top or "." for top in tops)
    folders = [folder for top in sorted(tops) for folder in _below(top)]
    rest = tail.lstrip(os.sep)
    expand = _expand if "**" in rest else glob.glob
    found = (path for folder in folders for path in expand(os.path.join(glob.escape(folder), rest)))
    return sorted(set(found))


def _below(top: str) -> Iterator[str]:
    """A folder and all below it, hidden ones and links apart."""
    waiting, seen = [top], 0
    while waiting:
        folder = waiting.pop()
        yield folder
        subfolders, _ = _entries(folder or ".")
        seen += len(subfolders)
        if seen > FOLDER_LIMIT:
            raise TargetError(f"more than {FOLDER_LIMIT} folders match this pattern")
        waiting.extend(os.path.join(folder, name) for name in subfolders if name[0] != ".")


def _file(text: str) -> Target:
    size, files = _weight_bytes(Path(text))
    return Target(text, Form.FILE, size, files)


def _is_model(path: str) -> bool:
    name = os.path.basename(path)
    stem, extension = os.path.splitext(name.lower())
    if _SHARD.fullmatch(name) or stem.split("-")[0] in _NOT_WEIGHTS:
        return False
    if extension == ".bin":
        return os.path.isfile(path) and _sniff(path)[:4] in (b"PK\x03\x04", b"\x80\x02\x8a\x0a")
    return extension in _EXTENSIONS or _INDEX.fullmatch(name) is not None


def is_hugging_face(names: Iterable[str]) -> bool:
    """True for the file names of one Hugging Face model: its config beside weights."""
    present = set(names)
    weights = any(
        name.endswith(".safetensors")
        or _INDEX.fullmatch(name)
        or (name.startswith("pytorch_model") and name.endswith(".bin"))
        for name in present
    )
    return "config.json" in present and weights


def _folder(text: str) -> list[Target]:
    """The models in a folder, which may itself be one."""
    targets = list(_walk(text))
    if not targets:
        kinds = " ".join(f"*{extension}" for extension in _EXTENSIONS)
        raise TargetError(f"there is no model in this folder (looked for {kinds})")
    return targets


def _walk(top: str) -> Iterator[Target]:
    seen = 0
    waiting = [top]  # not os.walk, which recurses before Python 3.12
    while waiting:
        folder = waiting.pop()
        subfolders, names = _entries(folder)
        seen += len(names) + len(subfolders)
        if seen > FOLDER_LIMIT:
            raise TargetError(f"there are more than {FOLDER_LIMIT} files in this folder")
        below = sorted((name for name in subfolders if not name.startswith(".")), reverse=True)
        waiting.extend(os.path.join(folder, name) for name in below)
        if is_hugging_face(names):
            paths = [os.path.join(folder, name) for name in names]
            sizes = [_size(path) for path in paths if path.endswith((".safetensors", ".bin"))]
            yield Target(folder, Form.FOLDER, sum(sizes), len(sizes))
            names = [name for name in names if name.endswith(".onnx")]
        indexed = {name.removesuffix(".index.json") for name in names if _INDEX.fullmatch(name)}
        for name in sorted(names):
            path = os.path.join(folder, name)
            if not name.startswith(".") and name not in indexed and _is_model(path):
                yield _file(path)


def _entries(folder: str) -> tuple[list[str], list[str]]:
    """Names of subfolders and of everything else; links to folders are not followed."""
    subfolders: list[str] = []
    names: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in islice(entries, FOLDER_LIMIT + 1):
                if entry.is_dir(follow_symlinks=False):
                    subfolders.append(entry.name)
                elif not entry.is_dir():
                    names.append(entry.name)
    except OSError:  # unreadable, or too deep for a path
        return [], []
    return subfolders, names


def _size(path: str) -> int:
    """Bytes that a file really occupies: a sparse file must not raise the memory limit."""
    try:
        status = os.stat(path)
    except OSError:
        return 0
    blocks = getattr(status, "st_blocks", None)
    return status.st_size if blocks is None else min(status.st_size, blocks * 512)


def _weight_bytes(path: Path) -> tuple[int, int]:
    """Size and number of the files that hold a model's weights.

    External data and shards are counted by their names: a sibling whose name starts with the
    model's stem, or any shard beside an index.
    """
    sizes = [_size(str(path))]
    stem = path.name.split(".")[0]
    indexed = _INDEX.fullmatch(path.name) is not None
    if path.suffix == ".onnx" or indexed:
        try:
            siblings = sorted(os.scandir(path.parent), key=lambda entry: entry.name)
        except OSError:
            siblings = []
        for entry in siblings[:FOLDER_LIMIT]:
            if entry.name == path.name or entry.name.endswith(".onnx"):
                continue
            data = entry.name.endswith((".data", ".onnx_data", ".bin", ".weight"))
            if entry.name.startswith(stem) or data or (indexed and _SHARD.fullmatch(entry.name)):
                sizes.append(_size(entry.path))
    return sum(sizes), len(sizes)


def _sniff(path: str) -> bytes:
    """The first bytes of a regular file; a pipe or device is never opened, which could wait."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise TargetError("is not a regular file")
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # swapped since
            raise TargetError("is not a regular file")
        return os.read(descriptor, _SNIFF_BYTES)
    finally:
        os.close(descriptor)


def check_file(path: str) -> None:
    """Refuse what cheap inspection shows is no model file.

    Raises:
        TargetError: empty file, Git LFS pointer, web page, a format initlint does not read, or
            contents that contradict the extension.
    """
    try:
        head = _sniff(path)
    except OSError as error:
        raise TargetError(_os_reason(error)) from error
    _check_head(path, head)


def _check_head(path: str, head: bytes) -> None:
    """Refuse what the first bytes and the name show is no model file."""
    if not head:
        raise TargetError("is empty")
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        raise TargetError("is a Git LFS pointer, not the file itself: run `git lfs pull`")
    if re.match(rb"\s*<(!doctype html|html|head|\?xml|!--)", head, re.IGNORECASE):
        raise TargetError("is a web page, not a model: the download went wrong")
    extension = os.path.splitext(path)[1].lower()
    if head.startswith(b"GGUF"):
        raise TargetError("is a GGUF file: initlint reads ONNX, safetensors and PyTorch files")
    if extension in _FOREIGN:
        raise TargetError(
            f"is {_FOREIGN[extension]}: initlint reads ONNX, safetensors and PyTorch files, "
            "so export it as ONNX"
        )
    if extension == ".py":
        raise TargetError(f"is Python source: name what to build, as in {path}:Net")
    if extension not in _EXTENSIONS and not _INDEX.fullmatch(os.path.basename(path)):
        known = ", ".join(_EXTENSIONS)
        raise TargetError(f"has no extension of a model file ({known})")
    contents = _contents(head)
    if contents is not None and extension not in contents[1]:
        raise TargetError(f"holds {contents[0]}: rename it to *{contents[1][0]}")


def _contents(head: bytes) -> tuple[str, tuple[str, ...]] | None:
    """What the first bytes are sure signs of, and the extensions that go with it."""
    if head.startswith(b"PK\x03\x04"):
        return "a zip archive, as PyTorch writes", (*_PICKLES, ".pt2")
    if re.match(rb"\x80[\x02-\x05]", head):
        return "a pickle, as PyTorch writes", _PICKLES
    length = int.from_bytes(head[:8], "little")
    if len(head) > 8 and head[8:9] == b"{" and 2 <= length <= 100_000_000:
        return "safetensors", (".safetensors",)
    return None
