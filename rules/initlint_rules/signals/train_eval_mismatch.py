"""train-eval-mismatch: the signal has another scale in training than in evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import exp, log10, sqrt

import numpy as np

from initlint.api import (
    NORMALISERS,
    RECURRENT,
    SATURATING,
    Context,
    Finding,
    Fix,
    Layer,
    LayerGraph,
    Need,
    Op,
    Prediction,
    Role,
    Rule,
    Severity,
    Stage,
    record,
)

INFO = 0.31
"""Decades of rms: a factor above 2, which two dropouts of one half make: classifiers of the AlexNet
kind have trained with it unharmed."""

WARNING = 0.5
"""Decades of rms: the second moment differs tenfold, and with it the logits' spread."""

_RESETS = NORMALISERS | SATURATING | RECURRENT | {Op.EMBEDDING, Op.SOFTMAX, Op.ATTENTION, Op.INPUT}
"""What gives its output a scale of its own, whatever enters."""

_ATTENTION = frozenset({Op.SOFTMAX, Op.ATTENTION})


@record(frozen=True, slots=True)
class _Norm:
    layer: Layer
    stored: float
    seen: float

    @property
    def decades(self) -> float:
        return 0.5 * log10(self.seen / self.stored)


class TrainEvalMismatch(Rule):
    """The signal has another scale in training than in evaluation: dropout, or stale statistics.

    What it does
    ------------
    Multiplies the factors by which dropouts raise the second moment in training, along stretches
    that no normaliser resets; and, in trained models with inputs of yours, compares the running
    variances of batch norms with those of the inputs.

    Why is this bad
    ---------------
    Inverted dropout keeps the mean and raises the second moment by 1/(1-p). Ten dropouts of one
    half in a plain network make the logits 32 times wider in training than in evaluation: the loss
    that is optimised is not the one that is reported. A batch norm with statistics of other data
    evaluates with the wrong scale in every layer behind it.

    How it decides
    --------------
    Dropout: exact for weights with mean zero. At a sum the parts are weighted by their predicted
    second moments; normalisers, bounded activations, recurrent and attention layers reset the
    scale. At an output, more than a factor of 2 in rms is an info, one of 3.2 (half a decade) a
    warning. Batch norms: the median over layers of measured over stored variance, by the same
    limits.

    What it does not flag
    ---------------------
    Dropout behind which a normaliser stands, on attention weights, or on small branches beside a
    trunk; batch norms of fresh models, whose statistics (0, 1) are expected to differ until the
    first training steps; inputs that initlint made up.

    Example
    -------
    ::

        from torch import nn

        def model():
            layers = []
            for _ in range(8):
                linear = nn.Linear(256, 256)
                nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
                nn.init.zeros_(linear.bias)
                layers += [linear, nn.ReLU(), nn.Dropout(0.5)]
            return nn.Sequential(*layers, nn.Linear(256, 10))

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            layers = []
            for _ in range(8):
                linear = nn.Linear(256, 256)
                nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
                nn.init.zeros_(linear.bias)
                layers += [linear, nn.LayerNorm(256), nn.ReLU(), nn.Dropout(0.5)]
            return nn.Sequential(*layers, nn.Linear(256, 10))

    References
    ----------
    - Srivastava et al. 2014, Dropout: a simple way to prevent neural networks from overfitting.
    - Li, Chen, Hu, Yang 2019, Understanding the disharmony between dropout and batch
      normalization by variance shift.
    """

    code = "PRB108"
    name = "train-eval-mismatch"
    formula = "E[x^2](training) = E[x^2](evaluation) * prod 1/(1 - p)"
    needs = frozenset({Need.GRAPH})
    optional = frozenset({Need.THEORY, Need.PROBE})
    stages = frozenset({Stage.FRESH, Stage.TRAINED, Stage.MIXED})

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding for dropout and one for batch norms."""
        if context.stage is Stage.FRESH:
            yield from _dropout(context)
        elif context.probe is not None and context.probe.given:
            yield from _batch_norms(context)


def _dropout(context: Context) -> Iterator[Finding]:
    graph = context.model.graph
    dropouts = [layer for layer in graph.order if layer.op is Op.DROPOUT and _raises(graph, layer)]
    if not dropouts:
        return
    factors = _factors(graph, context.theory)
    ends = [layer for layer in graph.order if layer.op is Op.OUTPUT]
    end = max(ends, key=lambda layer: factors[layer.id], default=None)
    if end is None or 0.5 * log10(factors[end.id]) < INFO:
        return
    above = graph.upstream((end.id,))
    guilty = [layer for layer in dropouts if layer.id in above]
    decades = 0.5 * log10(factors[end.id])
    rates = sorted({float(layer.attrs.get("p", 0.0)) for layer in guilty})
    shown = ", ".join(f"{rate:g}" for rate in rates)
    ratio = sqrt(factors[end.id])
    yield Finding(
        severity=Severity.WARNING if decades >= WARNING else Severity.INFO,
        layer=guilty[0].id,
        layers=tuple(layer.id for layer in guilty),
        message=f"{len(guilty)} dropouts make the output {ratio:.3g} times wider in training than "
        "in evaluation",
        evidence={
            "ratio": ratio,
            "decades": decades,
            "dropouts": len(guilty),
            "rates": rates,
            "output": end.id,
        },
        why="inverted dropout keeps the mean but raises the second moment by 1/(1-p), and no "
        "normaliser resets it",
        measured=f"p = {shown}: a factor of {ratio:.3g} in rms at {end.id}",
        expected="less than 2",
        fix=Fix(
            "normalise",
            code="put a normaliser behind each dropout or a smaller p; weights need no change, "
            "evaluation does not see the factor",
        ),
    )


def _raises(graph: LayerGraph, layer: Layer) -> bool:
    """True for a dropout that acts on the signal: not on attention weights, and with 0 < p < 1."""
    rate = layer.attrs.get("p", 0.0)
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0.0 < rate < 1.0:
        return False
    return not any(above.op in _ATTENTION for above in graph.effective_producers(layer.id))


def _factors(graph: LayerGraph, theory: Prediction | None) -> Mapping[str, float]:
    """Second moment in training over that in evaluation, at every layer's output."""
    found: dict[str, float] = {}
    for layer in graph.order:
        before = [found.get(edge.source, 1.0) for edge in graph.inputs(layer.id)]
        if not before or layer.op in _RESETS:
            found[layer.id] = 1.0
        elif layer.op is Op.DROPOUT and _raises(graph, layer):
            found[layer.id] = before[0] / (1.0 - float(layer.attrs["p"]))
        elif layer.op in (Op.ADD, Op.SUB, Op.CONCAT):
            found[layer.id] = _mean(graph, layer, before, theory)
        elif layer.op is Op.MUL:
            found[layer.id] = float(np.prod(before))
        else:
            found[layer.id] = max(before)
    return found


