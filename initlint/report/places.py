"""Where a finding is, as code hosts want to hear it: a file of the checkout and a line."""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import quote

from initlint.records import Finding, Target


@dataclass(frozen=True, slots=True)
class Place:
    """A file, relative to the checkout with forward slashes, and a line where one is known."""

    path: str
    line: int | None = None

    @property
    def uri(self) -> str:
        """The path as a relative URI reference, percent-encoded.

        A colon is encoded too: in a first segment it would start a scheme.
        """
        return quote(self.path.encode("utf-8", "backslashreplace"), safe="/~")


def file_of(target: str, kind: str, root: str) -> Place:
    """The file that a target is: itself, or the source file of a spec.

    The kind of a target that was not checked is unknown (empty).
    """
    if kind == "torch" or (not kind and ".py:" in target):
        module, colon, _ = target.rpartition(":")
        if colon:
            target = module if module.endswith(".py") else module.replace(".", "/") + ".py"
    return Place(_relative(target, root))


def place_of(target: Target, finding: Finding, root: str) -> Place:
    """Where the layer was constructed, else the model's file."""
    if finding.location is not None:
        return Place(_relative(finding.location.file.raw, root), finding.location.line)
    return file_of(target.target.raw, target.kind, root)


def _relative(path: str, root: str) -> str:
    """The path from the root on; as it is where there is no way (another drive, a null byte)."""
    try:
        path = os.path.relpath(path, root)
    except ValueError:
        path = path.lstrip("/")
    return path.replace(os.sep, "/")


def from_here(path: str) -> str:
    """The path as a user in the working directory writes it; as it is for any place outside."""
    inside = os.path.join(os.path.realpath("."), "")
    return path[len(inside) :] if path.startswith(inside) else path


def identity(target: Target, finding: Finding, root: str) -> str:
    """Fingerprint of a finding among all targets of a checkout, the same over runs."""
    where = file_of(target.target.raw, target.kind, root).path
    text = f"{where}\n{target.target.raw.rpartition(':')[2]}" if target.kind == "torch" else where
    key = f"{text}\n{finding.fingerprint}"
    return sha256(key.encode("utf-8", "backslashreplace")).hexdigest()[:32]
