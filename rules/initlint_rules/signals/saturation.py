"""saturation: bounded activations that sit on their flat ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import erfc, log10, sqrt

import numpy as np

from initlint.api import (
    SATURATED,
    SATURATING,
    WEIGHTED,
    Context,
    Finding,
    Fix,
    Layer,
    LayerGraph,
    Need,
    Op,
    OutputStats,
    Param,
    Rule,
    Severity,
    Stage,
    input_rms,
    is_spared,
    masked,
    saturation_harm,
    severity_of,
)

UNIT_RMS = 1.5
"""Rms of an input up to which a layer's own weights and biases are what saturates: data and bounded
activations have about 1, and a signal that grew upstream passes 2 before it saturates."""


BY_BIAS = 0.5
"""Share of an output's power from which the bias makes more of it than the weights do."""

BOUNDED = SATURATING | {Op.RELU6}
"""Activations with a flat end that they reach by too much signal."""

LOST = -0.7
"""Decades of slope that all saturated layers together must lose for an error: a share f of flat
units leaves sqrt(1 - f) of the rms slope. One tanh layer of ten with 72 to 76 % (-0.3) trained as
well as without, since wide weights pass on what few units let through; one with 99 % (-1.0) and
three sigmoid layers at -1.0 lost a fifth and half of their progress."""

SHARES = frozenset({Op.SIGMOID, Op.HARD_SIGMOID, Op.SOFTMAX})
"""Activations between 0 and 1: in a product they are the gate."""


ENDED = 0.9
"""Share of a network's own tanh outputs on the flat ends from which they are spoken of. A policy
with 53 % of its actions there trained as its twin (Adam finds the way back, and outputs at -1 and 1
may be meant); images with 95 % and actions with 100 % did not (benchmarks/outcome, set 4)."""


