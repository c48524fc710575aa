"""partial-fixup: zero last layers in a norm-free residual net whose first layers ignore depth."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

from initlint.api import (
    ACTIVATIONS,
    NORMALISERS,
    Confidence,
    Context,
    Finding,
    Fix,
    Need,
    Op,
    Param,
    Residual,
    Rule,
    Severity,
    Stage,
    fans,
    forward_gain,
    residual_branches,
)

MIN_BLOCKS = 8
"""Residual blocks from which Fixup's factor L^(-1/2) is smaller than 0.36."""

DEEP = 32
"""Residual blocks at which one step adds 32 coherent branch outputs; the factor left out is 5.7."""

FULL_SCALE = 0.1
"""Relative tolerance for "drawn at full scale": Fixup's own factor at 8 blocks is 65 % away."""


class PartialFixup(Rule):
    """A norm-free residual network follows only half of the Fixup recipe.

    What it does
    ------------
    Finds residual networks without normalisation whose branches end in zero layers, as Fixup
    wants, while the first layers of the branches are drawn at full scale, which Fixup scales by
    depth.

    Why is this bad
    ---------------
    The zero layers keep the stream's scale at the start only. After the first step every branch
    adds an output in proportion to the scale of its other layers, all in the same direction of the
    loss, and the change of the network's output is L times that of one block. Fixup's factor
    L^(-1/(2m-2)) for m layers per branch is what makes this change independent of depth.

    How it decides
    --------------
    No normaliser in the network, at least 8 residual branches with a zero last layer and two or
    more layers, no closing gain, and other layers within 10 % of the scale that their activation
    wants. Always an info; with 32 or more branches the message says that training at an ordinary
    learning rate is at risk.

    What it does not flag
    ---------------------
    Full Fixup, ReZero, SkipInit and LayerScale (their gate limits the step), networks with any
    normaliser, shallow networks.

    Example
    -------
    ::

        import torch
        from torch import nn

        class Block(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.fc1, self.fc2 = nn.Linear(width, width), nn.Linear(width, width)
                nn.init.kaiming_normal_(self.fc1.weight, nonlinearity="relu")
                nn.init.zeros_(self.fc2.weight)

            def forward(self, x):
                return x + self.fc2(torch.relu(self.fc1(x)))

        def model():
            return nn.Sequential(nn.Linear(64, 64), *[Block(64) for _ in range(16)],
                                 nn.Linear(64, 10))

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        class Block(nn.Module):
            def __init__(self, width, depth):
                super().__init__()
                self.fc1, self.fc2 = nn.Linear(width, width), nn.Linear(width, width)
                nn.init.normal_(self.fc1.weight, std=(2 / width) ** 0.5 * depth**-0.5)
                nn.init.zeros_(self.fc2.weight)

            def forward(self, x):
                return x + self.fc2(torch.relu(self.fc1(x)))

        def model():
            return nn.Sequential(nn.Linear(64, 64), *[Block(64, 16) for _ in range(16)],
                                 nn.Linear(64, 10))

    References
    ----------
    - Zhang, Dauphin, Ma 2019, Fixup initialization: residual learning without normalization.
    """

    code = "RES504"
    name = "partial-fixup"
    formula = "Fixup: last layer 0, others He * L^(-1 / (2 m - 2)), m layers per branch"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH})
    stages = frozenset({Stage.FRESH})

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding that names the first layer of every branch."""
        graph = context.model.graph
        if any(layer.op in NORMALISERS for layer in graph):
            return
        branches = [branch for branch in residual_branches(graph) if _ends_in_zero(context, branch)]
        count = len(branches)
        if count < MIN_BLOCKS:
            return
        full: list[tuple[str, Param]] = []
        for branch in branches:
            inner = [key for key in branch.layers if key != branch.last]
            weights = [weight for key in inner if (weight := graph[key].weight) is not None]
            if not inner or not all(_full_scale(context, key) for key in inner):
                return
            full.extend(zip(inner, weights, strict=False))
        depth = len(branches[0].layers)
        factor = count ** (-1 / (2 * depth - 2))
        first = full[0][1]
        moments = context.measures.effective_std(first) or 0.0
        risk = "; at this depth an ordinary learning rate is at risk" if count >= DEEP else ""
        yield Finding(
            severity=Severity.INFO,
            confidence=Confidence.MEDIUM,
            layer=full[0][0],
            param=first.name,
            layers=tuple(key for key, _ in full),
            message=f"{count} branches end in zero layers but their other layers are not scaled "
            f"for depth{risk}",
            evidence={"branches": count, "layers_per_branch": depth, "factor": factor},
            why="after one step all branches add up coherently, so the output moves with the "
            "number of blocks",
            measured=f"std {moments:.3g}: full scale",
            expected=f"std {moments * factor:.3g}: times {count}^(-1/{2 * depth - 2})",
            fix=Fix(
                "rescale",
                params=tuple(param.key for _, param in full),
                arguments={"factor": factor},
                code=f"multiply {first.name} and its siblings by {factor:.3g}; or warm up from a "
                f"learning rate {count} times smaller",
            ),
        )


def _ends_in_zero(context: Context, branch: Residual) -> bool:
    graph = context.model.graph
    if branch.last is None or branch.gate is not None or len(branch.layers) < 2:
        return False
    bends = any(graph[key].op in ACTIVATIONS for key in branch.branch)
    weight = graph[branch.last].weight
    moments = context.measures.moments(weight) if weight is not None else None
    return bends and moments is not None and moments.constant and moments.max_abs == 0


def _full_scale(context: Context, key: str) -> bool:
    """True when a layer's weights have the std that their activation wants."""
    layer = context.model.graph[key]
    weight = layer.weight
    if weight is None or layer.op not in (Op.LINEAR, Op.CONV):
        return False
    fan, activation = fans(layer, weight), context.model.graph.activation(key)
    std = context.measures.effective_std(weight)
    if fan is None or not std:
        return False
    gain = forward_gain(activation.op, activation.attrs) if activation is not None else 1.0
    wanted = gain / sqrt(fan.fan_in)
    return abs(std / wanted - 1) < FULL_SCALE and context.measures.stage(weight) is Stage.FRESH
