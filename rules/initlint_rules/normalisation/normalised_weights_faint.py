"""normalised-weights-faint: weights before layer norms so small that one step overwrites them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import log10, sqrt

from initlint.api import (
    Confidence,
    Context,
    Finding,
    Fix,
    Layer,
    LayerGraph,
    Need,
    Op,
    Rule,
    Severity,
    Stage,
    fans,
)

FAINT = 0.4
"""Gain sqrt(fan_in Var(W)) below which a layer counts: frameworks' defaults (0.58) and Glorot's law
are above it, the smallest schemes that are meant for the width."""

LEVELS = ((12.0, Severity.ERROR), (6.0, Severity.WARNING))
"""Decades log10(1/gain), summed over the faint layers that every path crosses in a row. Plain
perceptrons with a layer norm behind each of 2 to 10 layers, trained with SGD and Adam at five
rates in all, reached of the progress of their twins: 0.97 and more with up to 5.6 decades (eight
layers at 0.2, four at 0.07, two at 0.02), 0.75 with 7.2, 0.55 with 6.8, 0.48 with 9.2, 0.40 with
12, none with 13.6 and 22; 18 layers 1.20 at a gain of 0.58, 0.61 with 8.2, 0.35 with 12.6. With
batch norms instead nothing was lost at any of them."""

MOST = 2.0
"""Decades that one layer counts at most: the variance is 10 times a layer norm's usual epsilon
there, and what is smaller is for `epsilon-dominates` to tell."""

CENTRED = 0.5
"""Share of its decades that a layer counts behind an activation that is odd, whose outputs have no
direction in common from the start: six such layers of tanh reached 0.99 with 6.9 decades and 0.81
with 10.2."""

_ODD = frozenset({Op.TANH, Op.HARD_TANH, Op.SOFTSIGN, Op.SIN})
_ROW_NORMS = frozenset({Op.LAYER_NORM, Op.RMS_NORM})
_LINEAR = frozenset({Op.LINEAR, Op.CONV})


class NormalisedWeightsFaint(Rule):
    """Weights that layer norms read start so small, layer after layer, that one step replaces them.

    What it does
    ------------
    Sums, over the layers in a row whose outputs a layer norm or RMS norm alone reads, the decades
    by which their gain lies below 1.

    Why is this bad
    ---------------
    A normaliser hides a small scale from the signal, not from training: of weights c times too
    small the gradient is 1/c times as large, so a step changes them by 1/c² of what it should, and
    the first one replaces the draw. What it puts there has the direction that most inputs share. A
    layer norm hands that on (batch norm takes it out, as the mean over the inputs), a few such
    layers in a row make all inputs alike, and nothing behind them can be learnt.

    How it decides
    --------------
    Layers with a gain sqrt(fan_in Var(W)) below 0.4 count log10(1/gain), two at most, and half of
    it behind tanh and other odd activations. From 6 decades on every path: warning, from 12: error.

    What it does not flag
    ---------------------
    Layers with a path around them (residual streams), batch, group and instance norm, short
    stacks, frozen and trained weights, zeros (`zero-weight`), what a normaliser's epsilon hides
    (`epsilon-dominates`).

    Example
    -------
    ::

        from torch import nn

        def model():
            layers = []
            for _ in range(8):
                layers += [nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU()]
                nn.init.normal_(layers[-3].weight, std=0.01)
                nn.init.zeros_(layers[-3].bias)
            return nn.Sequential(*layers, nn.Linear(64, 10))

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            layers = []
            for _ in range(8):
                layers += [nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU()]
                nn.init.normal_(layers[-3].weight, std=64**-0.5)
                nn.init.zeros_(layers[-3].bias)
            return nn.Sequential(*layers, nn.Linear(64, 10))

    References
    ----------
    - van Laarhoven 2017, L2 regularization versus batch and weight normalization: the effective
      rate is the rate over the squared scale.
    - Ba, Kiros, Hinton 2016, Layer normalization, section 5: invariances.
    """

    code = "NRM606"
    name = "normalised-weights-faint"
    formula = "|ΔW| / |W| ~ rate / gain^2;  Σ log10(1 / gain) over the layers in a row"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH})
    stages = frozenset({Stage.FRESH})
    folds = ("wrong-fan", "variance-profile")

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding that names the layers of the longest row."""
        lost: dict[str, float] = {}
        faint: set[str] = set()
        before: dict[str, str] = {}
        for layer in context.model.graph.order:
            entering = [edge.source for edge in context.model.graph.inputs(layer.id)]
            least = min(entering, key=lambda key: lost.get(key, 0.0), default="")
            own = _decades(context, layer)
            lost[layer.id] = lost.get(least, 0.0) + own
            before[layer.id] = least
            if own:
                faint.add(layer.id)
        worst = max(lost, key=lost.__getitem__, default="")
        severity = next((level for limit, level in LEVELS if lost.get(worst, 0.0) >= limit), None)
        if severity is not None:
            row = tuple(key for key in _path_to(worst, before) if key in faint)
            yield _finding(context, severity, row[::-1], lost[worst])


def _path_to(key: str, before: Mapping[str, str]) -> Iterator[str]:
    """A layer and those in front of it, backwards."""
    while key:
        yield key
        key = before.get(key, "")


def _decades(context: Context, layer: Layer) -> float:
    """What a layer counts: the decades by which its gain lies below 1, or half of them."""
    gain = _gain(context, layer)
    if gain is None or gain >= FAINT:
        return 0.0
    entering = context.model.graph.effective_producers(layer.id)
    share = CENTRED if entering and all(item.op in _ODD for item in entering) else 1.0
    return share * min(-log10(gain), MOST)


def _gain(context: Context, layer: Layer) -> float | None:
    """sqrt(fan_in Var(W)) of a fresh layer that norms over units alone read."""
    weight = layer.weight
    if weight is None or layer.op not in _LINEAR or not weight.trainable:
        return None
    if not _is_normalised(context.model.graph, layer):
        return None
    std, fan = context.measures.effective_std(weight), fans(layer, weight)
    if not std or fan is None or context.measures.stage(weight) is Stage.TRAINED:
        return None
    return std * sqrt(fan.fan_in)


def _is_normalised(graph: LayerGraph, layer: Layer) -> bool:
    readers = graph.effective_consumers(layer.id)
    return bool(readers) and all(item.op in _ROW_NORMS for item in readers)


def _finding(
    context: Context, severity: Severity, layers: tuple[str, ...], decades: float
) -> Finding:
    graph = context.model.graph
    weights = [weight for key in layers if (weight := graph[key].weight) is not None]
    gains = sorted(found for key in layers if (found := _gain(context, graph[key])))
    gain = gains[len(gains) // 2]
    return Finding(
        severity=severity,
        confidence=Confidence.HIGH,
        layer=layers[0],
        param=weights[0].name,
        layers=layers,
        message=f"{len(layers)} layers in a row start with gains near {gain:.2g} behind which a "
        "layer norm hides how small they are: the first steps replace the draws, and all inputs "
        "become alike",
        evidence={"layers": len(layers), "decades": -decades, "median_gain": gain},
        why="the gradient of weights that a norm reads grows as they shrink: at a gain g a step "
        "changes them by 1/g^2 of what it should",
        measured=f"gains sqrt(fan_in Var(W)) near {gain:.2g}, 10^-{decades:.1f} in a row",
        expected="a gain near 1",
        fix=Fix(
            "scale_preserving",
            params=tuple(weight.key for weight in weights),
            code=f"torch.nn.init.kaiming_normal_({weights[0].name}, nonlinearity='linear'), and "
            "so in every named layer",
        ),
    )
