"""backward-drift: the gradient is predicted to leave the range in which training works."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite, log10, prod, sqrt
from types import MappingProxyType

from initlint.api import (
    WEIGHTED,
    Confidence,
    Context,
    Finding,
    Fix,
    Need,
    Option,
    Rule,
    Segment,
    Severity,
    Stage,
    backward_severity,
    drift_severity,
    segment_makers,
)

MIN_LAYERS = 3
"""Two layers have one factor between them, which is the shape of the network, not a drift."""

AGREEMENT = 0.5
"""Decades by which a measured drift may fall short of a predicted one and still confirm it, as for
forward drift."""

ADAM = -4.0
"""Decades down to which Adam makes up for a small gradient."""

GUILTY = 0.2
"""Part of the largest contribution from which a layer is named, as for forward drift."""

TOP = 3
"""Layers named as the main contributors."""


class BackwardDrift(Rule):
    """The gradient that reaches the first layers is predicted far from that of the last.

    What it does
    ------------
    Follows the second moment of the gradient back through the layer graph (mean-field theory) and
    compares what arrives at the first weighted layer of an un-normalised stretch with what left the
    last. It speaks where the gradient suffers more than the signal.

    Why is this bad
    ---------------
    A layer multiplies the gradient by fan_out times the variance of its weights times the mean
    squared slope of its activation. Where forward and backward factors differ (bounded activations,
    layers of changing width) a healthy signal can hide a gradient that vanished: a sigmoid keeps
    the signal near 0.5 and passes 6 % of the squared gradient per layer.

    How it decides
    --------------
    Decades of gradient rms from the last layer to the first: -1.5 warning, -4 error (where plain
    SGD learned nothing at any learning rate); growth of +0.7 warning, +1.5 error. Less is ordinary.
    What a backward pass measured replaces the prediction where it is milder. Adaptive optimizers
    divide by the gradient's own scale: with ``optimizer = "adam"`` a vanishing down to 10^-4 counts
    one level less.

    A mean over positions (of a set, a sequence, a window) leaves each of them a part of the
    gradient whatever the weights are; that part is not counted.

    What it does not flag
    ---------------------
    Stretches whose signal drifts at least as badly (forward-drift speaks of those), normalised
    layers, residual trunks, fewer than three layers, anything behind an operator whose effect is
    unknown.

    Example
    -------
    ::

        from torch import nn

        def model():
            layers = []
            for _ in range(40):
                linear = nn.Linear(128, 128)
                nn.init.xavier_normal_(linear.weight, gain=1.6)
                nn.init.zeros_(linear.bias)
                layers += [linear, nn.Tanh()]
            return nn.Sequential(*layers, nn.Linear(128, 10))

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            layers = []
            for _ in range(24):
                linear = nn.Linear(128, 128)
                nn.init.xavier_normal_(linear.weight, gain=1.2)
                nn.init.zeros_(linear.bias)
                layers += [linear, nn.Tanh()]
            return nn.Sequential(*layers, nn.Linear(128, 10))

    References
    ----------
    - Glorot, Bengio 2010, equation 11: what the backward pass needs.
    - Schoenholz, Gilmer, Ganguli, Sohl-Dickstein 2017, Deep information propagation.
    """

    code = "SCL202"
    name = "backward-drift"
    formula = "chi_l = fan_out Var(W) E[phi'(sqrt(q_l) z)^2];  D = 0.5 sum log10 chi_l"
    about_scale = True
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.THEORY})
    optional = frozenset({Need.PROBE})
    stages = frozenset({Stage.FRESH})
    folds = (
        "forward-drift",
        "gradient-profile",
        "variance-profile",
        "unit-cannot-fire",
        "correlation-collapse",
    )
    options = MappingProxyType(
        {
            "optimizer": Option(
                "sgd",
                "sgd or adam. With Adam an MLP still made 46 to 77 % of its progress at 10^-4.5, "
                "where SGD made none.",
            )
        }
    )

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per stretch whose gradient drifts more than its signal."""
        if context.theory is None:
            return
        for segment in context.theory.segments:
            measured = _measured(context, segment)
            severity = _severity(context, segment, measured)
            if severity is not None:
                yield _finding(context, segment, severity, measured)


