"""Tables of positions in a graph: rotations of queries and keys, and addends of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, sqrt
from typing import Any

import numpy as np

from initlint.api import (
    TRANSPARENT,
    Context,
    Layer,
    LayerGraph,
    Op,
    Param,
    Role,
    Stage,
    fans,
    record,
)

REACH = 8
"""Layers between a factor and the tensor it rotates: a cut, a sign, a concatenation, reshapes."""

SAME_STEP = 0.05
"""How far each step of a rotation may be from the first one, relative to the radius: ten times what
bfloat16 leaves (2^-8), far below what a jump in the positions makes."""

NARROW_TABLE = 0.02
"""Standard deviation of the narrowest token vectors in use (BERT, GPT-2)."""

_ROTATION = TRANSPARENT | {Op.NEG, Op.CONCAT}
_LEADS = TRANSPARENT | {Op.ADD, Op.MUL, Op.DIV, Op.CONCAT, Op.LAYER_NORM, Op.RMS_NORM}


@record(frozen=True, slots=True)
class Operand:
    """The fixed or learned operand of an addition or product.

    Attributes:
        values: its elements.
        param: the parameter that holds it; None for a constant.
    """

    values: Any
    param: Param | None

    @property
    def learned(self) -> bool:
        """Whether training changes it."""
        return self.param is not None and self.param.trainable

    @property
    def table(self) -> Any:
        """``(positions, width)``, leading axes of one dropped; None for other shapes."""
        kept = [side for side in self.values.shape if side > 1]
        return np.reshape(self.values, kept) if len(kept) == 2 and kept[0] > 2 else None


def operand(context: Context, layer: Layer) -> Operand | None:
    """The operand of a layer that is no activation; None without one, or when not known."""
    params = layer.with_role(Role.TABLE, Role.GAIN, Role.SHIFT, Role.OTHER)
    if params:
        values = context.measures.leading(params[0]) if len(params) == 1 else None
        return None if values is None else Operand(values, params[0])
    constant = layer.attrs.get("constant")
    if constant is None:
        return None
    values = np.broadcast_to(
        np.asarray(constant, dtype=np.float64),
        layer.attrs.get("constant_shape", np.shape(constant)),
    )
    return Operand(values, None)


@record(frozen=True, slots=True)
class Rotation:
    """``x cos + rotated(x) sin``: the layers that make it, and the two tables as one."""

    layer: Layer
    factors: tuple[Layer, Layer]
    values: Any
    """``cos + i sin``, ``(positions, width)``."""


def rotations(context: Context) -> Iterator[Rotation]:
    """Rotary embeddings, by their form: two products of one tensor with fixed tables, added."""
    graph = context.model.graph
    for layer in graph.order:
        if layer.op not in (Op.ADD, Op.SUB) or layer.params:
            continue
        edges = graph.inputs(layer.id)
        if len(edges) != 2:
            continue
        first, second = (graph[edge.source] for edge in edges)
        if first.op is not Op.MUL or second.op is not Op.MUL or first is second:
            continue
        if not _origins(graph, first) & _origins(graph, second):
            continue
        tables = [operand(context, item) for item in (first, second)]
        if any(item is None or item.learned or item.table is None for item in tables):
            continue
        cos, sin = (item.table for item in tables if item is not None)
        if cos.shape == sin.shape and cos.shape[1] >= 4:
            yield Rotation(layer, (first, second), cos + 1j * sin)


def _origins(graph: LayerGraph, layer: Layer) -> set[str]:
    """What a product's activation is cut, turned and joined from."""
    found: set[str] = set()
    frontier = [edge.source for edge in graph.inputs(layer.id)]
    for _ in range(REACH):
        found.update(frontier)
        frontier = [
            edge.source
            for key in frontier
            if graph[key].op in _ROTATION
            for edge in graph.inputs(key)
        ]
    return found


def is_circle(values: Any) -> bool:
    """True when cos^2 + sin^2 is one number, as for cosines and sines of the same angles."""
    square = np.abs(values) ** 2
    return bool(square.min() > 0 and square.max() / square.min() < 1 + SAME_STEP)


def rates(values: Any) -> Any:
    """Angle per position of each column; None where the steps differ (positions that jump)."""
    steps = values[1:] * np.conj(values[:-1])
    if np.abs(steps - steps[0]).max() > SAME_STEP * np.abs(steps).max():
        return None
    found = np.angle(steps.mean(axis=0))
    half = len(found) // 2
    if len(found) % 2 == 0 and np.allclose(found[:half], found[half:], rtol=1e-3, atol=1e-7):
        return found[:half]
    if len(found) % 2 == 0 and np.allclose(found[::2], found[1::2], rtol=1e-3, atol=1e-7):
        return found[::2]
    return found


