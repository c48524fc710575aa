"""standardised-gain: weight-standardised layers whose gain does not fit their activation."""

from __future__ import annotations

from collections.abc import Iterator
from math import log10, sqrt
from typing import Any

import numpy as np

from initlint.api import (
    ACTIVATIONS,
    TRANSPARENT,
    Context,
    Finding,
    Fix,
    Layer,
    LayerGraph,
    Need,
    Op,
    Param,
    Rule,
    Severity,
    Stage,
    drift_share,
    record,
    standardised_gain,
)

TOLERANCE = 0.03
"""Relative error of a gain that is reported: the published constants are within 0.1 % of the exact
ones, and 3 % per layer is a decade of variance after 40 layers."""

ROUNDING = 2e-3
"""How far from zero, in standard deviations, a standardised row's mean may be: 2e-3 covers
bfloat16 storage of 144 weights or more. The mean of a random row is 1/sqrt(n) = 0.08 there."""

SPREAD = 0.02
"""Relative spread of the rows' standard deviations that still is one gain for all. Random rows of
144 weights scatter by 6 %."""

MIN_FAN_IN, MIN_ROWS = 16, 4
"""Smaller rows can have a mean near zero by chance."""


@record(frozen=True, slots=True)
class _Layer:
    layer: Layer
    param: Param
    activation: Layer
    gain: float
    wanted: float


