"""The tangent kernel, estimated layer by layer where no backward pass was run.

A weight's gradient at one position is the product of what enters it and the gradient behind it, so
its squared length is that of the one times that of the other. What enters was measured in the
forward pass; the gradient behind is theory's. Positions are taken as independent.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from math import exp, isfinite, isnan, nan, sqrt

from initlint.measure.measures import Measures
from initlint.model import RECURRENT, Layer, LayerGraph, Model, Op, Role
from initlint.model.bypass import is_bypassed
from initlint.model.structure import before_averaging
from initlint.model.unrolled import reads_all_steps, reads_between, unrolled_recurrences
from initlint.probe.result import Activations, OutputStats, Response
from initlint.theory.partition import SymmetricGroup, symmetric_units
from initlint.theory.recurrent import (
    RecurrentWeights,
    recurrent_weights,
    simulate,
    unrolled_weights,
)
from initlint.theory.result import Prediction
from initlint.theory.unlock import unlocking

_MATRICES = frozenset({Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE}) | RECURRENT

_ENOUGH = 2.0
"""Directions in which inputs are taken to differ, unless some layer has a single unit left: how
many there are no layer alone can tell."""

KNOWN = 0.5
"""Share of the elements of weights whose gradient theory must know. The rest can then double the
kernel if it is like what is known: a third of a decade, where limits are decades apart."""

STEPS = 1
"""First steps after which a parameter must have a gradient: one factor may be zero, two not."""

WIDEST = 1024
"""Hidden units up to which a recurrence is simulated; the simulation keeps to a tenth of a second
by taking fewer sequences, and takes two at the least."""

MOST_LOG = 600.0
"""Logarithm beyond which a second moment is as good as infinite: float64 ends at exp(709)."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What one weight adds to the kernel of one sample.

    Attributes:
        size: squared length of its gradient, for outputs of unit variance each.
        contrast: share of it that differs between inputs.
        weight: mean square of its elements.
    """

    size: float
    contrast: float
    weight: float


def local_response(
    model: Model, probe: Activations, theory: Prediction | None, measures: Measures, steps: int
) -> Response | None:
    """How the outputs answer to small changes of the weights, from statistics of single layers.

    For y = W x the gradient of W is the outer product of the one behind y and x (backpropagation),
    so its squared length is the product of theirs, and the tangent kernel (Jacot et al. 2018) sums
    that over layers and positions. A random change of the elements by their root mean square s
    moves the output by s times its length.

    Args:
        model: the fresh model.
        probe: its forward pass.
        theory: the predicted gradient, per element, of outputs of unit variance.
        measures: of its parameters.
        steps: length of sequences where the graph does not tell it.

    Returns:
        None where theory knows too little of the gradient (`KNOWN`), or no output was observed.

    Raises:
        LoadError: the file does not hold what its header says.
    """
    outputs = list(_outputs(model.graph, probe))
    elements = sum(stats.count / max(stats.samples, 1) for stats in outputs)
    if theory is None or not elements or _known(model.graph, theory) < KNOWN:
        return None
    parts = list(_parts(model.graph, probe, theory, measures))
    total = sum(part.size for part in parts)
    power = sum(stats.rms**2 * stats.count / max(stats.samples, 1) for stats in outputs)
    moved = sum(part.size * part.weight for part in parts)
    trainable = sum(param.size for _, param in model.graph.params if param.trainable)
    copied, silent = _copied(model, measures), _silent(model, measures)
    return Response(
        inputs=min(stats.samples for stats in outputs),
        size=total / elements,
        parameters=trainable,
        contrast=sum(part.size * part.contrast for part in parts) / total if total > 0.0 else 0.0,
        rank=_rank(model.graph, copied),
        output=sqrt(power / elements),
        silent=sum(silent.values()) / max(trainable, 1),
        reach=_reach(model.graph, measures, steps),
        sensitivity=sqrt(moved / power) if power > 0.0 else nan,
        copies=_rows(model, copied, silent) / max(trainable, 1),
    )


def _outputs(graph: LayerGraph, probe: Activations) -> Iterator[OutputStats]:
    for layer in graph:
        if layer.op is Op.OUTPUT:
            for above in graph.producers(layer.id):
                stats = probe.outputs.get(above.id)
                if stats is not None and stats.count:
                    yield stats


def _known(graph: LayerGraph, theory: Prediction) -> float:
    """Share of the elements of trainable weights whose gradient theory knows.

    Where the prediction ended nowhere, weights without one are weights that none reaches.
    """
    weights = [(layer.id, weight) for layer in graph.weighted if (weight := layer.weight)]
    sizes = {key: weight.size for key, weight in weights if weight.trainable}
    whole = not theory.ended_at
    known = sum(size for key, size in sizes.items() if whole or key in theory.backward)
    return known / max(sum(sizes.values()), 1)


def _heard(graph: LayerGraph, probe: Activations) -> frozenset[str]:
    """Layers that some path leads from to an output without a rectifier that is always off."""
    found: set[str] = set()
    for layer in reversed(graph.order):
        stats = probe.outputs.get(layer.id)
        off = layer.op is Op.RELU and stats is not None and stats.count and stats.rms == 0.0
        ends = layer.op is Op.OUTPUT
        if ends or (not off and any(edge.target in found for edge in graph.outputs(layer.id))):
            found.add(layer.id)
    return frozenset(found)


def _parts(
    graph: LayerGraph, probe: Activations, theory: Prediction, measures: Measures
) -> Iterator[_Part]:
    heard = _heard(graph, probe)
    for layer in graph.order:
        weight, seen = layer.weight, probe.outputs.get(layer.id)
        behind = theory.backward.get(layer.id)
        if weight is None or not weight.trainable or seen is None or behind is None:
            continue
        moments = measures.moments(weight)
        power = 0.0 if moments is None else moments.second_moment
        gradient = exp(min(behind, MOST_LOG)) * seen.count / max(seen.samples, 1)
        gradient *= layer.id in heard
        if layer.op is Op.EMBEDDING:  # each position reads a row of its own
            yield _Part(gradient, 1.0, power)
        elif layer.op in _MATRICES:
            fan_in = weight.size / max(weight.shape[0], 1)
            rms, differing = _entering(graph, probe, layer)
            bias = 1.0 if layer.with_role(Role.BIAS) else 0.0
            entering = fan_in * rms**2 + bias
            if entering > 0.0:
                yield _Part(gradient * entering, fan_in * differing**2 / entering, power)


def _entering(graph: LayerGraph, probe: Activations, layer: Layer) -> tuple[float, float]:
    """Rms of what a layer reads, and of the part that differs between samples."""
    for edge in graph.inputs(layer.id):
        stats = probe.outputs.get(edge.source)
        before = probe.outputs.get(before_averaging(graph, edge.source)) or stats
        if stats is not None and before is not None and isfinite(stats.rms):
            known = isfinite(before.row_std) and before.rms > 0.0
            share = min(before.row_std / before.rms, 1.0) if known else 1.0
            return stats.rms, stats.rms * share
    return 1.0, 1.0


def _copied(model: Model, measures: Measures) -> list[SymmetricGroup]:
    """Groups of units that can never differ."""
    groups = symmetric_units(model, measures)
    return [item for item in groups if item.symmetric and item.followed and not item.output]


def _rank(graph: LayerGraph, groups: list[SymmetricGroup]) -> float:
    """One where all that inputs differ in passes through units that are copies of one."""
    narrow = {key for group in groups if group.size - group.lost < _ENOUGH for key in group.layers}
    return _ENOUGH if not narrow or is_bypassed(graph, narrow) else 1.0


def _rows(model: Model, groups: list[SymmetricGroup], silent: Container[str]) -> float:
    """Elements in the rows of units that are copies, where they get a gradient."""
    params = {param.key: param for _, param in model.graph.params if param.key not in silent}
    known = [(group, params[group.param]) for group in groups if group.param in params]
    return sum(len(group.units) * param.size / max(param.shape[0], 1) for group, param in known)


def _silent(model: Model, measures: Measures) -> dict[str, int]:
    """Elements of parameters that no gradient reaches within the first steps, by key."""
    zeros = {
        param.key
        for _, param in model.graph.params
        if (moments := measures.moments(param)) is not None
        and moments.constant
        and moments.max_abs == 0.0
    }
    steps = unlocking(model, lambda param: param.key in zeros).steps if zeros else {}
    late = {key for key, step in steps.items() if step is None or step > STEPS}
    return {param.key: param.size for _, param in model.graph.params if param.key in late}


def _reach(graph: LayerGraph, measures: Measures, steps: int) -> float:
    """Decades of gradient between the first and the last step of the shortest memory; NaN without.

    Where the states of all steps are read every step is near the loss.
    """
    found: list[float] = []
    for layer in graph.weighted:
        if layer.op in RECURRENT and not reads_all_steps(graph, layer):
            for direction in sorted({param.direction for param in layer.params}):
                found += _decades(recurrent_weights(layer, direction, measures.read), steps)
    for item in unrolled_recurrences(graph):
        if not reads_between(graph, item):
            weights = unrolled_weights(item, graph[item.steps[0]], measures.read)
            found += _decades(weights, len(item.steps))
    return min(found, default=nan)


def _decades(weights: RecurrentWeights | None, steps: int) -> list[float]:
    if weights is None or next(iter(weights.recurrent.values())).shape[0] > WIDEST:
        return []
    if not any(block.any() for block in weights.recurrent.values()):
        return []  # the first steps end that
    decades = min(simulate(weights, steps).decades_at(steps), 0.0)
    return [] if isnan(decades) else [decades]
