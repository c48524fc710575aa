"""missing-depth-scale: a deep pre-norm network whose residual projections ignore the depth."""

from __future__ import annotations

from collections.abc import Iterator
from math import log10, sqrt

from initlint.api import (
    Confidence,
    Context,
    Finding,
    Fix,
    Need,
    Param,
    Residual,
    Role,
    Rule,
    Severity,
    Stage,
    residual_branches,
)

MIN_ADDITIONS = 24
"""Residual additions from which depth matters: 12 transformer blocks, the depth of the smallest
network (GPT-2) for which the factor 1/sqrt(2L) was introduced."""

MIN_GROWTH = 4.0
"""Growth of the stream's second moment: below, the last branch still adds more than a twentieth
of the stream, and the rms has not even doubled."""

SAME_STD = 0.05
"""Relative tolerance for "the same std": the factor sought is 1/sqrt(24) = 0.2 or smaller, so a
looser one would do; four standard errors of 4096 normal draws are 4.4 %."""

MIN_ELEMENTS = 1024
"""Smaller projections do not tell a std to 5 % (two standard errors of a normal sample)."""


class MissingDepthScale(Rule):
    """Projections into the residual stream of a deep pre-norm network ignore its depth.

    What it does
    ------------
    Looks at deep pre-norm networks and compares the weights that write to the residual stream with
    the other weights of their branches: drawn alike, they carry no factor for depth.

    Why is this bad
    ---------------
    Every branch adds the same power, so the stream's second moment grows linearly with depth and
    the last of L branches changes it by 1/L only, while the first ones receive the largest
    gradients. GPT-2 divides the std of these projections by sqrt(2 * layers), which keeps the
    stream at its first scale; a check on the parameter's name that never matches loses it silently.

    How it decides
    --------------
    At least 24 residual additions whose branches are normalised at their entry, whose last weights
    have the std or the fan-in gain (5 %) of another weight, and over which the predicted second
    moment of the stream grows more than fourfold. Always an info: the final normaliser restores
    the scale, and many networks (the Llama family) train well without the factor.

    What it does not flag
    ---------------------
    Branches closed by LayerScale, ReZero or another product, zero last layers, projections scaled
    by any factor, post-norm networks, scaled skip paths (DeepNorm), shallow networks.

    Example
    -------
    ::

        import torch
        from torch import nn

        class Block(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.norm = nn.LayerNorm(width)
                self.fc, self.proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
                for layer in (self.fc, self.proj):
                    nn.init.normal_(layer.weight, std=0.1)
                    nn.init.zeros_(layer.bias)

            def forward(self, x):
                return x + self.proj(nn.functional.gelu(self.fc(self.norm(x))))

        def model():
            return nn.Sequential(nn.Linear(64, 64), *[Block(64) for _ in range(24)],
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
                self.fc, self.proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
                nn.init.normal_(self.fc.weight, std=0.1)
                nn.init.normal_(self.proj.weight, std=0.1 / depth**0.5)
                nn.init.zeros_(self.fc.bias)
                nn.init.zeros_(self.proj.bias)

            def forward(self, x):
                return x + self.proj(nn.functional.gelu(self.fc(self.norm(x))))

        def model():
            return nn.Sequential(nn.Linear(64, 64), *[Block(64, 24) for _ in range(24)],
                                 nn.LayerNorm(64), nn.Linear(64, 10))

    References
    ----------
    - Radford et al. 2019, Language models are unsupervised multitask learners, section 2.3.
    - huggingface/transformers issue 47458: the factor was never applied.
    """

    code = "RES502"
    name = "missing-depth-scale"
    formula = "q_L = q_0 + sum q_branch;  wanted: std / sqrt(2 L) on what writes to the stream"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.THEORY})
    stages = frozenset({Stage.FRESH, Stage.MIXED})

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding that names every unscaled projection."""
        if context.theory is None:
            return
        gains = {branch.add: branch.gain for branch in context.theory.residuals}
        found = [
            (branch, writer, gains.get(branch.add))
            for branch in residual_branches(context.model.graph)
            if (writer := _unscaled(context, branch)) is not None
        ]
        known = [gain for _, _, gain in found if gain is not None]
        if len(found) < MIN_ADDITIONS or len(known) < len(found):
            return
        growth = sum(log10(1 + gain) for gain in known)
        if growth < log10(MIN_GROWTH):
            return
        factor = 1 / sqrt(len(found))
        first = found[0][1]
        yield Finding(
            severity=Severity.INFO,
            confidence=Confidence.MEDIUM,
            layer=found[0][0].last or found[0][0].add,
            param=first.name,
            layers=tuple(branch.last or branch.add for branch, _, _ in found),
            message=f"{len(found)} projections into the residual stream are not scaled for depth: "
            f"its power grows {10**growth:.1f} times",
            evidence={
                "additions": len(found),
                "stream_power_growth": 10**growth,
                "last_branch_share": known[-1] / (1 + known[-1]),
                "std": context.measures.effective_std(first),
                "std_wanted": (context.measures.effective_std(first) or 0.0) * factor,
            },
            why="each branch adds the same power, so late blocks change the stream less and less "
            "and early ones receive the largest gradients",
            measured="std of the projections equals that of the other weights",
            expected=f"std smaller by 1/sqrt({len(found)}) = {factor:.2g} (GPT-2: 1/sqrt(2 L))",
            fix=Fix(
                "residual_scaling",
                params=tuple(writer.key for _, writer, _ in found),
                arguments={"factor": factor},
                code=f"multiply {first.name} and its siblings by {factor:.3g}",
            ),
        )


def _unscaled(context: Context, branch: Residual) -> Param | None:
    """The weight that closes a pre-norm branch, when it was drawn like the others."""
    closed = branch.gate or branch.skip_scale or branch.closing_norm
    if closed or branch.entry_norm is None or branch.last is None or len(branch.writers) != 1:
        return None
    graph = context.model.graph
    writer = graph[branch.last].weight
    if writer is None or not _drawn(context, writer):
        return None
    others = [
        param
        for key in branch.layers
        if key != branch.last
        for param in graph[key].with_role(Role.WEIGHT)
        if _drawn(context, param)
    ]
    return writer if any(_alike(context, writer, other) for other in others) else None


def _drawn(context: Context, param: Param) -> bool:
    return (
        param.size >= MIN_ELEMENTS
        and not param.quantised
        and context.measures.stage(param) is Stage.FRESH
        and bool(context.measures.effective_std(param))
    )


def _alike(context: Context, writer: Param, other: Param) -> bool:
    """The same std, or the same gain: std times the root of each one's own fan-in."""
    mine, theirs = (context.measures.effective_std(param) or 0.0 for param in (writer, other))
    gains = sqrt(writer.size / writer.shape[0]) * mine, sqrt(other.size / other.shape[0]) * theirs
    return any(abs(a / b - 1) < SAME_STD for a, b in ((mine, theirs), gains))
