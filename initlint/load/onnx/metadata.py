"""What PyTorch's dynamo exporter notes at a node: module paths, the traced call, its parameters."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

MAX_METADATA = 1 << 16
"""Characters of one metadata entry that are looked at: a stack of 100 frames is a tenth."""

QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'")
"""The entries of a list that was written as text."""

_REFERENCE = re.compile(r"%([A-Za-z_]\w*)")
_TARGET = re.compile(r"target=(?:torch\.ops\.)?([\w.]+)")


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a node's metadata says.

    Attributes:
        scopes: module paths from the outermost to the operator (dynamo: the last is the call).
        classes: class of each scope.
        target: the traced operator (``aten.linear.default``).
        references: parameters, buffers and constants among its arguments, mangled.
        folded: True when the exporter folded a batch normalisation into this node.
    """

    scopes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    target: str = ""
    references: tuple[str, ...] = ()
    folded: bool = False

    @property
    def module(self) -> str:
        """Path of the module whose code made the call."""
        return self.scopes[-2] if len(self.scopes) > 1 else ""

    @property
    def module_class(self) -> str:
        """Class of that module."""
        return self.classes[-2] if len(self.classes) > 1 else ""


NOTHING = Metadata()


def properties(proto: Any) -> dict[str, str]:
    """A node's metadata as a dictionary."""
    return {entry.key: entry.value for entry in proto.metadata_props} if proto is not None else {}


def metadata(proto: Any) -> Metadata:
    """The parsed metadata of a node; empty when the exporter left none."""
    if proto is None or not len(proto.metadata_props):
        return NOTHING
    held = {key: value[:MAX_METADATA] for key, value in properties(proto).items()}
    node = held.get("pkg.torch.onnx.fx_node", "")
    _, _, arguments = node.partition("args = ")
    target = _TARGET.search(node)
    references = tuple(
        name for name in _REFERENCE.findall(arguments) if name.startswith(("p_", "b_", "c_"))
    )
    rewritten = held.get("pkg.onnxscript.rewriter.rule_name", "")
    return Metadata(
        tuple(QUOTED.findall(held.get("pkg.torch.onnx.name_scopes", ""))),
        tuple(QUOTED.findall(held.get("pkg.torch.onnx.class_hierarchy", ""))),
        target[1] if target else "",
        references,
        "BatchNorm" in rewritten,
    )