class Saturation(Rule):
    """Most outputs of a tanh or sigmoid layer lie on its flat ends.

    What it does
    ------------
    Measures, on the probe, the share of elements of each bounded activation at which its slope is
    below 6 % of the peak.

    Why is this bad
    ---------------
    A saturated unit passes almost no gradient. Weights that are too large for their fan_in (N(0,
    1), a gain meant for another activation) push every unit there at the first step.

    How it decides
    --------------
    Above 30 % warning, on hidden layers of a fresh model; of a hard tanh 30 % of what inputs of
    unit scale do not make flat. Above 70 % error, where the saturated layers together leave a
    fifth of the slope or less: 96 % of one layer, 70 % of three. Above 90 % a warning, where a
    tanh is the network's own output.

    What it does not flag
    ---------------------
    Gates (outputs that multiply another signal), the state of a gated cell (it grows with what the
    cell remembers), sigmoid outputs, tanh outputs below 90 %, attention masks, quantisation and
    binary nets, layers of trained models.

    Example
    -------
    ::

        from torch import nn

        def model():
            net = nn.Sequential(
                nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 10)
            )
            nn.init.normal_(net[2].weight, std=1.0)
            return net

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            net = nn.Sequential(
                nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 10)
            )
            nn.init.xavier_normal_(net[2].weight)
            return net

    References
    ----------
    - Glorot, Bengio 2010, Understanding the difficulty of training deep feedforward neural
      networks.
    """

    code = "PRB104"
    name = "saturation"
    formula = "share of units with |phi'(z)| < 0.06;  tanh: |z| > 2.09"
    needs = frozenset({Need.GRAPH, Need.PROBE})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    folds = (
        "gradient-profile",
        "backward-drift",
        "zero-gradient",
        "correlation-collapse",  # what is saturated by its bias is the same for all inputs,
        "epsilon-dominates",  # which leaves no variance to a normaliser behind it
        "dead-relu",
    )

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding that names all saturated layers."""
        if context.probe is None:
            return
        masks = masked(context.model.graph)
        found: list[tuple[Severity, float, Layer, OutputStats]] = []
        for layer in context.model.graph.order:
            stats = context.probe.outputs.get(layer.id)
            if layer.op not in BOUNDED or stats is None:
                continue
            ends = _ends_in_tanh(context.model.graph, layer) and stats.saturated_share >= ENDED
            if not ends and not _hidden(context, layer):
                continue
            if any(edge.source in masks for edge in context.model.graph.inputs(layer.id)):
                continue
            share = stats.saturated_share
            usual = _usual(layer)
            beyond = max(share - usual, 0.0) / max(1.0 - usual, 1e-9)
            severity = Severity.WARNING if ends else severity_of(saturation_harm(beyond))
            if severity is not None and _drawn(context, layer):
                found.append((severity, share, layer, stats))
        if not found:
            return
        severity, share, layer, stats = max(found, key=lambda item: (item[0].rank, item[1]))
        lost = sum(0.5 * log10(max(1.0 - item[1], 1e-9)) for item in found)
        if severity is Severity.ERROR and (
            lost > LOST or is_spared(context, [item[2].id for item in found])
        ):
            severity = Severity.WARNING
        feeding = _makers(context.model.graph, layer)
        biases = [maker.bias for maker in feeding if _by_bias(context, maker)]
        cause = f" by {biases[0].name}" if biases and biases[0] else ""
        makers = (maker.id for item in found for maker in _makers(context.model.graph, item[2]))
        more = f"{len(found) - 1} more layer{'s' * (len(found) > 2)}"
        others = f" (and {more})" if len(found) > 1 else ""
        yield Finding(
            severity=severity,
            layer=layer.id,
            layers=tuple(dict.fromkeys((*(item[2].id for item in found), *makers))),
            message=f"{share:.0%} of the {layer.op} outputs of {layer.id} are saturated{cause}"
            f"{others}",
            evidence={
                "saturated_share": share,
                "slope_decades": lost,
                "rms": stats.rms,
                "rows": stats.rows,
            },
            why="where the activation is flat its gradient is near zero: these units hardly learn",
            measured=f"{share:.0%} of elements with slope below 6 % of the peak",
            expected=f"below {usual + SATURATED[0] * (1.0 - usual):.0%}",
            fix=_fix(layer, feeding, [bias for bias in biases if bias is not None]),
            shares=_own_shares(context, [item[2] for item in found]),
        )


def _usual(layer: Layer) -> float:
    """The share of flat elements that inputs of N(0, 1) give: 32 % of a hard tanh."""
    if layer.op is not Op.HARD_TANH:
        return 0.0
    low, high = float(layer.attrs.get("min", -1.0)), float(layer.attrs.get("max", 1.0))
    return 0.5 * (erfc(-low / sqrt(2.0)) + erfc(high / sqrt(2.0)))


def _by_bias(context: Context, maker: Layer) -> bool:
    """True when a layer's bias makes most of the power of its output."""
    stats = context.probe.outputs.get(maker.id) if context.probe else None
    moments = context.measures.moments(maker.bias) if maker.bias is not None else None
    return bool(stats and moments and moments.second_moment > BY_BIAS * stats.rms**2)


def _fix(layer: Layer, feeding: Sequence[Layer], biases: Sequence[Param]) -> Fix:
    if biases:
        params = tuple(bias.key for bias in biases)
        return Fix("zeros", params=params, code=f"torch.nn.init.zeros_({biases[0].name})")
    return Fix(
        "rescale",
        code=f"scale the weights of {', '.join(maker.id for maker in feeding) or layer.id} to "
        f"torch.nn.init.calculate_gain('{layer.op}') / sqrt(fan_in)",
    )


