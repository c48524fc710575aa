"""correlation-collapse: different inputs look the same to the last layer."""

from __future__ import annotations

from collections.abc import Iterator
from math import isnan

from initlint.api import (
    NORMALISERS,
    WEIGHTED,
    Activations,
    Context,
    Finding,
    Fix,
    Layer,
    LayerGraph,
    Need,
    Op,
    OutputStats,
    Param,
    Role,
    Rule,
    Severity,
    Stage,
    correlation_harm,
    record,
    severity_of,
)

MIN_SAMPLES = 4
"""Distinct inputs: six pairs, whose cosine scatters by 1/sqrt(width) at most."""

MIN_UNITS = 8
"""Width below which vectors are alike by chance: the cosine of positive vectors of one or two
units is near 1 whatever the inputs."""

ALIKE_INPUTS = 0.05
"""1 - cosine of the inputs below which the probe itself fed the network nearly equal samples:
images in [0, 1] have about 0.1 to 0.3."""

CONSTANT = 1e-6
"""Spread over inputs relative to rms below which a layer is a constant function: ten float32
rounding errors of one sum."""


TINY_TABLE = 0.02
"""Rms of a table whose rows soon part: hash grids start at 1e-4, codebooks at 1/K, and an optimiser
with step size 1e-3 moves each row that far in twenty steps."""

_MIXING = frozenset({Op.ATTENTION, Op.MATMUL})


@record(frozen=True, slots=True)
class _Seen:
    layer: Layer
    stats: OutputStats

    @property
    def distance(self) -> float:
        """1 - cosine between different inputs."""
        return max(1.0 - self.stats.correlation, 0.0)

    @property
    def constant(self) -> bool:
        return self.stats.rms > 0 and self.stats.row_std < CONSTANT * self.stats.rms


CONTRAST = 0.02
"""Share of the gradients' power that differs between inputs from which they are told apart: with
less, what tells them apart moves fifty times slower than what is common (as the risk has it)."""