def _mean(
    graph: LayerGraph, layer: Layer, before: Sequence[float], theory: Prediction | None
) -> float:
    """The factors of a sum's parts, weighted by their second moments; equal where unknown."""
    forward = theory.forward if theory is not None else {}
    signals = [forward.get(edge.source) for edge in graph.inputs(layer.id)]
    logs = [signal.log_q for signal in signals if signal is not None]
    if len(logs) < len(signals) or not logs:
        return sum(before) / len(before)
    weights = [exp(max(log - max(logs), -700.0)) for log in logs]
    return sum(w * factor for w, factor in zip(weights, before, strict=True)) / sum(weights)


def _batch_norms(context: Context) -> Iterator[Finding]:
    norms = [norm for layer in context.model.graph.order if (norm := _norm(context, layer))]
    if not norms:
        return
    middle = float(np.median([norm.decades for norm in norms]))
    if abs(middle) < INFO:
        return
    worst = max(norms, key=lambda norm: abs(norm.decades))
    ratio = 10.0**middle
    yield Finding(
        severity=Severity.WARNING if abs(middle) >= WARNING else Severity.INFO,
        layer=worst.layer.id,
        layers=tuple(norm.layer.id for norm in norms if abs(norm.decades) >= INFO),
        message=f"the running variances of {len(norms)} batch norms are not those of the given "
        f"inputs: the signal is {ratio:.2g} times as wide as they say",
        evidence={"ratio": ratio, "decades": middle, "batch_norms": len(norms)},
        why="in evaluation a batch norm divides by what it stored, not by what it sees",
        measured=f"{worst.layer.id} stored a variance of {worst.stored:.3g} and sees "
        f"{worst.seen:.3g}",
        expected="equal within a factor of 4",
        fix=Fix(
            "recalibrate",
            code="run some batches of these inputs in training mode, without a step, to renew the "
            "statistics; or feed the inputs as in training",
        ),
    )


def _norm(context: Context, layer: Layer) -> _Norm | None:
    """Stored and measured variance over all channels of a batch norm."""
    if layer.op is not Op.BATCH_NORM or context.probe is None:
        return None
    edges = context.model.graph.inputs(layer.id)
    stats = context.probe.outputs.get(edges[0].source) if edges else None
    arrays = [
        context.measures.read(param)
        for role in (Role.RUNNING_VAR, Role.RUNNING_MEAN)
        for param in layer.with_role(role)
    ]
    if stats is None or stats.non_finite or len(arrays) != 2 or any(a is None for a in arrays):
        return None
    variance, mean = (np.asarray(array, dtype=np.float64) for array in arrays)
    stored = float(variance.mean() + mean.var())
    seen = stats.std**2
    if not (np.isfinite(stored) and stored > 0 and seen > 0):
        return None
    if np.all(variance == 1.0) and np.all(mean == 0.0):
        return None  # never updated: running-stats-invalid speaks about that
    return _Norm(layer, stored, seen)
