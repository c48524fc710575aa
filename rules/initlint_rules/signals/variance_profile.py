"""variance-profile: the measured rms drifts along an un-normalised stretch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import log10

from initlint.api import (
    OVERFLOWED,
    Context,
    Finding,
    Fix,
    LayerGraph,
    Need,
    Rule,
    Severity,
    Sink,
    Stage,
    drift_severity,
    hidden_layers,
    makers,
    measured_drift,
    on_branches,
    saturates,
    signal_profile,
    stretches,
)


class VarianceProfile(Rule):
    """The measured rms of the signal grows or shrinks from layer to layer.

    What it does
    ------------
    Runs the model once and compares the rms of what enters each layer along every stretch between
    normalisers.

    Why is this bad
    ---------------
    The same as forward-drift, seen rather than predicted: also where theory knows no rule for an
    operator, or its finite-width error is large.

    How it decides
    --------------
    Decades from the second to the last layer of the stretch (the first reads data). Vanishing: 0.7
    info, 1.5 warning, 4 error where three layers or more make it up; exploding: 0.3 info, 0.7
    warning, 1.5 error. A signal that shrinks by less than 4 on branches alone, beside a
    trunk whose gradient hardly changes, is an info. A signal that overflows counts with float32's
    largest number.

    What it does not flag
    ---------------------
    Stretches with normalisers, the last layer, trained models, a profile that another finding on
    the same layers explains.

    Example
    -------
    ::

        import torch
        from torch import nn

        class Entropy(nn.Module):
            def forward(self, x):
                return torch.special.entr(x.abs())

        def model():
            layers = []
            for _ in range(12):
                linear = nn.Linear(128, 128)
                nn.init.normal_(linear.weight, std=0.3)
                layers += [linear, Entropy()]
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
    formula = "D = log10(rms at the last layer) - log10(rms at the second)"
    about_scale = True
    needs = frozenset({Need.GRAPH, Need.PROBE})
    stages = frozenset({Stage.FRESH})
    folds = ("gradient-profile", "correlation-collapse")

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per stretch whose measured rms drifts."""
        if context.probe is None:
            return
        graph = context.model.graph
        for chain in stretches(graph):
            hidden = hidden_layers(chain, graph)
            drift = measured_drift(hidden, graph, context.probe)
            if drift is None or (drift > 0 and saturates(hidden, graph)):
                continue
            profile = signal_profile(hidden, graph, context.probe)
            layers = makers((step for _, step in _steps(profile)), drift)
            severity = drift_severity(drift, 0.0, Sink.OUTPUT, layers)
            if severity is not None:
                severity = on_branches(context, hidden, drift, severity)
                yield _finding(graph, profile, hidden, drift, severity)


Profile = tuple[tuple[str, float], ...]
"""Layers and the rms of what enters them."""


def _steps(profile: Profile) -> list[tuple[str, float]]:
    """Each layer but the last, and the decades by which it changes the signal."""
    return [(key, log10(after) - log10(before)) for (key, before), (_, after) in pairwise(profile)]


def _finding(
    graph: LayerGraph, profile: Profile, layers: tuple[str, ...], drift: float, severity: Severity
) -> Finding:
    steps = _steps(profile)
    worst = max((abs(step), key) for key, step in steps)[1]
    word = "shrinks" if drift < 0 else "grows"
    end, last = profile[-1]
    said = f"{word} 10^{drift:+.1f} times over {len(profile)} layers"
    if last >= OVERFLOWED:
        said = f"grows beyond float32 before {end}, over {len(profile)} layers"
    params = tuple(weight.key for key in layers if (weight := graph[key].weight) is not None)
    return Finding(
        severity=severity,
        layer=worst,
        layers=layers,
        message=f"the measured signal {said}",
        evidence={
            "measured_decades": drift,
            "decades_per_layer": drift / (len(profile) - 1),
            "first_rms": profile[0][1],
            "last_rms": last,
            "largest_step": worst,
        },
        why="a scale that drifts from layer to layer takes the gradient with it",
        measured=f"rms {profile[0][1]:.3g} into {profile[0][0]}, {last:.3g} into {end}",
        expected="about the same rms into every hidden layer",
        fix=Fix("lsuv", params=params, code="rescale each layer to unit output variance (LSUV)"),
        shares={(key,): step * (-1 if drift < 0 else 1) for key, step in steps},
    )
