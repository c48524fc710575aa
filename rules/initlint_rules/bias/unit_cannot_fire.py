"""unit-cannot-fire: units whose bias or signs keep them at zero for every input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import copysign, exp, sqrt

import numpy as np

from initlint.api import (
    ACTIVATIONS,
    TRANSPARENT,
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
    derivative_moment,
    is_bypassed,
    record,
)

TAIL = 4.0
"""Standard deviations below zero from which a unit counts as silent: a normal pre-activation then
is positive with probability 3e-5, once in a thousand batches of 32."""

LEAST_RMS = 0.1
"""Smallest rms of the input that counts: a signal more than a decade below unit scale was lost
before this layer, and rules about its drift name the cause."""

WARNING_SHARE, ERROR_SHARE = 0.01, 0.5
"""Share of a layer's units. Chance leaves none with zero biases; half of a layer is half of its
capacity. The first is an engineering choice that keeps single units out."""

BY_CHANCE = 1e-4
"""Probability below which negative signs throughout a row are no luck. Weights of either sign are
all negative with probability 2^-fan_in, so that a 3 x 3 depthwise filter is in one of 512 draws;
fifty layers at this level are mistaken for once in 200 networks."""

OFF_BELOW: Mapping[Op, float] = {
    Op.RELU: 0.0,
    Op.RELU6: 0.0,
    Op.HARD_SWISH: -3.0,
    Op.GELU: -4.0,
    Op.QUICK_GELU: -6.0,
    Op.ELU: -7.0,
    Op.SILU: -10.0,
    Op.MISH: -10.0,
}
"""Activations that are flat to the left, and from where: slope zero, or below 1/1000 for the smooth
ones (GELU z phi(z), ELU exp(z), SiLU and Mish z exp(z), the quick GELU that of SiLU at 1.7 z)."""

FADED = 1e-2
"""Part of the root mean square slope that is left to a unit of a smooth activation which counts as
off: at -6 for a GELU, -8 for a SiLU, with unit spread. A mixer of such biases made 0.7 of its
twin's progress although its branches only refine a trunk."""

POSITIVE = frozenset(
    {Op.RELU, Op.RELU6, Op.SIGMOID, Op.HARD_SIGMOID, Op.SOFTMAX, Op.SOFTPLUS, Op.EXP}
    | {Op.SQUARE, Op.ABS, Op.SQUARED_RELU}
)
"""Operators whose output is never negative."""


@record(frozen=True, slots=True)
class _Layer:
    """What was found of one layer.

    Attributes:
        own: True when the bias would silence the units at weights of any usual scale, too (below
            `TAIL` standard deviations of a pre-activation of unit scale): the weights are no cause.
    """

    layer: Layer
    silent: int
    units: int
    by_sign: bool
    shifted: bool
    activation: Op
    own: bool

    @property
    def cause(self) -> str:
        """What its bias does."""
        if OFF_BELOW[self.activation]:
            return f"the bias leaves a {self.activation} less than {FADED:.0%} of its slope"
        return f"the bias lies more than {TAIL:g} standard deviations below zero"

    @property
    def share(self) -> float:
        return self.silent / self.units


