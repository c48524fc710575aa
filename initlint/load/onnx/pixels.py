"""Inputs that the graph itself scales down: images whose pixels run from 0 to 255."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from initlint.load.onnx.values import Draft
from initlint.model import Op

LEAST_DIVISOR = 50.0
"""Divisors from here on are made for bytes: 255, 127.5, and 255 times the std of a colour channel,
of which ImageNet's smallest is 0.224. Features divided by their own std meet no such number."""

_BEFORE = frozenset(
    {Op.CAST, Op.IDENTITY, Op.TRANSPOSE, Op.RESHAPE, Op.PAD, Op.RESIZE, Op.ADD, Op.SUB}
)
"""What may stand between an input and its division: layout, resizing, subtraction of a mean."""


def mark_pixels(drafts: Iterable[Draft]) -> None:
    """Note ``pixels`` on inputs that are divided by a large constant before anything else."""
    for draft in drafts:
        if draft.op not in (Op.MUL, Op.DIV) or len(draft.inputs) != 1:
            continue
        if _divisor(draft) < LEAST_DIVISOR:
            continue
        source = draft.inputs[0][1].layer
        while source.op in _BEFORE and len(source.inputs) == 1:
            source = source.inputs[0][1].layer
        if source.op is Op.INPUT:
            source.attrs["pixels"] = True


def _divisor(draft: Draft) -> float:
    """By what a layer divides its input; 0 where that is not known."""
    value = draft.attrs.get("constant")
    if value is None:
        small = len(draft.params) == 1 and draft.params[0].fixed.small
        value = draft.params[0].tensor.read() if small else 0.0
    sizes = np.abs(np.asarray(value, dtype=np.float64))
    if not sizes.size or not np.isfinite(sizes).all() or not sizes.all():
        return 0.0
    if draft.attrs.get("constant_first"):
        return 0.0
    return float((1 / sizes if draft.op is Op.MUL else sizes).min())
