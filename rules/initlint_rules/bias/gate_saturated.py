"""gate-saturated: a gate whose bias starts it where it can hardly move."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

import numpy as np

from initlint.api import (
    Confidence,
    Context,
    Finding,
    Fix,
    Gate,
    Layer,
    LayerGraph,
    Need,
    Op,
    Param,
    Role,
    Rule,
    Severity,
    Stage,
    gates,
    record,
)

SLOW, STUCK = 1e-2, 1e-3
"""Slope of the gate relative to its largest (1/4 for a sigmoid, 1 for a tanh): at 1e-2 times 1/4 a
sigmoid's bias is 6.0, at 1e-3 it is 8.3. The gradient of everything that computes the gate shrinks
by this factor. Highway gates start at -1 to -3 (slope 0.4 to 0.18 of the largest), GTrXL's at 2."""

SHUTTING = {Op.LSTM: {"input": -1, "output": -1}, Op.GRU: {"update": 1}}
"""Gates of cells that keep the input out of the state, or the state from the output, and the sign
of a bias that does. Input gates that start at -ln T (chrono initialisation) stay far above `STUCK`:
their median is -8.3 for sequences of 8,000 steps only."""

STARTS = {"input": 0.0, "output": 0.0, "update": 1.0}
"""Biases from which the gates of cells usually start: what is read in and out passes by half, what
is kept by more. A gate that was shut on purpose keeps its sign, a cell's is a mistake."""

OPEN = 3.0
"""Bias that another gate is brought back to, with its sign: it keeps a fifth of its slope."""

CARRY = 2.0
"""Bias from which a gate passes most of the trunk on: highway networks start at -1 to -3."""

CANDIDATES = {Op.RNN: "", Op.LSTM: "cell", Op.GRU: "new"}
"""What a cell writes into its state: a tanh, which a large bias of either sign holds at one value
whatever the input."""

MANY = 0.5
"""Share of the gate's units that must be so: single ones are a choice of time scales."""


@record(frozen=True, slots=True)
class _Gate:
    layer: Layer
    slope: float
    bias: float
    param: Param
    harmless: bool = False
    carries: int = 0
    """Sign of the bias that passes the gate's own input on; 0 where it chooses between others."""

    @property
    def stuck(self) -> bool:
        return self.slope < STUCK and not self.harmless


