"""mean-shifted-weights: a matrix whose mean outweighs its spread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf, log10, sqrt

from initlint.api import (
    Context,
    Family,
    Finding,
    Fix,
    Layer,
    Moments,
    Need,
    Op,
    Param,
    Role,
    Rule,
    Severity,
    Share,
    Sink,
    Stage,
    dominators,
    drift_share,
    fans,
    record,
)
from initlint_rules._consequences import SIGNALS

SIGMAS = 6.0
"""Standard errors by which the mean must differ from zero: chance gives 2e-9 per tensor."""

ONE_SIDED = 0.05
"""Part of the range below which the smallest value is called zero in the message."""

COMMON_KEPT = frozenset({Op.BATCH_NORM, Op.INSTANCE_NORM, Op.RMS_NORM})
"""Normalisers that leave what all units have in common: the others subtract a mean over units."""

ALIKE = ((-2.5, Severity.ERROR), (-1.0, Severity.WARNING))
"""Decades of the differences between units below which training suffers. Nets of six layers of 64
ReLUs with U(0, 1) in the first one to six, trained for 60 steps by SGD and Adam: at -0.25 as well
as without, at -1.4 half of the progress (both optimisers behind BatchNorm, SGD behind RMSNorm),
from -2.5 a quarter of it or less by SGD. Behind LayerNorm nothing is lost."""

_MATRICES = frozenset({Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE, Op.RNN, Op.LSTM, Op.GRU})
_RANDOM = frozenset({Family.UNIFORM, Family.NORMAL, Family.TRUNCATED_NORMAL})


@record(frozen=True, slots=True)
class _Shifted:
    layer: Layer
    param: Param
    moments: Moments
    spike: float
    edge: float


class MeanShiftedWeights(Rule):
    """The mean of a weight matrix makes one direction larger than all random ones.

    What it does
    ------------
    Finds weights drawn around a mean other than zero, for which the constant part of the matrix has
    a larger singular value than the random part.

    Why is this bad
    ---------------
    All units then compute nearly the same thing, the sum of their inputs, and the signal grows with
    the number of inputs in place of its root. With ``torch.rand`` for ``torch.randn`` at width 1024
    the singular value of the mean is 28 times that of the rest.

    How it decides
    --------------
    The mean is six standard errors from zero, and ``|mean| sqrt(in out)`` exceeds the edge of the
    random part, ``std (sqrt(in) + sqrt(out))``: below the edge the mean is lost in the noise. The
    severity is the layers' share of the predicted drift, or, where a batch, instance or RMS
    normaliser takes the drift away, of what is left of the differences between units: with units
    s + d_j the common s grows by ``|mean| in``, the differences by ``std sqrt(in)``, and the
    normaliser divides by s: 10^-1 warning, 10^-2.5 error. Without harm it is an info.

    What it does not flag
    ---------------------
    Biases, gains and gates, embeddings, averaging and bilinear kernels, depthwise kernels,
    constants, weights of one sign by construction that pass through a function first, trained
    weights.

    Example
    -------
    ::

        import torch
        from torch import nn

        def model():
            net = nn.Sequential(
                nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
            )
            with torch.no_grad():
                for layer in net[::2]:
                    layer.weight.copy_(torch.rand_like(layer.weight) * 0.2)
                    layer.bias.zero_()
            return net

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        def model():
            net = nn.Sequential(
                nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
            )
            with torch.no_grad():
                for layer in net[::2]:
                    layer.weight.copy_((torch.rand_like(layer.weight) - 0.5) * 0.6)
                    layer.bias.zero_()
            return net

    References
    ----------
    - Marchenko, Pastur 1967: the edge of a random matrix's singular values.
    - Baik, Ben Arous, Peche 2005: when a rank-one part leaves it.
    """

    code = "SYM106"
    name = "mean-shifted-weights"
    formula = (
        "|mean| sqrt(n m) > std (sqrt(n) + sqrt(m)): the spike leaves the bulk (Marchenko-Pastur)"
    )
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.THEORY})
    optional = frozenset({Need.PROBE})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    local = True
    folds = (
        *SIGNALS,
        "gain-mismatch",
        "inconsistent-siblings",
        "recurrent-not-orthogonal",
        "residual-branch-unscaled",
    )

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding that names every such layer."""
        found = [
            shifted
            for layer, param in context.model.graph.params
            if (shifted := _shifted(context, layer, param)) is not None
        ]
        if found:
            share = drift_share(context, {item.layer.id: inf for item in found})
            yield _finding(found, share, _difference(context, found))


