"""output-bias: biases of a last layer beside which its weights hardly count."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, isfinite, log, sqrt

import numpy as np
from numpy.typing import NDArray

from initlint.api import (
    Confidence,
    Context,
    Finding,
    Fix,
    Layer,
    Need,
    Op,
    Param,
    Rule,
    Severity,
    Stage,
    record,
)
from initlint_rules._outputs import is_drawn, last_layers

PRIOR = log(1e4)
"""Bias (9.2) that no class prior asks for: the log-odds of one in ten thousand; RetinaNet's is 4.6.
A squared error against targets of unit scale then starts at 85 times their variance, and a step of
Adam moves a bias by its rate: at 1e-3 nine thousand steps. Five networks with squared errors (of
benchmarks/outcome, and others) made 0.00 to 0.84 of their progress from a bias of 9.3; one with a
cross-entropy, which sends no more than 1 back, made 0.98 of it from 15."""

OUTWEIGHS = 3.0
"""Times the rms that the weights make of the input: they have a tenth of the output's power."""

BESIDE_INPUTS = 10**0.7
"""Times the rms of inputs that the outputs are compared with: the decades of growth into a linear
sink from which drift is a warning."""

DIGITS = 2
"""Significant digits of numbers that are written by hand; a mean of targets has more."""

FEW = 8
"""Biases from which their mean tells whether they were drawn around zero."""

NOISE = 3.0
"""Standard errors of that mean."""


@record(frozen=True, slots=True)
class _Head:
    """A last layer, the median size of its biases, and the rms of the rest of its output."""

    layer: Layer
    bias: Param
    size: float
    rest: float
    measured: bool
    guessed: bool