class GateSaturated(Rule):
    """The bias of a gate starts it so far open or shut that its gradient is gone.

    What it does
    ------------
    Looks at sigmoids and tanhs that multiply another tensor, and at the bias of the layer that
    computes them; in an LSTM at the input and output gates, in a GRU at the update gate, and in any
    cell at the tanh that enters the state.

    Why is this bad
    ---------------
    A gate far from zero has hardly any slope: sigmoid'(8) is 3e-4. The layer that computes it
    learns that much more slowly than the rest, and stays shut, or open, for thousands of steps.

    How it decides
    --------------
    The median bias of the gate's units puts the slope below 1e-2 of the largest possible: an info.
    Below 1e-3: a warning; for cells this alone, and for their sigmoids only where the bias shuts
    the gate. A sigmoid held open stays an info, unless what it leaves (1 - g) gates a signal, too:
    it passes signal and gradient on as if it were not there. A gate whose measured input varies by
    half of its bias or more moves all the same and stays silent.

    What it does not flag
    ---------------------
    Highway biases of -1 to -3 and transformer gates of 2; forget gates, which have a rule of their
    own; chrono initialisation; softplus parameters of state-space models; output layers with a
    class prior; softmax gates; trained weights.

    Example
    -------
    ::

        import torch
        from torch import nn

        class Highway(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.gate, self.value = nn.Linear(width, width), nn.Linear(width, width)
                nn.init.constant_(self.gate.bias, -10.0)

            def forward(self, x):
                return x + torch.sigmoid(self.gate(x)) * torch.relu(self.value(x))

        def model():
            return nn.Sequential(nn.Linear(64, 64), Highway(64), nn.Linear(64, 10))

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        class Highway(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.gate, self.value = nn.Linear(width, width), nn.Linear(width, width)
                nn.init.constant_(self.gate.bias, -2.0)

            def forward(self, x):
                return x + torch.sigmoid(self.gate(x)) * torch.relu(self.value(x))

        def model():
            return nn.Sequential(nn.Linear(64, 64), Highway(64), nn.Linear(64, 10))

    References
    ----------
    - Srivastava, Greff, Schmidhuber 2015, Highway networks, section 2.2.
    - Parisotto et al. 2020, Stabilizing transformers for reinforcement learning.
    """

    code = "BIA904"
    name = "gate-saturated"
    formula = "s'(b) = s(b) (1 - s(b)) < 0.01 for |b| > 4.6, < 0.001 for |b| > 6.9"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH})
    optional = frozenset({Need.PROBE})
    stages = frozenset({Stage.FRESH})
    folds = (
        "forward-drift",
        "backward-drift",
        "variance-profile",
        "gradient-profile",
        "zero-gradient",
        "recurrent-not-orthogonal",
        "recurrent-state-saturated",
        "forget-gate-memory",
        "saturation",
        "correlation-collapse",
    )

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding that names every such gate, the worst first."""
        graph = context.model.graph
        found = [item for gate in gates(graph) if (item := _examine(context, gate)) is not None]
        found += [item for layer in graph for item in _in_cell(context, layer)]
        if not found:
            return
        worst = min(found, key=lambda item: (not item.stuck, item.slope))
        layers = tuple(dict.fromkeys(key.layer.id for key in (worst, *found)))
        more = f" (and {len(layers) - 1} more)" if len(layers) > 1 else ""
        name, value = worst.param.name, _start(worst)
        gate = (
            f"{worst.param.gate} gate"
            if worst.param.gate
            else str(worst.layer.attrs.get("nonlinearity", "tanh"))
            if worst.layer.op is Op.RNN
            else "gate"
        )
        yield Finding(
            severity=Severity.WARNING if worst.stuck else Severity.INFO,
            confidence=Confidence.HIGH,
            layer=worst.layer.id,
            param=name,
            layers=layers,
            message=f"the {gate} of {worst.layer.id}{more} starts at a bias of {worst.bias:.3g}, "
            f"with {worst.slope:.1g} of its largest slope",
            evidence={
                "bias_median": worst.bias,
                "relative_slope": worst.slope,
                "gates": len(layers),
            },
            why="the gradient of all that computes a gate is multiplied by its slope",
            measured=f"median bias {worst.bias:.3g}, slope {worst.slope:.1g} of the largest",
            expected="0" if _is_candidate(worst) else "a bias between -3 and 3",
            fix=Fix(
                "constant",
                params=tuple(item.param.key for item in found if item.bias * worst.bias > 0),
                arguments={"value": value},
                code=f"torch.nn.init.constant_({name}, {value:g})",
            ),
        )


def _is_candidate(gate: _Gate) -> bool:
    return CANDIDATES.get(gate.layer.op) == (gate.param.gate or "")


def _start(gate: _Gate) -> float:
    """The bias that the gate had better start from."""
    if _is_candidate(gate):
        return 0.0
    if gate.layer.op in SHUTTING and gate.param.gate in STARTS:
        return STARTS[gate.param.gate]
    if gate.carries * gate.bias < 0:  # held where the trunk is shut
        return gate.carries * CARRY
    return float(np.clip(gate.bias, -OPEN, OPEN))


def _examine(context: Context, gate: Gate) -> _Gate | None:
    """The gate, when its bias leaves it hardly any slope."""
    graph = context.model.graph
    kind = graph[gate.activation].op
    if kind not in (Op.SIGMOID, Op.TANH, Op.GLU) or gate.source is None:
        return None
    layer = graph[gate.source]
    bias = layer.bias
    values = context.measures.read(bias) if bias is not None else None
    if bias is None or values is None or not values.size or not np.isfinite(values).all():
        return None
    if layer.weight is not None and context.measures.stage(layer.weight) is Stage.TRAINED:
        return None
    flat = values.reshape(-1).astype(np.float64)
    if kind is Op.GLU:
        flat = flat[flat.size // 2 :]
    slopes = _relative_slope(flat, kind)
    if (slopes < SLOW).mean() < MANY or _moved_by_weights(context, layer, flat):
        return None
    level = float(np.median(flat))
    harmless = kind is not Op.TANH and level > 0 and not _leaves_a_share(graph, gate)
    return _Gate(layer, float(np.median(slopes)), level, bias, harmless, _carries(graph, gate))


def _carries(graph: LayerGraph, gate: Gate) -> int:
    """Which way a gate g in ``g x + (1 - g) y`` passes on what it is computed from, and so a trunk.

    1 where g multiplies it, -1 where 1 - g does; 0 where neither does, or both.
    """
    if gate.source is None or not _leaves_a_share(graph, gate):
        return 0
    read = {layer.id for layer in graph.effective_producers(gate.source)}
    rest = [item for item in graph.effective_consumers(gate.activation) if item.op is Op.SUB]
    kept = _multiplies(graph, gate.activation, read)
    left = any(_multiplies(graph, item.id, read) for item in rest)
    return int(kept) - int(left)


def _multiplies(graph: LayerGraph, key: str, factors: set[str]) -> bool:
    """True when a tensor is multiplied by one of these."""
    return any(
        other.id in factors
        for product in graph.effective_consumers(key)
        if product.op is Op.MUL
        for other in graph.effective_producers(product.id)
    )


def _leaves_a_share(graph: LayerGraph, gate: Gate) -> bool:
    """True for the g of ``g x + (1 - g) y``: held open it shuts the other way."""
    return any(item.op is Op.SUB for item in graph.effective_consumers(gate.activation))


def _in_cell(context: Context, layer: Layer) -> Iterator[_Gate]:
    """What the biases of a recurrent layer, added, keep shut or at one value."""
    if layer.op not in CANDIDATES:
        return
    for direction in sorted({param.direction for param in layer.params}):
        for gate, sign in SHUTTING.get(layer.op, {}).items():
            yield from _held(context, layer, gate, direction, sign)
        if layer.attrs.get("nonlinearity") != "relu":
            yield from _held(context, layer, CANDIDATES[layer.op], direction, None)


def _held(
    context: Context, layer: Layer, gate: str, direction: int, sign: int | None
) -> Iterator[_Gate]:
    """A sigmoid whose bias of this sign, or a tanh whose bias, outweighs what the input adds."""
    here = [
        param
        for param in layer.params
        if (param.gate or "") == gate and param.direction == direction
    ]
    biases = [param for param in here if param.role in (Role.BIAS, Role.RECURRENT_BIAS)]
    weights = [param for param in here if param.role is Role.WEIGHT]
    values = [array for param in biases if (array := context.measures.read(param)) is not None]
    if not values or len(values) != len(biases) or len(weights) != 1:
        return
    if context.measures.stage(weights[0]) is Stage.TRAINED:
        return
    total = np.sum([array.astype(np.float64) for array in values], axis=0)
    spread = (context.measures.effective_std(weights[0]) or 0.0) * sqrt(weights[0].shape[-1])
    if not np.isfinite(total).all():
        return
    strength = float(np.median(np.abs(total) if sign is None else total * sign))
    if strength <= 2.0 * spread:
        return
    slope = float(np.median(_relative_slope(total, Op.TANH if sign is None else Op.SIGMOID)))
    if slope < STUCK:
        level = float(np.median(total))
        yield _Gate(layer, slope, level, biases[0])


def _relative_slope(
    values: np.ndarray[tuple[int, ...], np.dtype[np.float64]], kind: Op
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Slope of the gate at these values, relative to its largest: sech^2(z / 2) or sech^2(z)."""
    argument = np.minimum(np.abs(values) / (1.0 if kind is Op.TANH else 2.0), 300.0)
    slope: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = np.cosh(argument) ** -2.0
    return slope


def _moved_by_weights(
    context: Context,
    layer: Layer,
    bias: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> bool:
    """True when what the weights add is as wide as the bias, so that the gate does move."""
    stats = context.probe.outputs.get(layer.id) if context.probe else None
    return stats is not None and stats.row_std > 0.5 * float(np.abs(bias).mean())
