"""recurrent-state-saturated: what enters a plain recurrent layer pushes its units to their ends."""

from __future__ import annotations

from collections.abc import Iterator
from math import erfc, sqrt

import numpy as np

from initlint.api import (
    Confidence,
    Context,
    Finding,
    Fix,
    Layer,
    LayerGraph,
    Need,
    Op,
    Param,
    Role,
    Rule,
    Severity,
    Stage,
    input_rms,
    record,
    saturation_harm,
    severity_of,
    unrolled_recurrences,
)

FLAT = 2.09
"""|z| from which the slope of a tanh is below 0.06 (`saturation`)."""


class RecurrentStateSaturated(Rule):
    """Inputs or biases of a plain recurrent layer saturate its units at every step.

    What it does
    ------------
    Takes what the input weights and the biases of a tanh RNN add to each unit, without what the
    state feeds back, and works out the share of units that lie in the flat ends of the tanh. A loop
    over two matrices and a tanh counts as one.

    Why is this bad
    ---------------
    The gradient through time is multiplied by the slope of the tanh at every step. Where inputs or
    biases alone push units to -1 or 1, the state is overwritten at every step and its gradient
    lost, however well the recurrent weights were drawn.

    How it decides
    --------------
    z ~ N(b, |w|^2 E[x^2]) for each unit with its own bias and input weights, and the measured
    scale of the inputs, 1 where it is larger or not known; |z| > 2.09 counts as saturated. 30 % of
    the units is a warning; by itself never an error, for on few steps such layers still learn:
    eight steps with inputs twenty times too wide made 0.85 of the progress of their twin. Saturated
    outputs that were measured behind it (saturation) bring their own severity.

    What it does not flag
    ---------------------
    ReLU cells; gated cells, whose gates may start open or shut; frozen reservoirs; weights that are
    saturated by the state itself (recurrent-not-orthogonal); trained weights.

    Example
    -------
    ::

        from torch import nn

        def model():
            rnn = nn.RNN(16, 32, batch_first=True)
            nn.init.orthogonal_(rnn.weight_hh_l0)
            nn.init.normal_(rnn.weight_ih_l0, std=2.0)
            return rnn

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            rnn = nn.RNN(16, 32, batch_first=True)
            nn.init.orthogonal_(rnn.weight_hh_l0)
            nn.init.normal_(rnn.weight_ih_l0, std=0.1)
            return rnn

    References
    ----------
    - Pascanu, Mikolov, Bengio 2013, On the difficulty of training recurrent neural networks.
    """

    code = "REC407"
    name = "recurrent-state-saturated"
    formula = "z ~ N(b, |w|^2 E[x^2]):  share of |z| > 2.09"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH})
    optional = frozenset({Need.PROBE})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    local = True
    folds = (
        "saturation",
        "correlation-collapse",
        "variance-profile",
        "gradient-profile",
    )

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per set of input weights."""
        seen: set[str] = set()
        for cell in _cells(context.model.graph):
            found = None if cell.weight.key in seen else _examine(context, cell)
            seen.add(cell.weight.key)
            if found is not None:
                yield _finding(cell, found, (*_calls(context, cell.weight), *cell.others))


@record(frozen=True, slots=True)
class _Cell:
    """What enters a plain recurrence in one direction.

    Attributes:
        layer: the layer that reads the input.
        weight: its weights.
        biases: all that are added.
        others: ids of further layers of its steps, where these are written out.
    """

    layer: Layer
    weight: Param
    biases: tuple[Param, ...]
    others: tuple[str, ...] = ()


def _cells(graph: LayerGraph) -> Iterator[_Cell]:
    for layer in graph.weighted:
        if layer.op is not Op.RNN or layer.attrs.get("nonlinearity") == "relu":
            continue
        for weight in layer.with_role(Role.WEIGHT):
            biases = tuple(
                param
                for param in layer.with_role(Role.BIAS, Role.RECURRENT_BIAS)
                if param.direction == weight.direction and param.gate == weight.gate
            )
            yield _Cell(layer, weight, biases)
    first: dict[str, Layer] = {}
    for layer in graph.weighted:
        if layer.weight is not None:
            first.setdefault(layer.weight.key, layer)
    for loop in unrolled_recurrences(graph):
        entering = graph[loop.inputs[0]] if loop.inputs else None
        if loop.activation is not Op.TANH or entering is None or entering.weight is None:
            continue
        if entering.op is not Op.LINEAR:
            continue
        outside = first[entering.weight.key]  # the first step has no state yet: none of the loop
        steps = [entering, graph[loop.steps[0]], *(graph[key] for key in loop.others)]
        added = [param for step in steps for param in step.with_role(Role.BIAS, Role.SHIFT)]
        biases = tuple({param.key: param for param in added}.values())
        yield _Cell(outside, entering.weight, biases, (*loop.steps, *loop.inputs, *loop.others))


@record(frozen=True, slots=True)
class _Entering:
    """How much enters, and which part of it weighs more.

    Attributes:
        share: of units that are saturated.
        spread, offset: rms over units of what the weights bring, and of the biases.
    """

    share: float
    spread: float
    offset: float


def _examine(context: Context, cell: _Cell) -> _Entering | None:
    layer, weight = cell.layer, cell.weight
    if not weight.trainable or weight.quantised:
        return None
    if context.measures.stage(weight) is not Stage.FRESH:
        return None
    values = context.measures.read(weight)
    if values is None or not np.isfinite(values).all():
        return None
    probe = context.probe
    measured = input_rms(layer.id, context.model.graph, probe) if probe is not None else None
    rms = min(measured or 1.0, 1.0)  # louder data is a matter of the data (input-statistics)
    spread = np.sqrt((values.astype(np.float64) ** 2).sum(axis=1)) * rms
    offset = np.zeros(len(spread))
    for bias in cell.biases:
        added = context.measures.read(bias)
        if added is not None and added.size == offset.size:
            offset += added.reshape(-1).astype(np.float64)
    share = float(np.mean([_beyond(*unit) for unit in zip(offset, spread, strict=True)]))
    if severity_of(saturation_harm(share)) is None:
        return None
    both = (float(np.sqrt(np.mean(part**2))) for part in (spread, offset))
    return _Entering(share, *both)


def _beyond(offset: float, spread: float) -> float:
    """P(|z| > FLAT) for z ~ N(offset, spread^2)."""
    width = max(spread, 1e-12) * sqrt(2)
    return 0.5 * (erfc((FLAT - offset) / width) + erfc((FLAT + offset) / width))


def _calls(context: Context, weight: Param) -> tuple[str, ...]:
    """Every layer that reads a weight: the steps of a cell in a loop."""
    return context.model.graph.readers.get(weight.key, ())


def _finding(cell: _Cell, found: _Entering, calls: tuple[str, ...]) -> Finding:
    wide = found.spread >= found.offset
    layer, weight, biases = cell.layer, cell.weight, cell.biases
    what = "inputs" if wide else "biases"
    param = weight if wide else biases[0]
    size = found.spread if wide else found.offset
    factor = 1.0 / found.spread if wide else 1.0
    return Finding(
        severity=Severity.WARNING,
        confidence=Confidence.HIGH,
        layer=layer.id,
        param=param.name,
        culprits=calls,
        message=f"{what} alone saturate {found.share:.0%} of the units of {layer.id} at every step",
        evidence={
            "saturated_share": found.share,
            "from_inputs": found.spread,
            "from_biases": found.offset,
        },
        why="the gradient through time is multiplied by the slope of the tanh at every step",
        measured=f"{what} add {size:.2g} to each unit, and a tanh is flat from {FLAT:g} on",
        expected="about 1 from the inputs, biases near 0",
        fix=Fix(
            "rescale",
            params=(weight.key,),
            arguments={"factor": factor},
            code=f"multiply {weight.name} by {factor:.2g}",
        )
        if wide
        else Fix(
            "zeros",
            params=tuple(bias.key for bias in biases),
            code="; ".join(f"torch.nn.init.zeros_({bias.name})" for bias in biases),
        ),
    )
