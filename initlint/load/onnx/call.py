"""One node as a handler sees it: attributes decoded, inputs resolved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from initlint.load.onnx.values import Dynamic, Extent, Fixed, Origin, Shape, Value

FLOAT, INT, STRING, TENSOR, GRAPH, FLOATS, INTS, STRINGS, TENSORS, GRAPHS, SPARSE = range(1, 12)

Attributes = Mapping[str, Any]


def attribute_value(proto: Any) -> Any:
    """An AttributeProto as a Python value; tensors and graphs stay protos."""
    kind = proto.type or _guessed_type(proto)
    if kind == FLOAT:
        return proto.f
    if kind == INT:
        return proto.i
    if kind == STRING:
        return proto.s.decode("utf-8", "replace")
    if kind == INTS:
        return tuple(proto.ints)
    if kind == FLOATS:
        return tuple(proto.floats)
    if kind == STRINGS:
        return tuple(text.decode("utf-8", "replace") for text in proto.strings)
    if kind == TENSOR:
        return proto.t
    if kind == GRAPH:
        return proto.g
    if kind == GRAPHS:
        return tuple(proto.graphs)
    if kind == TENSORS:
        return tuple(proto.tensors)
    if kind == SPARSE:
        return proto.sparse_tensor
    return None


def _guessed_type(proto: Any) -> int:
    """Attribute type of files older than the type field (IR version 1)."""
    for kind, name in ((TENSOR, "t"), (GRAPH, "g"), (STRING, "s"), (FLOAT, "f"), (INT, "i")):
        if proto.HasField(name):
            return kind
    for kind, name in ((INTS, "ints"), (FLOATS, "floats"), (STRINGS, "strings")):
        if len(getattr(proto, name)):
            return kind
    return 0


def attributes(node: Any, outer: Attributes, defaults: Attributes | None = None) -> dict[str, Any]:
    """All attributes of a node; ``outer`` resolves references to a function's attributes."""
    found: dict[str, Any] = dict(defaults or {})
    for proto in node.attribute:
        if proto.ref_attr_name:
            if proto.ref_attr_name in outer:
                found[proto.name] = outer[proto.ref_attr_name]
        else:
            found[proto.name] = attribute_value(proto)
    return found


@dataclass(slots=True)
class Call:
    """A node with everything that its handler needs.

    Attributes:
        op: operator name.
        domain: operator domain, "" for ai.onnx.
        attrs: decoded attributes.
        inputs: resolved inputs, None where absent.
        outputs: names of the outputs, "" where absent.
        origin: where the node is.
        opset: version of the node's domain.
        output_uses: how many nodes and graph outputs read the first output.
    """

    op: str
    domain: str
    attrs: Attributes
    inputs: Sequence[Value | None]
    outputs: Sequence[str]
    origin: Origin
    opset: int
    output_uses: int = 0

    def value(self, index: int) -> Value | None:
        """An input, None when absent."""
        return self.inputs[index] if index < len(self.inputs) else None

    def fixed(self, index: int) -> Fixed | None:
        """An input if it is a constant."""
        value = self.value(index)
        return value if isinstance(value, Fixed) else None

    def weight(self, index: int) -> Fixed | None:
        """An input if it is a constant of real numbers."""
        value = self.value(index)
        return value if isinstance(value, Fixed) and value.floating else None

    def shape(self, index: int) -> Shape | None:
        """Shape of an input where known."""
        value = self.value(index)
        return None if value is None else value.shape

    def integers(self, name: str, index: int) -> tuple[int, ...] | None:
        """A list of integers that is an attribute in old operator sets and an input in new ones."""
        if name in self.attrs:
            given = self.attrs[name]
            if isinstance(given, int):
                return (given,)
            return tuple(int(entry) for entry in given) if isinstance(given, tuple) else None
        value = self.value(index)
        if isinstance(value, Fixed):
            return value.integers()
        if isinstance(value, Extent) and None not in value.entries:
            return tuple(entry for entry in value.entries if entry is not None)
        return None

    def partial(self, name: str, index: int) -> Shape | None:
        """As `integers`, with None for entries that only a run can tell."""
        value = self.value(index)
        if name not in self.attrs and isinstance(value, Extent):
            return value.entries
        return self.integers(name, index)

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        given = self.attrs.get(name, default)
        return int(given) if isinstance(given, (int, float)) else default

    def number(self, name: str, default: float) -> float:
        """A float attribute."""
        given = self.attrs.get(name, default)
        return float(given) if isinstance(given, (int, float)) else default

    def text(self, name: str, default: str = "") -> str:
        """A string attribute."""
        given = self.attrs.get(name, default)
        return given if isinstance(given, str) else default

    def ints(self, name: str) -> tuple[int, ...]:
        """An integer-list attribute, empty when absent."""
        given = self.attrs.get(name, ())
        return given if isinstance(given, tuple) else ()

    def dynamic(self) -> list[tuple[int, Dynamic]]:
        """The inputs that are activations, with their positions."""
        return [
            (index, value) for index, value in enumerate(self.inputs) if isinstance(value, Dynamic)
        ]
