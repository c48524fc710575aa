"""gradient-profile: the measured gradient drifts along an un-normalised stretch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import isfinite, log10, prod, sqrt

from initlint.api import (
    ACTIVATIONS,
    Activations,
    Context,
    Finding,
    Fix,
    LayerGraph,
    Need,
    Op,
    Rule,
    Severity,
    Stage,
    backward_severity,
    stretches,
)

FLOOR = 1e-45
"""Smallest positive float32: a gradient that is exactly zero vanished at least to here."""

MIN_LAYERS = 3
"""Hidden layers a drift needs: between two, the choice of fan-in or fan-out already makes up to
half a decade."""


ADAM_EPSILON = 1e-8
"""Adam's default epsilon: a gradient below it is no longer brought to unit size."""


class GradientProfile(Rule):
    """The measured gradient grows or shrinks from the last hidden layer to the first.

    What it does
    ------------
    Runs the model once forward and once backward and compares the norm of the gradient at the
    output of each layer along every stretch between normalisers.

    Why is this bad
    ---------------
    Layers train at the speed of their gradient. Where it loses four decades on the way down, plain
    gradient descent moves only the last layers at any learning rate; where it gains, the first
    layers diverge first.

    How it decides
    --------------
    The gradient's norm per sample, rms times the root of the number of units, which a layer with
    Var(W) = g / fan_in keeps whatever its width. Decades from the last hidden layer to the first:
    vanishing 1.5 warning, 4 error; exploding 0.7 warning, 1.5 error. Less is ordinary: gates,
    strides and depthwise kernels change it by up to a decade.

    What it does not flag
    ---------------------
    Stretches with normalisers between the layers, the output layer, fewer than three hidden layers,
    trained models, a profile that another finding on the same layers explains.

    Example
    -------
    ::

        import torch
        from torch import nn

        class Ease(nn.Module):
            def forward(self, x):
                return torch.special.erfcx(x.abs())

        def model():
            layers = []
            for _ in range(10):
                linear = nn.Linear(128, 128)
                nn.init.normal_(linear.weight, std=0.05)
                layers += [linear, Ease()]
            return nn.Sequential(*layers, nn.Linear(128, 10))

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            layers = []
            for _ in range(10):
                linear = nn.Linear(128, 128)
                nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
                nn.init.zeros_(linear.bias)
                layers += [linear, nn.ReLU()]
            return nn.Sequential(*layers, nn.Linear(128, 10))

    References
    ----------
    - Glorot, Bengio 2010, Understanding the difficulty of training deep feedforward neural
      networks, section 4.2.
    """

    code = "PRB102"
    name = "gradient-profile"
    formula = "D = log10(|g| of the first layer) - log10(|g| of the last),  |g| = rms sqrt(units)"
    needs = frozenset({Need.GRAPH, Need.BACKWARD})
    stages = frozenset({Stage.FRESH})
    folds = ("correlation-collapse",)

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per stretch whose measured gradient drifts."""
        if context.probe is None:
            return
        graph = context.model.graph
        told: set[tuple[str, ...]] = set()
        for chain in stretches(graph):
            hidden = tuple(key for key in chain if not graph.is_head(key))
            profile = _profile(hidden, graph, context.probe)
            layers = tuple(key for key, _ in profile)
            if len(profile) < MIN_LAYERS or layers in told:
                continue
            told.add(layers)
            drift = log10(profile[0][1] / profile[-1][1])
            severity = backward_severity(drift)
            if severity is not None and severity > Severity.INFO:
                yield _finding(context, profile, drift, severity)


def _profile(
    layers: tuple[str, ...], graph: LayerGraph, probe: Activations
) -> list[tuple[str, float]]:
    """Gradient norm per sample at the output of each layer; empty where one is not finite."""
    found = []
    for key in layers:
        rms, shape = probe.backward.get(key), graph[key].output_shape
        if rms is None or not shape or _waits(key, graph, probe) or _is_gated(key, graph):
            continue
        if not isfinite(rms):
            return []
        units = prod(side for side in shape[1:] if side is not None)
        found.append((key, max(rms * sqrt(units), FLOOR)))
    return found


def _waits(key: str, graph: LayerGraph, probe: Activations) -> bool:
    """True behind a zero factor that moves in the first step (LoRA, Fixup): no drift, a delay."""
    weight = graph[key].weight
    stats = probe.gradients.get(weight.key) if weight is not None else None
    return stats is not None and stats.unlocks is True


def _is_gated(key: str, graph: LayerGraph) -> bool:
    """True for a layer whose product with a gate joins a skip path (highway, squeeze-excite).

    Its gradient is the trunk's times the gate, which says nothing of the trunk.
    """
    for layer in graph.effective_consumers(key):
        gates = [layer] if layer.op is Op.MUL else []
        if layer.op in ACTIVATIONS:
            gates += [item for item in graph.effective_consumers(layer.id) if item.op is Op.MUL]
        for gate in gates:
            joins = graph.effective_consumers(gate.id)
            if any(
                item.op in (Op.ADD, Op.SUB) and len(graph.inputs(item.id)) > 1 for item in joins
            ):
                return True
    return False


def _global_norm(context: Context) -> float:
    """Norm of the gradient of all parameters at the first step: what clipping compares."""
    assert context.probe is not None
    sizes = {param.key: param.size for _, param in context.model.graph.params}
    stats = context.probe.gradients.items()
    return sqrt(sum(found.rms**2 * sizes.get(key, 0) for key, found in stats))


def _first_step(context: Context, first: str) -> dict[str, float]:
    """How far one step moves the first layer's weights, relative to their size."""
    assert context.probe is not None
    weight = context.model.graph[first].weight
    stats = context.probe.gradients.get(weight.key) if weight is not None else None
    found = {"global_gradient_norm": _global_norm(context)}
    if stats is not None and stats.weight_rms > 0:
        found["first_step_sgd_per_lr"] = stats.rms / stats.weight_rms
        found["first_step_adam_per_lr"] = 1.0 / stats.weight_rms
        found["first_gradient_rms"] = stats.rms
    return found


