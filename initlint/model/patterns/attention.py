"""Scaled dot-product attention written as products, a softmax, and a product."""

from __future__ import annotations

from typing import Any

import numpy as np

from initlint.model.layer import Layer, Param
from initlint.model.op import Op
from initlint.model.patterns.draft import UNCHANGED, Draft, Ref, fixed_operand
from initlint.model.record import record

_LOGITS = UNCHANGED | {Op.RESHAPE, Op.ADD, Op.MUL, Op.DIV, Op.WHERE, Op.CLIP}
_STEPS = 12
"""Primitives between the product and the softmax: scale, cap (3), mask, bias, reshapes, casts."""

_WEIGHTS = UNCHANGED | {Op.DROPOUT}
_OPERAND = UNCHANGED | {Op.TRANSPOSE, Op.RESHAPE, Op.EXPAND}


@record(frozen=True, slots=True)
class _Logits:
    """What lies between the product of queries and keys and the softmax."""

    product: Layer
    scale: float
    masks: tuple[Ref, ...]
    constants: tuple[Any, ...]
    params: tuple[Param, ...]
    softcap: float | None


def attention(draft: Draft) -> None:
    """softmax(scale · q kᵀ + mask) v."""
    for softmax in draft.of(Op.SOFTMAX):
        mix = _mixed(draft, softmax)
        if mix is None:
            continue
        rank = len(softmax.output_shape) if softmax.output_shape else None
        axis = int(softmax.attrs.get("axis", -1))
        if axis != -1 and (rank is None or axis != rank - 1):
            continue
        if len(draft.inputs[mix.id]) != 2 or any(_transposed(mix)):
            continue
        logits = _logits(draft, draft.inputs[softmax.id][0])
        if logits is not None:
            _fuse(draft, softmax, mix, logits)


def _mixed(draft: Draft, softmax: Layer) -> Layer | None:
    """The product that the attention weights enter on the left.

    Between them, exporters put dropout and ``where(isnan(a), 0, a)``.
    """
    weights = softmax.id
    users = draft.users[weights]
    if len(users) == 2:
        found = {draft.layers[target].op: draft.layers[target] for target, _ in users}
        if found.keys() != {Op.COMPARE, Op.WHERE}:
            return None
        test, chosen = found[Op.COMPARE], found[Op.WHERE]
        if draft.sole_user(test.id) != (chosen, 0) or fixed_operand(chosen) != 0.0:
            return None
        weights = chosen.id
    step = draft.sole_user(weights, _WEIGHTS)
    return step[0] if step and step[0].op is Op.MATMUL and step[1] == 0 else None


def _transposed(product: Layer) -> tuple[bool, bool]:
    """Which operands of a product enter with their last two axes swapped."""
    first, second = product.attrs.get("transposed", (False, False))
    return bool(first), bool(second)


def _logits(draft: Draft, ref: Ref) -> _Logits | None:
    masks: list[Ref] = []
    constants: list[Any] = []
    params: list[Param] = []
    scale, softcap = 1.0, None
    for _ in range(_STEPS):
        layer = draft.layers[ref.layer]
        inputs = draft.inputs[layer.id]
        constant = fixed_operand(layer)
        if layer.op is Op.MATMUL and len(inputs) == 2 and not _transposed(layer)[0]:
            scale *= softcap or 1.0
            return _Logits(layer, scale, tuple(masks), tuple(constants), tuple(params), softcap)
        if layer.op in (Op.MUL, Op.DIV):
            if constant is None or len(inputs) != 1 or layer.attrs.get("constant_first"):
                return None
            scale *= constant if layer.op is Op.MUL else 1.0 / constant
        elif layer.op is Op.TANH:
            softcap, scale = scale, 1.0
        elif layer.op is Op.ADD:
            params += layer.params
            if "constant" in layer.attrs:
                constants.append(layer.attrs["constant"])
            if len(inputs) == 2:
                path = _towards_product(draft, inputs)
                if path is None:
                    return None
                masks.append(inputs[1 - path])
                ref = inputs[path]
                continue
        elif layer.op is Op.WHERE:
            path = _towards_product(draft, inputs)
            if path is None:
                return None
            masks += [item for index, item in enumerate(inputs) if index != path][:1]
            ref = inputs[path]
            continue
        elif layer.op not in UNCHANGED | {Op.RESHAPE, Op.CLIP}:
            return None
        if not inputs:
            return None
        ref = inputs[0]
    return None


def _towards_product(draft: Draft, inputs: tuple[Ref, ...]) -> int | None:
    """Which operand leads to a product of activations."""
    for position, ref in enumerate(inputs):
        layer = draft.layers[ref.layer]
        for _ in range(_STEPS):
            if layer.op is Op.MATMUL:
                return position
            following = draft.inputs[layer.id]
            if layer.op not in _LOGITS or not following or layer.op is Op.WHERE:
                break
            layer = draft.layers[following[0].layer]
    return None


