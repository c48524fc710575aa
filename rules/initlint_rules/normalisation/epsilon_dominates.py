"""epsilon-dominates: a normaliser whose input is so small that its epsilon decides the output."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, isfinite, log10, sqrt

from initlint.api import (
    NORMALISERS,
    WEIGHTED,
    Confidence,
    Context,
    Finding,
    Fix,
    Layer,
    LayerGraph,
    Need,
    Op,
    Role,
    Rule,
    Severity,
    Stage,
    residual_branches,
)

LEVELS = ((0.01, Severity.ERROR), (1.0, Severity.WARNING), (10.0, Severity.INFO))
"""Variance over epsilon. The output shrinks by sqrt(v / (v + eps)): by 5 % at 10, by 29 % at 1, by
a factor 10 at 1/100, where the gradient can no longer grow by more than 1/sqrt(eps) either."""

ENOUGH = LEVELS[-1][0]
"""Variance over epsilon from which nothing is said."""

MOST_SOURCES = 2
"""Layers that are named as what is too small: one, or a table of tokens and one of positions. Where
more add up, as in a residual stream, none of them is it alone."""

_MIXING = WEIGHTED | {Op.MATMUL, Op.ATTENTION}


class EpsilonDominates(Rule):
    """A normaliser sees a variance near or below its epsilon and cannot restore the scale.

    What it does
    ------------
    Compares the variance that reaches each normaliser, measured or predicted, with its epsilon.

    Why is this bad
    ---------------
    A normaliser divides by sqrt(variance + epsilon). It makes any scale before it harmless, until
    the variance falls to the size of epsilon: from there the output shrinks with the input, and a
    network that counts on normalised signals starts with hardly any.

    How it decides
    --------------
    Variance below 10 epsilon: info (5 % lost); below epsilon: warning (29 % and more); below
    epsilon / 100: error (a factor of 10 and more). An info where all weights but the head's read
    through a further normaliser that restores the scale.

    What it does not flag
    ---------------------
    Exact zeros (a branch that starts at zero), the last normaliser of a residual branch, inputs
    that come straight from the data, trained weights.

    Example
    -------
    ::

        from torch import nn

        def model():
            net = nn.Sequential(
                nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 64), nn.ReLU(),
                nn.Linear(64, 10)
            )
            nn.init.normal_(net[0].weight, std=1e-6)
            nn.init.zeros_(net[0].bias)
            return net

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            net = nn.Sequential(
                nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 64), nn.ReLU(),
                nn.Linear(64, 10)
            )
            nn.init.normal_(net[0].weight, std=0.02)
            nn.init.zeros_(net[0].bias)
            return net

    References
    ----------
    - Ioffe, Szegedy 2015, Batch normalization, algorithm 1.
    - Ba, Kiros, Hinton 2016, Layer normalization.
    """

    code = "NRM604"
    name = "epsilon-dominates"
    formula = "output scale = sqrt(v / (v + eps))"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH})
    optional = frozenset({Need.THEORY, Need.PROBE})
    stages = frozenset({Stage.FRESH})
    folds = (
        "forward-drift",
        "variance-profile",
        "gradient-profile",
        "correlation-collapse",
        "bias-dominates",
        "embedding-scale",
    )

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding that names every such normaliser, the worst first."""
        graph = context.model.graph
        closing = {branch.closing_norm for branch in residual_branches(graph)}
        found: list[tuple[float, Layer, Severity]] = []
        for layer in graph.order:
            if layer.op not in NORMALISERS or layer.id in closing or _reads_data(context, layer):
                continue
            ratio = _variance_over_epsilon(context, layer)
            severity = next((level for limit, level in LEVELS if ratio < limit), None)
            if severity is not None and ratio > 0:
                severity = Severity.INFO if _is_restored(context, layer) else severity
                found.append((ratio, layer, severity))
        if not found:
            return
        found.sort(key=lambda item: (-item[2].rank, item[0]))
        ratio, worst, severity = found[0]
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        kept = (ratio / (1 + ratio)) ** 0.5
        measured = context.probe is not None and any(
            edge.source in context.probe.outputs for edge in graph.inputs(worst.id)
        )
        norms = tuple(layer.id for _, layer, _ in found)
        shares = _shares(context, [norm for _, norm, _ in found])
        sources = _sources(graph, worst)
        small = " and ".join(sources)
        feeding = dict.fromkeys(key for _, norm, _ in found for key in _sources(graph, norm))
        params = tuple(
            weight.key
            for key in feeding
            if (weight := graph[key].weight) is not None and weight.trainable
        )
        yield Finding(
            severity=severity,
            confidence=Confidence.HIGH if measured else Confidence.MEDIUM,
            layer=worst.id,
            layers=(*norms, *sources),
            message=f"{worst.id}{more} sees a variance of {ratio:.2g} times its epsilon and passes "
            f"on {kept:.0%} of the intended scale"
            + (f": what {small} makes is too small" if small else ""),
            evidence={
                "variance_over_epsilon": ratio,
                "epsilon": float(worst.attrs["eps"]),
                "kept": kept,
                "decades": log10(kept),
                "normalisers": len(found),
            },
            why="a normaliser divides by sqrt(variance + epsilon)",
            measured=f"variance {ratio * float(worst.attrs['eps']):.2g}, epsilon "
            f"{float(worst.attrs['eps']):.0e}",
            expected="a variance of 10 epsilon or more",
            fix=Fix(
                "scale_preserving" if params else "advice",
                params=params,
                code=f"draw {small or f'the layers before {worst.id}'} "
                f"{sqrt(ENOUGH / ratio):.2g} times as wide",
            ),
            shares=shares,
        )


