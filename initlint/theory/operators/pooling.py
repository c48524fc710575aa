"""Pooling over windows or all positions, and reductions along axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from initlint.model.op import Op
from initlint.theory.gaussian import nodes, normal_distribution
from initlint.theory.node import Node, OperatorRule
from initlint.theory.state import Gradient, State, unit


@lru_cache(maxsize=256)
def maximum_moments(count: int) -> tuple[float, float]:
    """E[m] and E[m²] of the maximum m of ``count`` independent N(0, 1)."""
    z, weight = nodes()
    density = count * np.clip(normal_distribution(z), 0.0, 1.0) ** (count - 1)
    mass = float(weight @ density)
    return float(weight @ (density * z)) / mass, float(weight @ (density * z * z)) / mass


@lru_cache(maxsize=256)
def half_maximum_moments(count: int) -> tuple[float, float]:
    """E[y] and E[y²] of y = max(0, m) for the same maximum: pooling behind a ReLU."""
    z, weight = nodes()
    density = count * np.clip(normal_distribution(z), 0.0, 1.0) ** (count - 1)
    mass = float(weight @ density)
    half = np.maximum(z, 0.0)
    return float(weight @ (density * half)) / mass, float(weight @ (density * half**2)) / mass


def _window(node: Node) -> tuple[int, float, bool]:
    """Values per window, windows per value, and whether the window is everything."""
    before, after = node.input_shape(), node.output_shape
    kernel = node.layer.attrs.get("kernel")
    everything = not kernel
    size = 0
    if kernel:
        sides = kernel if isinstance(kernel, Sequence) else (kernel,)
        size = math.prod(int(side) for side in sides)
        if isinstance(kernel, int) and before is not None:
            size = int(kernel) ** max(len(before) - 2, 1)
    ratio = 1 / max(node.ratio(), 1e-12)
    if before is None or after is None:
        return max(size, 1), 1 / max(size, 1), everything
    if everything:
        size = max(round(ratio), 1)
    return max(size, 1), 1 / max(ratio, 1e-12), everything


def _averaged(x: State, count: int, across: float, *, total: bool) -> State:
    """Mean (or sum) of ``count`` values with cosine ``across`` between two of them."""
    share = (1 + (count - 1) * across) / count
    if share <= 0:
        return State(-math.inf)
    alike = min(x.samples, across) if across < x.samples else x.samples
    state = State(
        x.log_q + math.log(share) + (2 * math.log(count) if total else 0.0),
        max(min(x.mean / math.sqrt(share), 1.0), -1.0),
        unit((x.samples / count + (1 - 1 / count) * alike) / share),
        unit(across / share),
        unit(((x.units + (count - 1) * min(x.units, across)) / count) / share),
        x.log_variance,
        unit_axis=x.unit_axis,
    )
    return state


def _before_relu(x: State) -> float:
    """Correlation between positions in front of the ReLU that gave ``x``, to first order."""
    return unit((x.positions - 1 / math.pi) / (1 - 1 / math.pi))


def _maximum(x: State, count: int, rectified: bool) -> State:
    """Maximum of ``count`` values; behind a ReLU it commutes with the rectification.

    The values have cosine r: the maximum is sqrt(r) g + sqrt(1-r) m with one common g.
    """
    first, second = half_maximum_moments(count) if rectified else maximum_moments(count)
    scale = 0.5 if rectified else 1.0
    alike = _before_relu(x) if rectified else x.positions
    factor = (1 - alike) * second / scale + alike
    mean = (1 - alike) * first / math.sqrt(scale) + alike * abs(x.mean)
    if not rectified and x.mean:
        mean += abs(x.mean)
    share = unit(mean * mean / factor)
    rest = 1 - x.mean * x.mean

    def kept(cosine: float) -> float:
        centred = unit((cosine - x.mean**2) / rest) if rest > 1e-9 else 1.0
        return unit(share + (1 - share) * centred)

    return State(
        x.log_q + math.log(factor),
        math.sqrt(share),
        kept(x.samples),
        kept(x.positions),
        kept(x.units),
        x.log_variance,
        unit_axis=x.unit_axis,
    )


@lru_cache(maxsize=256)
def _positive(count: int, alike: float) -> float:
    """Chance that the largest of ``count`` N(0, 1) with correlation ``alike`` is positive."""
    z, weight = nodes()
    if alike >= 1:
        return 0.5
    below = normal_distribution(-z * math.sqrt(alike / (1 - alike)))
    return 1 - float(weight @ np.clip(below, 0.0, 1.0) ** count)


def _rectified(x: State) -> bool:
    """True when the values look half-normal: their mean share is that of a ReLU, 1/π."""
    return abs(x.mean * x.mean - 1 / math.pi) < 0.02


def _pool(node: Node) -> State | None:
    x = node.first
    if x is None:
        return None
    if x.log_q == -math.inf:
        return x
    count, _, _ = _window(node)
    kind = str(node.layer.attrs.get("kind", "mean"))
    if kind in ("mean", "average", "avg", "sum"):
        state = _averaged(x, count, x.positions, total=kind == "sum")
    elif kind == "max":
        state = _maximum(x, count, _rectified(x)) if count > 1 else x
    else:
        return None
    return replace(state, roots=((node.layer.id, 1.0),))


def _pool_backward(node: Node, gradient: Gradient) -> Sequence[Gradient | None]:
    count, windows, everything = _window(node)
    kind = str(node.layer.attrs.get("kind", "mean"))
    found: list[Gradient | None] = [Gradient(-math.inf)] * len(node.edges)
    if not node.signals:
        return found
    if kind == "max":
        x = node.first
        passed: Gradient | None = replace(
            gradient.scaled(math.log(max(windows, 1e-12))),
            positions=gradient.positions * windows,
            positive=_positive(count, round(_before_relu(x), 3)) if x and _rectified(x) else None,
        )
    elif kind in ("mean", "average", "avg", "sum"):
        overlap = max(count * windows, 1e-12)
        scale = math.log(overlap) - (0.0 if kind == "sum" else 2 * math.log(count))
        places = max(count / max(min(windows * count, 1.0), 1e-12), 1.0)
        inside = (count - 1) / max(places - 1, count - 1, 1)
        alike = gradient.positions + (1 - gradient.positions) * (1.0 if everything else inside)
        passed = replace(gradient.scaled(scale), positions=unit(alike))
    else:
        passed = None
    found[node.signals[0]] = passed
    return found


def _over_units(node: Node) -> bool:
    """True when a reduction runs over the units rather than over positions."""
    axis = node.layer.attrs.get("axis", node.layer.attrs.get("axes"))
    axes = axis if isinstance(axis, Sequence) else (axis,)
    shape = node.input_shape()
    channel = node.layer.channel_axis
    source = node.context.graph[node.edges[0].source] if node.edges else None
    if source is not None:
        channel = source.channel_axis
    if shape is None or axis is None:
        return False
    return {int(item) % len(shape) for item in axes if item is not None} == {channel % len(shape)}


def _reduce(node: Node) -> State | None:
    x = node.first
    if x is None:
        return None
    if x.log_q == -math.inf:
        return x
    count = max(round(1 / max(node.ratio(), 1e-12)), 1)
    kind = str(node.layer.attrs.get("kind", "mean"))
    if kind not in ("mean", "sum", "max"):
        return None
    across = x.units if _over_units(node) else x.positions
    if kind == "max":
        state = _maximum(x, count, _rectified(x)) if count > 1 else x
    else:
        state = _averaged(x, count, across, total=kind == "sum")
    return replace(state, roots=((node.layer.id, 1.0),))


def _reduce_backward(node: Node, gradient: Gradient) -> Sequence[Gradient | None]:
    found: list[Gradient | None] = [Gradient(-math.inf)] * len(node.edges)
    if not node.signals:
        return found
    count = max(round(1 / max(node.ratio(), 1e-12)), 1)
    kind = str(node.layer.attrs.get("kind", "mean"))
    scale = {"mean": -2 * math.log(count), "sum": 0.0, "max": -math.log(count)}.get(kind)
    if scale is None:
        found[node.signals[0]] = None
        return found
    passed = gradient.scaled(scale)
    if kind != "max" and count > 1:
        passed = replace(passed, units=1.0) if _over_units(node) else replace(passed, positions=1.0)
    found[node.signals[0]] = passed
    return found


POOLING = {
    Op.POOL: OperatorRule(_pool, _pool_backward),
    Op.REDUCE: OperatorRule(_reduce, _reduce_backward),
}