def _makers(graph: LayerGraph, layer: Layer) -> list[Layer]:
    """What an activation reads; of a sum, what is added: a sum has no weights to scale."""
    found: dict[str, Layer] = {}
    pending = list(graph.effective_producers(layer.id))
    seen: set[str] = set()
    while pending:
        producer = pending.pop(0)
        if producer.id in seen:
            continue
        seen.add(producer.id)
        terms = graph.effective_producers(producer.id) if producer.op is Op.ADD else ()
        weighted = [term for term in terms if term.op in WEIGHTED or term.op is Op.ADD]
        pending += weighted
        if not weighted:
            found[producer.id] = producer
    return list(found.values())


def _own_shares(context: Context, layers: Sequence[Layer]) -> dict[tuple[str, ...], float]:
    """The layers that feed the saturated ones, where no input is wide enough to be the reason.

    What biases saturate is no doing of the weights beside them.
    """
    assert context.probe is not None
    graph = context.model.graph
    shares = {}
    for layer in layers:
        biases = [maker.bias for maker in _makers(graph, layer) if _by_bias(context, maker)]
        if biases:
            shares[tuple(bias.key for bias in biases if bias is not None)] = 1.0
            continue
        feeding = tuple(producer.id for producer in graph.effective_producers(layer.id))
        entering = [input_rms(key, graph, context.probe) for key in feeding]
        if not entering or any(rms is None or rms > UNIT_RMS for rms in entering):
            return {}
        shares[feeding] = 1.0
    return shares


def _hidden(context: Context, layer: Layer) -> bool:
    """Neither a gate nor an output: some later layer reads it as a signal."""
    graph = context.model.graph
    consumers = _readers(graph, layer)
    if not consumers or graph.is_head(layer.id):
        return False
    if _accumulates(graph, layer):
        return False
    products = [consumer.id for consumer in consumers if consumer.op is Op.MUL]
    return all(_is_gated_value(graph, layer, product) for product in products)


def _readers(graph: LayerGraph, layer: Layer) -> list[Layer]:
    """What reads a layer, seen through products with a number: those are no gates.

    A product with zeros is one: a cell's first step gates the state that it starts from.
    """
    found: list[Layer] = []
    for item in graph.effective_consumers(layer.id):
        factor = item.attrs.get("constant") if item.op is Op.MUL and not item.params else None
        fixed = factor is not None and len(graph.inputs(item.id)) == 1 and np.all(factor)
        found += _readers(graph, item) if fixed else [item]
    return found


def _ends_in_tanh(graph: LayerGraph, layer: Layer) -> bool:
    """True for a tanh that is the network's output, times a number at most."""
    while layer.op is Op.TANH or (layer.op is Op.MUL and len(graph.inputs(layer.id)) == 1):
        readers = graph.effective_consumers(layer.id)
        if all(reader.op is Op.OUTPUT for reader in readers):
            return True
        if len(readers) != 1 or readers[0].op is Op.TANH:
            return False
        layer = readers[0]
    return False


def _accumulates(graph: LayerGraph, layer: Layer) -> bool:
    """True for the state of a gated cell, ``f c + i g``: its width is memory, not weights."""
    sums = graph.effective_producers(layer.id)
    return bool(sums) and all(
        item.op is Op.ADD
        and all(_gated(graph, part) for part in graph.effective_producers(item.id))
        for item in sums
    )


def _gated(graph: LayerGraph, layer: Layer) -> bool:
    """True for a product with a share between 0 and 1."""
    factors = graph.effective_producers(layer.id)
    return layer.op is Op.MUL and any(item.op in SHARES for item in factors)


def _is_gated_value(graph: LayerGraph, layer: Layer, product: str) -> bool:
    """True when this is what a gate lets through (a tanh beside a sigmoid), not the gate."""
    others = [item for item in graph.effective_producers(product) if item.id != layer.id]
    return layer.op not in SHARES and bool(others) and all(item.op in SHARES for item in others)


def _drawn(context: Context, layer: Layer) -> bool:
    """The layers that feed it are not trained."""
    return not any(
        context.measures.stage(param) is Stage.TRAINED
        for producer in context.model.graph.effective_producers(layer.id)
        for param in producer.params
    )
