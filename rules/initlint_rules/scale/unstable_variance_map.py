"""unstable-variance-map: activations that multiply every error of scale, layer after layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import log, log10, prod

from initlint.api import (
    ACTIVATIONS,
    Confidence,
    Context,
    Finding,
    Fix,
    Layer,
    LayerGraph,
    Need,
    Op,
    Rule,
    Segment,
    Severity,
    Stage,
    drift_severity,
    fans,
    forward_gain,
    glu_products,
    measured_drift,
    variance_slope,
)

AMPLIFICATION = 10.0
"""Growth of an error in ln q that is worth saying: 5 % in the variance at the entrance, less than
a batch of data varies by, is then half a unit of ln q at the end. 17 GELU layers, 15 SiLU, 12
hard swish, 32 Mish or 4 squared-ReLU or gated layers reach it (ln 10 / ln slope)."""

RIGHT_GAIN = 0.1
"""Mean |ln| of the layers' own error of the variance up to which their gain is right: 5 % in the
std, the finite-width error of a few hundred weights. Beyond, the gain is the cause, not the map."""


class UnstableVarianceMap(Rule):
    """A stretch of GELU-like or gated layers without normaliser multiplies errors of scale.

    What it does
    ------------
    For every stretch without normaliser or skip path, multiplies the slopes d ln q' / d ln q of its
    activations at q = 1, the second moment that every scheme aims at.

    Why is this bad
    ---------------
    For ReLU the slope is 1: an error of scale stays what it is. GELU, SiLU, Mish and hard swish
    have slopes of 1.08 to 1.22 at unit variance, squared ReLU and gated products (GEGLU, SwiGLU) 2
    and more. The right gain is then a fixed point like a ball on a hill: the error of a finite
    width, of the data, or of one optimizer step is multiplied at every layer, and the signal dies
    or explodes. Mean-field theory was off by a decade for 21 GELU layers with the exact gain.

    How it decides
    --------------
    The product of the slopes reaches 10 while the layers' own gains are right (a wrong gain is
    gain-mismatch's). The severity is that of the measured drift over the
    stretch (the table of forward-drift); where the run shows none it is an info, and without a run
    a warning.

    What it does not flag
    ---------------------
    Layers between normalisers (pre-norm and post-norm transformers), residual branches, short
    heads, ReLU, tanh and SELU networks, trained weights.

    Example
    -------
    ::

        from torch import nn

        def model():
            layers = []
            for _ in range(18):
                linear = nn.Linear(256, 256)
                nn.init.normal_(linear.weight, std=1.6765 / 256**0.5)
                nn.init.zeros_(linear.bias)
                layers += [linear, nn.SiLU()]
            return nn.Sequential(*layers, nn.Linear(256, 10))

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            layers = []
            for _ in range(18):
                linear = nn.Linear(256, 256)
                nn.init.normal_(linear.weight, std=1.6765 / 256**0.5)
                nn.init.zeros_(linear.bias)
                layers += [linear, nn.LayerNorm(256), nn.SiLU()]
            return nn.Sequential(*layers, nn.Linear(256, 10))

    References
    ----------
    - Hayou, Doucet, Rousseau 2019, On the impact of the activation function on deep neural
      networks training: the variance map of smooth ReLU-like functions.
    - Mishkin, Matas 2016, All you need is a good init (LSUV), the cure where no normaliser fits.
    """

    code = "SCL206"
    name = "unstable-variance-map"
    formula = "an error x in ln q grows to x * prod(lambda_l),  lambda = d ln q' / d ln q"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.THEORY})
    optional = frozenset({Need.PROBE})
    stages = frozenset({Stage.FRESH})
    folds = (
        "forward-drift",
        "backward-drift",
        "variance-profile",
        "narrow-deep-scatter",
        "gradient-profile",
    )

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per stretch whose map is unstable."""
        if context.theory is None:
            return
        graph = context.model.graph
        products = {glu.product: glu.activation for glu in glu_products(graph)}
        for segment in context.theory.segments:
            if segment.normalised or segment.residual:
                continue
            factors = _slopes(graph, segment, products)
            growth = prod(factor for _, factor in factors)
            if growth >= AMPLIFICATION and _right_gain(context, segment, products):
                yield _finding(context, segment, factors, growth)


def _slopes(
    graph: LayerGraph, segment: Segment, products: Mapping[str, str | None]
) -> list[tuple[Layer, float]]:
    """The bending layers of a path with their slopes; a gated product counts once."""
    found: list[tuple[Layer, float]] = []
    gating = set(products.values())
    for key in segment.path:
        layer = graph[key]
        if key in products:
            bend = products[key]
            found.append((layer, 1.0 + (_slope(graph[bend]) if bend is not None else 1.0)))
        elif layer.op is Op.GLU:
            found.append((layer, 1.0 + variance_slope(Op.SIGMOID)))
        elif layer.op in ACTIVATIONS and key not in gating:
            found.append((layer, _slope(layer)))
    return found


def _slope(layer: Layer) -> float:
    """1, as of a linear layer, for functions without a closed form."""
    try:
        return variance_slope(layer.op, layer.attrs)
    except ValueError:
        return 1.0


def _right_gain(context: Context, segment: Segment, products: Mapping[str, str | None]) -> bool:
    """True unless the weights that feed an activation are all too wide, or too narrow, for it."""
    graph, gating = context.model.graph, set(products.values())
    errors = []
    for key in segment.layers:
        layer, bend = graph[key], graph.activation(key)
        if bend is None or bend.id in gating or layer.weight is None:
            continue
        fan, std = fans(layer, layer.weight), context.measures.effective_std(layer.weight)
        if fan is not None and std:
            try:
                gain = forward_gain(bend.op, bend.attrs)
            except ValueError:
                continue
            errors.append(log(std * std * fan.fan_in / gain**2))
    return not errors or abs(sum(errors)) / len(errors) < RIGHT_GAIN


def _severity(context: Context, segment: Segment, drift: float | None) -> Severity:
    if drift is None:
        return Severity.WARNING
    return drift_severity(drift, 0.0, segment.sink) or Severity.INFO


def _finding(
    context: Context, segment: Segment, factors: list[tuple[Layer, float]], growth: float
) -> Finding:
    drift = None
    if context.probe is not None:
        drift = measured_drift(segment.layers, context.model.graph, context.probe)
    steep = max(factors, key=lambda item: item[1])
    bends = sum(factor > 1.0 for _, factor in factors)
    seen = "" if drift is None else f"; this draw drifts 10^{drift:+.1f}"
    return Finding(
        severity=_severity(context, segment, drift),
        confidence=Confidence.MEDIUM if drift is None else Confidence.HIGH,
        layer=segment.layers[0],
        layers=segment.layers,
        message=f"{bends} layers of {steep[0].op} without normaliser multiply an error of the "
        f"variance {growth:.2g} times{seen}",
        evidence={
            "amplification": growth,
            "steepest_slope": steep[1],
            "layers": bends,
            "measured_decades": drift,
            "band_decades": segment.band,
        },
        why="the slope d ln q' / d ln q is above 1: the right scale is an unstable fixed point, "
        "left by any error of width, data or step",
        measured=f"slopes multiply to {growth:.2g} (10^{log10(growth):.1f})",
        expected=f"below {AMPLIFICATION:g}",
        fix=Fix(
            "lsuv",
            code="insert a normaliser every few layers (torch.nn.LayerNorm), use skip "
            "connections, or draw the stretch with LSUV: initlint fix --scheme lsuv",
        ),
    )
