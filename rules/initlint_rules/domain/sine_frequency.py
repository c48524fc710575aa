"""sine-frequency: hidden sine layers whose phases are drawn far too wide."""

from __future__ import annotations

from collections.abc import Iterator
from math import log10, sqrt

import numpy as np

from initlint.api import (
    Context,
    Finding,
    Fix,
    Layer,
    LayerGraph,
    Need,
    Op,
    Param,
    Rule,
    Stage,
    backward_severity,
    record,
)


@record(frozen=True, slots=True)
class _Sine:
    """A hidden linear layer between two sines."""

    sine: Layer
    layer: Layer
    weight: Param
    frequency: float
    phase: float


class SineFrequency(Rule):
    """Hidden sine layers start with phases of many periods, or the gradient grows layer by layer.

    What it does
    ------------
    In networks with sine activations (SIREN), computes the standard deviation of the argument of
    each hidden sine from its weights and the frequency in front of it.

    Why is this bad
    ---------------
    A sine of a phase that varies over many periods is noise: neighbouring coordinates get unrelated
    values, and the gradient grows by the phase's standard deviation at every layer. SIREN divides
    the hidden weights by the frequency to keep it at 1; PyTorch's default with frequency 30 gives
    12.

    How it decides
    --------------
    Standard deviation = frequency * rms(W) * sqrt(n/2): a hidden layer reads a sine, whose mean
    square is 1/2. Its decades are summed over the hidden layers: the gradient grows by them. 0.3
    info, 0.7 warning, 1.5 error.

    What it does not flag
    ---------------------
    The first layer, whose frequency sets the bandwidth on purpose. Fourier features of coordinates.
    Frequencies of 1 with PyTorch's default. Frozen and trained layers.

    Example
    -------
    ::

        import torch
        from torch import nn

        class Sine(nn.Module):
            def forward(self, x):
                return torch.sin(30 * x)

        def model():
            return nn.Sequential(
                nn.Linear(2, 64), Sine(), nn.Linear(64, 64), Sine(), nn.Linear(64, 64), Sine(),
                nn.Linear(64, 3),
            )

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        class Sine(nn.Module):
            def forward(self, x):
                return torch.sin(30 * x)

        def model():
            net = nn.Sequential(
                nn.Linear(2, 64), Sine(), nn.Linear(64, 64), Sine(), nn.Linear(64, 64), Sine(),
                nn.Linear(64, 3),
            )
            for layer in (net[2], net[4], net[6]):
                bound = (6 / 64) ** 0.5 / 30
                nn.init.uniform_(layer.weight, -bound, bound)
                nn.init.zeros_(layer.bias)
            return net

    References
    ----------
    - Sitzmann, Martel, Bergman, Lindell, Wetzstein 2020, Implicit neural representations with
      periodic activation functions, section 3.2.
    """

    code = "DOM105"
    name = "sine-frequency"
    formula = "std(omega W x) = omega rms(W) sqrt(n / 2);  SIREN: W ~ U(+-sqrt(6/n)/omega) gives 1"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH})
    stages = frozenset({Stage.FRESH})
    folds = (
        "backward-drift",
        "gradient-profile",
        "saturation",
        "forward-drift",
        "variance-profile",
    )

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding for all hidden sines."""
        graph = context.model.graph
        found = [
            sine
            for layer in graph.order
            if layer.op is Op.SIN and (sine := _hidden(context, graph, layer)) is not None
        ]
        wide = [sine for sine in found if sine.phase > 1.0]
        decades = sum(log10(sine.phase) for sine in wide)
        severity = backward_severity(decades)
        if severity is None:
            return
        worst = max(wide, key=lambda sine: sine.phase)
        layers = tuple(dict.fromkeys(sine.layer.id for sine in wide))
        yield Finding(
            severity=severity,
            layer=worst.layer.id,
            param=worst.weight.name,
            layers=layers,
            culprits=(
                *layers,
                *sorted(graph.upstream(layers)),
            ),  # all that the gradient goes through
            message=f"the sine after {worst.layer.id} starts with phases of standard deviation "
            f"{worst.phase:.1f}, the gradient grows 10^{decades:.1f} times over {len(wide)} layers",
            evidence={
                "phase_std": worst.phase,
                "frequency": worst.frequency,
                "decades": decades,
                "layers": len(wide),
            },
            why="phases of several periods make the sine a hash of its input",
            measured=f"frequency {worst.frequency:g} times rms(W) sqrt(n/2) = {worst.phase:.1f}",
            expected="1: weights within sqrt(6/n) / frequency",
            fix=Fix(
                "rescale",
                params=tuple(sine.weight.key for sine in wide),
                code="torch.nn.init.uniform_(weight, -bound, bound) with bound = sqrt(6 / fan_in) "
                f"/ {worst.frequency:g}",
                arguments={"factor": 1.0 / worst.phase},
            ),
        )


def _hidden(context: Context, graph: LayerGraph, sine: Layer) -> _Sine | None:
    """The weights in front of a sine whose own input is a sine."""
    frequency = 1.0
    above = graph.effective_producers(sine.id)
    while len(above) == 1 and above[0].op is Op.MUL and not above[0].params:
        factor = above[0].attrs.get("constant")
        if factor is None or np.size(factor) != 1:
            return None
        frequency *= abs(float(np.reshape(factor, -1)[0]))
        above = graph.effective_producers(above[0].id)
    if len(above) != 1 or above[0].op is not Op.LINEAR:
        return None
    layer, weight = above[0], above[0].weight
    if weight is None or not weight.trainable or weight.quantised:
        return None
    before = graph.effective_producers(layer.id)
    if not before or any(producer.op is not Op.SIN for producer in before):
        return None
    rms = context.measures.effective_std(weight)
    if rms is None or context.measures.stage(weight) is Stage.TRAINED:
        return None
    phase = frequency * rms * sqrt(weight.shape[1] / 2)
    return _Sine(sine, layer, weight, frequency, phase) if phase > 0 else None
