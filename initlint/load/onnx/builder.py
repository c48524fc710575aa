"""Collects layers in the making: emission, constants as operands, biases taken in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from initlint.load.onnx.call import Call
from initlint.load.onnx.values import (
    SMALL_ELEMENTS,
    Draft,
    Dynamic,
    Extent,
    Fixed,
    Origin,
    ParamDraft,
    Pieces,
    Shape,
    Value,
)
from initlint.model import Op, Role, Tensor
from initlint.model.tensor import Array

MASK_LEVEL = -1e4
"""Addends at or below this are attention masks: -10000 is BERT's, others are larger or -inf."""

_PASSING = (Op.RESHAPE, Op.IDENTITY, Op.CAST)


class Builder:
    """The layers found so far.

    Attributes:
        drafts: layers in execution order.
        notices: what could not be followed, one line each.
        torch: True when the producer is PyTorch, whose names are module paths.
        hints: shapes that the file states for values of the main graph.
    """

    def __init__(self, torch: bool, hints: Mapping[str, Shape]) -> None:
        self.drafts: list[Draft] = []
        self.notices: list[str] = []
        self.torch = torch
        self.hints = hints
        self._constants: dict[int, Dynamic] = {}
        self._kept: list[Value] = []

    def emit(
        self,
        op: Op,
        call: Call,
        inputs: Iterable[Value | None],
        params: Sequence[ParamDraft] = (),
        attrs: Mapping[str, Any] | None = None,
        shape: Shape | None = None,
        channel_axis: int = -1,
        part: str = "",
    ) -> Dynamic:
        """Add one layer that comes from ``call``; constants among the inputs become no edges."""
        edges: list[tuple[int, Dynamic]] = []
        for position, value in enumerate(inputs):
            if isinstance(value, Dynamic):
                edges.append((position, value))
            elif isinstance(value, Extent) and value.source is not None and op is not Op.RESHAPE:
                edges.append((position, self.dynamic(value, call)))
        outputs = [] if part else [name for name in call.outputs if name]
        hint = self.hints.get(call.outputs[0]) if call.outputs and call.origin.main else None
        draft = Draft(
            op,
            edges,
            list(params),
            dict(attrs) if attrs else {},
            call.origin,
            shape if part else _merged(shape, hint),
            outputs,
            channel_axis,
            part,
            uses=call.output_uses,
        )
        self.drafts.append(draft)
        return Dynamic(draft, 0, draft.shape)

    def outputs(self, result: Dynamic, call: Call, *others: Shape | None) -> list[Value | None]:
        """All outputs of a layer: the first is ``result``, the others have the given shapes."""
        found: list[Value | None] = [result]
        for index in range(1, len(call.outputs)):
            shape = others[index - 1] if index <= len(others) else None
            if shape is None and call.origin.main:
                shape = self.hints.get(call.outputs[index])
            found.append(Dynamic(result.layer, index, shape))
        return found

    def dynamic(self, value: Value, call: Call) -> Dynamic:
        """A value as an activation: constants get a layer of their own, once."""
        if isinstance(value, Dynamic):
            return value
        if isinstance(value, Pieces):
            items = [self.dynamic(item, call) for item in value.items]
            return self.emit(Op.OTHER, call, items, attrs={"operator": "sequence"}, part="sequence")
        key = id(value)
        if key not in self._constants:
            self._kept.append(value)
            source = value.source if isinstance(value, Extent) else None
            name = value.names[-1] if isinstance(value, Fixed) and value.names else ""
            op = Op.SHAPE if isinstance(value, Extent) else Op.CONSTANT
            params = []
            if isinstance(value, Fixed) and value.floating and value.stored and value.size > 1:
                params.append(ParamDraft(Role.OTHER, value, value.tensor, "value"))
            origin = Origin(None, name or f"{call.origin.name}/{op}", call.origin.prefix, False)
            draft = Draft(op, [(0, source)] if source else [], params, {}, origin, value.shape)
            self.drafts.append(draft)
            self._constants[key] = Dynamic(draft, 0, value.shape)
        return self._constants[key]

    def param(
        self, role: Role, fixed: Fixed, leaf: str, tensor: Tensor | None = None, **more: Any
    ) -> ParamDraft:
        """A parameter resolved from a constant."""
        tensor = fixed.tensor if tensor is None else tensor
        return ParamDraft(role, fixed, tensor, leaf, quantised=fixed.quantised, **more)

    def vector(self, role: Role, value: Value | None, leaf: str, **more: Any) -> list[ParamDraft]:
        """A per-channel parameter, flattened, if the value is a constant of real numbers."""
        if not isinstance(value, Fixed) or not value.floating:
            return []
        if role is Role.BIAS and _is_spread_zero(value):
            return []  # what exporters write for a layer without a bias
        return [self.param(role, value, leaf, flat(value.tensor), **more)]

    def take_bias(self, value: Dynamic, addend: Fixed, call: Call) -> Dynamic | None:
        """Make ``addend`` the bias of the linear or convolutional layer behind ``value``.

        Looks through reshapes that keep the last axis. None when the layer has a bias already,
        something else reads its output before the addition, or the addend is no bias.
        """
        last = value.layer
        layer = last
        while layer.op in _PASSING and layer.uses == 1 and len(layer.inputs) == 1:
            inner = layer.inputs[0][1]
            if layer.op is Op.RESHAPE and not _keeps_last(inner.shape, layer.shape):
                return None
            layer = inner.layer
        weight = layer.param(Role.WEIGHT)
        if weight is None or layer.op not in (Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE):
            return None
        if layer.uses != 1 or value.output or layer.param(Role.BIAS) or layer.attrs.get("fused"):
            return None
        if not addend.floating or not _is_bias(layer, weight, addend, self.torch):
            return None
        layer.params.append(self.param(Role.BIAS, addend, "bias", flat(addend.tensor)))
        layer.bias_origin = call.origin
        last.outputs = [name for name in call.outputs if name]
        last.uses = call.output_uses
        return Dynamic(last, 0, value.shape)

    def constant_operand(
        self, fixed: Fixed, role: Role, leaf: str, parameter: bool
    ) -> tuple[list[ParamDraft], dict[str, Any]]:
        """How a layer shows a constant operand: as a parameter, or in its attributes."""
        if fixed.tensor.dtype == "string":
            return [], {}
        if fixed.size == 1:
            if parameter and fixed.floating:
                return [self.param(role, fixed, leaf, flat(fixed.tensor))], {}
            return [], {"constant": fixed.scalar()}
        if not fixed.floating or is_mask(fixed):
            attrs: dict[str, Any] = {"mask": True} if fixed.floating else {}
            if fixed.small:
                attrs["constant"] = fixed.values()
            return [], attrs
        trainable = fixed.stored or not self.torch
        if fixed.small and not fixed.stored:
            values = fixed.values()
            if self.torch or (values == values.reshape(-1)[:1]).all():
                return [], {"constant": values}
        return [self.param(role, fixed, leaf, operand_view(fixed), trainable=trainable)], {}