class UnitCannotFire(Rule):
    """ReLU units start where no input can switch them on.

    What it does
    ------------
    Finds units in front of a ReLU (or a GELU, SiLU, ELU, Mish, which are as flat further down)
    whose bias lies far below all that their weights can add up to, or whose weights and bias are
    all negative while their inputs never are.

    Why is this bad
    ---------------
    A ReLU that is zero for every input has no gradient. Its weights never change, so the unit is
    lost for good, and with it part of the layer's width.

    How it decides
    --------------
    Bias plus mean more than four standard deviations below zero (smooth activations: so far below
    that a hundredth of their slope is left), with the spread of the weighted sum from each row's
    own norm and the measured or predicted rms of the input; or, exactly: no positive weight, no
    positive bias, inputs of a ReLU, sigmoid or softmax. From 1 % of a layer's units a warning, from
    50 % an error; an info where every such bias lies inside PyTorch's default bound 1 /
    sqrt(fan_in), because then the input is small (a codebook, a hash grid) rather than the bias
    large. What the probe saw firing overrules the prediction.

    What it does not flag
    ---------------------
    Leaky activations; as many rows of negative weights as chance makes (short rows: depthwise
    kernels); units before a normaliser; first layers with a bias, unless you give the inputs (the
    scale of data is not known otherwise); weights that are all zero (zero-weight); trained weights.

    Example
    -------
    ::

        from torch import nn

        def model():
            net = nn.Sequential(
                nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
            )
            nn.init.constant_(net[2].bias, -10.0)
            return net

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            net = nn.Sequential(
                nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
            )
            nn.init.zeros_(net[2].bias)
            return net

    References
    ----------
    - Lu et al. 2019, Dying ReLU and initialization: theory and numerical examples.
    """

    code = "BIA903"
    name = "unit-cannot-fire"
    formula = "z ~ N(b + w . E[x], |w|^2 E[x^2]):  P(z > 0) < 3e-5 below -4 standard deviations"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH})
    optional = frozenset({Need.THEORY, Need.PROBE})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    local = True
    folds = (
        "bias-dominates",
        "dead-relu",
        "zero-gradient",
        "correlation-collapse",
        "mean-shifted-weights",
        "forward-drift",
        "backward-drift",
        "variance-profile",
        "gradient-profile",
    )

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per layer with such units."""
        for layer in context.model.graph.weighted:
            found = _examine(context, layer)
            if found is None or found.share < WARNING_SHARE:
                continue
            bias = layer.bias
            cause = (
                "neither weights nor bias are positive, and inputs never are negative"
                if found.by_sign
                else found.cause
            )
            lost = found.share >= ERROR_SHARE and not is_bypassed(context.model.graph, (layer.id,))
            severity = Severity.ERROR if lost else Severity.WARNING
            yield Finding(
                severity=severity if found.shifted else Severity.INFO,
                confidence=Confidence.HIGH,
                layer=layer.id,
                param=bias.name if bias is not None and not found.by_sign else _name(layer),
                message=f"{found.silent} of {found.units} units of {layer.id} cannot fire: {cause}",
                evidence={
                    "silent_units": found.silent,
                    "units": found.units,
                    "share": found.share,
                    "by_sign": found.by_sign,
                },
                why="an activation that is off for every input has no gradient: its unit stays off",
                measured=f"{found.share:.0%} of the units silent for every input",
                expected="biases of zero or slightly above, weights of both signs",
                fix=Fix(
                    "zeros" if bias is not None and not found.by_sign else "he_normal",
                    params=(bias.key,) if bias is not None and not found.by_sign else (),
                    code=f"torch.nn.init.zeros_({bias.name})"
                    if bias is not None and not found.by_sign
                    else f"torch.nn.init.kaiming_normal_({_name(layer)}, nonlinearity='relu')",
                ),
                shares={(bias.key,): 1.0} if bias is not None and found.own else {},
            )


def _name(layer: Layer) -> str | None:
    return layer.weight.name if layer.weight is not None else None


def _examine(context: Context, layer: Layer) -> _Layer | None:
    """How many units of a layer are silent for every input."""
    graph = context.model.graph
    weight, bias, activation = layer.weight, layer.bias, graph.activation(layer.id)
    if layer.op not in (Op.LINEAR, Op.CONV) or weight is None or weight.quantised:
        return None
    if activation is None or activation.op not in OFF_BELOW:
        return None
    edge = OFF_BELOW[activation.op]
    if context.measures.stage(weight) is not Stage.FRESH and not _constant(context, layer):
        return None
    values = context.measures.read(weight)
    if values is None or not values.size or not values.any():
        return None
    rows = values.reshape(values.shape[0], -1).astype(np.float64)
    offsets = np.zeros(len(rows))
    shift = context.measures.read(bias) if bias is not None else None
    if shift is not None and shift.size == len(rows):
        offsets = shift.reshape(-1).astype(np.float64)
    by_sign = np.zeros(len(rows), dtype=bool)
    if edge == 0.0 and _never_negative(context, layer):
        by_sign = (rows.max(axis=1) <= 0) & (offsets <= 0)
        if _luck(int(by_sign.sum()), len(rows) * 0.5 ** rows.shape[1]) > BY_CHANCE:
            by_sign[:] = False
    below = _below(context, layer, activation, rows, offsets)
    silent = by_sign | below
    count = int(silent.sum())
    if not count:
        return None
    stats = context.probe.outputs.get(activation.id) if context.probe else None
    seen = stats is not None and stats.units == len(rows) and edge == 0.0
    if seen and stats is not None and stats.dead_units < 0.5 * count:
        return None
    fan_in = rows.shape[1]
    beyond = offsets[silent] < -1.0 / np.sqrt(fan_in)
    shifted = bool(by_sign.any() or beyond.any())
    signs = int(by_sign.sum()) * 2 >= count
    own = bool(np.median(offsets[silent]) < -TAIL)
    return _Layer(layer, count, len(rows), signs, shifted, activation.op, own)


def _luck(count: int, mean: float) -> float:
    """Probability of at least so many rare events where ``mean`` are expected (Poisson)."""
    term, fewer = exp(-mean), 0.0
    for number in range(count):
        fewer += term
        term *= mean / (number + 1)
    return 1.0 - fewer


def _constant(context: Context, layer: Layer) -> bool:
    """Weights of one value are as good as fresh: training would have changed them."""
    moments = context.measures.moments(layer.weight) if layer.weight is not None else None
    return moments is not None and moments.constant


def _producer(context: Context, layer: Layer) -> Layer | None:
    """What computes the layer's input, seen through operators that keep signs."""
    graph = context.model.graph
    current = layer
    for _ in range(len(graph)):
        edges = graph.inputs(current.id)
        if len(edges) != 1:
            return None
        current = graph[edges[0].source]
        if current.op not in TRANSPARENT and current.op is not Op.POOL:
            return current
    return None


