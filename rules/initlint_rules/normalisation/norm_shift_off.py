"""norm-shift-off: a normaliser's shift that leaves an activation flat or drowns what differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import log10
from statistics import median

import numpy as np

from initlint.api import (
    NORMALISERS,
    WEIGHTED,
    Confidence,
    Context,
    Finding,
    Fix,
    Layer,
    Need,
    Op,
    Param,
    Role,
    Rule,
    Severity,
    Stage,
    derivative_moment,
    record,
)

FLAT_BELOW = frozenset(
    {Op.RELU, Op.RELU6, Op.GELU, Op.QUICK_GELU, Op.SILU, Op.MISH, Op.ELU, Op.HARD_SWISH}
)
"""Activations that are flat to the left and not meant as gates, which may start shut on purpose."""

LEVELS = ((3.0, Severity.ERROR), (1.5, Severity.WARNING), (0.5, Severity.INFO))
"""Decades of slope, summed over the normalisers. Shifts of -1 throughout (a quarter of a decade
each) cost networks of 8 normalisers 5 to 80 % of their progress in 100 steps, shifts of -2 (two
thirds each) 70 to 90 %, shifts of -4 all of it: a ResNet, separable convolutions with SiLU, and
perceptrons with batch norm and ReLU and with layer norm and GELU."""

COMMON = ((3.0, Severity.ERROR), (2.0, Severity.WARNING))
"""Rms of the shift over that of the gain of a layer norm. Shifts of 1 cost transformers and a mixer
nothing in 100 steps, shifts of 2 a tenth to a third of their progress, shifts of 3 more than half:
4/5 and 9/10 of the power of what the layers behind it read is then the same for all samples."""

LEAST = 0.2
"""Decades from which a normaliser is named: a shift of -0.9 before a ReLU, far beyond what drawing
shifts around 0 gives."""

COMPOUNDING = 3
"""Normalisers from which it is an error: one or two are made up for by the layers around them. A
shift that is common to all samples is no more than a bias there: an info."""

QUANTILES = 16
"""Values that stand for the shifts of a layer's units, which are all equal nearly always."""


@record(frozen=True, slots=True)
class _Shift:
    """A normaliser's shift.

    Attributes:
        layer, param, mean: which, and its mean.
        decades: of the slope of the activation that follows, which it costs.
        ratio: its rms over that of the gain, of a layer norm whose output weights read.
        activation: what follows; None where that is no activation, or a gate.
    """

    layer: Layer
    param: Param
    mean: float
    decades: float
    ratio: float
    activation: Layer | None


