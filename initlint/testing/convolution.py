"""Convolution, its transpose, and pooling over any number of spatial axes, in NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from initlint.model.tensor import Array

Attrs = Mapping[str, Any]


def _per_axis(value: Any, axes: int, default: int) -> tuple[int, ...]:
    if value is None or (isinstance(value, tuple | list) and not value):
        return (default,) * axes
    if isinstance(value, int):
        return (value,) * axes
    return tuple(int(item) for item in value)


def _paddings(attrs: Attrs, axes: int) -> list[tuple[int, int]]:
    """Begin and end padding per axis; ``2 * axes`` numbers are all begins, then all ends."""
    padding = _per_axis(attrs.get("padding"), axes, 0)
    if len(padding) == 2 * axes:
        return list(zip(padding[:axes], padding[axes:], strict=True))
    return [(side, side) for side in padding]


def _windows(
    x: Array,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Array:
    """Windows of a padded ``(N, C, *space)`` array: ``(N, C, *positions, *kernel)``."""
    axes = len(kernel)
    spans = tuple((side - 1) * step + 1 for side, step in zip(kernel, dilation, strict=True))
    view = sliding_window_view(x, spans, axis=tuple(range(2, 2 + axes)))
    take = [slice(None), slice(None)]
    take += [slice(None, None, step) for step in stride]
    take += [slice(None, None, step) for step in dilation]
    return view[tuple(take)]


def convolve(x: Array, weight: Array, attrs: Attrs) -> Array:
    """Cross-correlation of ``(N, C, *space)`` with ``(out, C/groups, *kernel)``."""
    axes = weight.ndim - 2
    groups = int(attrs.get("groups", 1))
    padded = np.pad(x, [(0, 0), (0, 0), *_paddings(attrs, axes)])
    windows = _windows(
        padded,
        weight.shape[2:],
        _per_axis(attrs.get("stride"), axes, 1),
        _per_axis(attrs.get("dilation"), axes, 1),
    )
    rows, depth = weight.shape[0] // groups, weight.shape[1]
    summed_windows = (1, *range(2 + axes, 2 + 2 * axes))
    pieces = [
        np.tensordot(
            windows[:, group * depth : (group + 1) * depth],
            weight[group * rows : (group + 1) * rows],
            axes=(summed_windows, tuple(range(1, 2 + axes))),
        )
        for group in range(groups)
    ]
    return np.moveaxis(np.concatenate(pieces, axis=-1), -1, 1)


def convolve_transposed(x: Array, weight: Array, attrs: Attrs) -> Array:
    """Transposed convolution; the weight is canonical, ``(out, C/groups, *kernel)``."""
    axes = weight.ndim - 2
    stride = _per_axis(attrs.get("stride"), axes, 1)
    dilation = _per_axis(attrs.get("dilation"), axes, 1)
    extra = _per_axis(attrs.get("output_padding"), axes, 0)
    spread = np.zeros(
        (
            *x.shape[:2],
            *((side - 1) * step + 1 for side, step in zip(x.shape[2:], stride, strict=True)),
        ),
        dtype=x.dtype,
    )
    spread[(slice(None), slice(None), *(slice(None, None, step) for step in stride))] = x
    around = []
    for axis, (begin, end) in enumerate(_paddings(attrs, axes)):
        reach = (weight.shape[2 + axis] - 1) * dilation[axis]
        around.append((reach - begin, reach - end + extra[axis]))
    spread = np.pad(spread, [(0, 0), (0, 0), *((max(a, 0), max(b, 0)) for a, b in around)])
    crop = [slice(None), slice(None)]
    crop += [slice(max(-a, 0), min(b, 0) or None) for a, b in around]
    flipped = np.flip(weight, axis=tuple(range(2, 2 + axes)))
    plain = {"groups": attrs.get("groups", 1), "dilation": dilation}
    return convolve(spread[tuple(crop)], flipped, plain)


def pool(x: Array, attrs: Attrs) -> Array:
    """Maximum or mean over windows; over all of space when no kernel is given."""
    axes = x.ndim - 2
    maximum = attrs.get("kind", "mean") == "max"
    if attrs.get("kernel") is None:
        space = tuple(range(2, x.ndim))
        result: Array = (x.max if maximum else x.mean)(axis=space, keepdims=True)
        return result
    kernel = _per_axis(attrs["kernel"], axes, 1)
    stride = _per_axis(attrs.get("stride"), axes, 1) if attrs.get("stride") else kernel
    fill = -np.inf if maximum else 0.0
    padded = np.pad(x, [(0, 0), (0, 0), *_paddings(attrs, axes)], constant_values=fill)
    windows = _windows(padded, kernel, stride, _per_axis(attrs.get("dilation"), axes, 1))
    within = tuple(range(2 + axes, 2 + 2 * axes))
    pooled: Array = windows.max(axis=within) if maximum else windows.mean(axis=within)
    return pooled