def _severity(context: Context, segment: Segment, measured: float | None) -> Severity | None:
    if segment.normalised or segment.residual or len(segment.backward_contributions) < MIN_LAYERS:
        return None
    drift = segment.backward_drift
    layers = segment_makers(segment)
    severity = backward_severity(drift, layers)
    if measured is not None and severity is not None:
        if measured * drift < 0:
            return None
        if abs(drift) - abs(measured) > AGREEMENT:
            seen = backward_severity(measured, layers)
            severity = None if seen is None else min(severity, seen)
    signal = drift_severity(segment.drift, segment.band, segment.sink, layers)
    if severity is None or (signal is not None and signal >= severity):
        return None
    if context.options["optimizer"] == "adam" and ADAM < drift < 0:
        severity = Severity.INFO
    return severity if severity > Severity.INFO else None


def _measured(context: Context, segment: Segment) -> float | None:
    """Measured decades of the gradient's norm per sample from the last layer to the first.

    Without what means over positions take, as in the prediction.
    """
    if context.probe is None:
        return None
    norms = []
    for key in segment.backward_contributions:
        rms = context.probe.backward.get(key)
        shape = context.model.graph[key].output_shape
        if rms is not None and shape and isfinite(rms) and rms > 0:
            units = prod(side for side in shape[1:] if side is not None)
            norms.append(rms * sqrt(units))
    if len(norms) < MIN_LAYERS:
        return None
    return log10(norms[0] / norms[-1]) - segment.averaged


def _finding(
    context: Context, segment: Segment, severity: Severity, measured: float | None
) -> Finding:
    sign = -1 if segment.backward_drift < 0 else 1
    shares = segment.backward_contributions
    most = max(value * sign for value in shares.values())
    layers = tuple(key for key in segment.layers if shares.get(key, 0.0) * sign > GUILTY * most)
    ranked = sorted(layers, key=lambda key: -sign * shares[key])
    word = "vanishes" if sign < 0 else "explodes"
    optimizer = context.options["optimizer"]
    params = tuple(
        weight.key
        for key in layers
        if (layer := context.model.graph[key]).op in WEIGHTED and (weight := layer.weight)
    )
    return Finding(
        severity=severity,
        confidence=Confidence.HIGH if measured is not None else Confidence.MEDIUM,
        layer=ranked[0],
        layers=layers,
        culprits=tuple(key for key in segment.layers if shares.get(key, 0.0) * sign > 0),
        message=f"gradient {word}: 10^{segment.backward_drift:+.1f} times its scale over "
        f"{len(shares)} layers (judged for {optimizer})",
        evidence={
            "backward_drift_decades": segment.backward_drift,
            "measured_decades": measured,
            "forward_drift_decades": segment.drift,
            "largest_contributions": [f"{key}: {shares[key]:+.2f}" for key in ranked[:TOP]],
            "optimizer": optimizer,
        },
        why="each layer multiplies the gradient by fan_out * Var(W) * E[slope^2], and the factors "
        "compound; "
        + (
            f"the first layer would need a learning rate 10^{-segment.backward_drift:.1f} times "
            "that of the last, and easier data (a curriculum) does not change that"
            if sign < 0
            else "clipping shortens the step of all layers alike, so that the last ones stop"
        ),
        measured=f"{segment.backward_drift:+.1f} decades predicted"
        + (f", {measured:+.1f} measured" if measured is not None else ""),
        expected="within -1.5 and +0.7 decades",
        fix=Fix(
            "scale_preserving",
            params=params,
            code="draw with Var(W) = 2 / (fan_in + fan_out) / E[slope^2], and use an activation "
            "with slope near 1",
        ),
        shares={(key,): sign * value for key, value in shares.items()},
    )
