"""norm-gain-off: a normaliser's gain that starts away from one."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from math import log, log10, sqrt

from initlint.api import (
    NORMALISERS,
    Confidence,
    Context,
    Finding,
    Fix,
    Layer,
    Need,
    Param,
    Role,
    Rule,
    Severity,
    Sink,
    Stage,
    drift_severity,
    is_bypassed,
    record,
    residual_branches,
)

OFF = 0.1
"""Distance of the gain's mean from 1, or its standard deviation, from which it counts as off. The
widest start in use, DCGAN's N(1, 0.02), stays five times below; a gain off by a tenth moves a
signal by 0.04 decades."""


SIGMAS, LEAST = 4.0, 8
"""Standard errors within which a mean counts as 0, and the values it takes to tell: a gain of mean
1 and any spread in use lies hundreds away."""


@record(frozen=True, slots=True)
class _Gain:
    layer: Layer
    param: Param
    rms: float
    severity: Severity
    decades: float
    effect: str


class NormGainOff(Rule):
    """The gain of a normaliser on the main path starts away from 1.

    What it does
    ------------
    Finds gains (gamma) of normalisers whose start is not 1, at the ends of residual branches those
    far above 1 alone, and works out what this does to the signal behind them.

    Why is this bad
    ---------------
    The gain is the scale of everything that follows. Far above 1 it makes logits wide and the
    first loss large. Far below 1, the next normaliser sees a variance near its epsilon: with
    gamma = 0.001 and epsilon = 1e-5, nothing of the signal is left after ten conv-norm-ReLU
    blocks, whatever the weights are.

    How it decides
    --------------
    Mean of gamma off 1 by more than 0.1, or spread above 0.1: an info. Above 1 and with an
    output or softmax as the next end of the signal, the drift log10(gamma) decides (0.7 decades
    warning, 1.5 error). Below 1, what the epsilon of the following normalisers takes away,
    predicted and measured, and what a small gain on the trunk takes from the gradient of the
    weights that read it, log10(gamma), decide (1.5 decades warning, 4 error). Values on both
    sides of 0 (mean within four standard errors of it) were drawn as a weight is, which no
    recipe does: at least a warning. Four pre-norm blocks of N(0, 0.02) made 1 % of their twin's
    progress with SGD. Zero at the entry of a residual branch, seen to put out zeros: warning.
    The branch opens later than one that ends in a zero: two such networks made 0.54 and 0.68 of
    their twins' progress.

    What it does not flag
    ---------------------
    Normalisers at the end of a residual branch (zero gamma, small gamma), small gammas at its entry
    or before a head, zero gammas on the trunk (norm-gain-zero-on-trunk), N(1, 0.02) of DCGAN, gains
    stored as w with 1 + w in the graph (Gemma), LayerScale, trained gains.

    Example
    -------
    ::

        from torch import nn

        def model():
            layers = [nn.Linear(64, 64)]
            for _ in range(10):
                norm = nn.BatchNorm1d(64)
                nn.init.constant_(norm.weight, 1e-4)
                layers += [norm, nn.ReLU(), nn.Linear(64, 64)]
            return nn.Sequential(*layers, nn.Linear(64, 10))

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            layers = [nn.Linear(64, 64)]
            for _ in range(10):
                layers += [nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64)]
            return nn.Sequential(*layers, nn.Linear(64, 10))

    References
    ----------
    - Ioffe, Szegedy 2015, Batch normalization.
    - torch/nn/modules/batchnorm.py, reset_parameters: weight 1, bias 0.
    """

    code = "NRM601"
    name = "norm-gain-off"
    formula = "trunk variance v = k gamma^2 - eps (k about 0.6):  collapses at gamma^2 < eps / k"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH})
    optional = frozenset({Need.THEORY, Need.PROBE})
    stages = frozenset({Stage.FRESH})
    folds = (
        "epsilon-dominates",
        "forward-drift",
        "variance-profile",
        "gradient-profile",
        "correlation-collapse",
        "dead-relu",
        "saturation",
        "blocked-parameters",
        "zero-gradient",
    )

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding that names every such normaliser, the worst first."""
        graph = context.model.graph
        branches = residual_branches(graph)
        closing = {branch.closing_norm for branch in branches}
        entries = {branch.entry_norm for branch in branches} - closing
        examined = [
            item
            for layer in graph.order
            if layer.op in NORMALISERS
            if (item := _examine(context, layer, entries)) is not None
        ]
        grown = any(item.decades > 0 and item.severity > Severity.INFO for item in examined)
        found = [
            item
            for item in examined
            if item.layer.id not in closing or (grown and item.rms > 1 + OFF)
        ]
        if not found:
            return
        worst = max(found, key=lambda item: (item.severity.rank, abs(item.decades)))
        others = [item for item in found if item is not worst]
        more = f" (and {len(others)} more)" if others else ""
        yield Finding(
            severity=worst.severity,
            confidence=Confidence.HIGH,
            layer=worst.layer.id,
            param=worst.param.name,
            layers=(worst.layer.id, *(item.layer.id for item in others)),
            message=f"the gain of {worst.layer.id}{more} starts at {worst.rms:.3g} instead of 1"
            + worst.effect,
            evidence={
                "gain_rms": worst.rms,
                "decades": worst.decades,
                "normalisers": len(found),
            },
            why="the gain sets the scale of all that follows up to the next normaliser, and its "
            "epsilon does not shrink with it; weight decay pulls gains to 0, not to 1: leave them "
            "out of it",
            measured=f"gamma rms {worst.rms:.3g}",
            expected="gamma 1; 0 only at the end of a residual branch",
            fix=Fix(
                "ones",
                params=tuple(item.param.key for item in found),
                code=f"torch.nn.init.ones_({worst.param.name})",
            ),
        )


