"""sigmoid-stack: several hidden sigmoid or softplus layers, each of which takes gradient away."""

from __future__ import annotations

from collections.abc import Iterator

from initlint.api import (
    Confidence,
    Context,
    Finding,
    Fix,
    Layer,
    Need,
    Op,
    Rule,
    Segment,
    Severity,
    Stage,
    backward_severity,
    gates,
)

MIN_LAYERS = 2
"""One layer of sigmoids loses about half a decade, which trains."""

SIGMOIDS = frozenset({Op.SIGMOID, Op.HARD_SIGMOID, Op.SOFTPLUS, Op.LOG_SIGMOID})
"""Functions with a mean far from zero and a slope far below 1: at weight gain 1 the logistic passes
0.056 of the squared gradient (-0.63 decades of rms), softplus 0.29."""


class SigmoidStack(Rule):
    """Hidden layers of sigmoid or softplus units pass on only part of the gradient.

    What it does
    ------------
    Finds un-normalised stretches with several hidden layers whose activation is a sigmoid or a
    softplus, and adds up what they take from the gradient.

    Why is this bad
    ---------------
    The slope of the logistic function is at most 1/4 and its output has mean 1/2. With weights of
    gain 1 each layer passes 6 % of the squared gradient; no gain below 10 brings this to 1, and
    there the units are saturated. Xavier's derivation, often quoted for the sigmoid, assumes a
    slope of 1 and mean 0.

    How it decides
    --------------
    The predicted gradient along the stretch, as far as these layers lower it: a warning from
    10^-1.5 (three layers of sigmoids at gain 1), an error from 10^-4 (seven).

    What it does not flag
    ---------------------
    Gates (LSTM cells, squeeze-and-excitation, gated linear units), output layers, normalised
    layers, a single hidden layer, trained weights.

    Example
    -------
    ::

        from torch import nn

        def model():
            layers = []
            for _ in range(6):
                linear = nn.Linear(128, 128)
                nn.init.xavier_normal_(linear.weight)
                nn.init.zeros_(linear.bias)
                layers += [linear, nn.Sigmoid()]
            return nn.Sequential(*layers, nn.Linear(128, 10))

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            layers = []
            for _ in range(6):
                linear = nn.Linear(128, 128)
                nn.init.xavier_normal_(linear.weight, gain=1.4)
                nn.init.zeros_(linear.bias)
                layers += [linear, nn.Tanh()]
            return nn.Sequential(*layers, nn.Linear(128, 10))

    References
    ----------
    - Glorot, Bengio 2010, section 3.1: sigmoids saturate from the top layer down.
    - LeCun, Bottou, Orr, Mueller 1998, Efficient BackProp, section 4.4.
    """

    code = "SCL205"
    name = "sigmoid-stack"
    formula = "chi = fan_out Var(W) E[s'(z)^2] <= 1/16 at gain 1: 0.6 decades per layer"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.THEORY})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    folds = (
        "backward-drift",
        "forward-drift",
        "gain-mismatch",
        "gradient-profile",
        "variance-profile",
        "correlation-collapse",
        "zero-gradient",
    )

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per stretch."""
        if context.theory is None:
            return
        gating = {gate.activation for gate in gates(context.model.graph)}
        for segment in context.theory.segments:
            layers = _sigmoid_layers(context, segment, gating)
            if segment.normalised or len(layers) < MIN_LAYERS:
                continue
            own = sum(segment.backward_contributions.get(layer.id, 0.0) for layer in layers)
            share = max(own, segment.backward_drift)
            severity = backward_severity(share) if share < 0 else None
            if severity is not None and severity > Severity.INFO:
                yield _finding(context, layers, share, severity)


def _sigmoid_layers(context: Context, segment: Segment, gating: set[str]) -> list[Layer]:
    found = []
    for key in segment.layers:
        activation = context.model.graph.activation(key)
        if activation is None or activation.op not in SIGMOIDS or activation.id in gating:
            continue
        weight = context.model.graph[key].weight
        fresh = weight is None or context.measures.stage(weight) is not Stage.TRAINED
        if fresh and not context.model.graph.is_head(key):
            found.append(context.model.graph[key])
    return found


def _finding(context: Context, layers: list[Layer], share: float, severity: Severity) -> Finding:
    activation = context.model.graph.activation(layers[0].id)
    name = activation.op.value if activation is not None else "sigmoid"
    each = share / len(layers)
    return Finding(
        severity=severity,
        confidence=Confidence.MEDIUM,
        layer=layers[0].id,
        layers=tuple(layer.id for layer in layers),
        message=f"{len(layers)} hidden {name} layers pass 10^{share:+.1f} of the gradient",
        evidence={
            "backward_decades": share,
            "decades_per_layer": each,
            "layers": len(layers),
            "activation": name,
        },
        why="their slope is far below 1 and their mean far from 0, so no usable weight gain makes "
        "up for it",
        measured=f"{each:+.2f} decades of gradient per layer",
        expected="about 0",
        fix=Fix(
            "other_activation",
            code="use tanh, ReLU or GELU in hidden layers, or a normaliser before each",
        ),
    )
