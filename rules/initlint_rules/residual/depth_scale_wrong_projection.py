"""depth-scale-wrong-projection: the factor for depth sits on a weight inside the branch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import sqrt
from statistics import median

from initlint.api import (
    Context,
    Finding,
    Fix,
    Need,
    Op,
    Param,
    Residual,
    Role,
    Rule,
    Severity,
    Stage,
    fans,
    record,
    residual_branches,
)

MIN_ADDITIONS = 8
"""Fewer residual additions make the factor 1/sqrt(additions) larger than 0.35, near ratios that
widths and packed projections bring about by themselves."""

TOLERANCE = 0.03
"""Relative tolerance of a std ratio: four standard errors of the median over eight weights of 4096
normal draws each, sqrt(2) * 0.71 / 64 * 1.25 / sqrt(8) = 0.7 %, are 2.8 %."""

MIN_ELEMENTS = 2048
"""Elements per weight below which its own std ratio is not known to a few per cent."""


@record(frozen=True, slots=True)
class _Scaled:
    """A weight inside a branch, and the one that closes the branch.

    Attributes:
        layer, param: inside the branch.
        writer, writer_param: what closes it.
        wanted: std that the closing weight's own scheme would give the inner one.
        ratio: the inner weight's std over that.
    """

    layer: str
    param: Param
    writer: str
    writer_param: Param
    wanted: float
    ratio: float


class DepthScaleWrongProjection(Rule):
    """The 1/sqrt(depth) factor sits on a weight inside the branch, not on the one that closes it.

    What it does
    ------------
    Compares the std of every weight inside a residual branch with what the scheme of the branch's
    last one would give it: the same std, or the same gain over its own fan. A ratio of exactly
    1/sqrt(2L) or 1/sqrt(L) in all blocks says that the factor for depth went to the wrong matrix.

    Why is this bad
    ---------------
    GPT-2's factor belongs on the projection that adds to the residual stream. On the up-projection
    of a gated unit (w3 instead of w2) the last projection keeps its full scale, and the scaled one
    starts sqrt(2L) times smaller than intended, so that an optimiser with steps of fixed size
    changes it that much faster than its siblings; behind a bend or a normaliser the stream also
    keeps growing with depth.

    How it decides
    --------------
    In at least 8 residual additions: median ratio within 3 % of 1/sqrt(additions) or
    1/sqrt(additions / 2), or of 1/sqrt(2 additions) where all branches are alike (a block of one
    branch, counted as two), in at least half of the branches that have such a weight, while the
    last weight follows a scheme of its own that knows no depth, or has the std of other weights of
    the network. A warning: no recipe does this.

    What it does not flag
    ---------------------
    DeepNorm and T-Fixup, which scale the last projection as well; Fixup, whose last layers are
    zero; stds that follow from each weight's own fans; LayerScale and other closing gains.

    Example
    -------
    ::

        import torch
        from torch import nn

        class Block(nn.Module):
            def __init__(self, width, depth):
                super().__init__()
                self.norm = nn.LayerNorm(width)
                self.w1, self.w3 = nn.Linear(width, 128), nn.Linear(width, 128)
                self.w2 = nn.Linear(128, width)
                for layer in (self.w1, self.w2):
                    nn.init.normal_(layer.weight, std=0.02)
                nn.init.normal_(self.w3.weight, std=0.02 / depth**0.5)

            def forward(self, x):
                h = self.norm(x)
                return x + self.w2(nn.functional.silu(self.w1(h)) * self.w3(h))

        def model():
            return nn.Sequential(nn.Linear(64, 64), *[Block(64, 12) for _ in range(12)],
                                 nn.LayerNorm(64), nn.Linear(64, 10))

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        class Block(nn.Module):
            def __init__(self, width, depth):
                super().__init__()
                self.norm = nn.LayerNorm(width)
                self.w1, self.w3 = nn.Linear(width, 128), nn.Linear(width, 128)
                self.w2 = nn.Linear(128, width)
                for layer in (self.w1, self.w3):
                    nn.init.normal_(layer.weight, std=0.02)
                nn.init.normal_(self.w2.weight, std=0.02 / depth**0.5)

            def forward(self, x):
                h = self.norm(x)
                return x + self.w2(nn.functional.silu(self.w1(h)) * self.w3(h))

        def model():
            return nn.Sequential(nn.Linear(64, 64), *[Block(64, 12) for _ in range(12)],
                                 nn.LayerNorm(64), nn.Linear(64, 10))

    References
    ----------
    - Radford et al. 2019, Language models are unsupervised multitask learners, section 2.3.
    - karpathy/llama2.c issue 579; pytorch/torchtitan issue 3722.
    """

    code = "RES503"
    name = "depth-scale-wrong-projection"
    formula = "std(inner) / std(siblings) = 1 / sqrt(2 L) while std(last) is not scaled"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    folds = ("missing-depth-scale",)

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per kind of weight that carries the factor by mistake."""
        branches = residual_branches(context.model.graph)
        if len(branches) < MIN_ADDITIONS:
            return
        kinds: dict[tuple[object, ...], list[_Scaled]] = {}
        for branch in branches:
            for kind, item in _inner(context, branch):
                kinds.setdefault(kind, []).append(item)
        common = _plain_stds(context, kinds)
        wanted = _factors(context, branches)
        for items in kinds.values():
            factor = _factor(items, wanted)
            scaled = [item for item in items if factor and abs(item.ratio / factor - 1) < 0.1]
            if factor is None or len(scaled) * 2 < len(items):
                continue
            if not _is_plain(context, items[0].writer_param, common):
                continue
            yield _finding(context, scaled, factor, len(branches))


