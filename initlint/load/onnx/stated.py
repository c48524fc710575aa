"""What a file states about itself: operator sets, shapes and types of values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from initlint.load.onnx.call import attribute_value
from initlint.load.onnx.tensors import DTYPES
from initlint.load.onnx.values import Shape


def opsets(imports: Iterable[Any]) -> dict[str, int]:
    """Version per domain; of duplicate entries the newest counts, as in onnxruntime."""
    found: dict[str, int] = {}
    for entry in imports:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        found[domain] = max(found.get(domain, 0), entry.version)
    return found


def attributes_of_function(function: Any) -> dict[str, Any]:
    """Default values of a function's attributes."""
    return {proto.name: attribute_value(proto) for proto in function.attribute_proto}


def stated_shape(proto: Any) -> Shape | None:
    """Shape in a ValueInfoProto; sizes that are absent, symbolic, 0 or negative are None."""
    kind = proto.type
    if kind.HasField("optional_type"):
        kind = kind.optional_type.elem_type
    if not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    return tuple(
        side.dim_value if side.dim_value > 0 else None for side in kind.tensor_type.shape.dim
    )


def stated_dtype(proto: Any) -> str:
    """Element type in a ValueInfoProto, or the kind of container."""
    kind = proto.type
    if kind.HasField("optional_type"):
        kind = kind.optional_type.elem_type
    if kind.HasField("tensor_type"):
        return DTYPES.get(kind.tensor_type.elem_type, "unknown")
    if kind.HasField("sequence_type"):
        return "sequence"
    return "map" if kind.HasField("map_type") else "unknown"
