"""relu-after-xavier: weights drawn for a linear unit, before a rectifier that halves the signal."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

from initlint.api import (
    RELU_FAMILY,
    Context,
    Finding,
    Fix,
    Layer,
    Match,
    Need,
    Op,
    Param,
    Rule,
    Segment,
    Severity,
    Stage,
    backward_severity,
    drift_severity,
    fans,
    measured_drift,
    record,
)
from initlint_rules._consequences import SIGNALS

UNIT_GAIN = 0.02
"""Relative tolerance on the gain 1 of Xavier and LeCun: He's sqrt(2) is 41 % away, leaky ReLU's at
slope 0.2 is 39 % away, a truncation that was not corrected 12 %."""

WANTED = sqrt(2.0)
"""He et al. 2015, equation 10: a rectifier halves the second moment; weights make up for it."""


@record(frozen=True, slots=True)
class _Layer:
    layer: Layer
    param: Param
    match: Match
    activation: Layer


class ReluAfterXavier(Rule):
    """Xavier/Glorot or LeCun weights feed a ReLU, which wants sqrt(2) times as much.

    What it does
    ------------
    Finds layers whose weights carry the exact scale of Xavier (2 / (fan_in + fan_out)) or LeCun
    (1 / fan_in) with gain 1, and whose output goes into a ReLU-family activation.

    Why is this bad
    ---------------
    Xavier's derivation assumes a unit slope around zero. A ReLU passes half of the second moment,
    so each such layer multiplies signal and gradient by 0.71: harmless over five layers, a factor
    1/30 over ten, and 10^-4.4 over thirty, where SGD does not move.

    How it decides
    --------------
    The pattern alone is an info. The severity is its share of the predicted drift along the
    un-normalised stretch it sits on, forward or backward: from 10^-1.5 a warning, from 10^-4 an
    error, and what the probe measured overrides the prediction where it is milder.

    What it does not flag
    ---------------------
    Weights whose scale also fits He. Layers followed by a normaliser stay an info: there the scale
    changes only the effective learning rate. Leaky ReLU with a slope near 1. Trained weights.

    Example
    -------
    ::

        from torch import nn

        def model():
            layers = []
            for _ in range(30):
                linear = nn.Linear(256, 256)
                nn.init.xavier_uniform_(linear.weight)
                nn.init.zeros_(linear.bias)
                layers += [linear, nn.ReLU()]
            return nn.Sequential(*layers, nn.Linear(256, 10))

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            layers = []
            for _ in range(30):
                linear = nn.Linear(256, 256)
                nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
                nn.init.zeros_(linear.bias)
                layers += [linear, nn.ReLU()]
            return nn.Sequential(*layers, nn.Linear(256, 10))

    References
    ----------
    - Glorot, Bengio 2010, Understanding the difficulty of training deep feedforward neural
      networks.
    - He, Zhang, Ren, Sun 2015, Delving deep into rectifiers, equation 10.
    """

    code = "SCL208"
    name = "relu-after-xavier"
    formula = "per layer: E[relu(z)^2] = 1/2, so q' = q / 2 at Var(W) = 1 / n;  He: 2 / n"
    about_scale = True
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.THEORY})
    optional = frozenset({Need.PROBE})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    local = True
    folds = (*SIGNALS, "gain-mismatch", "inconsistent-siblings")

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding that names every such layer."""
        found = [
            item
            for layer in context.model.graph.weighted
            if (item := _examine(context, layer)) is not None
        ]
        if not found or context.theory is None:
            return
        keys = frozenset(item.layer.id for item in found)
        harm = max(
            (_harm(context, segment, keys) for segment in context.theory.segments),
            key=lambda item: (item[0].rank, abs(item[1])),
            default=(Severity.INFO, 0.0, None),
        )
        severity, decades, segment = harm
        first = next((i for i in found if segment and i.layer.id in segment.layers), found[0])
        moments = context.measures.moments(first.param)
        fan = fans(first.layer, first.param)
        if moments is None or fan is None:
            return
        schemes = " and ".join(sorted({item.match.scheme for item in found}))
        count = f"{len(found)} layers" if len(found) > 1 else first.layer.id
        effect = ""
        if severity > Severity.INFO and segment is not None:
            length = len(keys.intersection(segment.layers))
            effect = f"; signal shrinks 10^{abs(decades):.1f} times over {length} layers"
        yield Finding(
            severity=severity,
            layer=first.layer.id,
            param=first.param.name,
            layers=tuple(item.layer.id for item in found),
            message=f"{schemes} weights feed a ReLU in {count}{effect}",
            evidence={
                "scheme": first.match.scheme,
                "std": moments.std,
                "std_wanted": sqrt(2.0 / fan.fan_in),
                "fan_in": fan.fan_in,
                "fan_out": fan.fan_out,
                "decades": decades,
                "layers": len(found),
            },
            why="a ReLU halves the second moment; Xavier and LeCun weights do not make up for it"
            + (
                ""
                if severity > Severity.INFO
                else "; here depth or a normaliser keeps it harmless (before one, lr/|w|^2 counts: "
                f"{2.0 / (fan.fan_in * moments.second_moment):.2g} times He's)"
            ),
            measured=f"std {moments.std:.3g} ({schemes}, fan_in {fan.fan_in:g}, gain 1)",
            expected=f"std {sqrt(2.0 / fan.fan_in):.3g} (He: sqrt(2 / fan_in))",
            fix=Fix(
                "he_normal",
                params=tuple(item.param.key for item in found),
                code=f"torch.nn.init.kaiming_normal_({first.param.name}, nonlinearity='relu')",
                arguments={"gain": WANTED},
            ),
        )


