"""Layers and parameters: the nodes of the layer graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from math import prod
from types import MappingProxyType
from typing import Any

from initlint.model.op import Op
from initlint.model.tensor import Tensor


class Role(str, Enum):
    """What a parameter is for in its layer."""

    WEIGHT = "weight"
    """Matrix, kernel, table: ``(out, in/groups, *kernel)``; for an embedding ``(rows, width)``."""
    RECURRENT_WEIGHT = "recurrent_weight"
    """Hidden-to-hidden block of one gate: ``(hidden, hidden)`` (``(hidden, projection)``)."""
    PROJECTION = "projection"
    """LSTM output projection: ``(projection, hidden)``."""
    BIAS = "bias"
    RECURRENT_BIAS = "recurrent_bias"
    GAIN = "gain"
    """Multiplier: norm gamma, LayerScale, ReZero alpha, a parameter of a `Op.MUL`."""
    SHIFT = "shift"
    """Norm beta, or the addend of an `Op.ADD` that broadcasts over positions (a bias)."""
    TABLE = "table"
    """Addend of an `Op.ADD` that differs by position (learned positions), or another direct use."""
    SLOPE = "slope"
    """Negative slope of PReLU."""
    RUNNING_MEAN = "running_mean"
    RUNNING_VAR = "running_var"
    PEEPHOLE = "peephole"
    INITIAL_STATE = "initial_state"
    OTHER = "other"

    def __str__(self) -> str:
        return self.value


BUFFERS = frozenset({Role.RUNNING_MEAN, Role.RUNNING_VAR})


@dataclass(frozen=True, slots=True)
class Where:
    """Where a layer was constructed.

    Attributes:
        file: source file in the user's code, as given by the framework or exporter.
        line: 1-based line in ``file``.
        node: ONNX node name, where the target is a graph.
        function: function or class whose code built the layer.
    """

    file: str | None = None
    line: int | None = None
    node: str | None = None
    function: str | None = None


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter of one layer, in canonical orientation ``(out, in/groups, *kernel)``.

    Packed tensors appear as one `Param` per block: one per gate of a recurrent layer, three for a
    packed QKV projection; the blocks share ``stored_name`` and differ in ``gate``/``direction``.

    Attributes:
        role: what it is for.
        name: module path (``blocks.3.fc1.weight``) where the file tells it, else the stored name.
        shape: canonical shape.
        dtype: storage dtype (see `Tensor.dtype`).
        tensor: how to read it; None on meta tensors (structure only).
        trainable: False for buffers, frozen parameters and constants that are not weights.
        tied_to: name of the parameter whose storage this one shares on purpose, else None.
        gate: ``input``/``forget``/``cell``/``output``, ``reset``/``update``/``new``,
            ``query``/``key``/``value``; None for unpacked tensors.
        direction: 0 forward, 1 backward, for recurrent layers.
        stored_name: name of the tensor in the file (initializer or state_dict key).
        packed: number of blocks that the stored tensor holds (1: not packed).
        quantised: True when the stored values are integers behind a scale.
        module: class of the framework module that owns it (``torch.nn.Linear``), when known.
    """

    role: Role
    name: str
    shape: tuple[int, ...]
    dtype: str
    tensor: Tensor | None = None
    trainable: bool = True
    tied_to: str | None = None
    gate: str | None = None
    direction: int = 0
    stored_name: str = ""
    packed: int = 1
    quantised: bool = False
    module: str | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def key(self) -> str:
        """Identity of this block inside a model: the name, with gate and direction when packed."""
        if self.gate is None and not self.direction:
            return self.name
        parts = [self.name]
        if self.gate is not None:
            parts.append(self.gate)
        if self.direction:
            parts.append("reverse")
        return "/".join(parts)


EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Layer:
    """One node of the layer graph.

    Attributes:
        id: unique in the graph; the module path where known (``blocks.3.fc1``), else the node name.
        op: what it computes.
        params: its parameters.
        attrs: the operator's settings in one spelling, whatever the framework:
            ``stride, padding, dilation, kernel`` (tuples), ``groups``, ``axis``, ``eps``,
            ``negative_slope``, ``alpha``, ``approximate``, ``constant`` (the other operand of an
            arithmetic primitive when it is a fixed number or array), ``constant_shape`` (that of
            an array whose elements are all this number), ``kind`` of a pool or reduction
            (``max``, ``mean``, ``sum``), ``p`` of a dropout, ``hidden_size``, ``num_layers``,
            ``heads``, ``scale`` of an attention, ``causal``.
        scope: module path of the enclosing module.
        where: where it was constructed.
        output_shape: shape of its first output where known, None entries for dynamic axes.
        channel_axis: axis of the output that holds units (1 for NCHW, -1 for linear layers).
    """

    id: str
    op: Op
    params: tuple[Param, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    scope: str = ""
    where: Where = Where()
    output_shape: tuple[int | None, ...] | None = None
    channel_axis: int = -1

    def with_role(self, *roles: Role) -> tuple[Param, ...]:
        """The parameters with one of these roles."""
        return tuple([param for param in self.params if param.role in roles])

    @property
    def weight(self) -> Param | None:
        """The first weight, if the layer has one."""
        return self._first(Role.WEIGHT)

    @property
    def bias(self) -> Param | None:
        """The first bias, if the layer has one."""
        return self._first(Role.BIAS)

    def _first(self, role: Role) -> Param | None:
        for param in self.params:
            if param.role is role:
                return param
        return None
