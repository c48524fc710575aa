"""post-norm-deep: a deep post-norm network whose skip paths are not strengthened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import log, log10, sqrt

from initlint.api import (
    Confidence,
    Context,
    Finding,
    Fix,
    Need,
    ResidualBranch,
    Rule,
    Severity,
    Stage,
    backward_severity,
    residual_branches,
)

MIN_ADDITIONS = 12
"""Residual additions from which post-norm networks were found to need a warm-up or a stronger skip
path: six transformer blocks (Xiong et al. 2020)."""

SKIP_LOSS = 0.7
"""Decades of gradient lost on the skip path alone that are worth saying: the lowest level at which
vanishing signals are reported."""

SKIP_GONE = 24 * log10(2)
"""Decades after which what the skip path brings is below float32's rounding of what the branches
do, as if there were none. Trained for 150 steps on a task of words, at width 48 with clipping: 18
blocks at 10^-3.8 and 9 at 10^-4.6 made 83 to 90 % of the progress of their twins with small
branches; 36 at 10^-7.9, 24 at 10^-8.8 and 18 at 10^-9.6 made none with SGD at 0.1 and 0.01, and 72,
12 and 79 % with Adam at the better of 3e-3 and 3e-4."""


class PostNormDeep(Rule):
    """Normalising the residual stream after each of many additions wears out the skip path.

    What it does
    ------------
    Works out, for networks that normalise after each addition, how much of the gradient the chain
    of skip paths alone still carries from the last block to the first.

    Why is this bad
    ---------------
    A normaliser behind x + f(x) divides the skip path by sqrt(1 + r), with r the power of the
    branch over the trunk's: with r = 1 the direct path keeps 2^(-L/2) after L additions. What
    reaches the first layers then runs through the branches, as in a network without skip paths:
    such networks need a warm-up, and diverge without one when they are deep.

    How it decides
    --------------
    At least 12 additions followed by a normaliser, plain skip paths, and a loss on them of
    sum 0.5 log10(1 + r) of 0.7 decades or more: an info. A warning from 7.2 decades on, below
    float32's rounding error; a warning or an error when the gradient as a whole, measured or else
    predicted, vanishes over those additions by 10^-1.5 or 10^-4.

    What it does not flag
    ---------------------
    Pre-norm networks, small branches (BERT's N(0, 0.02)), scaled skip paths (DeepNorm), branches
    closed by a gain, few layers, trained weights.

    Example
    -------
    ::

        import torch
        from torch import nn

        class Block(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.fc1, self.fc2 = nn.Linear(width, width), nn.Linear(width, width)
                self.norm = nn.LayerNorm(width)
                for layer in (self.fc1, self.fc2):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                    nn.init.zeros_(layer.bias)

            def forward(self, x):
                return self.norm(x + self.fc2(torch.relu(self.fc1(x))))

        def model():
            return nn.Sequential(nn.Linear(64, 64), *[Block(64) for _ in range(16)],
                                 nn.Linear(64, 10))

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        class Block(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.fc1, self.fc2 = nn.Linear(width, width), nn.Linear(width, width)
                self.norm = nn.LayerNorm(width)
                nn.init.kaiming_normal_(self.fc1.weight, nonlinearity="relu")
                nn.init.zeros_(self.fc2.weight)

            def forward(self, x):
                return self.norm(x + self.fc2(torch.relu(self.fc1(x))))

        def model():
            return nn.Sequential(nn.Linear(64, 64), *[Block(64) for _ in range(16)],
                                 nn.Linear(64, 10))

    References
    ----------
    - Xiong et al. 2020, On layer normalization in the transformer architecture.
    - Wang et al. 2022, DeepNet: scaling transformers to 1,000 layers.
    - Liu et al. 2020, Understanding the difficulty of training transformers (Admin).
    """

    code = "RES505"
    name = "post-norm-deep"
    formula = "gradient on the skip path: prod (1 + r_l)^(-1/2);  DeepNorm alpha = (2 N)^(1/4)"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.THEORY})
    optional = frozenset({Need.PROBE, Need.BACKWARD})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    folds = ("forward-drift", "gradient-profile")

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding that names the additions."""
        if context.theory is None:
            return
        plain = {
            branch.add
            for branch in residual_branches(context.model.graph)
            if branch.entry_norm is None and branch.skip_scale is None and branch.post_norm
        }
        found = [
            (branch, branch.gain)
            for branch in context.theory.residuals
            if branch.add in plain
            and not branch.gated
            and branch.gain is not None
            and _fresh(context, branch)
        ]
        lost = sum(0.5 * log10(1 + gain) for _, gain in found)
        if len(found) < MIN_ADDITIONS or lost < SKIP_LOSS:
            return
        drift, measured = _gradient(context, found[0][0].add, found[-1][0].add)
        severity = backward_severity(drift) if drift is not None and drift < 0 else None
        if lost >= SKIP_GONE:
            severity = max(severity or Severity.WARNING, Severity.WARNING)
        layers = tuple(branch.add for branch, _ in found)
        blocks = len(found) / 2
        yield Finding(
            severity=severity or Severity.INFO,
            confidence=Confidence.HIGH if measured else Confidence.MEDIUM,
            layer=layers[0],
            layers=layers,
            message=f"{len(found)} additions are each followed by a normaliser: the skip path "
            f"alone keeps 10^-{lost:.1f} of the gradient",
            evidence={
                "additions": len(found),
                "skip_path_decades": -lost,
                "gradient_decades": drift,
                "gradient_measured": measured,
                "branch_gain_first": found[0][1],
                "branch_gain_last": found[-1][1],
            },
            why=f"each of {len(found)} normalisers divides the skip path by sqrt(1 + r): the "
            "gradient of early layers rests on the branches, so that a warm-up is needed",
            measured=f"skip path {-lost:.1f} decades"
            + ("" if drift is None else f", whole gradient {drift:+.1f} decades"),
            expected="pre-norm, a stronger skip path, or smaller branches",
            fix=Fix(
                "advice",
                code=f"use a warm-up, or scale each branch by {_bearable(found):.2f}, or normalise "
                "before each branch, or DeepNorm: skip path times "
                f"(2 N)^(1/4) = {(2 * blocks) ** 0.25:.2f}, branch weights times "
                f"(8 N)^(-1/4) = {(8 * blocks) ** -0.25:.2f}",
            ),
        )


def _bearable(found: Sequence[tuple[ResidualBranch, float | None]]) -> float:
    """Factor on every branch at which the skip path loses no more than `SKIP_LOSS` decades.

    With n equal gains r, n/2 log10(1 + s^2 r) = SKIP_LOSS.
    """
    mean = sum(gain or 0.0 for _, gain in found) / len(found)
    share: float = 10.0 ** (2.0 * SKIP_LOSS / len(found)) - 1.0
    return sqrt(share / mean) if mean > share else 1.0


def _fresh(context: Context, branch: ResidualBranch) -> bool:
    return not any(
        context.measures.stage(param) is Stage.TRAINED
        for key in branch.layers
        for param in context.model.graph[key].params
    )


def _gradient(context: Context, first: str, last: str) -> tuple[float | None, bool]:
    """Decades of gradient rms at the first addition over the last, and whether measured."""
    measured = context.probe.backward if context.probe else {}
    if measured.get(first, 0.0) > 0 and measured.get(last, 0.0) > 0:
        return log10(measured[first] / measured[last]), True
    predicted = context.theory.backward if context.theory else {}
    if first in predicted and last in predicted:
        return 0.5 * (predicted[first] - predicted[last]) / log(10), False
    return None, False