def _take_scale(draft: Draft, ref: Ref) -> tuple[Ref, float]:
    """Remove fixed factors on the way to an operand; the operand and their product."""
    scale = 1.0
    path: list[Layer] = []
    layer = draft.layers[ref.layer]
    while len(draft.users[layer.id]) == 1 and len(path) < _STEPS:
        constant = fixed_operand(layer)
        factor = layer.op is Op.MUL or (
            layer.op is Op.DIV and not layer.attrs.get("constant_first") and constant
        )
        plain = factor and constant is not None and not layer.params
        if plain and len(draft.inputs[layer.id]) == 1 and constant is not None:
            scale *= constant if layer.op is Op.MUL else 1.0 / constant
            path.append(layer)
        elif layer.op not in _OPERAND or layer.params:
            break
        layer = draft.layers[draft.inputs[layer.id][0].layer]
    for step in path:
        if step.id == ref.layer:
            ref = draft.inputs[step.id][0]
        draft.bypass(step)
    return ref, scale


def _swapped(shape: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    return None if shape is None else (*shape[:-2], shape[-1], shape[-2])


def _key(draft: Draft, product: Layer) -> tuple[Ref, bool]:
    """Keys as rows, and whether their axes are still the product's, last two swapped."""
    ref = draft.inputs[product.id][1]
    if _transposed(product)[1]:
        return ref, False
    merged = _merged_heads(draft, ref)
    if merged is not None:
        return merged, False
    layer = draft.producer(ref)
    name = "perm" if "perm" in layer.attrs else "axes"
    perm = tuple(layer.attrs.get(name) or ())
    if layer.op is not Op.TRANSPOSE:
        return ref, True
    rank = len(perm)
    if not perm or perm == (*range(rank - 2), rank - 1, rank - 2):
        return draft.inputs[layer.id][0], False
    if len(draft.users[layer.id]) != 1:
        return ref, True
    shape = _swapped(layer.output_shape)
    draft.update(layer, attrs={**layer.attrs, name: _swapped(perm)}, output_shape=shape)
    return Ref(layer.id, 0, shape), False


def _merged_heads(draft: Draft, ref: Ref) -> Ref | None:
    """Keys behind a swap of axes with batch and heads merged: reshape, transpose, reshape."""
    apart = draft.producer(ref)
    swap = draft.producer(draft.inputs[apart.id][0]) if apart.op is Op.RESHAPE else apart
    if apart.op is not Op.RESHAPE or swap.op is not Op.TRANSPOSE:
        return None
    perm = swap.attrs.get("perm", swap.attrs.get("axes"))
    joined = draft.producer(draft.inputs[swap.id][0])
    if not perm or tuple(perm) != (0, 2, 1) or joined.op is not Op.RESHAPE:
        return None
    key = draft.skip(draft.inputs[joined.id][0])
    before, after = draft.layers[key.layer].output_shape, apart.output_shape
    if key.output or not before or not after or len(before) != 4 or len(after) != 4:
        return None
    return key if before[-1] is not None and before[-1] == after[-2] else None


def _fuse(draft: Draft, softmax: Layer, mix: Layer, logits: _Logits) -> None:
    product = logits.product
    if len(draft.users[product.id]) != 1:
        return
    _, query_scale = _take_scale(draft, draft.inputs[product.id][0])
    _, key_scale = _take_scale(draft, draft.inputs[product.id][1])
    query = draft.skip(draft.inputs[product.id][0])
    key, swapped = _key(draft, product)
    alpha = float(product.attrs.get("alpha", 1.0))
    attrs: dict[str, Any] = {"scale": logits.scale * query_scale * key_scale * alpha}
    shape = softmax.output_shape
    if shape is not None:
        heads = shape[1] if len(shape) == 4 else 1 if len(shape) == 3 else None
        attrs["heads"] = heads if isinstance(heads, int) else None
    width = _width(draft, query) or _width(draft, draft.inputs[mix.id][1])
    if width is not None:
        attrs["head_dim"] = width
    if swapped:
        attrs["key_transposed"] = True
    if logits.softcap is not None:
        attrs["softcap"] = logits.softcap
    attrs["causal"] = _causal(logits)
    inputs = [query, key, draft.inputs[mix.id][1], *logits.masks[:1]]
    draft.replace(mix, Op.ATTENTION, inputs, attrs=attrs, params=logits.params)


def _width(draft: Draft, ref: Ref) -> int | None:
    shape = ref.shape or draft.layers[ref.layer].output_shape
    return shape[-1] if shape else None


def _causal(logits: _Logits) -> bool | None:
    """True for a fixed lower-triangular mask, False without a mask, None when not known."""
    if not logits.constants:
        return None if logits.masks else False
    for constant in logits.constants:
        mask = np.asarray(constant)
        if mask.ndim >= 2 and mask.shape[-1] == mask.shape[-2] > 1:
            blocked = mask.reshape(-1, *mask.shape[-2:])[0] < -1e3
            if np.array_equal(blocked, np.tri(*blocked.shape) == 0):
                return True
    return None