def _never_negative(context: Context, layer: Layer) -> bool:
    producer = _producer(context, layer)
    return producer is not None and producer.op in POSITIVE


def _below(
    context: Context,
    layer: Layer,
    activation: Layer,
    rows: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    offsets: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Units whose mean lies `TAIL` standard deviations below zero.

    The spread is taken from the input's second moment, mean included, and at least `LEAST_RMS`: too
    large rather than too small.
    """
    none = np.zeros(len(rows), dtype=bool)
    if OFF_BELOW[activation.op] == 0.0 and not (offsets < 0.0).any():
        return none
    producer = _producer(context, layer)
    given = context.probe is not None and context.probe.given
    if producer is None or (producer.op is Op.INPUT and not given):
        return none
    entering = _entering(context, layer)
    if entering is None:
        return none
    rms, mean = entering
    spread = np.sqrt((rows**2).sum(axis=1)) * max(rms, LEAST_RMS)
    centre = offsets + (mean * rows.sum(axis=1) if producer.op in ACTIVATIONS else 0.0)
    if OFF_BELOW[activation.op]:
        return _faded(activation, centre, spread)
    silent: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = (offsets < 0) & (
        centre < -TAIL * spread
    )
    return silent


def _faded(
    activation: Layer,
    centre: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    spread: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Units of a smooth activation to which less than `FADED` of its slope is left."""

    def slope(mean: float, std: float) -> float:
        power = mean * mean + std * std
        return derivative_moment(activation.op, activation.attrs, power, mean)

    off = np.zeros(len(centre), dtype=bool)
    for number in np.flatnonzero(centre < 0.5 * OFF_BELOW[activation.op]):
        mean, std = round(float(centre[number]), 1), round(float(spread[number]), 1) or 0.1
        off[number] = slope(mean, std) < FADED**2 * slope(0.0, std)
    return off


def _entering(context: Context, layer: Layer) -> tuple[float, float] | None:
    """Rms and mean of the layer's input: measured, else predicted."""
    source = context.model.graph.inputs(layer.id)[0].source
    stats = context.probe.outputs.get(source) if context.probe else None
    if stats is not None and stats.count:
        return stats.rms, stats.mean
    signal = context.theory.forward.get(source) if context.theory else None
    if signal is None or not -600 < signal.log_q < 600:
        return None
    rms = exp(0.5 * signal.log_q)
    return rms, copysign(rms * sqrt(min(max(signal.mean_share, 0.0), 1.0)), 1.0)