class OutputBias(Rule):
    """The biases of a last layer are so large that its outputs start far from any usual target.

    What it does
    ------------
    Compares the biases of every layer whose output leaves the network as it is with what its
    weights make of the input, and with the largest bias that a class prior asks for.

    Why is this bad
    ---------------
    Targets have a scale near 1, or are brought to it. With a bias of 10 the squared error starts at
    a hundred times their variance, all of its gradient says the same for every input, and Adam
    moves the bias back by its learning rate a step: a thousand steps at 1e-2.

    How it decides
    --------------
    Half of the biases from 9.2 (the log-odds of one in ten thousand) and from three times the rms
    of the weighted inputs: info, since the targets may have such a mean. A warning where the output
    has the shape of the inputs that you gave, and biases five times as large as those. Biases that
    a cross-entropy is known to read count by how far they are from their median.

    What it does not flag
    ---------------------
    Class priors, focal priors, masked classes; outputs behind an activation or a norm; trained
    weights. Biases that may have been set to the mean of the targets (no round numbers, not drawn
    around zero) are named, and no fix is applied to them.

    Example
    -------
    ::

        from torch import nn

        def model():
            net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
            nn.init.kaiming_normal_(net[0].weight, nonlinearity="relu")
            nn.init.constant_(net[2].bias, 50.0)
            return net

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
            nn.init.kaiming_normal_(net[0].weight, nonlinearity="relu")
            nn.init.zeros_(net[2].bias)
            return net

    References
    ----------
    - Karpathy 2019, A recipe for training neural networks: the last bias as the mean of the
      targets.
    """

    code = "BIA905"
    name = "output-bias"
    formula = "y = W x + b:  |b| > ln(10^4) and |b| > 3 rms(W x)"
    since = "0.1"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.THEORY})
    optional = frozenset({Need.PROBE})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    folds = ("forward-drift", "variance-profile")

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per last layer."""
        for layer in last_layers(context.model.graph):
            head = _examine(context, layer)
            if head is not None:
                yield _finding(head, _inputs_rms(context, layer))


def _examine(context: Context, layer: Layer) -> _Head | None:
    """The layer, where its biases are larger than any prior and than what its weights add."""
    weight, bias = layer.weight, layer.bias
    if weight is None or bias is None or bias.quantised or not bias.trainable:
        return None
    moments = context.measures.moments(bias)
    if moments is None or moments.non_finite or moments.max_abs < PRIOR:
        return None
    if not is_drawn(context, weight) or context.measures.stage(bias) is Stage.TRAINED:
        return None
    read = context.measures.read(bias)
    rest, measured = _rest(context, layer, moments.second_moment)
    if read is None or rest is None:
        return None
    values = read.reshape(-1).astype(np.float64)
    size = float(np.median(np.abs(values - (np.median(values) if _shifts(context) else 0.0))))
    if size < PRIOR or size < OUTWEIGHS * rest:
        return None
    return _Head(layer, bias, size, rest, measured, _guessed(values))


def _shifts(context: Context) -> bool:
    """True where a softmax is known to read the outputs: what all have in common is nothing."""
    return context.probe is not None and context.probe.loss_name.startswith("cross-entropy")


def _guessed(values: NDArray[np.float64]) -> bool:
    """True for biases that no targets can have asked for: written by hand, or drawn around zero."""
    drawn = len(values) >= FEW and abs(values.mean()) < NOISE * values.std() / sqrt(len(values))
    written = all(
        abs(float(f"{value:.{DIGITS}g}") - value) <= 1e-6 * abs(value) for value in values
    )
    return drawn or written


def _rest(context: Context, layer: Layer, bias: float) -> tuple[float | None, bool]:
    """Rms of what depends on the input, measured, else predicted, and if it was measured.

    Measured it is taken across samples: beside a large bias a rms has no digits left for it.
    """
    stats = context.probe.outputs.get(layer.id) if context.probe else None
    if stats is not None and stats.count and not stats.non_finite:
        return (stats.row_std, True) if isfinite(stats.row_std) else (stats.std, True)
    signal = context.theory.forward.get(layer.id) if context.theory else None
    if signal is None or not -600 < signal.log_q < 600:
        return None, False
    return sqrt(max(exp(signal.log_q) - bias, 0.0)), False


def _inputs_rms(context: Context, layer: Layer) -> float | None:
    """Rms of the user's inputs where the outputs have their shape, and are compared with them."""
    inputs = [item for item in context.model.graph if item.op is Op.INPUT]
    if context.probe is None or not context.probe.given or len(inputs) != 1:
        return None
    stats = context.probe.outputs.get(inputs[0].id)
    alike = inputs[0].output_shape == layer.output_shape and layer.output_shape
    return stats.rms if alike and stats is not None and stats.rms > 0 else None


def _finding(head: _Head, inputs: float | None) -> Finding:
    far = inputs is not None and head.size >= BESIDE_INPUTS * inputs
    beside = f", beside inputs of rms {inputs:.2g}" if inputs is not None else ""
    name = head.bias.name
    return Finding(
        severity=Severity.WARNING if far else Severity.INFO,
        confidence=Confidence.HIGH if far and head.measured else Confidence.MEDIUM,
        layer=head.layer.id,
        param=name,
        message=f"the biases of {head.layer.id} start near {head.size:.3g}, where the input moves "
        f"its outputs by {head.rest:.2g}{beside}",
        evidence={
            "bias": head.size,
            "rest_rms": head.rest,
            **({"input_rms": inputs} if inputs is not None else {}),
            "written_or_drawn": head.guessed,
        },
        why="the first errors, and their gradients, are those of the bias, and the same for every "
        "input",
        measured=f"median |b| = {head.size:.3g}, rms of the rest {head.rest:.2g}",
        expected="bias 0, or the mean of the targets (--ignore output-bias)",
        fix=Fix(
            "constant" if head.guessed else "advice",
            params=(head.bias.key,),
            arguments={"value": 0.0},
            code=f"torch.nn.init.zeros_({name}), unless the targets have that mean",
        ),
    )