def _what_does_not_help(context: Context, first: str, drift: float) -> str:
    """What clipping, the learning rate and Adam make of it, in numbers."""
    step = _first_step(context, first)
    if drift > 0:
        norm = step["global_gradient_norm"]
        return (
            f"; clipping to 1 divides the first step by {max(norm, 1.0):.2g}, for all layers alike"
        )
    sgd, rms = step.get("first_step_sgd_per_lr"), step.get("first_gradient_rms")
    if sgd is None or rms is None:
        return ""
    if rms < ADAM_EPSILON:
        return f"; at {rms:.1e} the gradient is below Adam's epsilon too"
    return f"; SGD at 0.1 moves the first layer by {0.1 * sgd:.1e} of its size a step"


def _finding(
    context: Context, profile: list[tuple[str, float]], drift: float, severity: Severity
) -> Finding:
    graph = context.model.graph
    steps = [
        (abs(log10(before / after)), first) for (first, before), (_, after) in pairwise(profile)
    ]
    worst = max(steps)[1]
    layers = tuple(key for key, _ in profile)
    word = "shrinks" if drift < 0 else "grows"
    params = tuple(weight.key for key in layers if (weight := graph[key].weight) is not None)
    return Finding(
        severity=severity,
        layer=worst,
        layers=layers,
        message=f"the measured gradient {word} 10^{drift:+.1f} times from {layers[-1]} back to "
        f"{layers[0]}",
        evidence={
            "measured_decades": drift,
            "decades_per_layer": drift / (len(profile) - 1),
            "first_norm": profile[0][1],
            "last_norm": profile[-1][1],
            "largest_step": worst,
            **_first_step(context, layers[0]),
        },
        why="each layer multiplies the gradient by the same factor, and the product drifts"
        + _what_does_not_help(context, layers[0], drift),
        measured=f"gradient norm {profile[0][1]:.3g} at {layers[0]}, {profile[-1][1]:.3g} at "
        f"{layers[-1]}",
        expected="about the same gradient norm at every hidden layer",
        fix=Fix(
            "rescale",
            params=params,
            code="choose each layer's gain so that gain^2 E[f'(z)^2] = 1, or add normalisation or "
            "residual connections",
        ),
    )
