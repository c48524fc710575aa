"""The logits of every attention in a graph, fused or in parts, and how wide they start."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, log, sqrt

import numpy as np

from initlint.api import (
    NORMALISERS,
    TRANSPARENT,
    WEIGHTED,
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

MIN_KEYS = 4
"""Below four keys a softmax has too few entries for its entropy to tell anything."""


PART = 0.5
"""Part of the wider factor's decades above unit scale that make the other one wide as well: with
less, the wider alone, set to unit scale, takes more than two thirds of the logits' excess away."""


@record(frozen=True, slots=True)
class Logits:
    """The logits of one attention.

    Attributes:
        layer: id of the fused attention, or of the softmax.
        query, key: ids of the weighted layers behind queries and keys; None where there is none.
        wide: those of them that make the logits wide; both where neither has more than its part.
        params: the weights that make queries and keys, still as they were drawn, the wider first.
        scaling: those of them whose scale the logits have: no normaliser stands behind them.
        scale: factor on the product of queries and keys.
        head_dim: length of that product.
        keys: entries of the softmax.
        variance: variance of the logits of one row.
        measured: whether the probe measured the factors.
        normalised: whether a normaliser fixes the scale of queries or keys.
    """

    layer: str
    query: str | None
    key: str | None
    wide: tuple[str, ...]
    params: tuple[Param, ...]
    scaling: tuple[Param, ...]
    scale: float
    head_dim: int
    keys: int
    variance: float
    measured: bool
    normalised: bool

    @property
    def std(self) -> float:
        """Standard deviation of the logits."""
        return sqrt(self.variance)

    @property
    def frozen(self) -> float:
        """Standard deviation from which one key takes all: sqrt(2 ln T)."""
        return sqrt(2 * log(self.keys))


def attention_logits(context: Context) -> Iterator[Logits]:
    """Logits of all attentions whose query or key weights are as drawn, in order."""
    for layer in context.model.graph.order:
        found = None
        if layer.op is Op.ATTENTION:
            found = _fused(context, layer)
        elif layer.op is Op.SOFTMAX:
            found = _in_parts(context, layer)
        if found is not None and found.params and found.keys >= MIN_KEYS:
            yield found


def _fused(context: Context, layer: Layer) -> Logits | None:
    edges = context.model.graph.inputs(layer.id)
    if len(edges) < 3:
        return None
    width = layer.attrs.get("head_dim") or _side(context, edges[0].source, -1)
    if not width:
        return None
    scale = layer.attrs.get("scale")
    factor = float(scale) if scale is not None else float(width) ** -0.5
    keys = _side(context, edges[1].source, -2) or context.sequence_length
    return _build(context, layer, edges[0].source, edges[1].source, factor, int(width), int(keys))


def _in_parts(context: Context, softmax: Layer) -> Logits | None:
    """Softmax over a product of two activations, seen through masks and fixed factors."""
    graph = context.model.graph
    layer, scale = softmax, 1.0
    while True:
        edges = graph.inputs(layer.id)
        if not edges:
            return None
        layer = graph[edges[0].source]
        if layer.op is Op.MATMUL:
            break
        factor = _fixed_factor(layer)
        if factor is None:
            return None
        scale *= factor
    edges = graph.inputs(layer.id)
    width = _side(context, edges[0].source, -1) if len(edges) == 2 else None
    keys = softmax.output_shape[-1] if softmax.output_shape else None
    if not width:
        return None
    attribute = layer.attrs.get("scale")
    scale *= float(attribute) if isinstance(attribute, (int, float)) else 1.0
    return _build(
        context,
        softmax,
        edges[0].source,
        edges[1].source,
        scale,
        int(width),
        int(keys or context.sequence_length),
    )


_PASSED_ON = frozenset(
    {Op.ADD, Op.WHERE, Op.IDENTITY, Op.CAST, Op.RESHAPE, Op.DROPOUT, Op.CLIP, Op.SLICE, Op.GATHER}
)
"""Masks and changes of shape: a product with one query is a column that loops cut off."""


def _fixed_factor(layer: Layer) -> float | None:
    """What a layer between product and softmax multiplies by; None where that is unknown."""
    if layer.op in _PASSED_ON:
        return 1.0
    if layer.op not in (Op.MUL, Op.DIV) or layer.params:
        return None
    constant = layer.attrs.get("constant")
    if constant is None or np.size(constant) != 1 or layer.attrs.get("constant_first"):
        return None
    value = float(np.reshape(constant, -1)[0])
    if not value:
        return None
    return value if layer.op is Op.MUL else 1 / value


