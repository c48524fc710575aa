"""inconsistent-siblings: one block of a stack starts at another scale than the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import log, log10

import numpy as np

from initlint.api import (
    WEIGHTED,
    Confidence,
    Context,
    Family,
    Finding,
    Fix,
    Layer,
    Need,
    Param,
    Role,
    Rule,
    Severity,
    Stage,
    blocks,
    drift_share,
    median,
    record,
)
from initlint_rules._consequences import SIGNALS

LEAST_BLOCKS = 4
"""Blocks a stack needs: with three, either of two scales may be the odd one."""

LEAST_RATIO = 0.1
"""|ln std| by which a sibling must differ: less makes no difference in training, and rounding and
truncation conventions differ by 0.13 between libraries, never within one stack."""

SIGMAS = 6.0
"""Standard errors, for the largest of many siblings and roles."""

FEW = 0.34
"""Largest share of siblings that may differ before there are two groups rather than an odd one: a
mixture of block types is a design."""

DECADE = 1.0
"""Ratio, in decades, from which no scheme's variants differ: PyTorch's default, Xavier, He and the
fixed 0.02 lie within half a decade of each other at common widths."""

ALL_PAIRS = 256
"""Blocks up to which the slope is the median over all pairs: 32,640 of them."""

_RANDOM = frozenset(
    {Family.UNIFORM, Family.NORMAL, Family.TRUNCATED_NORMAL, Family.ORTHOGONAL, Family.SPARSE}
)


@record(frozen=True, slots=True)
class _Sibling:
    layer: Layer
    param: Param
    log_std: float
    error: float


@record(frozen=True, slots=True)
class _Odd:
    sibling: _Sibling
    deviation: float
    siblings: int


class InconsistentSiblings(Rule):
    """A layer starts at another scale than the same layer of the other blocks.

    What it does
    ------------
    Compares, over the blocks of a stack, the standard deviations of the weights with the same role.

    Why is this bad
    ---------------
    Blocks of one kind are meant to be drawn alike. An odd one was missed by the initialiser, drawn
    twice, or loaded from somewhere else: the network trains, with one block slower or louder than
    the rest, and nothing says so.

    How it decides
    --------------
    At least four blocks with equal shapes. A law in depth is fitted first (a power of the index, or
    a geometric sequence); a sibling is odd when it differs from the law of the others by more than
    10 % and six standard errors, and fewer than a third do. An info; more through its share of the
    predicted drift, and a warning from a factor of ten.

    What it does not flag
    ---------------------
    Scales that change smoothly with depth (depth-scaled initialisation, BEiT's division by
    sqrt(2 l)), first and last blocks, zero and constant weights, stacks of which a third differs,
    trained weights.

    Example
    -------
    ::

        from torch import nn

        def model():
            blocks = [
                nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU()) for _ in range(8)
            ]
            nn.init.normal_(blocks[3][0].weight, std=1.5)
            return nn.Sequential(nn.Linear(16, 64), nn.Sequential(*blocks), nn.Linear(64, 10))

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            blocks = [
                nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU()) for _ in range(8)
            ]
            return nn.Sequential(nn.Linear(16, 64), nn.Sequential(*blocks), nn.Linear(64, 10))

    References
    ----------
    - Bao, Dong, Piao, Wei 2022, BEiT: weights divided by sqrt(2 l).
    - Zhang, Titov, Sennrich 2019, Improving deep Transformer with depth-scaled initialization.
    """

    code = "PRV102"
    name = "inconsistent-siblings"
    formula = "|ln std_l - law(l)| > max(0.1, 6 standard errors)"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.THEORY})
    optional = frozenset({Need.PROBE})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    local = True
    folds = (*SIGNALS, "residual-branch-unscaled")

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding that names every odd sibling."""
        odd: dict[str, _Odd] = {}
        for siblings in _families(context):
            for item in _odd_ones(siblings):
                odd.setdefault(item.sibling.param.key, item)
        if odd:
            yield _finding(context, list(odd.values()))


def _families(context: Context) -> Iterator[list[_Sibling]]:
    """Weights with the same place in each block of a stack, in the order of the blocks."""
    for repetition in blocks(context.model.graph):
        if len(repetition.blocks) < LEAST_BLOCKS:
            continue
        for ids in zip(*repetition.blocks, strict=True):
            layers = [context.model.graph[key] for key in ids]
            for params in zip(*(layer.params for layer in layers), strict=True):
                found = [
                    _sibling(context, layer, param)
                    for layer, param in zip(layers, params, strict=True)
                ]
                known = [item for item in found if item is not None]
                if len(known) == len(found):
                    yield known