def flat(tensor: Tensor) -> Tensor:
    """A tensor with at most one side above 1 as a vector."""
    return tensor if len(tensor.shape) == 1 else tensor.reshape(-1 if tensor.size else 0)


def operand_view(fixed: Fixed) -> Tensor:
    """A vector for operands that differ along one axis only, else the tensor as it is."""
    return flat(fixed.tensor) if sum(side != 1 for side in fixed.shape) <= 1 else fixed.tensor


def long_axis(shape: Shape) -> int | None:
    """The one axis along which an operand differs, counted from the end; None if not one."""
    found = [index - len(shape) for index, side in enumerate(shape) if side != 1]
    return found[0] if len(found) == 1 else None


def is_mask(fixed: Fixed) -> bool:
    """True for an addend that blocks positions: its first rows hold -inf or a huge negative.

    What holds huge positive numbers as well, or numbers that are none, is no mask but memory.
    """
    sample: Array = fixed.values() if fixed.small else _first(fixed.tensor)
    blocks = bool((sample <= MASK_LEVEL).any()) and bool((sample == 0).any())
    return blocks and bool((sample < -MASK_LEVEL).all())


def _first(tensor: Tensor) -> Array:
    if any(view.kind not in ("reshape", "transpose") for view in tensor.views):
        return np.empty(0, dtype=np.float32)
    return tensor.source.read(0, SMALL_ELEMENTS)


def _keeps_last(before: Shape | None, after: Shape | None) -> bool:
    return bool(before and after and after[-1] is not None and before[-1] == after[-1])


def _is_spread_zero(value: Fixed) -> bool:
    """True for one zero that was expanded to a vector."""
    operands = value.tensor.operands
    spread = bool(operands) and all(operand.size == 1 for operand in operands)
    return spread and value.small and not np.any(value.values())


def _is_bias(layer: Draft, weight: ParamDraft, addend: Fixed, torch: bool) -> bool:
    units = weight.tensor.shape[0]
    if addend.size != units or (units == 1 and torch and not addend.stored):
        return False
    from_end = -1
    if layer.op is not Op.LINEAR:
        from_end = 1 - len(weight.tensor.shape) if layer.channel_axis == 1 else -1
    elif layer.channel_axis == -2:
        from_end = -2
    if len(addend.shape) < -from_end:
        return units == 1
    return addend.shape[from_end] == units


def _merged(shape: Shape | None, hint: Shape | None) -> Shape | None:
    """An inferred shape completed by what the file states."""
    if shape is None or hint is None:
        return hint if shape is None else shape
    if len(shape) != len(hint):
        return shape
    return tuple(stated if side is None else side for side, stated in zip(shape, hint, strict=True))