def _inner(context: Context, branch: Residual) -> Iterator[tuple[tuple[object, ...], _Scaled]]:
    """Weights inside a branch with their std relative to its last one, by kind."""
    graph = context.model.graph
    if branch.last is None or branch.gate is not None or len(branch.writers) != 1:
        return
    writer = graph[branch.last].weight
    if writer is None or not _drawn(context, writer):
        return
    for index, key in enumerate(branch.layers):
        if key == branch.last or graph[key].op is not Op.LINEAR:
            continue
        for param in graph[key].with_role(Role.WEIGHT):
            if _drawn(context, param) and not _own_fan(context, param):
                wanted = _wanted(context, (key, param), (branch.last, writer))
                kind = (index, len(branch.layers), param.shape, param.gate)
                ratio = _std(context, param) / wanted
                yield kind, _Scaled(key, param, branch.last, writer, wanted, ratio)


def _drawn(context: Context, param: Param) -> bool:
    return (
        param.size >= MIN_ELEMENTS
        and not param.quantised
        and context.measures.stage(param) is Stage.FRESH
        and _std(context, param) > 0
    )


def _std(context: Context, param: Param) -> float:
    return context.measures.effective_std(param) or 0.0


def _own_fan(context: Context, param: Param) -> str:
    """The fan that the weight's std follows from by a scheme that knows no depth, or nothing."""
    matches = context.measures.identify(param).matches
    return next(
        (match.fan for match in matches if match.true_fan and match.fan not in ("", "depth")), ""
    )


def _wanted(context: Context, inner: tuple[str, Param], last: tuple[str, Param]) -> float:
    """Std that the scheme of the last weight would give an inner one."""
    graph, std = context.model.graph, _std(context, last[1])
    kind = _own_fan(context, last[1])
    mine, its = (fans(graph[key], param) for key, param in (inner, last))
    if mine is None or its is None or not kind:
        return std
    if kind == "fan_in":
        return std * sqrt(its.fan_in / mine.fan_in)
    if kind == "fan_out":
        return std * sqrt(its.fan_out / mine.fan_out)
    return std * sqrt((its.fan_in + its.fan_out) / (mine.fan_in + mine.fan_out))


def _factors(context: Context, branches: Sequence[Residual]) -> tuple[float, ...]:
    """The factors for depth: 2L counts the additions, or twice the blocks of one branch each."""
    additions = len(branches)
    graph = context.model.graph
    made = {
        tuple(weight.shape if (weight := graph[key].weight) else () for key in branch.layers)
        for branch in branches
    }
    twice = (1 / sqrt(2 * additions),) if len(made) == 1 else ()
    return (1 / sqrt(additions), 1 / sqrt(additions / 2), *twice)


def _factor(items: list[_Scaled], wanted: Iterable[float]) -> float | None:
    """The factor for depth that the median ratio equals, if any."""
    ratio = median(item.ratio for item in items)
    return next((value for value in wanted if abs(ratio / value - 1) < TOLERANCE), None)


def _plain_stds(context: Context, kinds: dict[tuple[object, ...], list[_Scaled]]) -> list[float]:
    """Median std of each kind of weight inside the branches."""
    return [median(_std(context, item.param) for item in items) for items in kinds.values()]


def _is_plain(context: Context, writer: Param, common: list[float]) -> bool:
    """True when the writer carries no factor itself.

    A scheme without depth tells its std, or other weights have the same.
    """
    matches = context.measures.identify(writer).matches
    if any(match.true_fan and match.fan != "depth" for match in matches):
        return True
    return any(abs(std / _std(context, writer) - 1) < 0.1 for std in common)


def _finding(context: Context, scaled: list[_Scaled], factor: float, additions: int) -> Finding:
    first = scaled[0]
    inner = tuple(item.layer for item in scaled)
    writers = tuple(dict.fromkeys(item.writer for item in scaled))
    ratio = median(item.ratio for item in scaled)
    return Finding(
        severity=Severity.WARNING,
        layer=first.layer,
        param=first.param.name,
        layers=(*inner, *writers),
        culprits=(*inner, *writers),
        message=f"{first.param.name} and its siblings carry the factor {factor:.3g} for depth, "
        f"which belongs on {first.writer_param.name}",
        evidence={
            "ratio": ratio,
            "factor": factor,
            "additions": additions,
            "std": _std(context, first.param),
            "std_of_last": _std(context, first.writer_param),
            "blocks": len(scaled),
        },
        why="only the matrix that adds to the residual stream limits its growth in every case; "
        "the scaled one starts too small for its learning rate",
        measured=f"std {_std(context, first.param):.3g} inside, "
        f"{_std(context, first.writer_param):.3g} on the last projection",
        expected=f"{first.wanted:.3g} inside, "
        f"{_std(context, first.writer_param) * factor:.3g} on the last projection",
        fix=Fix(
            "residual_scaling",
            params=tuple(item.writer_param.key for item in scaled),
            arguments={"factor": factor},
            code=f"multiply {first.writer_param.name} by {factor:.3g} and divide "
            f"{first.param.name} by it",
        ),
    )
