"""Element-wise calls, and what all readers of calls share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from initlint.load.torch_products import (
    Mapped,
    Use,
)
from initlint.load.torch_tracer import Call, Ref
from initlint.load.torch_weights import Static, constant_value
from initlint.model import Op, Role

Handler = Callable[[Call], "list[Mapped]"]


@dataclass(frozen=True, slots=True)
class Simple:
    """A function of one tensor whose settings are plain arguments: name to (position, default)."""

    op: Op
    settings: Mapping[str, tuple[int, str, Any]] = field(default_factory=dict)

    def __call__(self, call: Call) -> list[Mapped]:
        """The one layer that the call is."""
        attrs = {
            name: call.arg(position, keyword, default)
            for name, (position, keyword, default) in self.settings.items()
        }
        attrs = {name: value for name, value in attrs.items() if value is not None}
        return [Mapped(self.op, attrs, data_of(call))]


def data_of(call: Call) -> list[Any]:
    """The one tensor a function of one tensor is given."""
    return [call.arg(0, "input")]


def all_tensors(call: Call) -> list[Any]:
    """Every tensor among the arguments."""
    found: list[Any] = []
    for item in (*call.args, *call.kwargs.values()):
        if isinstance(item, torch.Tensor):
            found.append(item)
        elif isinstance(item, (list, tuple)):
            found.extend(part for part in item if isinstance(part, torch.Tensor))
    return found


def per_axis(value: Any, axes: int) -> tuple[int, ...]:
    """A setting given once, or once per axis."""
    if isinstance(value, (list, tuple)):
        return tuple(int(item) for item in value) if len(value) > 1 else (int(value[0]),) * axes
    return (int(value),) * axes


# element-wise arithmetic


def arithmetic(op: Op, *, swapped: bool = False) -> Handler:
    """Element-wise arithmetic of two operands, one of which may be fixed or trainable."""

    def handle(call: Call) -> list[Mapped]:
        operands = [call.arg(0, "input"), call.arg(1, "other", call.kwargs.get("exponent"))]
        if call.arg(2, "alpha", 1) not in (1, None) and op in (Op.ADD, Op.SUB):
            return other(call)
        if call.kwargs.get("rounding_mode"):
            return other(call)
        return [binary(call, op, operands[::-1] if swapped else operands)]

    return handle


def is_activation(call: Call, item: Any) -> bool:
    """True for a tensor that depends on the input."""
    return isinstance(item, torch.Tensor) and isinstance(call.value(item), Ref)


def binary(call: Call, op: Op, operands: list[Any]) -> Mapped:
    """Two operands: both activations, or one of them fixed or trainable."""
    active = [item for item in operands if is_activation(call, item)]
    if len(active) == 2:
        if op is Op.MUL and operands[0] is operands[1]:
            return Mapped(Op.SQUARE, {}, operands[:1])
        return Mapped(op, {}, operands)
    first = not is_activation(call, operands[0])
    fixed = operands[0] if first else operands[1]
    attrs: dict[str, Any] = {}
    if first and op in (Op.SUB, Op.DIV, Op.POW):
        attrs["constant_first"] = True
    if isinstance(fixed, torch.Tensor):
        static = call.value(fixed)
        assert isinstance(static, Static)
        if static.sources:
            return Mapped(op, attrs, active, [_operand_use(op, static, call)])
        value = constant_value(fixed)
        if value is not None:
            attrs["constant"] = value
            if isinstance(value, float) and fixed.numel() > 1:
                attrs["constant_shape"] = tuple(fixed.shape)
        return _special_power(op, attrs, active)
    if isinstance(fixed, (int, float)):
        attrs["constant"] = fixed
    return _special_power(op, attrs, active)


_POWERS = {2: Op.SQUARE, 0.5: Op.SQRT, -1: Op.RECIPROCAL, -0.5: Op.RECIPROCAL_SQRT}


def _special_power(op: Op, attrs: dict[str, Any], active: list[Any]) -> Mapped:
    constant = attrs.get("constant")
    if op is Op.POW and isinstance(constant, (int, float)) and "constant_first" not in attrs:
        special = _POWERS.get(constant)
        if special is not None:
            return Mapped(special, {}, active)
    return Mapped(op, attrs, active)


def _operand_use(op: Op, static: Static, call: Call) -> Use:
    """The role of a trainable operand.

    Addends with a single axis longer than one broadcast over positions: a bias. An addend with
    more such axes, as learned positions have, is a table.
    """
    if op in (Op.MUL, Op.DIV):
        return Use(Role.GAIN, static, "weight")
    if op in (Op.ADD, Op.SUB):
        long = [side for side in static.tensor.shape if side > 1]
        return Use(Role.SHIFT if len(long) < 2 else Role.TABLE, static, "bias")
    return Use(Role.OTHER, static, "weight")


def other(call: Call) -> list[Mapped]:
    """An operator outside the vocabulary: its edges and its trainable operands are kept."""
    inputs, uses = [], []
    for tensor in all_tensors(call):
        value = call.value(tensor)
        if isinstance(value, Ref):
            inputs.append(tensor)
        elif value.sources:
            uses.append(Use(Role.OTHER, value, "weight"))
    return [Mapped(Op.OTHER, {"function": call.name}, inputs, uses)]
