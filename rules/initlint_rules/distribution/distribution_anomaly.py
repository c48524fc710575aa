"""distribution-anomaly: values that the layer's own distribution cannot have produced."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from initlint.api import (
    Confidence,
    Context,
    Family,
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
    distinct,
    record,
)
from initlint_rules._consequences import SIGNALS

LEAST = 512
"""Elements from which a quartile is known to 6 %, so that 8 robust deviations are no fewer than
7.5 true ones."""

OUTLIER = 8.0
"""Robust standard deviations: P(|z| > 8) = 1.2e-15 for a normal, less than 1e-3 expected in 10^12
draws. The robust deviation is the interquartile range over 1.349."""

ALIKE = 1e-2
"""Relative spread within which outliers count as one value: a clamp puts them on one, rounding to
bfloat16 moves them by 0.4 %."""

MANY = 1e-4
"""Share of such values from which a layer of 100 inputs has one in every hundredth unit: there they
carry more of the variance than all others together (100^2 * 1e-4 = 1 for values at 100 standard
deviations)."""

ATOM = 1e-3
"""Share of values that sit exactly on the largest magnitude."""

ATOM_RATIO = 4.0
"""Times the count of the next smaller magnitude: bfloat16 ties values everywhere, a clamp only at
the end."""

QUARTILES = 1 << 13
"""Values that the quartiles are taken from: their range is then right to 1.2 / sqrt(n) = 1.3 %."""

SAMPLE = 1 << 16
"""Values among which different ones are counted."""

_OPS = frozenset(
    {Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE, Op.BILINEAR, Op.EMBEDDING, Op.RNN, Op.LSTM, Op.GRU}
)
_ROLES = frozenset({Role.WEIGHT, Role.RECURRENT_WEIGHT, Role.PROJECTION})
_EXACT = frozenset(
    {
        Family.ZEROS,
        Family.ONES,
        Family.CONSTANT,
        Family.IDENTITY,
        Family.DIRAC,
        Family.ORTHOGONAL,
        Family.DELTA_ORTHOGONAL,
        Family.SPARSE,
        Family.HADAMARD,
        Family.DETERMINISTIC,
    }
)


@record(frozen=True, slots=True)
class _Anomaly:
    layer: Layer
    param: Param
    kind: str
    count: int
    value: float
    robust: float
    std: float


class DistributionAnomaly(Rule):
    """A few weights of a fresh layer cannot come from the distribution of all others.

    What it does
    ------------
    Finds equal values far outside the bulk of a freshly drawn weight, and values piled up exactly
    at its largest magnitude.

    Why is this bad
    ---------------
    Truncated-normal samplers that invert the distribution function and clamp put a value of exactly
    2.0 into a tensor of standard deviation 0.02 about once in 16 million draws in float32, and once
    in 500 in bfloat16. One such weight of a hundred standard deviations rules its unit; enough of
    them raise the scale of the layer several times.

    How it decides
    --------------
    Outliers: beyond eight robust standard deviations and all of one magnitude. A warning; an error
    when they are more than one in 10,000. A pile at the end: more than one value in 1000 exactly at
    the largest magnitude and four times as many as at the next; this is an info, because a clipped
    draw trains.

    What it does not flag
    ---------------------
    Trained weights, where outlier channels are normal. Masks, sparse, structured and quantised
    weights, rows that stand out as a whole (padding, special tokens), heavy tails without equal
    values.

    Example
    -------
    ::

        import torch
        from torch import nn

        def model():
            net = nn.Sequential(nn.Embedding(2000, 64), nn.LayerNorm(64), nn.Linear(64, 10))
            nn.init.normal_(net[0].weight, std=0.02)
            with torch.no_grad():
                net[0].weight.view(-1)[::40000] = 2.0
            return net

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        def model():
            net = nn.Sequential(nn.Embedding(2000, 64), nn.LayerNorm(64), nn.Linear(64, 10))
            nn.init.trunc_normal_(net[0].weight, std=0.02, a=-0.06, b=0.06)
            return net

    References
    ----------
    - pytorch issues 145498 and 155588: trunc_normal_ returned values at its bounds.
    - torchtitan issue 3334: its bounds are absolute, not in standard deviations.
    """

    code = "DIS351"
    name = "distribution-anomaly"
    formula = "|w| > 8 IQR/1.349:  P = 1.2e-15 for a normal draw"
    needs = frozenset({Need.WEIGHTS})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    local = True
    folds = (*SIGNALS, "gain-mismatch", "inconsistent-siblings")

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per kind of anomaly."""
        found = [
            anomaly
            for layer, param in context.model.graph.params
            if (anomaly := _anomaly(context, layer, param)) is not None
        ]
        for kind in ("outliers", "atoms"):
            members = [item for item in found if item.kind == kind]
            if members:
                yield _outliers(members) if kind == "outliers" else _atoms(members)


