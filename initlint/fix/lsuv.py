"""Layer-sequential unit-variance scaling (Mishkin, Matas 2016), with few runs of the network.

The algorithm: in forward order, divide each layer's weights by the standard deviation of its output
on one batch until that is 1 within a tolerance. Its result does not depend on how the layers behind
the present one are scaled meanwhile, so they are scaled too, by what theory expects them to need. A
ReLU network is then done after one run and checked by a second; a saturating one needs a few more,
where the original runs the network for every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite, sqrt

from initlint.model import NORMALISERS, Layer, LayerGraph, Op
from initlint.probe.result import Activations, ProbeStatus
from initlint.theory.activations import activation, second_moment

TOLERANCE = 0.1
"""Of the variance around 1 (the paper's Tol_var)."""

SCALED = frozenset({Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE, Op.BILINEAR})
"""Layers whose output is linear in their weights. Gates and tables are not scaled."""

EXTRA_RUNS = 8
"""Runs allowed beyond one per layer, which is what the sequential algorithm would need if every
layer converged at once (it does: a layer's output is linear in its weights)."""


@dataclass(frozen=True, slots=True)
class Scaled:
    """How layer-sequential scaling ended.

    Attributes:
        factors: by which each layer's weights are multiplied.
        variances: variance of each layer's output in the last run.
        runs: how often the network ran.
        reason: why it ended early; empty when every variance is within the tolerance.
    """

    factors: Mapping[str, float]
    variances: Mapping[str, float]
    runs: int
    reason: str = ""


def scale(
    graph: LayerGraph,
    layers: tuple[str, ...],
    run: Callable[[Mapping[str, float]], Activations],
    tolerance: float = TOLERANCE,
    variances_wanted: Mapping[str, float] | None = None,
) -> Scaled:
    """Factors that bring the output variance of each layer to 1, in forward order.

    Args:
        graph: the network.
        layers: ids of the layers to scale; others keep their weights.
        run: runs the network with these factors applied and measures every layer's output.
        tolerance: of the variance around 1, relative where another one is wanted.
        variances_wanted: by layer, where it is not 1.
    """
    goals = dict(variances_wanted or {})
    wanted = [layer.id for layer in graph.order if layer.id in set(layers) and layer.op in SCALED]
    factors = dict.fromkeys(wanted, 1.0)
    variances: dict[str, float] = {}
    runs, budget = 0, len(wanted) + EXTRA_RUNS
    while True:
        seen = run(factors)
        runs += 1
        if seen.status is not ProbeStatus.OK:
            return Scaled(factors, variances, runs, seen.detail or "the network could not be run")
        if runs == 1:  # what runs fused with its neighbour has no output of its own to look at
            wanted = [key for key in wanted if key in seen.outputs] or wanted
        variances = {key: seen.outputs[key].std ** 2 for key in wanted if key in seen.outputs}
        step = _step(graph, frozenset(wanted), seen, tolerance, goals)
        if not step:
            return Scaled(factors, variances, runs, _silent(wanted, variances))
        if runs >= budget:
            return Scaled(factors, variances, runs, f"no convergence in {runs} runs")
        for key, factor in step.items():
            factors[key] *= factor


def _silent(wanted: list[str], variances: Mapping[str, float]) -> str:
    silent = [key for key in wanted if not 0 < variances.get(key, 0.0) < float("inf")]
    return f"no signal measured at {silent[0]}" if silent else ""


def _step(
    graph: LayerGraph,
    wanted: frozenset[str],
    seen: Activations,
    tolerance: float,
    goals: Mapping[str, float],
) -> dict[str, float]:
    """Factors for this round; empty when all layers with a signal are within the tolerance.

    ``changed`` follows what the factors are expected to do to each layer's output.
    """
    off = False
    changed: dict[str, float] = {}
    step: dict[str, float] = {}
    for layer in graph.order:
        before = _incoming(graph, layer, changed, seen)
        stats = seen.outputs.get(layer.id)
        if layer.id in wanted and stats is not None and stats.std > 0 and isfinite(stats.std):
            goal = sqrt(goals.get(layer.id, 1.0))
            off = off or abs((stats.std / goal) ** 2 - 1) > tolerance
            factor = goal / (stats.std * before) if off else 1.0
            if factor != 1.0:
                step[layer.id] = factor
            changed[layer.id] = before * factor
        elif layer.op in NORMALISERS:
            changed[layer.id] = 1.0
        else:
            changed[layer.id] = _through(graph, layer, before, seen)
    return step


def _through(graph: LayerGraph, layer: Layer, before: float, seen: Activations) -> float:
    """The change of rms behind a layer whose input changed by ``before``, for a Gaussian input."""
    edges = graph.inputs(layer.id)
    stats = seen.outputs.get(edges[0].source) if len(edges) == 1 else None
    if before == 1 or stats is None or activation(layer.op, layer.attrs) is None:
        return before
    q = stats.rms**2
    if not 0 < q * before**2 < float("inf"):
        return before
    after = second_moment(layer.op, layer.attrs, q * before**2)
    return sqrt(after / second_moment(layer.op, layer.attrs, q))


def _incoming(
    graph: LayerGraph, layer: Layer, changed: Mapping[str, float], seen: Activations
) -> float:
    """By how much the inputs' rms changed together, weighted by their second moments."""
    total = weight = 0.0
    for edge in graph.inputs(layer.id):
        stats = seen.outputs.get(edge.source)
        power = stats.rms**2 if stats is not None and isfinite(stats.rms) else 0.0
        total += power * changed.get(edge.source, 1.0) ** 2
        weight += power
    if weight:
        return sqrt(total / weight)
    sources = [changed.get(edge.source, 1.0) for edge in graph.inputs(layer.id)]
    return sources[0] if sources else 1.0
