"""transposed-weight: an (in, out) matrix drawn as if it were stored (out, in)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from initlint.api import (
    Context,
    FanMistake,
    Finding,
    Kind,
    Need,
    Rule,
    Severity,
    Stage,
    drift_share,
    fan_mistakes,
)
from initlint_rules.fan._report import CONSEQUENCES, causes, report, subject


class TransposedWeight(Rule):
    """A matrix used as ``x @ W`` was drawn by a helper that takes its first axis for the outputs.

    What it does
    ------------
    Finds matrices that are stored ``(in, out)`` and whose scale fits a known scheme only when the
    two sides are exchanged.

    Why is this bad
    ---------------
    The helpers of ``torch.nn.init`` read ``(out, in)``. For ``x @ W`` they take the number of
    outputs for fan_in: a layer that widens four times starts two times too narrow, one that
    narrows four times starts two times too wide.

    How it decides
    --------------
    The matrix is transposed on the way to its product, the standard deviation agrees with the
    scheme under the exchanged fan and no true one, by more than 20 %, in two layers of different
    shapes or to the exact bound of one large uniform. The severity is the share of the predicted
    drift; without harm it is an info. ONNX exporters transpose on their own, so there it speaks
    only of harm.

    What it does not flag
    ---------------------
    Square matrices, Xavier (which does not care), matrices stored ``(out, in)`` in fan_out mode,
    fixed scales such as GPT-2's 0.02.

    Example
    -------
    ::

        import torch
        from torch import nn

        class Dense(nn.Module):
            def __init__(self, inputs, outputs):
                super().__init__()
                self.weight = nn.Parameter(torch.empty(inputs, outputs))
                nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

            def forward(self, x):
                return x @ self.weight

        def model():
            sides = [64, 256, 96, 320, 128]
            layers = []
            for inputs, outputs in zip(sides, sides[1:]):
                layers += [Dense(inputs, outputs), nn.ReLU()]
            return nn.Sequential(nn.Linear(64, 64), *layers)

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        class Dense(nn.Module):
            def __init__(self, inputs, outputs):
                super().__init__()
                self.weight = nn.Parameter(torch.empty(inputs, outputs))
                nn.init.kaiming_normal_(self.weight.T, nonlinearity="relu")

            def forward(self, x):
                return x @ self.weight

        def model():
            sides = [64, 256, 96, 320, 128]
            layers = []
            for inputs, outputs in zip(sides, sides[1:]):
                layers += [Dense(inputs, outputs), nn.ReLU()]
            return nn.Sequential(nn.Linear(64, 64), *layers)

    References
    ----------
    - torch.nn.init: "note that fan_in and fan_out are calculated assuming that the weight matrix is
      used in a transposed manner", i.e. ``x @ w.T``.
    - pytorch issue 130122.
    """

    code = "FAN302"
    name = "transposed-weight"
    formula = "std = g / sqrt(fan_out) instead of g / sqrt(fan_in)"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.THEORY})
    optional = frozenset({Need.PROBE})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    folds = CONSEQUENCES

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per scheme."""
        groups: dict[str, list[FanMistake]] = defaultdict(list)
        for mistake in fan_mistakes(context.model, context.measures):
            if mistake.match.fan == "transposed":
                groups[mistake.match.scheme].append(mistake)
        for scheme, mistakes in groups.items():
            share = drift_share(context, causes(mistakes))
            if share.severity is None and context.model.kind is Kind.ONNX:
                continue
            yield report(
                mistakes,
                share,
                share.severity or Severity.INFO,
                message=f"{scheme} of {subject(mistakes)} took the outputs of x @ W for fan_in: "
                f"std {mistakes[0].ratio:.2g} times the right one",
                why="the helpers assume (out, in); a matrix used as x @ W is (in, out)",
                code=f"torch.nn.init.kaiming_normal_({mistakes[0].param.name}.T): "
                "hand the helper the transposed view",
            )
