"""wrong-fan: a known scheme, computed with a fan that is not the layer's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from initlint.api import (
    Context,
    FanMistake,
    Finding,
    Need,
    Rule,
    Severity,
    Stage,
    drift_share,
    fan_mistakes,
)
from initlint_rules.fan._report import CONSEQUENCES, causes, report, subject

MISTAKES = {
    "missing_kernel": "without the kernel's positions",
    "swapped": "with fan_in and fan_out exchanged",
    "squared": "with a product of fans",
    "in1": "over the first input alone",
}
"""What the known mistakes are called; transposed matrices, grouped, transposed and packed weights
have rules of their own."""


class WrongFan(Rule):
    """The scale of a weight fits a known scheme only with a wrongly counted fan.

    What it does
    ------------
    Compares the scale of each weight with the known schemes, computed once with the layer's true
    fans and once with the ways in which people miscount them: a kernel's positions left out, only
    some of its axes counted, both sides exchanged, a product in place of a side, a bilinear form
    counted over one input.

    Why is this bad
    ---------------
    Variance goes as 1/fan. A 3x3 convolution drawn without its nine positions is 3 times too wide,
    a linear layer drawn with in * out is sqrt(out) times too narrow, and the factors multiply over
    layers.

    How it decides
    --------------
    The standard deviation agrees with the scheme under the wrong fan within four standard errors
    and with no known scheme under the true one, and differs by more than 20 %. One number meets
    some wrong fan easily, so two layers of different shapes must show the same mistake, or one
    uniform of at least 4096 weights its exact bound. The severity is the mistake's share of the
    predicted drift; without harm, as in front of a normaliser, it is an info.

    What it does not flag
    ---------------------
    Layers whose fans are equal, fan_out mode, scales that a scheme with the true fans explains too,
    round numbers, trained weights.

    Example
    -------
    ::

        from torch import nn

        def model():
            layers = []
            for inputs, outputs in [(3, 32), (32, 48), (48, 48), (48, 64), (64, 64)]:
                conv = nn.Conv2d(inputs, outputs, 3, padding=1)
                nn.init.normal_(conv.weight, std=(2 / inputs) ** 0.5)
                nn.init.zeros_(conv.bias)
                layers += [conv, nn.ReLU()]
            return nn.Sequential(*layers)

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            layers = []
            for inputs, outputs in [(3, 32), (32, 48), (48, 48), (48, 64), (64, 64)]:
                conv = nn.Conv2d(inputs, outputs, 3, padding=1)
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
                nn.init.zeros_(conv.bias)
                layers += [conv, nn.ReLU()]
            return nn.Sequential(*layers)

    References
    ----------
    - He, Zhang, Ren, Sun 2015, Delving deep into rectifiers: n = k^2 c.
    - OpenFold commit ce0029e: a fan that multiplied by the output side once too often.
    - 3D-ResNets-PyTorch issue 23: two of three kernel axes counted.
    """

    code = "FAN301"
    name = "wrong-fan"
    formula = "std = g / sqrt(wrong fan);  off by sqrt(true fan / wrong fan)"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.THEORY})
    optional = frozenset({Need.PROBE})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    local = True
    folds = CONSEQUENCES

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per scheme and mistake."""
        groups: dict[tuple[str, str], list[FanMistake]] = defaultdict(list)
        for mistake in fan_mistakes(context.model, context.measures):
            if mistake.match.fan in MISTAKES:
                groups[mistake.match.scheme, mistake.match.fan].append(mistake)
        for (scheme, fan), mistakes in groups.items():
            share = drift_share(context, causes(mistakes))
            yield report(
                mistakes,
                share,
                share.severity or Severity.INFO,
                message=f"{scheme} of {subject(mistakes)} was computed {MISTAKES[fan]}: "
                f"std {mistakes[0].ratio:.2g} times too "
                + ("large" if mistakes[0].ratio > 1 else "small"),
                why="the variance that keeps a signal's scale is gain^2 / fan_in, with every "
                "product that is summed into one output counted",
                code="draw with torch.nn.init on the weight as (out, in / groups, *kernel), which "
                f"counts {'the kernel' if fan == 'missing_kernel' else 'both sides'}",
            )
