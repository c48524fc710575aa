"""grouped-fan: a grouped convolution drawn with the fan of an ungrouped one."""

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


class GroupedFan(Rule):
    """A grouped or depthwise convolution was drawn with a fan that ignores its groups.

    What it does
    ------------
    Finds convolutions with several groups whose scale fits a known scheme only when the channels of
    all groups are counted.

    Why is this bad
    ---------------
    In a grouped convolution an input meets out / groups outputs. The fan_out of ``torch.nn.init``
    counts all of them, so the weights start sqrt(groups) times too narrow: for a depthwise layer of
    512 channels that is 1/23 of the signal.

    How it decides
    --------------
    The standard deviation agrees with the scheme under the ungrouped fan within four standard
    errors and with none under a true fan, in two layers of different shapes or to the exact bound
    of one large uniform. The severity is the share of the predicted drift; without harm an info.

    What it does not flag
    ---------------------
    Layers that a normaliser follows, as in MobileNet, where the scale does not reach the signal.
    Layers whose fan_in is used. Trained weights.

    Example
    -------
    ::

        from torch import nn

        def model():
            layers = []
            for inputs, outputs in [(32, 64), (64, 96), (96, 128), (128, 160)]:
                depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs)
                pointwise = nn.Conv2d(inputs, outputs, 1)
                for conv in (depthwise, pointwise):
                    nn.init.zeros_(conv.bias)
                nn.init.kaiming_normal_(depthwise.weight, mode="fan_out", nonlinearity="relu")
                nn.init.kaiming_normal_(pointwise.weight, nonlinearity="relu")
                layers += [depthwise, nn.ReLU(), pointwise, nn.ReLU()]
            return nn.Sequential(*layers)

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            layers = []
            for inputs, outputs in [(32, 64), (64, 96), (96, 128), (128, 160)]:
                depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs)
                pointwise = nn.Conv2d(inputs, outputs, 1)
                for conv in (depthwise, pointwise):
                    nn.init.zeros_(conv.bias)
                    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
                layers += [depthwise, nn.ReLU(), pointwise, nn.ReLU()]
            return nn.Sequential(*layers)

    References
    ----------
    - pytorch issue 23854: fan_out of grouped convolutions.
    - timm's fix_group_fanout divides it by the groups.
    """

    code = "FAN304"
    name = "grouped-fan"
    formula = "true fan_out = (C_out / groups) prod(k);  off by sqrt(groups)"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.THEORY})
    optional = frozenset({Need.PROBE})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    folds = CONSEQUENCES

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per scheme."""
        groups: dict[str, list[FanMistake]] = defaultdict(list)
        for mistake in fan_mistakes(context.model, context.measures):
            normalised = context.model.graph.feeds_normaliser(mistake.layer.id)
            if mistake.match.fan == "ungrouped" and not normalised:
                groups[mistake.match.scheme].append(mistake)
        for scheme, mistakes in groups.items():
            share = drift_share(context, causes(mistakes))
            yield report(
                mistakes,
                share,
                share.severity or Severity.INFO,
                message=f"{scheme} of {subject(mistakes)} counts the channels of all groups: "
                f"std {mistakes[0].ratio:.2g} times the right one",
                why="an input of a grouped convolution feeds out / groups outputs; the helper's "
                "fan_out counts all",
                code=f"torch.nn.init.kaiming_normal_({mistakes[0].param.name}, mode='fan_in'), "
                "or divide fan_out by the groups",
            )
