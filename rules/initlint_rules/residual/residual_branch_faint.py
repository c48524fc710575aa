"""residual-branch-faint: branches that start small in two layers in a row, and open late."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

from initlint.api import (
    NORMALISERS,
    WEIGHTED,
    Context,
    Finding,
    Fix,
    Layer,
    Need,
    Op,
    ResidualBranch,
    Rule,
    Severity,
    Stage,
    fans,
)

FAINT = 10**-0.7
"""Gain sqrt(fan_in Var(W)) of a factor below which the gradient of the other is worth a word: the
least drift that is one. With both near 0.11 (N(0, 0.02) at width 32) branches of encoders and
convolutional nets reached 0.5 to 0.7 of the progress of their twins in twice the steps
(benchmarks/outcome: vit, convnext, temporal)."""

MOST = 0.5
"""Share of the branches that has to be so: a few late ones leave the others to learn."""


class ResidualBranchFaint(Rule):
    """Residual branches start so small in two layers in a row that both learn late.

    What it does
    ------------
    Compares the last layer of every residual branch and the layers that feed it with
    1/sqrt(fan_in). Where both are far below, the gradient of each is multiplied with the other's
    small factor.

    Why is this bad
    ---------------
    One small factor at the end of a branch opens at once, for its own gradient is of full size
    (Fixup, zero-gamma, GPT-2's 1/sqrt(2L)). Two in a row are a saddle: at N(0, 0.02) and width 32
    either gain is 0.11, so that the network starts as its skip path alone and stays it for a while.
    The usual reason is a standard deviation that was meant for another width.

    How it decides
    --------------
    Gains sqrt(fan_in Var(W)) of the last layer, and of all layers that feed it through no
    normaliser, below 0.2, in half of all branches: an info, for Adam opens them in some hundred
    steps.

    What it does not flag
    ---------------------
    One small layer, at the end or before it; zeros (`zero-weight`, `blocked-parameters`); a
    normaliser between the two layers; trained or frozen layers.

    Example
    -------
    ::

        import torch
        from torch import nn

        class Block(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.norm = nn.LayerNorm(width)
                self.fc1, self.fc2 = nn.Linear(width, width), nn.Linear(width, width)
                nn.init.normal_(self.fc1.weight, std=0.01)
                nn.init.normal_(self.fc2.weight, std=0.01)

            def forward(self, x):
                return x + self.fc2(torch.relu(self.fc1(self.norm(x))))

        def model():
            return nn.Sequential(nn.Linear(64, 64), Block(64), Block(64), nn.Linear(64, 10))

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        class Block(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.norm = nn.LayerNorm(width)
                self.fc1, self.fc2 = nn.Linear(width, width), nn.Linear(width, width)
                nn.init.kaiming_normal_(self.fc1.weight, nonlinearity="relu")
                nn.init.normal_(self.fc2.weight, std=0.01)

            def forward(self, x):
                return x + self.fc2(torch.relu(self.fc1(self.norm(x))))

        def model():
            return nn.Sequential(nn.Linear(64, 64), Block(64), Block(64), nn.Linear(64, 10))

    References
    ----------
    - Zhang, Dauphin, Ma 2019, Fixup initialization: one zero factor per branch.
    - Radford et al. 2019, GPT-2: N(0, 0.02) at width 768 and more.
    """

    code = "RES507"
    name = "residual-branch-faint"
    formula = "dL/dW_1 ~ W_2,  dL/dW_2 ~ W_1:  both gains below 10^-0.7"
    since = "0.1"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.THEORY})
    stages = frozenset({Stage.FRESH})

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding that names both layers of every faint branch."""
        branches = context.theory.residuals if context.theory else ()
        pairs = [(branch, _feeding(context, branch)) for branch in branches if branch.last]
        faint = [
            (context.model.graph[branch.last], feeding)
            for branch, feeding in pairs
            if branch.last
            and feeding
            and all(_is_small(context, layer) for layer in feeding)
            and _is_small(context, context.model.graph[branch.last])
        ]
        if not faint or len(faint) < MOST * len(pairs):
            return
        inner = tuple(dict.fromkeys(layer.id for _, feeding in faint for layer in feeding))
        last = tuple(dict.fromkeys(layer.id for layer, _ in faint))
        gains = sorted(_gain(context, context.model.graph[key]) or 0.0 for key in (*inner, *last))
        first = context.model.graph[inner[0]].weight
        yield Finding(
            severity=Severity.INFO,
            layer=inner[0],
            param=first.name if first else None,
            layers=(*inner, *last),
            message=f"{len(faint)} of {len(pairs)} residual branches start small in two layers in "
            f"a row (gains of {gains[0]:.2g} to {gains[-1]:.2g}): each one's gradient waits for "
            "the other",
            evidence={
                "branches": len(pairs),
                "faint": len(faint),
                "least_gain": gains[0],
                "largest_gain": gains[-1],
            },
            why="the gradient of each of two factors in a row is multiplied with the other",
            measured=f"gains sqrt(fan_in Var(W)) of {gains[0]:.2g} to {gains[-1]:.2g}",
            expected="a gain near 1 in all but the last layer of a branch",
            fix=Fix(
                "open_branches",
                code=f"torch.nn.init.kaiming_normal_({first.name if first else inner[0]}), and so "
                "in every named layer but the last of each branch, which may stay small",
            ),
        )


def _feeding(context: Context, branch: ResidualBranch) -> list[Layer]:
    """Layers of a branch that its last layer reads through neither weights nor a normaliser."""
    graph, found = context.model.graph, {}
    pending, seen = [branch.last or ""], set[str]()
    while pending:
        for layer in graph.effective_producers(pending.pop()):
            if layer.id in seen or layer.id == branch.trunk:
                continue
            seen.add(layer.id)
            if layer.op in NORMALISERS:
                return []
            if layer.op not in WEIGHTED:
                pending.append(layer.id)
            elif layer.id in branch.layers:
                found[layer.id] = layer
    return list(found.values())


def _gain(context: Context, layer: Layer) -> float | None:
    weight = layer.weight
    if weight is None or layer.op not in (Op.LINEAR, Op.CONV) or not weight.trainable:
        return None
    std, fan = context.measures.effective_std(weight), fans(layer, weight)
    if not std or fan is None or context.measures.stage(weight) is Stage.TRAINED:
        return None
    return std * sqrt(fan.fan_in)


def _is_small(context: Context, layer: Layer) -> bool:
    gain = _gain(context, layer)
    return gain is not None and gain < FAINT
