"""What a value name stands for while the graph is walked, and the layers in the making."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np

from initlint.load.onnx.metadata import Metadata, metadata
from initlint.load.onnx.tensors import FLOATS
from initlint.model import Op, Role, Tensor
from initlint.model.record import record
from initlint.model.tensor import Array

Shape = tuple[int | None, ...]

SMALL_ELEMENTS = 4096
"""Constants up to this size are read while loading: shapes, axes, scalars, scales and the first
rows of masks. Anything larger stays in the file until somebody measures it."""


@dataclass(slots=True, eq=False)
class Fixed:
    """A tensor that does not depend on the graph's inputs.

    Attributes:
        tensor: how to read it, through the operators between storage and here.
        names: value names it went by, storage first.
        stored: True for an initializer, False for a Constant node or a computed constant.
        quantised: True when integers behind a scale are at its root.
        integer: True when its elements are integers or booleans.
        parameter: the parameter that an exporter computed it from, where the file says so.
    """

    tensor: Tensor
    names: tuple[str, ...] = ()
    stored: bool = True
    quantised: bool = False
    integer: bool = False
    parameter: str | None = None
    _values: Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape after all views."""
        return self.tensor.shape

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def floating(self) -> bool:
        """True for real numbers: something that may be a weight."""
        return not self.integer and (self.tensor.dtype in FLOATS or self.quantised)

    @property
    def small(self) -> bool:
        """True when `values` may be asked for while loading."""
        return self.size <= SMALL_ELEMENTS and self.tensor.dtype != "string"

    def values(self) -> Array:
        """All elements; for small tensors only."""
        if self._values is None:
            self._values = self.tensor.read()
        return self._values

    def scalar(self) -> float | None:
        """The one element of a one-element tensor, else None."""
        if self.size != 1 or not self.small:
            return None
        return float(self.values().reshape(-1)[0])

    def integers(self) -> tuple[int, ...] | None:
        """The elements as integers, for a small tensor of at most one axis."""
        if not self.small or len(self.shape) > 1:
            return None
        values = self.values().reshape(-1)
        if values.size and not np.isfinite(values).all():
            return None
        return tuple(int(value) for value in values)

    def seen_as(self, tensor: Tensor, **changes: Any) -> Fixed:
        """This constant after one more operator."""
        return replace(self, tensor=tensor, _values=None, **changes)

    def called(self, name: str) -> Fixed:
        """This constant under one more name."""
        return replace(self, names=(*self.names, name)) if name not in self.names else self


@dataclass(frozen=True, slots=True, eq=False)
class Extent:
    """Integers computed from shapes, of which some may be unknown before a run.

    Attributes:
        entries: the elements in order, None where unknown.
        scalar: True for a rank-0 value.
        source: the activation whose shape it is.
    """

    entries: Shape
    scalar: bool
    source: Dynamic | None

    @property
    def shape(self) -> Shape:
        """Shape of the value itself."""
        return () if self.scalar else (len(self.entries),)


@record(frozen=True, slots=True, eq=False)
class Dynamic:
    """An activation.

    Attributes:
        layer: the layer in the making that produces it.
        output: index among that layer's outputs.
        shape: shape where known.
    """

    layer: Draft
    output: int = 0
    shape: Shape | None = None


@dataclass(frozen=True, slots=True, eq=False)
class RuntimeScale:
    """The scale that DynamicQuantizeLinear computes, times a constant.

    Values pass the loader unquantised, so only the constant part is left to apply.
    """

    constant: Fixed | None = None

    shape: Shape | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """A sequence of tensors whose items are known."""

    items: tuple[Value, ...]

    shape: Shape | None = None


Value = Fixed | Extent | Dynamic | RuntimeScale | Pieces


@dataclass(slots=True, eq=False)
class Origin:
    """The node a layer comes from, and where that node is.

    Attributes:
        proto: the NodeProto, None for graph inputs and outputs.
        name: node name, or the name of its first output.
        prefix: names of the calls and subgraph owners around it, joined by ``/``.
        main: True in the main graph, whose values are visible from outside.
        index: position in the walk, which is an execution order.
    """

    proto: Any
    name: str
    prefix: str = ""
    main: bool = True
    index: int = 0
    _metadata: Metadata | None = None

    @property
    def metadata(self) -> Metadata:
        """What the node's metadata says, taken out of the file once."""
        if self._metadata is None:
            self._metadata = metadata(self.proto)
        return self._metadata


@dataclass(slots=True, eq=False)
class ParamDraft:
    """A parameter in the making.

    Attributes:
        role: its role.
        fixed: the constant it was resolved from, for names and storage.
        tensor: canonical view.
        leaf: conventional last part of the name (``weight``, ``bias``, ``weight_ih``…).
        name: full name when a handler knows better than the naming rules.
    """

    role: Role
    fixed: Fixed
    tensor: Tensor
    leaf: str
    gate: str | None = None
    direction: int = 0
    packed: int = 1
    name: str | None = None
    quantised: bool = False
    trainable: bool = True


@dataclass(slots=True, eq=False)
class Draft:
    """A layer in the making.

    Attributes:
        op: what it computes.
        inputs: activations by input position.
        params: parameters.
        attrs: settings in the vocabulary of `Layer.attrs`.
        origin: node it comes from.
        shape: shape of its first output.
        outputs: names of the values that it produces; the first one is what a probe reads.
        channel_axis: see `Layer.channel_axis`.
        part: suffix that tells the parts of a fused operator apart.
        uses: how many nodes and graph outputs read its first output.
        bias_origin: node that added the bias, when it was a node of its own.
    """

    op: Op
    inputs: list[tuple[int, Dynamic]]
    params: list[ParamDraft]
    attrs: dict[str, Any]
    origin: Origin
    shape: Shape | None = None
    outputs: list[str] = field(default_factory=list)
    channel_axis: int = -1
    part: str = ""
    uses: int = 0
    bias_origin: Origin | None = None

    def param(self, role: Role) -> ParamDraft | None:
        """The first parameter with a role."""
        for param in self.params:
            if param.role is role:
                return param
        return None


def scaled(tensor: Tensor, factor: Any) -> Tensor:
    """A tensor times a number or an array that broadcasts to its shape.

    Raises:
        ValueError: the array does not broadcast to the tensor's shape.
    """
    _must_broadcast(tensor, factor)
    return tensor.scale(factor)


def shifted(tensor: Tensor, addend: Any) -> Tensor:
    """A tensor plus a number or an array that broadcasts to its shape. Raises as `scaled`."""
    _must_broadcast(tensor, addend)
    return tensor.shift(addend)


def _must_broadcast(tensor: Tensor, operand: Any) -> None:
    shape = np.shape(operand)
    if np.broadcast_shapes(tensor.shape, shape) != tensor.shape:
        raise ValueError(f"an operand of shape {shape} does not fit {tensor.shape}")