class StandardisedGain(Rule):
    """Weight-standardised layers have a gain that does not fit the activation before them.

    What it does
    ------------
    Finds layers whose rows have mean zero and one common standard deviation, as weight
    standardisation makes them, behind an activation without a normaliser, and compares their gain
    (with the constant factor that stands between) with what that activation needs.

    Why is this bad
    ---------------
    Rows of mean zero do not see what all inputs have in common, so the activation's mean does not
    reach the output and the gain that keeps the variance is 1/Std[phi], 1.713 for ReLU, not He's
    1.414. In a network without normalisers the error is repeated at every layer: with no gain at
    all ReLU loses two thirds of the variance each time.

    How it decides
    --------------
    std * sqrt(fan_in) * factor more than 3 % off 1/Std[phi(z)] for a unit normal z. An info; more
    through the layers' share of the predicted drift.

    What it does not flag
    ---------------------
    Standardised layers with a normaliser between them and the activation (BiT, group norm), the
    first layer of a residual branch, whose input has another variance by design (beta in NFNets),
    layers that are not standardised, trained weights.

    Example
    -------
    ::

        import torch
        from torch import nn

        class Conv(nn.Conv2d):
            def forward(self, x):
                weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
                weight = weight / (weight.std((1, 2, 3), keepdim=True, unbiased=False)
                                   * weight[0].numel() ** 0.5)
                return nn.functional.conv2d(x, weight, self.bias, padding=1)

        class Net(nn.Module):
            gain = 1.0

            def __init__(self):
                super().__init__()
                self.convs = nn.ModuleList([Conv(8 if i else 3, 8, 3) for i in range(6)])
                for conv in self.convs:
                    nn.init.zeros_(conv.bias)

            def forward(self, x):
                for conv in self.convs:
                    x = self.gain * torch.relu(conv(x))
                return x

        def model():
            return Net()

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        class Conv(nn.Conv2d):
            def forward(self, x):
                weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
                weight = weight / (weight.std((1, 2, 3), keepdim=True, unbiased=False)
                                   * weight[0].numel() ** 0.5)
                return nn.functional.conv2d(x, weight, self.bias, padding=1)

        class Net(nn.Module):
            gain = 1.7129

            def __init__(self):
                super().__init__()
                self.convs = nn.ModuleList([Conv(8 if i else 3, 8, 3) for i in range(6)])
                for conv in self.convs:
                    nn.init.zeros_(conv.bias)

            def forward(self, x):
                for conv in self.convs:
                    x = self.gain * torch.relu(conv(x))
                return x

        def model():
            return Net()

    References
    ----------
    - Brock, De, Smith 2021, Characterizing signal propagation to close the performance gap in
      unnormalized ResNets.
    - timm, layers/std_conv.py and models/nfnet.py: the table of gains.
    """

    code = "RES506"
    name = "standardised-gain"
    formula = (
        "std sqrt(fan_in) factor = 1 / Std[phi(z)], z ~ N(0, 1);  rows of sum zero drop E[phi]"
    )
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.THEORY})
    optional = frozenset({Need.PROBE})
    stages = frozenset({Stage.FRESH, Stage.MIXED, Stage.UNKNOWN})
    folds = (
        "forward-drift",
        "backward-drift",
        "gain-mismatch",
        "relu-after-xavier",
        "variance-profile",
        "gradient-profile",
    )

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding that names every such layer."""
        found = [
            item
            for layer in context.model.graph.weighted
            if (item := _standardised(context, layer)) is not None
            and abs(item.gain / item.wanted - 1) > TOLERANCE
        ]
        if found:
            yield _finding(context, found)


def _standardised(context: Context, layer: Layer) -> _Layer | None:
    param, graph = layer.weight, context.model.graph
    if layer.op not in (Op.LINEAR, Op.CONV) or param is None or param.quantised:
        return None
    if not _is_large(param):
        return None
    before = _before(graph, layer)
    if before is None:
        return None
    activation, factor = before
    feeder = graph.effective_producers(activation.id)
    if len(feeder) != 1 or feeder[0].weight is None or feeder[0].op is not layer.op:
        return None
    gain = _row_gain(context, param)
    if gain is None or _row_gain(context, feeder[0].weight) is None:
        return None
    try:
        wanted = standardised_gain(activation.op, activation.attrs)
    except ValueError:
        return None
    return _Layer(layer, param, activation, gain * factor, wanted)


def _before(graph: LayerGraph, layer: Layer) -> tuple[Layer, float] | None:
    """The activation that a layer reads, and the constant factor between the two."""
    factor = 1.0
    for _ in range(len(graph)):
        edges = graph.inputs(layer.id)
        if len(edges) != 1:
            return None
        layer = graph[edges[0].source]
        if layer.op in ACTIVATIONS:
            return layer, factor
        constant = layer.attrs.get("constant")
        if layer.op in (Op.MUL, Op.DIV) and not layer.params and constant is not None:
            values = np.reshape(constant, -1)
            value = float(values[0]) if values.size == 1 else 0.0
            if value == 0.0 or layer.attrs.get("constant_first"):
                return None
            factor *= value if layer.op is Op.MUL else 1 / value
        elif layer.op not in TRANSPARENT or layer.params:
            return None
    return None


def _is_large(param: Param) -> bool:
    """True when there are rows enough, and elements enough in each, to tell them standardised."""
    rows = param.shape[0] if param.shape else 0
    return rows >= MIN_ROWS and param.size >= MIN_FAN_IN * rows


def _row_gain(context: Context, param: Param) -> float | None:
    """Std * sqrt(fan_in) of rows that are standardised; None for any others."""
    array = context.measures.read(param) if _is_large(param) else None
    if array is None or not _is_centred(array[0]):
        return None
    rows = np.asarray(array, dtype=np.float64).reshape(array.shape[0], -1)
    if not np.isfinite(rows).all():
        return None
    std = rows.std(axis=1)
    if std.min() <= 0.0 or std.max() / std.min() - 1 > SPREAD:
        return None
    if np.abs(rows.mean(axis=1) / std).max() > ROUNDING:
        return None
    return float(std.mean()) * sqrt(rows.shape[1])


def _is_centred(row: Any) -> bool:
    """False when a row alone shows that rows are not: no standard deviation exceeds its peak."""
    values = row.reshape(-1).astype(np.float64)
    return not abs(values.sum()) > ROUNDING * values.size * max(values.max(), -values.min())


def _finding(context: Context, found: list[_Layer]) -> Finding:
    causes = {item.layer.id: log10(item.gain / item.wanted) for item in found}
    share = drift_share(context, causes)
    first = max(found, key=lambda item: abs(log10(item.gain / item.wanted)))
    several = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    factor = first.wanted / first.gain
    return Finding(
        severity=share.severity or Severity.INFO,
        layer=first.layer.id,
        param=first.param.name,
        layers=tuple(item.layer.id for item in found),
        message=f"standardised weights of {first.layer.id}{several} have gain {first.gain:.3g} "
        f"behind {first.activation.op}, which needs {first.wanted:.4g}",
        evidence={
            "gain": first.gain,
            "gain_wanted": first.wanted,
            "activation": str(first.activation.op),
            "decades": share.decades,
            "layers": len(found),
        },
        why="rows of mean zero drop the activation's mean, so the variance is kept by 1/Std[phi], "
        "not by He's gain",
        measured=f"std * sqrt(fan_in) * factor = {first.gain:.4g}",
        expected=f"1 / Std[{first.activation.op}(z)] = {first.wanted:.4g}",
        fix=Fix(
            "gain",
            params=(first.param.key,),
            arguments={"factor": factor},
            code=f"multiply the layer's gain (gamma), or the activation, by {factor:.4g}",
        ),
    )
