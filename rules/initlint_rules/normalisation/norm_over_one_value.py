"""norm-over-one-value: a normaliser whose groups hold a single value or two."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from initlint.api import (
    Context,
    Finding,
    Fix,
    Layer,
    Need,
    Op,
    Rule,
    Severity,
    Stage,
)


class NormOverOneValue(Rule):
    """A normaliser averages over one value, so that its output does not depend on the input.

    What it does
    ------------
    Counts over how many values layer, group, instance and RMS norms take their statistics.

    Why is this bad
    ---------------
    A value minus its own mean is zero: over one value the output is the shift, whatever comes in,
    and no gradient passes. Over two values it is +1 and -1, only the sign of a difference. An RMS
    norm over one value keeps its sign alone.

    How it decides
    --------------
    Exact, from the shapes: one value an error, two values (where the mean is taken out) a warning.

    What it does not flag
    ---------------------
    Batch norms, whose count depends on the batch; dynamic shapes; three values or more.

    Example
    -------
    ::

        from torch import nn

        def model():
            return nn.Sequential(
                nn.Linear(64, 64), nn.GroupNorm(64, 64), nn.ReLU(), nn.Linear(64, 10)
            )

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            return nn.Sequential(
                nn.Linear(64, 64), nn.GroupNorm(4, 64), nn.ReLU(), nn.Linear(64, 10)
            )

    References
    ----------
    - Wu, He 2018, Group normalization.
    - Ulyanov et al. 2016, Instance normalization.
    """

    code = "NRM605"
    name = "norm-over-one-value"
    formula = "k = 1:  x - mean(x) = 0;   k = 2:  +-1 whatever x is"
    needs = frozenset({Need.GRAPH})
    stages = frozenset({Stage.FRESH, Stage.MIXED, Stage.UNKNOWN})
    folds = (
        "zero-gradient",
        "correlation-collapse",
        "dead-relu",
        "variance-profile",
        "gradient-profile",
        "forward-drift",
        "epsilon-dominates",
    )

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per such normaliser."""
        for layer in context.model.graph.order:
            count = _values(context, layer) if layer.op in _COUNTED else None
            if count is None or count > 2 or (count == 2 and layer.op is Op.RMS_NORM):
                continue
            if count == 1 and layer.op is Op.RMS_NORM:
                effect = "only the sign of its input passes"
            elif count == 1:
                effect = "its output is the shift alone, whatever comes in"
            else:
                effect = "its output is +1 and -1 whatever the sizes are"
            yield Finding(
                severity=Severity.ERROR if count == 1 else Severity.WARNING,
                layer=layer.id,
                message=f"{layer.id} normalises over {count} value{'s' * (count > 1)}: {effect}",
                evidence={"values": count, "op": layer.op.value},
                why="a value minus its own mean is zero",
                measured=f"{count} value{'s' * (count > 1)} per mean",
                expected="many values per mean",
                fix=Fix("advice", code="use fewer groups, a larger map, or another normaliser"),
            )


_COUNTED = frozenset({Op.LAYER_NORM, Op.RMS_NORM, Op.INSTANCE_NORM, Op.GROUP_NORM})


def _values(context: Context, layer: Layer) -> int | None:
    """Values per statistic; None for other operators and unknown shapes."""
    edges = context.model.graph.inputs(layer.id)
    shape = layer.output_shape or (edges[0].shape if edges else None)
    if shape is None or len(shape) < 2:
        return None
    if layer.op in (Op.LAYER_NORM, Op.RMS_NORM):
        gain = layer.params[0].size if layer.params else None
        axis = layer.attrs.get("axis", -1)
        start = axis if isinstance(axis, int) else min(axis, default=-1)
        sides = shape[start:] if -len(shape) <= start < len(shape) else ()
        return gain if gain is not None else _product(sides)
    if layer.op is Op.INSTANCE_NORM:
        return _product(shape[2:])
    if layer.op is Op.GROUP_NORM:
        groups, channels, space = layer.attrs.get("groups"), shape[1], _product(shape[2:])
        if not groups or channels is None or space is None:
            return None
        return channels // int(groups) * space
    return None


def _product(sides: tuple[int | None, ...]) -> int | None:
    known = [side for side in sides if side is not None]
    return prod(known) if len(known) == len(sides) else None