class NormShiftOff(Rule):
    """The shift of a normaliser flattens the activation behind it, or outweighs what it normalises.

    What it does
    ------------
    Works out what the shift (beta) of every normaliser leaves of the slope of the activation that
    follows, when what is normalised is normal with the gain as its standard deviation; and compares
    the shifts of layer norms with their gains.

    Why is this bad
    ---------------
    A ReLU, GELU or SiLU is flat to the left. Shifted by -2, one unit in forty is on, and the next
    normaliser hides it: it brings the little that is left back to unit variance. What each unit
    learns from is then a few samples, and at -5 the variance is that of the epsilon. A layer norm
    adds its shift to every sample alike: at 3, nine tenths of what the next layers read says
    nothing about the input, and all their gradients point one way.

    How it decides
    --------------
    Half the logarithm of E[f'(beta + gamma z)^2] over E[f'(gamma z)^2], from 0.2 decades on, summed
    over all such normalisers: from 0.5 an info, from 1.5 a warning, from 3 and three normalisers
    an error. Three layer norms whose shift has twice the rms of the gain: warning, three times:
    error; fewer: info.

    What it does not flag
    ---------------------
    Positive shifts of batch norms; shifts in front of a sigmoid, tanh or softmax (gates that start
    shut); normalisers whose output is added first; gains of zero; trained shifts.

    Example
    -------
    ::

        from torch import nn

        def model():
            layers = [nn.Linear(64, 64)]
            for _ in range(6):
                norm = nn.BatchNorm1d(64)
                nn.init.constant_(norm.bias, -3.0)
                layers += [norm, nn.ReLU(), nn.Linear(64, 64)]
            return nn.Sequential(*layers, nn.Linear(64, 10))

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            layers = [nn.Linear(64, 64)]
            for _ in range(6):
                layers += [nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64)]
            return nn.Sequential(*layers, nn.Linear(64, 10))

    References
    ----------
    - Ioffe, Szegedy 2015, Batch normalization: beta starts at 0.
    - torch/nn/modules/batchnorm.py, reset_parameters: weight 1, bias 0.
    """

    code = "NRM607"
    name = "norm-shift-off"
    formula = "decades = log10(E[f'(beta + gamma z)^2] / E[f'(gamma z)^2]) / 2"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH})
    stages = frozenset({Stage.FRESH})
    folds = (
        "epsilon-dominates",
        "dead-relu",
        "forward-drift",
        "backward-drift",
        "variance-profile",
        "gradient-profile",
        "correlation-collapse",
        "zero-gradient",
    )

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding that names every such normaliser, the worst first."""
        for wrong in (*_flat(context), *_common(context))[:1]:
            yield _finding(context, wrong)


@record(frozen=True, slots=True)
class _Wrong:
    """What is said of the normalisers of one network."""

    found: Sequence[_Shift]
    severity: Severity
    effect: str
    evidence: Mapping[str, float]
    why: str
    measured: str


def _flat(context: Context) -> Iterator[_Wrong]:
    """Shifts far below zero in front of activations that are flat there."""
    found = [item for item in _shifts(context) if item.decades >= LEAST]
    total = sum(item.decades for item in found)
    severity = next((level for limit, level in LEVELS if total >= limit), None)
    if severity is None:
        return
    if len(found) < COMPOUNDING:
        severity = min(severity, Severity.WARNING)
    worst = max(found, key=lambda item: item.decades)
    behind = worst.activation.op if worst.activation is not None else "activation"
    yield _Wrong(
        sorted(found, key=lambda item: -item.decades),
        severity,
        f"where the {behind} behind it keeps 10^-{worst.decades:.1f} of its slope",
        {"decades": worst.decades, "decades_of_all": total},
        "the activation is flat there: few samples reach the unit's weights, and the next "
        "normaliser hides it",
        f"10^-{total:.1f} of the slope over {len(found)} normaliser{'s' * (len(found) > 1)}",
    )


def _common(context: Context) -> Iterator[_Wrong]:
    """Shifts of layer norms that outweigh what differs between samples."""
    found = [item for item in _shifts(context) if item.ratio >= COMMON[-1][0]]
    if not found:
        return
    typical = median(item.ratio for item in found)
    severity = next(level for limit, level in COMMON if typical >= limit)
    worst = max(found, key=lambda item: item.ratio)
    share = worst.ratio**2 / (1 + worst.ratio**2)
    yield _Wrong(
        sorted(found, key=lambda item: -item.ratio),
        severity if len(found) >= COMPOUNDING else Severity.INFO,
        f"beside which {share:.0%} of what it passes on is the same for all samples",
        {"ratio": worst.ratio, "common_share": share},
        "what reads the normaliser reads a constant with a little signal on it, and the gradients "
        "of all samples point one way",
        f"{worst.ratio:.1f} times the gain",
    )


def _finding(context: Context, wrong: _Wrong) -> Finding:
    worst, *others = wrong.found
    layers = (worst.layer.id, *(item.layer.id for item in others))
    graph = context.model.graph
    ends = [item.layer if item.activation is None else item.activation for item in wrong.found]
    readers = (reader.id for end in ends for reader in graph.effective_consumers(end.id))
    more = f" (and {len(others)} more)" if others else ""
    return Finding(
        severity=wrong.severity,
        confidence=Confidence.HIGH,
        layer=worst.layer.id,
        param=worst.param.name,
        layers=layers,
        culprits=tuple(dict.fromkeys((*layers, *readers))),  # what reads next to nothing
        message=f"the shift of {worst.layer.id}{more} starts at {worst.mean:.3g}, {wrong.effect}",
        evidence={"shift": worst.mean, **wrong.evidence, "normalisers": len(wrong.found)},
        why=wrong.why,
        measured=f"beta {worst.mean:.3g}: {wrong.measured}",
        expected="beta 0",
        fix=Fix(
            "zeros",
            params=tuple(item.param.key for item in wrong.found),
            code=f"torch.nn.init.zeros_({worst.param.name})",
        ),
    )


def _shifts(context: Context) -> Iterator[_Shift]:
    """The shifts of all normalisers that lead to weights, or to an activation that is no gate."""
    graph = context.model.graph
    for layer in graph.order:
        param = next(iter(layer.with_role(Role.SHIFT)), None) if layer.op in NORMALISERS else None
        moments = context.measures.moments(param) if param is not None else None
        gain = _gain(context, layer) if param is not None else None
        if (
            param is None
            or moments is None
            or moments.non_finite
            or not moments.max_abs
            or not gain
        ):
            continue
        if context.measures.stage(param) is Stage.TRAINED:
            continue
        activation = graph.activation(layer.id)
        plain = activation is not None and activation.op in FLAT_BELOW
        read = any(reader.op in WEIGHTED for reader in graph.effective_consumers(layer.id))
        ratio = moments.second_moment**0.5 / gain if layer.op is Op.LAYER_NORM else 0.0
        yield _Shift(
            layer,
            param,
            moments.mean,
            _decades(context, activation, param, gain) if plain and activation else 0.0,
            ratio if plain or read else 0.0,
            activation if plain else None,
        )


def _decades(context: Context, activation: Layer, param: Param, gain: float) -> float:
    """Decades of slope that a shift costs; 0 where its mean is not negative."""
    values = context.measures.read(param)
    if values is None or values.mean() >= 0:
        return 0.0
    units = np.sort(values.reshape(-1).astype(np.float64))
    chosen = units[np.linspace(0, units.size - 1, min(units.size, QUANTILES)).astype(int)]
    kept = float(np.mean([_slope(activation, float(shift), gain) for shift in chosen]))
    return 0.5 * (log10(_slope(activation, 0.0, gain)) - log10(max(kept, 1e-300)))


def _slope(activation: Layer, shift: float, gain: float) -> float:
    """E[f'(shift + gain z)^2] for a normal z."""
    power = shift * shift + gain * gain
    return derivative_moment(activation.op, activation.attrs, power, shift)


def _gain(context: Context, layer: Layer) -> float | None:
    """Rms of the layer's gain, 1 where it has none; None where it is not known."""
    param = next(iter(layer.with_role(Role.GAIN)), None)
    if param is None:
        return 1.0
    moments = context.measures.moments(param)
    if moments is None or moments.non_finite:
        return None
    return float(moments.second_moment**0.5)
