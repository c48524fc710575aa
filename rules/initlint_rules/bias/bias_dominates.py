"""bias-dominates: biases so large that a layer's output hardly depends on its input."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, sqrt

from initlint.api import (
    Confidence,
    Context,
    Finding,
    Fix,
    Layer,
    Need,
    Op,
    Rule,
    Severity,
    Stage,
    correlation_harm,
    fans,
    forward_gain,
    gates,
    input_rms,
    record,
    saturation_harm,
    severity_of,
)

MOSTLY = 0.5
"""Share of a pre-activation's power from which the bias says more than the input does."""

ENOUGH_GAIN = 0.5
"""Share of the gain (in power) its activation wants that the weights must have before the bias is
to blame: below, the weights are too small, which other rules report. PyTorch's default has a sixth
of what a ReLU wants."""


@record(frozen=True, slots=True)
class _Layer:
    layer: Layer
    share: float
    bias_rms: float
    distance: float
    severity: Severity
    own: bool
    """Whether it would outweigh an input of unit rms too."""


class BiasDominates(Rule):
    """Biases outweigh the weights: a layer's output hardly depends on its input.

    What it does
    ------------
    Compares the power of a layer's bias with the power that its weights carry over from the input.

    Why is this bad
    ---------------
    The bias adds the same to every sample. Where it makes up most of the pre-activation, samples
    become alike, the more so with every layer, and the rms looks healthy all the while. Units whose
    bias is far below zero are switched off by a ReLU, those far above make it linear.

    How it decides
    --------------
    Bias power above half of the pre-activation's, while the weights have at least half of the gain
    that their activation wants; at the end of a residual branch, above half of the sum's: an info.
    From there the cosine c between different samples behind
    the layer, measured or predicted, decides: 1 - c below 1e-3 warning, below the rounding of the
    number format error; or the share of saturated units behind it: 30 % warning, 70 % error.

    What it does not flag
    ---------------------
    Biases of 0.01 to 0.1 that keep ReLUs alive, gates, recurrent layers, heads, layers that a
    normaliser follows, first layers (the scale of data is not known), weights that are too small
    themselves, trained weights.

    Example
    -------
    ::

        from torch import nn

        def model():
            layers = [nn.Linear(64, 64), nn.ReLU()]
            for _ in range(4):
                linear = nn.Linear(64, 64)
                nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
                nn.init.normal_(linear.bias, std=10.0)
                layers += [linear, nn.Tanh()]
            return nn.Sequential(*layers, nn.Linear(64, 10))

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            layers = [nn.Linear(64, 64), nn.ReLU()]
            for _ in range(4):
                linear = nn.Linear(64, 64)
                nn.init.xavier_normal_(linear.weight)
                nn.init.zeros_(linear.bias)
                layers += [linear, nn.Tanh()]
            return nn.Sequential(*layers, nn.Linear(64, 10))

    References
    ----------
    - Schoenholz et al. 2017, Deep information propagation: the bias variance sets the ordered
      phase.
    """

    code = "BIA901"
    name = "bias-dominates"
    formula = "z = W x + b:  share of b = Var(b) / (Var(b) + n Var(W) E[x^2])"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.THEORY})
    optional = frozenset({Need.PROBE})
    stages = frozenset({Stage.FRESH})
    folds = (
        "correlation-collapse",
        "saturation",
        "dead-relu",
        "forward-drift",
        "backward-drift",
        "variance-profile",
        "gradient-profile",
        "zero-gradient",
        "residual-branch-unscaled",
    )

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding that names every such layer, the worst first."""
        gating = {gate.source for gate in gates(context.model.graph)}
        found = [
            item
            for layer in context.model.graph.weighted
            if layer.id not in gating and (item := _examine(context, layer)) is not None
        ]
        if not found:
            return
        worst = max(found, key=lambda item: (item.severity.rank, -item.distance))
        keys = (worst.layer.id, *(item.layer.id for item in found if item is not worst))
        bias = worst.layer.bias
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        yield Finding(
            severity=worst.severity,
            confidence=Confidence.HIGH if context.probe is not None else Confidence.MEDIUM,
            layer=worst.layer.id,
            param=bias.name if bias is not None else None,
            layers=keys,
            message=f"the bias of {worst.layer.id}{more} makes up {worst.share:.0%} of its power",
            evidence={
                "bias_share": worst.share,
                "bias_rms": worst.bias_rms,
                "one_minus_cosine": worst.distance,
                "layers": len(found),
            },
            why="a bias adds the same to every sample, so samples become alike with every layer",
            measured=f"bias rms {worst.bias_rms:.3g}, cosine between samples "
            f"{1 - worst.distance:.4f}",
            expected="bias 0, or well below the rms of the weighted sum",
            fix=Fix(
                "zeros",
                params=tuple(item.layer.bias.key for item in found if item.layer.bias is not None),
                code=f"torch.nn.init.zeros_({bias.name})" if bias is not None else "",
            ),
            shares={(item.layer.id,): 1.0 for item in found if item.own},
        )


def _examine(context: Context, layer: Layer) -> _Layer | None:
    """The layer, when its bias dominates and its weights do not invite it."""
    graph = context.model.graph
    weight, bias = layer.weight, layer.bias
    if layer.op not in (Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE) or weight is None or bias is None:
        return None
    if graph.is_head(layer.id) or _reads_data(context, layer):
        return None
    if Stage.TRAINED in (context.measures.stage(weight), context.measures.stage(bias)):
        return None
    fan, moments = fans(layer, weight), context.measures.moments(bias)
    std, entering = context.measures.effective_std(weight), _entering(context, layer)
    if fan is None or moments is None or not std or not entering:
        return None
    power = fan.fan_in * std * std
    behind = _behind(context, layer, power)
    if behind is None:
        return None
    carried = power * entering * entering + behind.trunk**2
    share = moments.second_moment / (moments.second_moment + carried)
    if not share >= MOSTLY:  # also where the signal is not finite
        return None
    distance = _distance(context, layer.id)
    stats = context.probe.outputs.get(behind.layer) if context.probe else None
    saturated = saturation_harm(stats.saturated_share) if stats is not None else None
    severity = max(
        severity_of(correlation_harm(distance, weight.dtype)) or Severity.INFO,
        severity_of(saturated) or Severity.INFO,
    )
    own = moments.second_moment > power + (1.0 if behind.trunk else 0.0)
    return _Layer(layer, share, sqrt(moments.second_moment), distance, severity, own)


@record(frozen=True, slots=True)
class _Behind:
    """What reads a pre-activation: an activation, or the sum at the end of a residual branch."""

    layer: str
    trunk: float = 0.0
    """Rms of what the sum has besides."""


def _behind(context: Context, layer: Layer, power: float) -> _Behind | None:
    """None where the bias is not to blame: nothing reads it, or the weights are too small."""
    activation = context.model.graph.activation(layer.id)
    if activation is not None:
        enough = ENOUGH_GAIN * forward_gain(activation.op, activation.attrs) ** 2
        return _Behind(activation.id) if power >= enough else None
    for branch in context.theory.residuals if context.theory else ():
        trunk = _rms(context, branch.trunk) if branch.last == layer.id else None
        if trunk and not (branch.normalised or branch.gated):
            return _Behind(branch.add, trunk)
    return None


def _reads_data(context: Context, layer: Layer) -> bool:
    producers = context.model.graph.effective_producers(layer.id)
    return any(producer.op in (Op.INPUT, Op.CONSTANT) for producer in producers)


def _entering(context: Context, layer: Layer) -> float | None:
    """Rms of the layer's input: measured, else predicted."""
    if context.probe is not None:
        measured = input_rms(layer.id, context.model.graph, context.probe)
        if measured is not None:
            return measured
    edges = context.model.graph.inputs(layer.id)
    return _rms(context, edges[0].source) if edges else None


def _rms(context: Context, key: str) -> float | None:
    """Rms of a layer's output: measured, else predicted."""
    stats = context.probe.outputs.get(key) if context.probe else None
    if stats is not None and stats.count and stats.rms == stats.rms:
        return stats.rms
    signal = context.theory.forward.get(key) if context.theory else None
    if signal is None or not -600 < signal.log_q < 600:
        return None
    return exp(0.5 * signal.log_q)


def _distance(context: Context, key: str) -> float:
    """1 - c between different samples behind a layer; NaN where it is not known."""
    stats = context.probe.outputs.get(key) if context.probe else None
    if stats is not None:
        return max(1 - stats.correlation, 0.0) if stats.correlation == stats.correlation else 1.0
    signal = context.theory.forward.get(key) if context.theory else None
    return max(1 - signal.correlation, 0.0) if signal is not None else 1.0