def _examine(context: Context, layer: Layer) -> _Layer | None:
    """The layer's weight, scheme and activation when they form the pattern."""
    param = layer.weight
    if layer.op not in (Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE) or param is None:
        return None
    if not param.trainable or context.measures.stage(param) is Stage.TRAINED:
        return None
    activation = context.model.graph.activation(layer.id) or _behind_norm(context, layer)
    if activation is None or activation.op not in RELU_FAMILY:
        return None
    if abs(float(activation.attrs.get("negative_slope", 0.0))) > 0.5:
        return None
    matches = context.measures.identify(param).matches
    unit = [match for match in matches if match.true_fan and abs(match.gain - 1) < UNIT_GAIN]
    match = next((m for m in unit if m.scheme.startswith(("xavier", "lecun"))), None)
    if match is None or any(m.scheme.startswith("he_") and m.true_fan for m in matches):
        return None
    return _Layer(layer, param, match, activation)


def _behind_norm(context: Context, layer: Layer) -> Layer | None:
    """The activation behind a normaliser that is the layer's only consumer."""
    if not context.model.graph.feeds_normaliser(layer.id):
        return None
    norms = context.model.graph.effective_consumers(layer.id)
    return context.model.graph.activation(norms[0].id) if len(norms) == 1 else None


def _harm(
    context: Context, segment: Segment, found: frozenset[str]
) -> tuple[Severity, float, Segment | None]:
    """Severity of the pattern's own share of a segment's drift."""
    keys = [key for key in segment.layers if key in found]
    if segment.normalised or not keys:
        return Severity.INFO, 0.0, None
    forward = sum(segment.contributions.get(key, 0.0) for key in keys)
    backward = sum(segment.backward_contributions.get(key, 0.0) for key in keys)
    share = max(forward, segment.drift) if segment.drift < 0 else 0.0
    if context.probe is not None and share < 0:
        measured = measured_drift(segment.layers, context.model.graph, context.probe)
        if measured is not None and measured > share + segment.band:
            share = min(measured, 0.0)
    back = max(backward, segment.backward_drift) if segment.backward_drift < 0 else 0.0
    worst = max(
        (drift_severity(share, segment.band, segment.sink), share),
        (backward_severity(back), back),
        key=lambda item: item[0].rank if item[0] else -1,
    )
    return worst[0] or Severity.INFO, worst[1], segment