def _shares(context: Context, norms: list[Layer]) -> dict[tuple[str, ...], float]:
    """Decades below unit scale that normalisers see, by what made them.

    A small gain of a normaliser that comes before answers for its own decades, the weights in
    between for what they take away. What that normaliser's own epsilon took is a consequence.
    """
    graph = context.model.graph
    shares: dict[tuple[str, ...], float] = {}
    for norm in norms:
        sources = _sources(graph, norm)
        variance = _variance_over_epsilon(context, norm) * float(norm.attrs["eps"])
        lost = -0.5 * log10(variance)
        for before in _normalisers_before(graph, sources):
            small = max(-log10(_gain(context, before)), 0.0)
            shares[(before.id,)] = shares.get((before.id,), 0.0) + small
            lost = min(lost, log10(_rms(context, before.id)) - 0.5 * log10(variance))
        if sources:
            shares[sources] = shares.get(sources, 0.0) + max(lost, 0.0)
    return shares


def _normalisers_before(graph: LayerGraph, keys: tuple[str, ...]) -> list[Layer]:
    """The normalisers that layers read through nothing with weights."""
    found: dict[str, Layer] = {}
    seen, waiting = set(keys), list(keys)
    while waiting:
        for layer in graph.producers(waiting.pop()):
            if layer.id in seen:
                continue
            seen.add(layer.id)
            if layer.op in NORMALISERS:
                found[layer.id] = layer
            elif layer.op not in WEIGHTED:
                waiting.append(layer.id)
    return list(found.values())


def _rms(context: Context, key: str) -> float:
    """Rms of what a layer makes; 1 where it is not known."""
    stats = context.probe.outputs.get(key) if context.probe else None
    if stats is not None and stats.count:
        return stats.rms or 1.0
    signal = context.theory.forward.get(key) if context.theory else None
    return exp(0.5 * signal.log_q) if signal is not None and abs(signal.log_q) < 600 else 1.0


def _gain(context: Context, norm: Layer) -> float:
    """Rms of a normaliser's gain; 1 where it has none or is zero, which scales nothing."""
    gain = next(iter(norm.with_role(Role.GAIN)), None)
    moments = context.measures.moments(gain) if gain is not None else None
    return sqrt(moments.second_moment) if moments and moments.second_moment > 0.0 else 1.0


def _sources(graph: LayerGraph, norm: Layer) -> tuple[str, ...]:
    """The few layers with weights, or tables, whose outputs make what enters a normaliser."""
    found: list[str] = []
    seen, waiting = {norm.id}, [norm.id]
    while waiting:
        for layer in graph.producers(waiting.pop()):
            if layer.id in seen or layer.op in NORMALISERS:
                continue
            seen.add(layer.id)
            if layer.op in WEIGHTED:
                found.append(layer.id)
            else:
                waiting.append(layer.id)
    few = found if len(found) <= MOST_SOURCES else ()
    return tuple(sorted(few, key=graph.position.__getitem__))


def _is_restored(context: Context, layer: Layer) -> bool:
    """True when all weights behind it but the head's read through a normaliser that does its work.

    So RWKV starts its embedding: a tiny table, a normaliser that amplifies its gradient by
    1/sqrt(epsilon), and blocks that normalise again.
    """
    graph = context.model.graph
    waiting, seen = [layer.id], {layer.id}
    while waiting:
        for consumer in graph.consumers(waiting.pop()):
            if consumer.id in seen:
                continue
            seen.add(consumer.id)
            if consumer.op in NORMALISERS:
                if _variance_over_epsilon(context, consumer) < LEVELS[-1][0]:
                    return False
            elif consumer.op in _MIXING:
                if not graph.is_head(consumer.id):
                    return False
            else:
                waiting.append(consumer.id)
    return True


def _reads_data(context: Context, layer: Layer) -> bool:
    """True when nothing but data enters: its scale is not the network's doing."""
    producers = context.model.graph.effective_producers(layer.id)
    return all(producer.op in (Op.INPUT, Op.CONSTANT) for producer in producers)


def _variance_over_epsilon(context: Context, layer: Layer) -> float:
    """Variance that enters, over epsilon; infinite where it is not known.

    The variance over all elements is taken, the largest that any of its rows can have on average:
    a doubt speaks for the normaliser. Batch normalisation takes each channel's own.
    """
    eps = layer.attrs.get("eps")
    edges = context.model.graph.inputs(layer.id)
    if not isinstance(eps, (int, float)) or eps <= 0 or not edges:
        return float("inf")
    stats = context.probe.outputs.get(edges[0].source) if context.probe else None
    centred = layer.op is not Op.RMS_NORM
    if stats is not None and stats.count:
        if layer.op is Op.BATCH_NORM and isfinite(stats.row_std):
            return stats.row_std**2 / eps  # what a bias adds is the same for all rows
        return (stats.std if centred else stats.rms) ** 2 / eps
    signal = context.theory.forward.get(edges[0].source) if context.theory else None
    if signal is None or signal.log_q > 300:
        return float("inf")
    share = 1 - signal.mean_share if centred else 1.0
    return exp(max(signal.log_q, -700.0)) * share / eps if signal.log_q > -700 else 0.0