@record(frozen=True, slots=True)
class Addend:
    """A table of positions where it is added to the tokens.

    Attributes:
        layer: the sum.
        source: the layer whose output is the tokens there.
        param: the table's parameter; None for a constant.
        values: ``(positions, width)``; None for a table that is looked up.
        power: mean square of the table.
        tokens: mean square of the tokens; None when unknown, or when their weights are zero.
        start: what makes the tokens: where they are looked up, or a projection of the input.
    """

    layer: Layer
    source: str
    param: Param | None
    values: Any
    power: float
    tokens: float | None
    start: Layer

    @property
    def embedded(self) -> bool:
        """Whether the tokens come from a table too."""
        return self.start.op is Op.EMBEDDING


def addends(context: Context) -> Iterator[Addend]:
    """Tables of positions that are added to tokens, learned or fixed."""
    graph = context.model.graph
    for layer in graph.order:
        edges = graph.inputs(layer.id) if layer.op is Op.ADD else ()
        if not 0 < len(edges) <= 2:
            continue
        source, param, values, power = edges[0].source, None, None, None
        if len(edges) == 1:
            if any(sum(side > 1 for side in item.shape) != 2 for item in layer.params):
                continue  # a bias: no need to read it
            found = operand(context, layer)
            if found is None or found.table is None or not _by_position(layer, found.values):
                continue
            param, values = found.param, found.table
            power = float(np.mean(np.square(values, dtype=np.float64)))
        else:
            for edge, other in (edges, edges[::-1]):
                table = _behind_views(graph, edge.source)
                if table.op is Op.EMBEDDING and not graph.inputs(table.id):
                    param, source = table.weight, other.source
            moments = context.measures.moments(param) if param is not None else None
            power = moments.second_moment if moments is not None else None
        start = _tokens(graph, source) if power is not None else None
        if power is not None and start is not None:
            silent = _is_silent(context, start)
            tokens = None if silent else _power(context, _without_learned(graph, source))
            yield Addend(layer, source, param, values, power, tokens, start)


def _without_learned(graph: LayerGraph, key: str) -> str:
    """The tokens that depend on the input, where learned ones (a class token) are joined to them.

    A class token as wide as the table would hide that the tokens beside it are drowned.
    """
    layer = _behind_views(graph, key)
    while layer.op is Op.CONCAT:
        fed = [edge.source for edge in graph.inputs(layer.id) if graph.inputs(edge.source)]
        of_input = [source for source in fed if _sees_input(graph, source)]
        if len(of_input) != 1:
            break
        key = of_input[0]
        layer = _behind_views(graph, key)
    return key


def _sees_input(graph: LayerGraph, key: str) -> bool:
    return any(graph[other].op is Op.INPUT for other in (key, *graph.upstream([key])))


def _is_silent(context: Context, start: Layer) -> bool:
    """Whether the tokens' weights are all zero: there is no scale yet that a table could exceed."""
    moments = context.measures.moments(start.weight) if start.weight is not None else None
    return moments is not None and moments.max_abs == 0


def _behind_views(graph: LayerGraph, key: str) -> Layer:
    """The layer whose values a tensor holds, in another shape (a table gets its batch axis so)."""
    layer = graph[key]
    while layer.op in TRANSPARENT and not layer.params and len(graph.inputs(layer.id)) == 1:
        layer = graph[graph.inputs(layer.id)[0].source]
    return layer


def _by_position(layer: Layer, values: Any) -> bool:
    """Whether a table's last two axes are those of the sum: positions and units."""
    shape = layer.output_shape
    if shape is None or values.ndim < 2 or len(shape) < 3:
        return False
    return bool(values.shape[-1] == shape[-1] and shape[-2] in (None, values.shape[-2]))


def _tokens(graph: LayerGraph, key: str) -> Layer | None:
    """The layer that makes the tokens: a look-up, or a projection of the input itself."""
    for _ in range(len(graph)):
        layer = graph[key]
        edges = graph.inputs(key)
        if not edges:
            return None
        if layer.op is Op.EMBEDDING:
            return layer
        if layer.op in (Op.LINEAR, Op.CONV):
            start = _behind_views(graph, edges[0].source)
            return layer if start.op is Op.INPUT else None
        if layer.op not in _LEADS:
            return None
        sources = [edge.source for edge in edges if graph.inputs(edge.source)]
        if not sources:
            return None
        key = sources[0]
    return None


def _power(context: Context, key: str) -> float | None:
    signal = context.theory.forward.get(key) if context.theory else None
    return exp(signal.log_q) if signal is not None and -600 < signal.log_q < 600 else None


def missing(context: Context, start: Layer) -> float:
    """Factor by which the weights that make the tokens are narrower than those in use; 1 if not."""
    weight = start.weight
    if weight is None or not weight.trainable or context.measures.stage(weight) is Stage.TRAINED:
        return 1.0
    std, fan = context.measures.effective_std(weight), fans(start, weight)
    if not std or fan is None:
        return 1.0
    narrowest = NARROW_TABLE if start.op is Op.EMBEDDING else 1 / sqrt(fan.fan_in)
    return max(narrowest / std, 1.0)