def _examine(context: Context, layer: Layer, entries: Collection[str | None]) -> _Gain | None:
    """The layer's gain when it is off, with the harm it does."""
    param = next(iter(layer.with_role(Role.GAIN)), None)
    moments = context.measures.moments(param) if param is not None else None
    if param is None or moments is None or moments.non_finite:
        return None
    if context.measures.stage(param) is Stage.TRAINED:
        return None
    if moments.max_abs == 0:
        shut = layer.id in entries and _is_silent(context, layer)
        effect = ": the branch behind it reads zeros and gets no gradient before it has moved"
        return _Gain(layer, param, 0.0, Severity.WARNING, 0.0, effect) if shut else None
    if abs(moments.mean - 1) <= OFF and moments.std <= OFF:
        return None
    rms = moments.second_moment**0.5
    grown, lost = _growth(context, layer, rms), _lost_to_epsilon(context, layer, rms)
    by_growth = drift_severity(grown, 0.0, Sink.OUTPUT)
    by_loss = drift_severity(lost, 0.0, Sink.OUTPUT)
    slowed = _slowed(context, layer, rms)
    by_slowness = drift_severity(slowed, 0.0, Sink.OUTPUT)
    severity = max(item or Severity.INFO for item in (by_growth, by_loss, by_slowness))
    effect = ""
    if param.size >= LEAST and abs(moments.mean) * sqrt(param.size) <= SIGMAS * moments.std:
        severity = max(severity, Severity.WARNING)
        effect = ": drawn around 0 as a weight is, it turns half of the channels around"
    if by_growth is not None:
        effect = f": what leaves the network is 10^{grown:.1f} times too large"
    elif by_loss is not None:
        effect = f": epsilon leaves 10^{lost:.1f} of the signal"
    elif by_slowness is not None:
        effect = f": the weights that read it get 10^{slowed:.1f} of their gradient"
    decades = grown if by_growth is not None else min(lost, slowed)
    return _Gain(layer, param, rms, severity, decades, effect)


def _is_silent(context: Context, layer: Layer) -> bool:
    stats = context.probe.outputs.get(layer.id) if context.probe else None
    return stats is not None and stats.count > 0 and stats.rms == 0.0


def _growth(context: Context, layer: Layer, rms: float) -> float:
    """Decades by which the gain lifts an output or a softmax, when that is where it leads."""
    if context.theory is None or rms <= 1:
        return 0.0
    sinks = {segment.sink for segment in context.theory.segments if segment.path[:1] == (layer.id,)}
    return log10(rms) if sinks & {Sink.OUTPUT, Sink.SOFTMAX} else 0.0


def _slowed(context: Context, layer: Layer, rms: float) -> float:
    """Decades that a small gain on the trunk takes from the gradient of the weights that read it.

    Their gradient is the product of what they read and what comes back; the next normaliser
    restores the signal, and its own small gain cancels what it would restore of the gradient. What
    only a head reads is a small head, and a branch beside a trunk is small on purpose.
    """
    graph = context.model.graph
    if rms >= 1 or graph.leads_to_heads(layer.id):
        return 0.0
    return 0.0 if is_bypassed(graph, (layer.id,)) else log10(rms)


def _lost_to_epsilon(context: Context, layer: Layer, rms: float) -> float:
    """Decades between what the normaliser puts out and its gain and shift: its epsilon's share."""
    shift = next(iter(layer.with_role(Role.SHIFT)), None)
    moments = context.measures.moments(shift) if shift is not None else None
    power = rms * rms + (moments.second_moment if moments is not None else 0.0)
    stats = context.probe.outputs.get(layer.id) if context.probe else None
    if stats is not None and stats.count:
        return min(log10(max(stats.rms, 1e-300)) - 0.5 * log10(power), 0.0)
    signal = context.theory.forward.get(layer.id) if context.theory else None
    if signal is None:
        return 0.0
    return min(0.5 * (max(signal.log_q, -690.0) / log(10) - log10(power)), 0.0)