class CorrelationCollapse(Rule):
    """Different inputs have become nearly identical where the last layer reads them.

    What it does
    ------------
    Runs the model on a batch of different inputs and measures the cosine between their
    representations, layer by layer, down to what the last weighted layer reads.

    Why is this bad
    ---------------
    When all inputs arrive as the same vector, the loss can only move the average output: gradients
    of different samples cancel or coincide, and training starts on a plateau. A deep ReLU net does
    this slowly (1 - c is about 9 pi^2 / 2 L^2 at He's gain), a bias that outgrows a shrinking
    signal does it exponentially.

    How it decides
    --------------
    1 - c where the last weighted layer reads. Below 10^-2 info, below 10^-3 warning, below the
    rounding error of the dtype (7.6e-6 in bfloat16, 1.2e-7 in float16) error; a spread over inputs
    of less than 10^-6 of the rms is a constant function and an error. What two small steps end (a
    zero layer that opens) is a warning. The finding names the layer after which the distance is
    first below that limit, or the normalisers whose shift has more power than their gain.

    What it does not flag
    ---------------------
    Networks that average over positions (global pooling, attention) unless they are constant: noise
    averages out there, images do not. Layers whose mean a batch normaliser removes later. Batches
    of inputs that were alike to begin with, fewer than four samples, representations of fewer than
    eight units, trained models. Small trainable tables (codebooks, hash grids), whose rows soon
    part, are an info.

    Example
    -------
    ::

        import torch
        from torch import nn

        def model():
            layers = []
            for _ in range(4):
                linear = nn.Linear(128, 128)
                nn.init.kaiming_normal_(linear.weight)
                nn.init.normal_(linear.bias, std=30.0)
                layers += [linear, nn.LayerNorm(128), nn.ReLU()]
            return nn.Sequential(*layers, nn.Linear(128, 10))

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            layers = []
            for _ in range(4):
                linear = nn.Linear(128, 128)
                nn.init.kaiming_normal_(linear.weight)
                nn.init.zeros_(linear.bias)
                layers += [linear, nn.LayerNorm(128), nn.ReLU()]
            return nn.Sequential(*layers, nn.Linear(128, 10))

    References
    ----------
    - Schoenholz, Gilmer, Ganguli, Sohl-Dickstein 2017, Deep information propagation.
    - Hayou, Doucet, Rousseau 2019, On the impact of the activation function on deep neural networks
      training.
    """

    code = "PRB106"
    name = "correlation-collapse"
    formula = "c' = (sqrt(1 - c^2) + c (pi - arccos c)) / pi for a ReLU;  1 - c -> 9 pi^2 / (2 L^2)"
    needs = frozenset({Need.GRAPH, Need.PROBE})
    stages = frozenset({Stage.FRESH})
    folds = ("zero-gradient",)

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding for the worst last layer that no longer tells inputs apart."""
        probe, graph = context.probe, context.model.graph
        if probe is None or probe.samples < MIN_SAMPLES or _alike(graph, probe):
            return
        found = []
        for head in graph.weighted:
            if not graph.is_head(head.id) or head.op is Op.EMBEDDING:
                continue
            entering = _entering(graph, probe, head)
            if entering is None:
                continue
            severity = _severity(entering, head, averaged=_averages(graph, head))
            if severity is not None and _reads_tiny_table(graph, probe, head):
                severity = Severity.INFO
            elif severity is Severity.ERROR and _soon_told_apart(probe):
                severity = Severity.WARNING
            if severity is not None:
                found.append((severity, -entering.distance, entering, head))
        if not found:
            return
        severity, _, entering, head = max(found, key=lambda item: (item[0].rank, item[1]))
        yield _finding(context, probe, severity, entering, head)


def _alike(graph: LayerGraph, probe: Activations) -> bool:
    """True when what is fed, or its embedding, is nearly the same for all samples."""
    first = [layer for layer in graph.order if layer.op in (Op.INPUT, Op.EMBEDDING)]
    seen = [
        stats.correlation
        for layer in first
        if (stats := probe.outputs.get(layer.id)) is not None and not isnan(stats.correlation)
    ]
    return bool(seen) and min(seen) > 1.0 - ALIKE_INPUTS


def _measured(layer: Layer, probe: Activations) -> _Seen | None:
    stats = probe.outputs.get(layer.id)
    if stats is None or isnan(stats.correlation) or stats.units < MIN_UNITS or stats.non_finite:
        return None
    return _Seen(layer, stats) if stats.rms > 0 else None


def _entering(graph: LayerGraph, probe: Activations, head: Layer) -> _Seen | None:
    """What a last layer reads, when that is the output of one layer."""
    producers = graph.effective_producers(head.id)
    return _measured(producers[0], probe) if len(producers) == 1 else None


def _soon_told_apart(probe: Activations) -> bool:
    """True when after two small steps the gradients of different inputs differ."""
    return bool(probe.responses) and probe.responses[-1].contrast >= CONTRAST


def _reads_tiny_table(graph: LayerGraph, probe: Activations, head: Layer) -> bool:
    """True when inputs are told apart by trainable rows that start near zero on purpose."""
    return any(
        graph[key].op is Op.EMBEDDING
        and (stats := probe.outputs.get(key)) is not None
        and stats.rms <= TINY_TABLE
        and any(param.trainable for param in graph[key].params)
        for key in _ancestors(graph, head.id)
    )


def _averages(graph: LayerGraph, head: Layer) -> bool:
    """True when positions are averaged on the way to a last layer.

    The mean of N positions of noise is N times nearer to its expectation: the cosine then speaks
    of the probe's inputs, whose positions are independent, more than of the network.
    """
    return any(
        graph[key].op in _MIXING
        or (graph[key].op in (Op.POOL, Op.REDUCE) and graph[key].attrs.get("kind") != "max")
        for key in _ancestors(graph, head.id)
    )


def _severity(entering: _Seen, head: Layer, *, averaged: bool) -> Severity | None:
    if entering.constant:
        return Severity.ERROR
    if averaged:
        return None
    dtype = head.weight.dtype if head.weight is not None else "float32"
    return severity_of(correlation_harm(entering.distance, dtype))


def _ancestors(graph: LayerGraph, key: str) -> set[str]:
    found: set[str] = set()
    waiting = [key]
    while waiting:
        for layer in graph.producers(waiting.pop()):
            if layer.id not in found:
                found.add(layer.id)
                waiting.append(layer.id)
    return found


def _shifted(context: Context, above: set[str]) -> list[tuple[Layer, Param]]:
    """Normalisers whose shift has more power than their gain, and those shifts.

    They add the same to every input: each leaves 1 - c a share of gain² / (gain² + shift²).
    """
    found = []
    for layer in context.model.graph.order:
        if layer.id not in above or layer.op not in NORMALISERS:
            continue
        gains = [context.measures.moments(param) for param in layer.with_role(Role.GAIN)]
        power = max((gain.second_moment for gain in gains if gain is not None), default=1.0)
        for shift in layer.with_role(Role.SHIFT):
            added = context.measures.moments(shift)
            if added is not None and added.second_moment > power:
                found.append((layer, shift))
    return found


def _finding(
    context: Context, probe: Activations, severity: Severity, entering: _Seen, head: Layer
) -> Finding:
    graph = context.model.graph
    above = _ancestors(graph, head.id)
    shifted = _shifted(context, above)
    profile = [
        seen
        for layer in graph.order
        if layer.id in above and (seen := _measured(layer, probe)) is not None
    ]
    limit = max(10 * entering.distance, 1e-12)
    start = next((seen.layer for seen in profile if seen.distance <= limit), entering.layer)
    distance = entering.distance
    said = "the same vector" if entering.constant else f"1 - cosine = {distance:.1e}"
    step = max(1, len(profile) // 12)
    keys = [layer.id for layer, _ in shifted] or [start.id]
    more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
    by = f" by the shift of {keys[0]}{more}" if shifted else ""
    return Finding(
        severity=severity,
        layer=keys[0],
        param=shifted[0][1].name if shifted else None,
        layers=tuple(dict.fromkeys((*keys, entering.layer.id, head.id))),
        message=f"different inputs reach {head.id} as {said}{by}",
        evidence={
            "distance": distance,
            "spread": entering.stats.row_std / entering.stats.rms,
            "samples": entering.stats.samples,
            "starts_at": start.id,
            "profile": [float(f"{seen.distance:.3g}") for seen in profile[::step]],
        },
        why="the last layer cannot tell inputs apart, so no step can move one output alone; more "
        "or augmented data is as alike there",
        measured=f"mean cosine {entering.stats.correlation:.6f} over {entering.stats.samples} "
        f"inputs, from {start.id} on",
        expected="1 - cosine above 0.01",
        fix=_fix([shift for _, shift in shifted]),
        shares={tuple(keys) if shifted else _makers(graph, probe, start): 1.0},
    )


def _fix(shifts: list[Param]) -> Fix:
    if shifts:
        params = tuple(shift.key for shift in shifts)
        return Fix("zeros", params=params, code=f"torch.nn.init.zeros_({shifts[0].name})")
    return Fix(
        "rescale",
        code="set biases to 0 and weights to the gain of their activation; in deep nets add "
        "normalisation or residual connections",
    )


def _makers(graph: LayerGraph, probe: Activations, start: Layer) -> tuple[str, ...]:
    """The weights behind which the distance is first lost; or what hands them zeros."""
    zeros = _zeros_before(graph, probe, start)
    if zeros:
        return tuple(dict.fromkeys(zeros))
    if start.op in WEIGHTED:
        return (start.id,)
    return tuple(layer.id for layer in graph.effective_producers(start.id)) or (start.id,)


def _zeros_before(graph: LayerGraph, probe: Activations, start: Layer) -> list[str]:
    """What makes the zeros that a layer reads nothing but: of sums, what is added."""
    found: list[str] = []
    seen = {start.id}
    waiting = [start]
    while waiting:
        for layer in graph.effective_producers(waiting.pop().id):
            stats = probe.outputs.get(layer.id)
            if stats is None or stats.rms != 0.0:
                return []
            if layer.op is Op.ADD and not layer.params and layer.id not in seen:
                waiting.append(layer)
            elif layer.id not in seen:
                found.append(layer.id)
            seen.add(layer.id)
    return found