def _build(
    context: Context, layer: Layer, query: str, key: str, scale: float, width: int, keys: int
) -> Logits | None:
    of_query, of_key = _power(context, query), _power(context, key)
    if of_query is None or of_key is None:
        return None
    (q, q_measured), (k, k_measured) = of_query, of_key
    feeders = [_feeder(context.model.graph, source) for source in (query, key)]
    sides = sorted(zip((q, k), feeders, ("query", "key"), strict=True), key=lambda side: -side[0])
    makers = [
        (param, feeder.normalised)
        for _, feeder, gate in sides
        if feeder.layer is not None
        for param in context.model.graph[feeder.layer].with_role(Role.WEIGHT)
        if param.gate in (None, gate)
        and not param.quantised
        and context.measures.stage(param) is Stage.FRESH
    ]
    return Logits(
        layer=layer.id,
        query=feeders[0].layer,
        key=feeders[1].layer,
        wide=tuple(
            feeder.layer
            for power, feeder, _ in sides
            if feeder.layer is not None and _excess(power) >= PART * _excess(sides[0][0])
        ),
        params=tuple(param for param, _ in makers),
        scaling=tuple(param for param, normalised in makers if not normalised),
        scale=scale,
        head_dim=width,
        keys=keys,
        variance=scale * scale * width * q * k,
        measured=q_measured and k_measured,
        normalised=any(feeder.normalised for feeder in feeders),
    )


def _excess(power: float) -> float:
    """What the power of queries or keys has above unit scale, as a logarithm."""
    return log(max(power, 1.0))


def _power(context: Context, source: str) -> tuple[float, bool] | None:
    """Second moment of a tensor without what all samples share, and whether it was measured.

    What all keys share adds the same number to every logit, which a softmax ignores. Samples share
    no more than keys do, so their cosine stands in for that of the keys.
    """
    stats = context.probe.outputs.get(source) if context.probe else None
    if stats is not None and stats.count:
        shared = stats.correlation if 0 < stats.correlation < 1 else 0.0
        return stats.rms * stats.rms * (1 - shared), True
    signal = context.theory.forward.get(source) if context.theory else None
    if signal is None or not -600 < signal.log_q < 600:
        return None
    shared = min(max(signal.correlation, 0.0), 1.0)
    return exp(signal.log_q) * (1 - shared), False


def _side(context: Context, key: str, axis: int) -> int | None:
    shape = context.model.graph[key].output_shape
    return shape[axis] if shape is not None and len(shape) >= -axis else None


@record(frozen=True, slots=True)
class Scores:
    """One score for each place, whose softmax weighs them: additive attention, pooling.

    Attributes:
        layer: id of the softmax.
        maker: the linear layer that gives the scores.
        weight: its weight, as it was drawn.
        gain: sqrt(fan_in Var(W)) of it.
        keys: places.
        variance: variance of the scores of one row.
        measured: whether the probe measured them.
    """

    layer: str
    maker: Layer
    weight: Param
    gain: float
    keys: int
    variance: float
    measured: bool


def place_scores(context: Context) -> Iterator[Scores]:
    """Scores of places that one linear layer makes, by itself."""
    graph = context.model.graph
    for softmax in graph.order:
        found = _linear_scores(graph, softmax) if softmax.op is Op.SOFTMAX else None
        if found is None:
            continue
        maker, axis = found
        shape, weight = softmax.output_shape, maker.weight
        keys = (shape[axis] if shape else None) or context.sequence_length
        power = _power(context, maker.id)
        if weight is None or power is None or keys < MIN_KEYS or weight.quantised:
            continue
        std, fan = context.measures.effective_std(weight), fans(maker, weight)
        stage = context.measures.stage(weight)
        drawn = stage is Stage.FRESH or (stage, context.stage) == (Stage.UNKNOWN, Stage.FRESH)
        if not std or fan is None or not drawn:  # one row of weights is too few to be told by
            continue
        gain = std * sqrt(fan.fan_in)
        yield Scores(softmax.id, maker, weight, gain, int(keys), power[0], power[1])


def _linear_scores(graph: LayerGraph, softmax: Layer) -> tuple[Layer, int] | None:
    """The linear layer behind a softmax over places, and the softmax's axis.

    Its units are another axis than the one that is normalised: over units a softmax chooses one of
    them (classes, experts). What it gives weighs something.
    """
    shape, axis = softmax.output_shape, softmax.attrs.get("axis", -1)
    if not shape or not isinstance(axis, int) or not -len(shape) <= axis < len(shape):
        return None
    if not any(item.op in (Op.MUL, Op.MATMUL) for item in graph.effective_consumers(softmax.id)):
        return None
    layer = softmax
    while True:
        edges = graph.inputs(layer.id)
        if not edges:
            return None
        layer = graph[edges[0].source]
        if layer.op is Op.LINEAR:
            break
        if layer.op not in TRANSPARENT and _fixed_factor(layer) is None:
            return None
    weight, axis = layer.weight, axis % len(shape)
    if weight is None or len(weight.shape) != 2:
        return None
    units = weight.shape[0]
    return (layer, axis) if units == 1 or (axis < len(shape) - 1 and shape[-1] == units) else None


@record(frozen=True, slots=True)
class _Feeder:
    layer: str | None
    normalised: bool


def _feeder(graph: LayerGraph, key: str) -> _Feeder:
    """The weighted layer behind queries or keys, and whether a normaliser stands between."""
    normalised = False
    for _ in range(len(graph)):
        layer = graph[key]
        normalised = normalised or layer.op in NORMALISERS or layer.op is Op.LP_NORM
        if layer.op in WEIGHTED:
            return _Feeder(key, normalised)
        edges = graph.inputs(key)
        if not edges or layer.op in (Op.MATMUL, Op.ATTENTION, Op.INPUT):
            break
        key = edges[0].source
    return _Feeder(None, normalised)