def _sibling(context: Context, layer: Layer, param: Param) -> _Sibling | None:
    if layer.op not in WEIGHTED or param.role not in (Role.WEIGHT, Role.RECURRENT_WEIGHT):
        return None
    if param.tied_to is not None or param.quantised:
        return None
    found, moments = context.measures.identify(param), context.measures.moments(param)
    if moments is None or moments.std <= 0.0 or found.family not in _RANDOM:
        return None
    if context.measures.stage(param) is not Stage.FRESH:
        return None
    return _Sibling(layer, param, log(moments.std), max(found.std_error, 1e-6))


def _odd_ones(siblings: Sequence[_Sibling]) -> Iterator[_Odd]:
    """Siblings off the law that the others follow; ends of the stack may differ."""
    values = np.array([item.log_std for item in siblings])
    index = np.arange(1, len(siblings) + 1, dtype=float)
    best = min(
        (_residuals(values, law) for law in (np.zeros_like(index), np.log(index), index)),
        key=lambda residual: median(np.abs(residual)),
    )
    limits = np.array([max(LEAST_RATIO, SIGMAS * item.error) for item in siblings])
    scatter = 1.4826 * median(np.abs(best))
    far = np.abs(best) > np.maximum(limits, SIGMAS * scatter)
    if np.count_nonzero(far) > FEW * len(siblings):
        return
    for number in range(1, len(siblings) - 1):
        if far[number]:
            yield _Odd(siblings[number], float(best[number]), len(siblings))


def _residuals(values: np.ndarray, law: np.ndarray) -> np.ndarray:
    """Deviations from a line over ``law`` with the median slope of all pairs (Theil and Sen).

    In a stack of more than `ALL_PAIRS` each is paired with the one half a stack away (Theil 1950,
    the incomplete method): work linear in the blocks, and as deaf to a few odd ones.
    """
    count = len(values)
    if count > ALL_PAIRS:
        half = (count + 1) // 2
        rise, run = values[half:] - values[: count - half], law[half:] - law[: count - half]
    else:
        rise, run = values[:, None] - values[None, :], law[:, None] - law[None, :]
    slopes = rise[run > 0] / run[run > 0]
    rest = values - (median(slopes) if slopes.size else 0.0) * law
    residuals: np.ndarray = rest - median(rest)
    return residuals


def _finding(context: Context, odd: list[_Odd]) -> Finding:
    causes = {item.sibling.layer.id: item.deviation / log(10.0) for item in odd}
    share = drift_share(context, causes)
    worst = max(odd, key=lambda item: abs(item.deviation))
    decades = abs(worst.deviation) / log(10.0)
    severity = share.severity or Severity.INFO
    if decades >= DECADE:
        severity = max(severity, Severity.WARNING)
    std = float(np.exp(worst.sibling.log_std))
    expected = float(np.exp(worst.sibling.log_std - worst.deviation))
    more = f" (and {len(odd) - 1} more weights)" if len(odd) > 1 else ""
    return Finding(
        severity=severity,
        confidence=Confidence.HIGH,
        layer=worst.sibling.layer.id,
        param=worst.sibling.param.name,
        layers=tuple(dict.fromkeys(item.sibling.layer.id for item in odd)),
        message=f"{worst.sibling.param.name} starts {np.exp(worst.deviation):.2g} times as wide "
        f"as in the other {worst.siblings - 1} blocks{more}",
        evidence={
            "std": std,
            "std_of_siblings": expected,
            "decades": log10(std / expected),
            "standard_errors": abs(worst.deviation) / worst.sibling.error,
            "blocks": worst.siblings,
            "drift_share_decades": share.decades,
        },
        why="blocks of one kind are drawn alike; an odd one was missed or drawn otherwise",
        measured=f"std {std:.3g}",
        expected=f"std {expected:.3g}, as its siblings",
        fix=Fix(
            "rescale",
            params=(worst.sibling.param.key,),
            arguments={"factor": expected / std},
            code=f"draw {worst.sibling.param.name} as the other blocks do",
        ),
    )
