"""selu-not-lecun: self-normalising units without the weights that make them normalise."""

from __future__ import annotations

from collections.abc import Iterator
from math import log

from initlint.api import (
    Context,
    Finding,
    Fix,
    Layer,
    Need,
    Op,
    Param,
    Rule,
    Severity,
    Stage,
    drift_share,
    fans,
    record,
)
from initlint_rules._consequences import SIGNALS

MIN_LAYERS = 3
"""SELU in one or two places is an activation like any other; the fixed point needs depth."""

LEAST_RATIO = 0.26
"""|ln(fan_in * Var W)| from which the fixed point leaves the unit scale. SELU's map of ln q has
slope 0.783, so the same error x in every layer moves the fixed point by x / (1 - 0.783) = 4.6 x:
at 0.26 by a factor 3.3 in the variance, a quarter of a decade of rms."""


@record(frozen=True, slots=True)
class _Unit:
    layer: Layer
    param: Param
    variance: float


class SeluNotLecun(Rule):
    """A stack of SELU layers was not drawn with variance 1 / fan_in.

    What it does
    ------------
    Checks what self-normalisation asks of stacks of SELU layers: weights of variance 1 / fan_in.

    Why is this bad
    ---------------
    SELU pulls the signal to mean 0 and variance 1 only if each matrix keeps the variance. With
    ``calculate_gain('selu')`` = 3/4 the fixed point is a variance of 0.02, with He's gain it is
    about 10.

    How it decides
    --------------
    Three or more layers that feed a SELU without a normaliser. fan_in times the variance outside
    0.77 to 1.30: the fixed point then lies more than a quarter of a decade off. An info; more
    through the layers' share of the predicted drift.

    What it does not flag
    ---------------------
    LeCun weights, orthogonal weights of square layers, one or two SELU layers, layers with a
    normaliser, trained weights.

    Example
    -------
    ::

        from torch import nn

        def model():
            layers = []
            for _ in range(8):
                linear = nn.Linear(128, 128)
                nn.init.normal_(linear.weight, std=0.7 / 128**0.5)
                nn.init.zeros_(linear.bias)
                layers += [linear, nn.SELU()]
            return nn.Sequential(*layers, nn.Linear(128, 10))

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            layers = []
            for _ in range(8):
                linear = nn.Linear(128, 128)
                nn.init.kaiming_normal_(linear.weight, nonlinearity="linear")
                nn.init.zeros_(linear.bias)
                layers += [linear, nn.SELU()]
            return nn.Sequential(*layers, nn.Linear(128, 10))

    References
    ----------
    - Klambauer, Unterthiner, Mayr, Hochreiter 2017, Self-normalizing neural networks.
    - torch.nn.init.calculate_gain: use nonlinearity='linear' for the self-normalising network.
    """

    code = "SCL204"
    name = "selu-not-lecun"
    formula = "Var(W) = 1 / fan_in;  ln q* = 4.6 ln(fan_in Var(W))"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.THEORY})
    optional = frozenset({Need.PROBE})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    folds = (*SIGNALS, "gain-mismatch", "inconsistent-siblings")

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding that names every layer off the unit variance."""
        units = [
            unit
            for layer in context.model.graph.weighted
            if (unit := _unit(context, layer)) is not None
        ]
        if len(units) < MIN_LAYERS:
            return
        off = [unit for unit in units if abs(log(unit.variance)) > LEAST_RATIO]
        if off:
            yield _scale(context, off)


def _unit(context: Context, layer: Layer) -> _Unit | None:
    param, graph = layer.weight, context.model.graph
    activation = graph.activation(layer.id)
    if layer.op not in (Op.LINEAR, Op.CONV) or param is None or not param.trainable:
        return None
    if activation is None or activation.op is not Op.SELU or param.quantised:
        return None
    fan, std = fans(layer, param), context.measures.effective_std(param)
    if fan is None or not std or context.measures.stage(param) is not Stage.FRESH:
        return None
    return _Unit(layer, param, std * std * fan.fan_in)


def _scale(context: Context, off: list[_Unit]) -> Finding:
    causes = {unit.layer.id: 0.5 * log(unit.variance) / log(10.0) for unit in off}
    share = drift_share(context, causes)
    first = off[0]
    fan = fans(first.layer, first.param)
    count = first.layer.id if len(off) == 1 else f"{len(off)} SELU layers"
    return Finding(
        severity=share.severity or Severity.INFO,
        layer=first.layer.id,
        param=first.param.name,
        layers=tuple(unit.layer.id for unit in off),
        message=f"fan_in * variance of {count} is {first.variance:.2g}; self-normalisation wants 1",
        evidence={
            "fan_in_times_variance": first.variance,
            "fan_in": fan.fan_in if fan else None,
            "decades": share.decades,
            "layers": len(off),
        },
        why="SELU's fixed point has mean 0 and variance 1 only for weights that keep the variance",
        measured=f"fan_in * Var(W) = {first.variance:.3g}",
        expected="1 (LeCun normal)",
        fix=Fix(
            "lecun_normal",
            params=tuple(unit.param.key for unit in off),
            code=f"torch.nn.init.kaiming_normal_({first.param.name}, nonlinearity='linear')",
            arguments={"gain": 1.0},
        ),
    )