def _anomaly(context: Context, layer: Layer, param: Param) -> _Anomaly | None:
    if layer.op not in _OPS or param.role not in _ROLES or param.size < LEAST:
        return None
    if param.quantised or param.tied_to is not None:
        return None
    moments = context.measures.moments(param)
    if moments is None or moments.non_finite or moments.std == 0.0:
        return None
    if context.measures.stage(param) is not Stage.FRESH:
        return None
    if context.measures.identify(param).family in _EXACT:
        return None
    array = context.measures.leading(param)
    if array is None:
        return None
    flat = np.abs(array.reshape(-1))
    robust = _quartile_range(array.reshape(-1)[:: max(1, flat.size // QUARTILES)]) / 1.349
    if robust <= 0.0:
        return None
    common = (moments.max_abs, robust, moments.std)
    outliers = _equal_outliers(flat, robust) if moments.max_abs > OUTLIER * robust else 0
    if outliers and _whole_rows(array, OUTLIER * robust):
        return None
    if outliers:
        return _Anomaly(layer, param, "outliers", outliers, *common)
    atoms = _atoms_at_end(flat, moments.max_abs)
    return _Anomaly(layer, param, "atoms", atoms, *common) if atoms else None


def _quartile_range(sample: Any) -> float:
    """Difference of the quartiles, each the nearest element.

    `numpy.percentile` imports masked arrays, which takes longer than the rest of the rule.
    """
    ordered, last = np.sort(sample), sample.size - 1
    return float(ordered[round(0.75 * last)] - ordered[round(0.25 * last)])


def _equal_outliers(flat: Any, robust: float) -> int:
    """How many values lie beyond the bulk, when all of those have one magnitude."""
    beyond = flat[flat > OUTLIER * robust]
    alike = float(beyond.max()) <= float(beyond.min()) * (1.0 + ALIKE)
    return int(beyond.size) if alike and beyond.size < flat.size // 10 else 0


def _whole_rows(array: Any, limit: float) -> bool:
    """True when the outliers fill rows: a constant special row is written on purpose."""
    beyond = np.abs(array.reshape(array.shape[0], -1)) > limit
    rows = beyond.any(axis=1)
    return bool(beyond[rows].mean() > 0.5)


def _atoms_at_end(flat: Any, largest: float) -> int:
    """How many values sit exactly at the largest magnitude, when they are piled up there."""
    count = int(np.count_nonzero(flat == largest))
    if count <= ATOM * flat.size:
        return 0
    below = flat[flat < largest]
    if below.size == 0:
        return 0
    following = int(np.count_nonzero(below == below.max()))
    values = distinct(flat[:: max(1, flat.size // SAMPLE)])
    return count if count > ATOM_RATIO * following and values > LEAST // 2 else 0


def _subject(members: list[_Anomaly]) -> tuple[str, tuple[str, ...]]:
    layers = tuple(dict.fromkeys(item.layer.id for item in members))
    return (layers[0] if len(layers) == 1 else f"{len(layers)} layers"), layers


def _outliers(members: list[_Anomaly]) -> Finding:
    worst = max(members, key=lambda item: item.count / item.param.size)
    subject, layers = _subject(members)
    share = worst.count / worst.param.size
    total = sum(item.count for item in members)
    return Finding(
        severity=Severity.ERROR if share > MANY else Severity.WARNING,
        confidence=Confidence.HIGH,
        layer=worst.layer.id,
        param=worst.param.name,
        layers=layers,
        message=f"{total} weights of {subject} are exactly ±{worst.value:.3g}, "
        f"{worst.value / worst.robust:.0f} standard deviations out",
        evidence={
            "count": total,
            "share": share,
            "value": worst.value,
            "robust_std": worst.robust,
            "std": worst.std,
            "sigmas": worst.value / worst.robust,
        },
        why="a sampler that clamps puts draws it cannot represent on its bounds; each of them "
        "rules its unit",
        measured=f"|w| = {worst.value:.3g} at std {worst.robust:.3g} (with them {worst.std:.3g})",
        expected="no value beyond 8 standard deviations",
        fix=Fix(
            "redraw",
            params=tuple(item.param.key for item in members),
            code="redraw these values, or sample with rejection "
            "(torch.nn.init.trunc_normal_ does from 2.13 on)",
        ),
    )


def _atoms(members: list[_Anomaly]) -> Finding:
    worst = max(members, key=lambda item: item.count / item.param.size)
    subject, layers = _subject(members)
    share = worst.count / worst.param.size
    return Finding(
        severity=Severity.INFO,
        layer=worst.layer.id,
        param=worst.param.name,
        layers=layers,
        message=f"{share:.1%} of the weights of {subject} sit exactly at ±{worst.value:.3g}: "
        "they were clipped",
        evidence={"count": worst.count, "share": share, "value": worst.value, "std": worst.std},
        why="clipping weights narrows their distribution and ties values; it does not stop "
        "gradients from exploding",
        measured=f"{worst.count} values at ±{worst.value:.3g}",
        expected="a draw without ties",
        fix=Fix(
            "redraw",
            params=tuple(item.param.key for item in members),
            code="draw a truncated normal by rejection in place of clamping",
        ),
    )
