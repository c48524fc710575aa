"""output-scale: a last layer whose weights make its outputs dozens of times what it reads."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, log10, sqrt

from initlint.api import (
    Confidence,
    Context,
    Finding,
    Fix,
    Layer,
    Need,
    Rule,
    Severity,
    Stage,
    fans,
)
from initlint_rules._outputs import is_drawn, last_layers

WIDE, FAR = 10**0.7, 10**1.5
"""sqrt(fan_in Var(W)) of a last layer from which it is spoken of, and from which it is a warning:
the decades of growth into a linear sink that cost a fifth of the progress, and all of it. No scheme
in use gives more than 1.7; squared errors of networks with gains of 46 to 115 learnt nothing in 100
steps (benchmarks/outcome, set 4)."""

LOUD = 3.0
"""Rms of the outputs below which a wide last layer makes up for features that are small, and is no
harm: three times targets of unit scale."""

AWAY = 10.0
"""Gain from which that holds no longer, a table that is the head as well left out: features grow
as they are learned. A GRU whose states of 0.05 met a head of gain 29 made half of its twin's
progress."""


class OutputScale(Rule):
    """The last layer starts so wide that the outputs are many times what it reads.

    What it does
    ------------
    Compares the weights of every layer whose output leaves the network as it is with
    1/sqrt(fan_in), and looks how large the outputs are.

    Why is this bad
    ---------------
    Targets have a scale near 1, or are brought to it. Outputs with an rms of 50 start with 2500
    times their squared error, and send gradients back that are 50 times too long: gradient descent
    leaves the numbers or jumps, and Adam first has to shrink the layer.

    How it decides
    --------------
    Gain sqrt(fan_in Var(W)) from 5 and outputs with an rms from 3 beside the bias, measured or
    predicted: info, and from 10 whatever the outputs are. Gain from 32 and large outputs: warning.
    Never an error: what the targets are is not known.

    What it does not flag
    ---------------------
    Outputs behind an activation, a norm or a table's scale; heads of usual gains behind features
    that have grown; zero and small heads; large biases, which a mean of the targets may ask for;
    trained weights. Logits of a cross-entropy have a rule of their own (`head-excess-loss`).

    Example
    -------
    ::

        from torch import nn

        def model():
            net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 1))
            nn.init.kaiming_normal_(net[0].weight, nonlinearity="relu")
            nn.init.normal_(net[2].weight, std=8.0)
            return net

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 1))
            nn.init.kaiming_normal_(net[0].weight, nonlinearity="relu")
            nn.init.kaiming_normal_(net[2].weight, nonlinearity="linear")
            return net

    References
    ----------
    - LeCun, Bottou, Orr, Müller 1998, Efficient backprop, section 4.6: weights of variance
      1/fan_in.
    """

    code = "SCL209"
    name = "output-scale"
    formula = (
        "sqrt(fan_in Var(W)) >= 32 in a last layer whose outputs leave the network as they are"
    )
    since = "0.1"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.THEORY})
    optional = frozenset({Need.PROBE})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    folds = ("forward-drift", "variance-profile")

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per last layer."""
        for head in last_layers(context.model.graph):
            weight = head.weight
            if weight is None or weight.quantised or not weight.trainable:
                continue
            if not is_drawn(context, weight):
                continue
            std, fan = context.measures.effective_std(weight), fans(head, weight)
            size, measured = _size(context, head)
            if std is None or fan is None or size is None:
                continue
            gain = std * sqrt(fan.fan_in)
            if gain < WIDE or (
                size < LOUD and (gain < AWAY or context.model.graph.is_shared(weight))
            ):
                continue
            yield Finding(
                severity=Severity.WARNING if gain >= FAR and size >= LOUD else Severity.INFO,
                confidence=Confidence.HIGH if measured else Confidence.MEDIUM,
                layer=head.id,
                param=weight.name,
                message=f"the weights of {head.id} are {gain:.3g} times as wide as 1/sqrt(fan_in): "
                f"the outputs start with rms {size:.2g}",
                evidence={"gain": gain, "output_rms": size, "decades": log10(gain), "std": std},
                why="targets have a scale near 1: the first errors, and the gradients that go back "
                "from them, are as many times too large",
                measured=f"std {std:.3g} over fan_in {fan.fan_in:.0f}, gain {gain:.3g}",
                expected=f"std near 1/sqrt(fan_in) = {1 / sqrt(fan.fan_in):.3g}",
                fix=Fix(
                    "rescale",
                    params=(weight.key,),
                    arguments={"factor": 1 / gain},
                    code=f"torch.nn.init.kaiming_normal_({weight.name}, nonlinearity='linear')",
                ),
            )


def _size(context: Context, head: Layer) -> tuple[float | None, bool]:
    """Rms of what a layer makes of its input, its bias aside, and whether it was measured."""
    stats = context.probe.outputs.get(head.id) if context.probe else None
    signal = context.theory.forward.get(head.id) if context.theory else None
    if stats is not None and stats.count and not stats.non_finite:
        square, measured = stats.rms**2, True
    elif signal is not None and -600 < signal.log_q < 600:
        square, measured = exp(signal.log_q), False
    else:
        return None, False
    moments = context.measures.moments(head.bias) if head.bias is not None else None
    return sqrt(max(square - (moments.second_moment if moments else 0.0), 0.0)), measured