def _shifted(context: Context, layer: Layer, param: Param) -> _Shifted | None:
    if layer.op not in _MATRICES or param.role not in (Role.WEIGHT, Role.RECURRENT_WEIGHT):
        return None
    if not param.trainable or param.quantised or int(layer.attrs.get("groups", 1)) > 1:
        return None
    fan, moments = fans(layer, param), context.measures.moments(param)
    if fan is None or moments is None or moments.std == 0.0:
        return None
    if abs(moments.mean) * sqrt(moments.count) <= SIGMAS * moments.std:
        return None
    spike = abs(moments.mean) * sqrt(fan.fan_in * fan.fan_out)
    edge = moments.std * (sqrt(fan.fan_in) + sqrt(fan.fan_out))
    if spike <= edge or context.measures.stage(param) is not Stage.FRESH:
        return None
    if context.measures.identify(param).family not in _RANDOM:
        return None
    return _Shifted(layer, param, moments, spike, edge)


def _difference(context: Context, found: Sequence[_Shifted]) -> float:
    """Decades by which units differ less than they agree, behind layers in series.

    The first sums inputs that are no copies of each other, and so do layers behind one that mixes
    them anew: there the common part grows with the root of their number, as the differences do.
    """
    if context.theory is None:
        return 0.0
    graph, trunk = context.model.graph, frozenset(dominators(context.model.graph))
    followed = {
        key
        for segment in context.theory.segments
        if segment.sink is Sink.NORMALISER and graph[segment.path[-1]].op in COMMON_KEPT
        for key in segment.layers
    }
    shifted = {item.layer.id: item for item in found if item.layer.id in followed}
    total, before = 0.0, False
    for layer in graph.weighted:
        if layer.id not in trunk or layer.weight is None or layer.op not in _MATRICES:
            continue
        item = shifted.get(layer.id)
        if item is not None:
            fan = fans(layer, item.param)
            total += log10(item.moments.std / abs(item.moments.mean))
            total -= 0.5 * log10(fan.fan_in) if before and fan is not None else 0.0
        before = item is not None
    return min(total, 0.0)


def _finding(found: list[_Shifted], share: Share, difference: float) -> Finding:
    first = max(found, key=lambda item: item.spike / item.edge)
    layers = tuple(dict.fromkeys(item.layer.id for item in found))
    low, high = first.moments.min, first.moments.max
    one_sided = abs(low) < ONE_SIDED * (high - low)
    count = layers[0] if len(layers) == 1 else f"{len(layers)} layers"
    guess = f"; it looks like a draw from 0 to {high:.2g}" if one_sided else ""
    alike = next((level for limit, level in ALIKE if difference <= limit), None)
    if alike is not None:
        guess += f"; units end up as copies, apart by 10^{difference:.1f} of what they share"
    return Finding(
        severity=max(share.severity or Severity.INFO, alike or Severity.INFO),
        layer=first.layer.id,
        param=first.param.name,
        layers=layers,
        message=f"weights of {count} have mean {first.moments.mean:.2g} "
        f"(std {first.moments.std:.2g}): one direction outweighs all others "
        f"{first.spike / first.edge:.2g} times{guess}",
        evidence={
            "mean": first.moments.mean,
            "std": first.moments.std,
            "singular_value_of_mean": first.spike,
            "random_edge": first.edge,
            "min": low,
            "decades": share.decades,
            "unit_difference_decades": difference,
            "layers": len(layers),
        },
        why="the mean adds up over inputs while random parts average out: all units follow the "
        "sum of their inputs",
        measured=f"mean {first.moments.mean:.3g}, singular value {first.spike:.3g}",
        expected=f"mean 0; random part up to {first.edge:.3g}",
        fix=Fix(
            "scale_preserving",
            params=tuple(item.param.key for item in found),
            code=f"draw {first.param.name} around zero: randn in place of rand, or subtract the "
            "mean and rescale",
        ),
    )
