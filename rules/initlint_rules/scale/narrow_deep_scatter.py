"""narrow-deep-scatter: so deep and narrow that the scale of the signal is a matter of luck."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, isfinite

from initlint.api import Confidence, Context, Finding, Fix, Need, Rule, Segment, Severity, Stage

LIMITS = ((0.5, Severity.WARNING), (0.25, Severity.INFO))
"""Standard deviations of the log10 rms over draws. At 0.5 one draw in six is off by a factor of
three, which is where a vanishing signal costs up to 9 % of the progress and an exploding one 20 %;
at 0.25 by 1.8. Never an error: what the draw at hand is like the other rules of scale predict from
its weights and measure; this one is about the draws of other seeds."""

MIN_LAYERS = 4
"""Layers whose fluctuations add up to something that width alone does not explain."""


class NarrowDeepScatter(Rule):
    """The scale of the signal varies by a large factor from one random draw to the next.

    What it does
    ------------
    Predicts, for stretches without normaliser or skip connection, how much the logarithm of the
    signal's scale scatters over draws of the weights.

    Why is this bad
    ---------------
    Every layer multiplies the signal by a random factor whose scatter falls with its width. Over L
    layers of width n the variance of ln q is 5 L / n for ReLUs: at 50 layers of width 16 the scale
    varies by a factor of 7 either way. The right gain is right on average only; one seed trains and
    the next does not.

    How it decides
    --------------
    The standard deviation of log10 of the rms over draws, as a batch sees it: 0.25 info, 0.5
    warning, never an error: how the draw at hand came out is for other rules to say. For ReLU
    layers of one width 0.5 is reached near L / n = 1.

    What it does not flag
    ---------------------
    Residual networks, normalised layers, fewer than four layers, trained weights.

    Example
    -------
    ::

        from torch import nn

        def model():
            layers = []
            for _ in range(40):
                linear = nn.Linear(16, 16)
                nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
                nn.init.zeros_(linear.bias)
                layers += [linear, nn.ReLU()]
            return nn.Sequential(*layers, nn.Linear(16, 4))

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            layers = []
            for _ in range(40):
                linear = nn.Linear(256, 256)
                nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
                nn.init.zeros_(linear.bias)
                layers += [linear, nn.ReLU()]
            return nn.Sequential(*layers, nn.Linear(256, 4))

    References
    ----------
    - Hanin, Rolnick 2018, How to start training: the effect of initialization and architecture.
    - Sussillo, Abbott 2014, Random walk initialization for training very deep feedforward networks.
    """

    code = "SCL207"
    name = "narrow-deep-scatter"
    formula = "Var(ln q_L) = sum kappa_l / n_l,  kappa = 5 for ReLU"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.THEORY})
    stages = frozenset({Stage.FRESH})
    folds = ("variance-profile", "gradient-profile")

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per stretch whose scale is left to chance."""
        if context.theory is None:
            return
        for segment in context.theory.segments:
            spread = segment.band / 2.0
            if segment.normalised or segment.residual or len(segment.layers) < MIN_LAYERS:
                continue
            severity = next((level for limit, level in LIMITS if spread > limit), None)
            if severity is not None and isfinite(spread):
                yield _finding(context, segment, spread, severity)


def _draws(spread: float) -> int:
    """Draws whose mean is known to an info's spread of 0.25 decades at two standard errors."""
    return max(3, ceil((2.0 * spread / 0.25) ** 2))


def _finding(context: Context, segment: Segment, spread: float, severity: Severity) -> Finding:
    widths = [
        weight.shape[0]
        for key in segment.layers
        if (weight := context.model.graph[key].weight) is not None
    ]
    return Finding(
        severity=severity,
        confidence=Confidence.MEDIUM,
        layer=segment.layers[0],
        layers=segment.layers,
        message=f"the signal's scale after {len(segment.layers)} layers varies by 10^±{spread:.2f} "
        "from draw to draw",
        evidence={
            "std_decades": spread,
            "layers": len(segment.layers),
            "narrowest": min(widths, default=0),
            "sum_of_inverse_widths": sum(1.0 / width for width in widths if width),
        },
        why="each narrow layer multiplies the signal by a random factor, and the factors compound",
        measured=f"standard deviation of log10 rms {spread:.2f}",
        expected="below 0.25",
        fix=Fix(
            "other_architecture",
            code="make the layers wider, or use skip connections, normalisers or orthogonal "
            f"weights; compare over {_draws(spread)} seeds or more (--seeds)",
        ),
    )
