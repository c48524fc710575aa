"""Trainable operands that belong to the layer before them: biases, gains, shifts."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from initlint.model.layer import Layer, Param, Role
from initlint.model.op import NORMALISERS, Op
from initlint.model.patterns.draft import UNCHANGED, Draft, Ref, fixed_operand
from initlint.model.tensor import Tensor

_LARGEST_AFFINE = 1 << 12
"""Elements that are read to see whether a vector is constant: a norm has no more groups."""


def _reshaped(param: Param, shape: tuple[int, ...], role: Role | None = None) -> Param:
    tensor = param.tensor
    if tensor is not None and tensor.shape != shape:
        tensor = tensor.reshape(*shape)
    return replace(param, role=role or param.role, shape=shape, tensor=tensor)


def one_per_feature(param: Param) -> Param:
    """A vector without the axes of size one that made it broadcast."""
    long = tuple(side for side in param.shape if side > 1) or (1,)
    return _reshaped(param, long)


def is_uniform(param: Param) -> bool:
    """True for a gain of ones or a shift of zeros, which change nothing."""
    if param.tensor is None or param.size > _LARGEST_AFFINE:
        return False
    neutral = {Role.GAIN: 1.0, Role.SHIFT: 0.0}.get(param.role)
    return neutral is not None and bool(np.all(param.tensor.read() == neutral))


def operands(draft: Draft) -> None:
    """Arithmetic on a parameter, as in ``x (1 + w)``: the effective tensor becomes the operand."""
    for layer in draft.of(Op.MUL, Op.ADD):
        inputs = draft.inputs[layer.id]
        if len(inputs) != 2 or layer.params or "constant" in layer.attrs:
            continue
        for position in (1, 0):
            found = _effective(draft, inputs[position])
            if found is None or draft.is_fixed(inputs[1 - position]):
                continue
            role = Role.GAIN if layer.op is Op.MUL else _addend_role(found)
            param = replace(found, role=role)
            draft.replace(
                layer, layer.op, [inputs[1 - position]], attrs=layer.attrs, params=[param]
            )
            break


def _addend_role(param: Param) -> Role:
    return Role.SHIFT if sum(side > 1 for side in param.shape) <= 1 else Role.TABLE


def _effective(draft: Draft, ref: Ref) -> Param | None:
    """A single parameter behind fixed factors, addends and casts."""
    steps: list[tuple[Op, float]] = []
    layer = draft.producer(ref)
    while layer.op in (Op.ADD, Op.MUL, Op.DIV, Op.SUB) and len(draft.inputs[layer.id]) == 1:
        constant = fixed_operand(layer)
        if constant is None or layer.params or layer.attrs.get("constant_first"):
            return None
        steps.append((layer.op, constant))
        layer = draft.producer(draft.inputs[layer.id][0])
    if layer.op is not Op.CONSTANT or len(layer.params) != 1:
        return None
    param = layer.params[0]
    tensor = param.tensor
    for op, constant in reversed(steps):
        tensor = tensor and _apply(tensor, op, constant)
    return replace(param, tensor=tensor)


def _apply(tensor: Tensor, op: Op, constant: float) -> Tensor:
    if op in (Op.ADD, Op.SUB):
        return tensor.shift(constant if op is Op.ADD else -constant)
    return tensor.scale(constant if op is Op.MUL else 1.0 / constant)


def biases(draft: Draft) -> None:
    """A sum with a vector of output size right behind a linear or convolutional layer."""
    through = UNCHANGED | {Op.RESHAPE}
    for layer in draft.of(Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE, Op.BILINEAR):
        weight = layer.weight
        if weight is None or layer.bias is not None:
            continue
        step = draft.sole_user(layer.id, through)
        if step is None or step[0].op is not Op.ADD or len(step[0].params) != 1:
            continue
        add = step[0]
        param = add.params[0]
        units = weight.shape[0]
        spatial = layer.op in (Op.CONV, Op.CONV_TRANSPOSE)
        axis = 1 if spatial else -1
        if param.role not in (Role.SHIFT, Role.BIAS) or param.size != units:
            continue
        if not _runs_along(_operand_shape(add, param), axis, add.output_shape):
            continue
        bias = _reshaped(param, (units,), Role.BIAS)
        reshaped = draft.producer(draft.inputs[add.id][0]).id != layer.id
        if reshaped and (not add.output_shape or add.output_shape[axis] != units):
            continue
        draft.absorb(add, layer, [bias])


def _runs_along(shape: tuple[int, ...], axis: int, output: tuple[int | None, ...] | None) -> bool:
    """True when a broadcast vector has its elements along ``axis`` of the output."""
    if prod(shape) == 1:
        return True
    rank = len(output) if output is not None else None
    long = [index - len(shape) for index, side in enumerate(shape) if side > 1]
    if len(long) != 1:
        return False
    if axis == -1:
        return long[0] == -1
    if rank is None:
        return long[0] != -1 or len(shape) == 1
    return long[0] % rank == axis


def gains(draft: Draft) -> None:
    """A product with a gain, then a sum with a shift, right behind a normaliser without them."""
    for op in sorted(NORMALISERS - {Op.LP_NORM}):
        for norm in draft.of(op):
            layer = norm
            if not layer.params:
                layer = _absorb(draft, layer, Op.MUL, Role.GAIN)
            if not layer.with_role(Role.SHIFT, Role.RUNNING_MEAN):
                _absorb(draft, layer, Op.ADD, Role.SHIFT)


def _absorb(draft: Draft, norm: Layer, op: Op, role: Role) -> Layer:
    step = draft.sole_user(norm.id)
    if step is None or step[0].op is not op or len(step[0].params) != 1:
        return norm
    if len(draft.inputs[step[0].id]) != 1 or step[0].params[0].role is not role:
        return norm
    param = step[0].params[0]
    fitted = _fitted(norm, param, _operand_shape(step[0], param), step[0].output_shape)
    return norm if fitted is None else draft.absorb(step[0], norm, [fitted])


def _operand_shape(layer: Layer, param: Param) -> tuple[int, ...]:
    """Shape with which an operand is broadcast: a loader shows what differs on one axis flat."""
    along = layer.attrs.get("along")
    return param.shape if along is None else (param.size, *(1,) * (-1 - int(along)))


def _fitted(
    norm: Layer, param: Param, shape: tuple[int, ...], output: tuple[int | None, ...] | None
) -> Param | None:
    """The operand as a parameter of the norm; None when it is not one number per feature."""
    if param.size == 1 and sum(side is not None and side > 1 for side in output or ()) > 0:
        return None
    if norm.op in (Op.LAYER_NORM, Op.RMS_NORM) and "axes" not in norm.attrs:
        first = next((i for i, side in enumerate(shape) if side > 1), len(shape))
        shape = shape[first:]
        axis = int(norm.attrs.get("axis", -1))
        rank = len(output) if output is not None else None
        normalised = -axis if axis < 0 else rank - axis if rank is not None else len(shape)
        return _reshaped(param, shape) if len(shape) <= normalised else None
    axis = norm.channel_axis
    if not _runs_along(shape, axis, output):
        return None
    return _reshaped(param, (param.size,))
