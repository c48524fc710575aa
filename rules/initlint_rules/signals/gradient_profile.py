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
    GradientStats,
    Layer,
    LayerGraph,
    Need,
    Op,
    Option,
    Param,
    Role,
    Rule,
    Severity,
    Stage,
    backward_severity,
    gate_layers,
    makers,
    on_branches,
    post_dominators,
    residual_branches,
    stretches,
)

FLOOR = 1e-45
"""Smallest positive float32: a gradient that is exactly zero vanished at least to here."""

MIN_LAYERS = 3
"""Hidden layers a drift needs: between two, the choice of fan-in or fan-out already makes up to
half a decade."""


ADAM_EPSILON = 1e-8
"""Adam's default epsilon: a gradient below it is no longer brought to unit size."""


STEP_RANGE = (1e-5, 1e-1)
"""First step relative to the weight's size: beyond a tenth a layer forgets its draw within a few
steps, below 1e-5 it takes 100,000 steps to move by its own size."""

CLIPPED = 10.0
"""Gradient norm over the clipping bound: clipping then sets the step, a tenth of what the learning
rate says, and the same for a gradient twice as long."""


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
    vanishing 1.5 warning, 4 error where three layers and more make it up (training grows one or two
    back); exploding 0.7 warning, 1.5 error. Less is ordinary: gates,
    strides and depthwise kernels change it by up to a decade. Only with the options `lr` and `clip`
    (your training's): an info for weight matrices whose first step, lr rms(g) / rms(w) with SGD,
    lr / rms(w) with Adam, is outside 1e-5 to 1e-1, and for a gradient norm above ten times `clip`.

    What it does not flag
    ---------------------
    Stretches with normalisers between the layers, the output layer, fewer than three hidden layers,
    branches beside others or behind a gate or LayerScale, steps of one map that reads the input
    each time, trained models, a profile that another finding on the same layers explains. The first
    step of embeddings, queries and keys, and of weights behind a zero that opens after one step.

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
    options = {
        "lr": Option(0.0, "learning rate of the training; 0: unknown, first steps are not judged"),
        "optimizer": Option("adam", "adam or sgd: which step the learning rate makes"),
        "clip": Option(0.0, "norm that gradients are clipped to; 0: none, it is not judged"),
    }

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per stretch whose measured gradient drifts."""
        if context.probe is None:
            return
        graph = context.model.graph
        told: set[tuple[str, ...]] = set()
        closed = gate_layers(graph).union(
            *(branch.layers for branch in residual_branches(graph) if branch.gate)
        )
        for chain in stretches(graph):
            if _iterates(chain, graph):
                continue
            hidden = tuple(key for key in chain if not graph.is_head(key) and key not in closed)
            profile = _profile(hidden, graph, context.probe)
            for series in _series(profile, graph) if _drifts(profile) else ():
                layers = tuple(key for key, _ in series)
                drift = _drifts(series)
                if layers in told or drift is None:
                    continue
                told.add(layers)
                if on_branches(context, layers, *drift) > Severity.INFO:
                    yield _finding(context, series, *drift)
        rate, clip = float(context.options["lr"]), float(context.options["clip"])
        if rate > 0:
            yield from _steps(context, rate, context.options["optimizer"] == "sgd")
        if clip > 0 and _global_norm(context) > CLIPPED * clip:
            yield _clipped(context, clip)


def _profile(layers: tuple[str, ...], graph: LayerGraph, probe: Activations) -> Profile:
    """Gradient norm per sample at the output of each layer; empty where one is not finite."""
    sums = {key: branch.add for branch in residual_branches(graph) for key in branch.layers}
    found = []
    for key in layers:
        norm = _norm(key, graph, probe)
        if norm is None or _waits(key, graph, probe) or _is_gated(key, graph):
            continue
        if not isfinite(norm):
            return []
        around = _norm(sums[key], graph, probe) if key in sums else None
        if around is not None and isfinite(around):  # a faint branch leaves the trunk's gradient
            norm = max(norm, around)
        found.append((key, max(norm, FLOOR)))
    return found


def _norm(key: str, graph: LayerGraph, probe: Activations) -> float | None:
    """Gradient norm per sample at the output of a layer; None where it was not measured."""
    rms, shape = probe.backward.get(key), graph[key].output_shape
    if rms is None or not shape:
        return None
    return rms * sqrt(prod(side for side in shape[1:] if side is not None))


Profile = list[tuple[str, float]]
"""Layers and the norm of the gradient at their outputs."""


def _drifts(profile: Profile) -> tuple[float, Severity] | None:
    """Decades from the last layer to the first, and how bad that is; None where it is not."""
    if len(profile) < MIN_LAYERS:
        return None
    drift = log10(profile[0][1] / profile[-1][1])
    steps = [log10(before / after) for (_, before), (_, after) in pairwise(profile)]
    severity = backward_severity(drift, makers(steps, drift))
    return (drift, severity) if severity is not None and severity > Severity.INFO else None


def _series(profile: Profile, graph: LayerGraph) -> list[Profile]:
    """The parts of a profile in which each layer lies on every path from the one before.

    One of several branches (an expert, a query, one of many concatenated layers) gets a share of
    what flows back to the layer that they all read: to compare the two says nothing.
    """
    after = post_dominators(graph)
    parts: list[Profile] = []
    for key, norm in profile:
        before: str | None = parts[-1][-1][0] if parts else None
        while before is not None and graph.position[before] < graph.position[key]:
            before = after[before]
        if before == key:
            parts[-1].append((key, norm))
        else:
            parts.append([(key, norm)])
    return parts


def _iterates(chain: tuple[str, ...], graph: LayerGraph) -> bool:
    """True for steps of one map with the input added to each, as towards an equilibrium.

    The map contracts on purpose, and every step hands its weights a gradient of its own.
    """
    weights = [weight.key for key in chain if (weight := graph[key].weight) is not None]
    if len(set(weights)) == len(weights):
        return False
    return any(
        layer.op is Op.ADD and len(graph.inputs(layer.id)) > 1
        for key in chain
        for layer in graph.effective_consumers(key)
    )


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


def _finding(context: Context, profile: Profile, drift: float, severity: Severity) -> Finding:
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
        shares={
            (first, after): log10(before / norm) * (-1 if drift < 0 else 1)
            for (first, before), (after, norm) in pairwise(profile)
        },
    )


def _judged(context: Context) -> Iterator[tuple[Layer, Param, GradientStats]]:
    """Weight matrices that a gradient reaches at the first step."""
    assert context.probe is not None
    graph = context.model.graph
    for layer, param in graph.params:
        stats = context.probe.gradients.get(param.key)
        if stats is None or not param.trainable or layer.op is Op.EMBEDDING:
            continue
        if param.role is not Role.WEIGHT or len(param.shape) < 2 or stats.weight_rms <= 0:
            continue
        readers = graph.effective_consumers(layer.id)
        if any(reader.op in (Op.ATTENTION, Op.MATMUL) for reader in readers):
            continue  # queries and keys: their gradient is small at any good start
        if stats.reached and stats.rms > 0.0 and isfinite(stats.rms):
            yield layer, param, stats


def _steps(context: Context, rate: float, plain: bool) -> Iterator[Finding]:
    """One finding for the weights whose first step is far too large or too small."""
    low, high = STEP_RANGE
    found = []
    for layer, param, stats in _judged(context):
        step = rate * (stats.rms if plain else 1.0) / stats.weight_rms
        if not low <= step <= high:
            found.append((abs(log10(step) - log10(sqrt(low * high))), step, layer, param))
    if not found:
        return
    _, step, layer, param = max(found, key=lambda item: item[0])
    optimizer = "SGD" if plain else "Adam"
    more = f" (and {len(found) - 1} more outside the range)" if len(found) > 1 else ""
    yield Finding(
        severity=Severity.INFO,
        layer=layer.id,
        param=param.name,
        layers=tuple(dict.fromkeys(item[2].id for item in found)),
        message=f"the first step of {optimizer} at {rate:g} moves {param.name} by {step:.1e} of "
        f"its size{more}",
        evidence={"lr": rate, "optimizer": optimizer, "step": step, "params": len(found)},
        why="a step of the weight's own size erases the draw; one far below it trains nothing",
        measured=f"relative step {step:.1e}",
        expected=f"between {low:g} and {high:g}",
        fix=Fix(
            "rescale",
            params=tuple(item[3].key for item in found),
            code=f"another learning rate or warm-up ({rate * 1e-3 / step:.1e} gives 1e-3), or "
            "another scale of the weights",
        ),
    )


def _clipped(context: Context, clip: float) -> Finding:
    """What clipping makes of the first gradient."""
    assert context.probe is not None
    gradients = context.probe.gradients
    norm = _global_norm(context)
    layer, param = max(
        context.model.graph.params,
        key=lambda item: (
            gradients[item[1].key].rms * sqrt(item[1].size) if item[1].key in gradients else 0.0
        ),
    )
    return Finding(
        severity=Severity.INFO,
        layer=layer.id,
        param=param.name,
        message=f"the first gradient has norm {norm:.3g}, clipping to {clip:g} divides it by "
        f"{norm / clip:.3g}; most is in {param.name}",
        evidence={"global_gradient_norm": norm, "clip": clip, "ratio": norm / clip},
        why="clipping then sets the step of all layers, whatever the learning rate",
        measured=f"norm {norm:.3g}",
        expected=f"below {CLIPPED:g} times {clip:g}",
        fix=Fix("rescale", code=f"lower the scale of {param.name} and the layers behind it"),
    )
