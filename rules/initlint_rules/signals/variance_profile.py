"""variance-profile: the measured rms drifts along an un-normalised stretch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import log10

from initlint.api import (
    Context,
    Finding,
    Fix,
    Need,
    Rule,
    Segment,
    Severity,
    Sink,
    Stage,
    drift_severity,
    hidden_layers,
    measured_drift,
)


class VarianceProfile(Rule):
    """The measured rms of pre-activations grows or shrinks from layer to layer.

    What it does
    ------------
    Runs the model once and compares the rms of pre-activations along each stretch between
    normalisers.

    Why is this bad
    ---------------
    The same as forward-drift, seen rather than predicted: also where theory knows no rule for an
    operator, or its finite-width error is large.

    How it decides
    --------------
    Decades from the first to the last hidden layer of the stretch. Vanishing: 0.7 info, 1.5
    warning, 4 error; exploding: 0.3 info, 0.7 warning, 1.5 error.

    What it does not flag
    ---------------------
    Stretches with normalisers, the last layer, trained models, a profile that another finding on
    the same layers explains.

    Example
    -------
    ::

        from torch import nn

        def model():
            layers = []
            for _ in range(12):
                linear = nn.Linear(128, 128)
                nn.init.normal_(linear.weight, std=0.3)
                layers += [linear, nn.ReLU()]
            return nn.Sequential(*layers, nn.Linear(128, 10))

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            layers = []
            for _ in range(12):
                linear = nn.Linear(128, 128)
                nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
                nn.init.zeros_(linear.bias)
                layers += [linear, nn.ReLU()]
            return nn.Sequential(*layers, nn.Linear(128, 10))

    References
    ----------
    - Mishkin, Matas 2016, All you need is a good init.
    """

    code = "PRB101"
    name = "variance-profile"
    needs = frozenset({Need.GRAPH, Need.THEORY, Need.PROBE})
    stages = frozenset({Stage.FRESH})

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per stretch whose measured rms drifts."""
        if context.theory is None or context.probe is None:
            return
        for segment in context.theory.segments:
            measured = measured_drift(segment, context.model.graph, context.probe)
            if measured is None or segment.normalised:
                continue
            if measured > 0 and segment.sink is Sink.SATURATION:
                continue
            severity = drift_severity(measured, 0.0, segment.sink)
            if severity is not None:
                yield _finding(context, segment, measured, severity)


def _finding(context: Context, segment: Segment, measured: float, severity: Severity) -> Finding:
    keys = hidden_layers(segment, context.model.graph)
    outputs = context.probe.outputs if context.probe else {}
    profile = [(key, outputs[key].rms) for key in keys if key in outputs]
    slope = measured / max(len(profile) - 1, 1)
    steps = [
        (abs(log10(max(after[1], 1e-300) / max(before[1], 1e-300))), after[0])
        for before, after in pairwise(profile)
    ]
    worst = max(steps)[1] if steps else keys[0]
    word = "shrinks" if measured < 0 else "grows"
    params = tuple(
        weight.key for key in keys if (weight := context.model.graph[key].weight) is not None
    )
    return Finding(
        severity=severity,
        layer=worst,
        layers=keys,
        message=f"the measured signal {word} 10^{measured:+.1f} times over {len(profile)} layers",
        evidence={
            "measured_decades": measured,
            "decades_per_layer": slope,
            "first_rms": profile[0][1],
            "last_rms": profile[-1][1],
            "largest_step": worst,
        },
        why="a scale that drifts from layer to layer takes the gradient with it",
        measured=f"rms {profile[0][1]:.3g} at {profile[0][0]}, {profile[-1][1]:.3g} at "
        f"{profile[-1][0]}",
        expected="about the same rms at every hidden layer",
        fix=Fix("lsuv", params=params, code="rescale each layer to unit output variance (LSUV)"),
    )
