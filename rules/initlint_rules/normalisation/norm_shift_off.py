"""norm-shift-off: a normaliser's shift that leaves the activation behind it nearly flat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log10

import numpy as np

from initlint.api import (
    NORMALISERS,
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

LEAST = 0.2
"""Decades from which a normaliser is named: a shift of -0.9 before a ReLU, far beyond what drawing
shifts around 0 gives."""

COMPOUNDING = 3
"""Normalisers from which it is an error: one or two are made up for by the layers around them."""

QUANTILES = 16
"""Values that stand for the shifts of a layer's units, which are all equal nearly always."""


@dataclass(frozen=True, slots=True)
class _Shift:
    layer: Layer
    param: Param
    mean: float
    decades: float
    activation: Layer


class NormShiftOff(Rule):
    """The shift of a normaliser starts so far below zero that the activation behind it is flat.

    What it does
    ------------
    Works out what the shift (beta) of every normaliser leaves of the slope of the activation that
    follows, when what is normalised is normal with the gain as its standard deviation.

    Why is this bad
    ---------------
    A ReLU, GELU or SiLU is flat to the left. Shifted by -2, one unit in forty is on, and the next
    normaliser hides it: it brings the little that is left back to unit variance. What each unit
    learns from is then a few samples, and at -5 the variance is that of the epsilon.

    How it decides
    --------------
    Half the logarithm of E[f'(beta + gamma z)^2] over E[f'(gamma z)^2], from 0.2 decades on, summed
    over all such normalisers: from 0.5 an info, from 1.5 a warning, from 3 and three normalisers
    an error.

    What it does not flag
    ---------------------
    Shifts above zero; shifts in front of a sigmoid, tanh or softmax (gates that start shut);
    normalisers whose output is added, or read by a layer with weights, first; gains of zero;
    trained shifts.

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
        found = [
            item
            for layer in context.model.graph.order
            if layer.op in NORMALISERS
            if (item := _examine(context, layer)) is not None
        ]
        total = sum(item.decades for item in found)
        severity = next((level for limit, level in LEVELS if total >= limit), None)
        if severity is None:
            return
        if len(found) < COMPOUNDING:
            severity = min(severity, Severity.WARNING)
        worst = max(found, key=lambda item: item.decades)
        others = [item for item in found if item is not worst]
        layers = (worst.layer.id, *(item.layer.id for item in others))
        graph = context.model.graph
        readers = (
            reader.id for item in found for reader in graph.effective_consumers(item.activation.id)
        )
        more = f" (and {len(others)} more)" if others else ""
        yield Finding(
            severity=severity,
            confidence=Confidence.HIGH,
            layer=worst.layer.id,
            param=worst.param.name,
            layers=layers,
            culprits=tuple(dict.fromkeys((*layers, *readers))),  # what reads next to nothing
            message=f"the shift of {worst.layer.id}{more} starts at {worst.mean:.3g}, where the "
            f"{worst.activation.op} behind it keeps 10^-{worst.decades:.1f} of its slope",
            evidence={
                "shift": worst.mean,
                "decades": worst.decades,
                "decades_of_all": total,
                "normalisers": len(found),
            },
            why="the activation is flat there: few samples reach the unit's weights, and the next "
            "normaliser hides it",
            measured=f"beta {worst.mean:.3g}: 10^-{total:.1f} of the slope over {len(found)} "
            f"normaliser{'s' if others else ''}",
            expected="beta 0",
            fix=Fix(
                "zeros",
                params=tuple(item.param.key for item in found),
                code=f"torch.nn.init.zeros_({worst.param.name})",
            ),
        )


def _examine(context: Context, layer: Layer) -> _Shift | None:
    """The layer's shift with the decades of slope that it costs, when it costs some."""
    param = next(iter(layer.with_role(Role.SHIFT)), None)
    activation = context.model.graph.activation(layer.id)
    if param is None or activation is None or activation.op not in FLAT_BELOW:
        return None
    moments = context.measures.moments(param)
    if moments is None or moments.non_finite or moments.mean >= 0:
        return None
    values, gain = context.measures.read(param), _gain(context, layer)
    if values is None or not gain or context.measures.stage(param) is Stage.TRAINED:
        return None
    units = np.sort(values.reshape(-1).astype(np.float64))
    chosen = units[np.linspace(0, units.size - 1, min(units.size, QUANTILES)).astype(int)]
    kept = float(np.mean([_slope(activation, float(shift), gain) for shift in chosen]))
    decades = 0.5 * (log10(_slope(activation, 0.0, gain)) - log10(max(kept, 1e-300)))
    if decades < LEAST:
        return None
    return _Shift(layer, param, moments.mean, decades, activation)


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
