"""forget-gate-memory: the memory of a gated cell is much shorter than the sequence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import exp, log, log1p

import numpy as np

from initlint.api import (
    Confidence,
    Context,
    Finding,
    Fix,
    KeepingGate,
    Layer,
    LayerGraph,
    Need,
    Op,
    Option,
    Param,
    Role,
    Rule,
    Severity,
    Stage,
    keeping_gates,
    reads_all_steps,
    record,
)

KEEPING = {Op.LSTM: "forget", Op.GRU: "update"}
"""The gate whose opening carries the old state over: f in c = f c + i g, z in h = z h + (1-z) n."""

WARNING_DECADES = -8.7
"""Decades of gradient along the cell when its memory is a twentieth of the sequence: exp(-20). Of
the recurrent nets that were trained on long memories (benchmarks/outcome), those that start below
it did not learn in the steps in which others do; SGD on plain deep nets stopped at -4.2 already."""

INFO_DECADES = -4.2

ONE_STEP = 1.0
"""Memory in steps below which a layer is no recurrence: half of the state and more is gone at the
next step, whatever is read later."""

LONGEST = 95
"""Percentile of the units' biases that is judged: a cell remembers if some of its units do."""


class ForgetGateMemory(Rule):
    """The cell's memory, as its gate biases set it, is a small part of the sequence length.

    What it does
    ------------
    Reads the bias of the gate that carries the state over (forget in an LSTM, update in a GRU, the
    sigmoid that does so in a cell written out step by step) and computes how far the state reaches
    back at the start of training.

    Why is this bad
    ---------------
    Along the cell the gradient is multiplied by the gate's opening at every step: with a bias of 0
    that is 1/2, and after 50 steps 10^-15 is left. What happened early in a sequence cannot be
    learned until the gate has opened by itself, which it has no gradient for.

    How it decides
    --------------
    The 95th percentile of the units' biases b gives an opening s(b) and a gradient of s(b)^T over T
    steps, T from the graph or `--sequence-length`. Below 10^-4.2 info, below 10^-8.7 (a memory
    of a twentieth of the sequence) warning. Without a known length, 50 steps are assumed and it
    stays an info; so it does where the states of all steps are read (a tagger, a mean over time),
    which brings every input near the loss, as long as a state outlives its step.

    What it does not flag
    ---------------------
    Biases of 1 and more on sequences of a few tens of steps, biases spread over time scales
    (chrono initialisation), trained layers, plain RNNs, single-step cells.

    Example
    -------
    ::

        from torch import nn

        def model():
            lstm = nn.LSTM(32, 64, batch_first=True)
            for gate in lstm.weight_hh_l0.chunk(4):
                nn.init.orthogonal_(gate)
            nn.init.zeros_(lstm.bias_ih_l0)
            nn.init.zeros_(lstm.bias_hh_l0)
            return lstm

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            lstm = nn.LSTM(32, 64, batch_first=True)
            for gate in lstm.weight_hh_l0.chunk(4):
                nn.init.orthogonal_(gate)
            nn.init.zeros_(lstm.bias_ih_l0)
            nn.init.zeros_(lstm.bias_hh_l0)
            nn.init.constant_(lstm.bias_ih_l0[64:128], 2.5)
            return lstm

    References
    ----------
    - Gers, Schmidhuber, Cummins 2000, Learning to forget.
    - Jozefowicz, Zaremba, Sutskever 2015, An empirical exploration of recurrent network
      architectures.
    - Tallec, Ollivier 2018, Can recurrent neural networks warp time? (chrono initialisation)
    """

    code = "REC403"
    name = "forget-gate-memory"
    formula = "dc_T / dc_0 = s(b_f)^T"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    local = True
    options = {
        "min-steps": Option(
            10, "shorter sequences are not judged: a zero bias keeps 10^-3 over ten steps"
        )
    }

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding that names every layer with a short memory."""
        least = int(context.options["min-steps"])
        steps = context.sequence_length
        cells = list(_in_cells(context, steps)) if steps >= least else []
        if cells:
            known = context.sequence_length_known
            last = any(not reads_all_steps(context.model.graph, item.layer) for item in cells)
            yield _finding(steps, cells, known=known, last=last)
        for gate in keeping_gates(context.model.graph):
            memory = _written(context, gate) if gate.steps >= least else None
            if memory is not None:
                last = not _reads_between(context.model.graph, gate)
                yield _finding(gate.steps, [memory], known=True, last=last)


@record(frozen=True, slots=True)
class _Memory:
    """What a gate keeps over the sequence: decades of gradient, at which bias, where."""

    decades: float
    bias: float
    layer: Layer
    param: Param
    gate: str
    opening: int = 1
    rows: tuple[int, int] | None = None


def _in_cells(context: Context, steps: int) -> Iterator[_Memory]:
    for layer in context.model.graph.weighted:
        if layer.op not in KEEPING or not _is_fresh(context, layer):
            continue
        for direction in sorted({param.direction for param in layer.params}):
            summed = _bias(context, layer, direction)
            if summed is None:
                continue
            bias, param = summed
            decades = _decades(bias, steps)
            if decades < INFO_DECADES:
                yield _Memory(decades, bias, layer, param, KEEPING[layer.op])


def _written(context: Context, gate: KeepingGate) -> _Memory | None:
    """The memory of a cell that is written out, by the bias of the gate that keeps its state."""
    layer = context.model.graph[gate.layer]
    read = [context.measures.read(bias) for bias in (gate.bias, *gate.further)]
    rows = slice(*gate.rows) if gate.rows is not None else slice(None)
    added = [values.reshape(-1)[rows] for values in read if values is not None]
    if layer.weight is None or len(added) < len(read) or not gate.bias.trainable:
        return None
    values = np.sum(added, axis=0, dtype=np.float64)
    if context.measures.stage(layer.weight) is not Stage.FRESH or not np.isfinite(values).all():
        return None
    held = gate.opening * values
    bias = float(np.clip(np.percentile(held, LONGEST), -700, 700))
    decades = _decades(bias, gate.steps)
    if decades >= INFO_DECADES:
        return None
    part = f"[{gate.rows[0]}:{gate.rows[1]}]" if gate.rows is not None else ""
    return _Memory(decades, bias, layer, gate.bias, layer.id + part, gate.opening, gate.rows)


def _decades(bias: float, steps: int) -> float:
    return -steps * log1p(exp(-bias)) / log(10)


def _reads_between(graph: LayerGraph, gate: KeepingGate) -> bool:
    """True when a state in the middle reaches the output other than through the next step."""
    uses = Counter(weight.key for layer in graph.weighted if (weight := layer.weight))
    cell = {
        layer.id
        for layer in graph.weighted
        if (weight := layer.weight) and uses[weight.key] >= gate.steps - 1
    }
    middle = len(gate.states) // 2
    waiting, seen = [gate.states[middle - 1]], {*gate.states[middle:], *cell}
    while waiting:
        for edge in graph.outputs(waiting.pop()):
            if graph[edge.target].op is Op.OUTPUT:
                return True
            if edge.target not in seen:
                seen.add(edge.target)
                waiting.append(edge.target)
    return False


def _is_fresh(context: Context, layer: Layer) -> bool:
    weights = layer.with_role(Role.RECURRENT_WEIGHT)
    return bool(weights) and all(
        param.trainable and not param.quantised and context.measures.stage(param) is Stage.FRESH
        for param in weights
    )


def _bias(context: Context, layer: Layer, direction: int) -> tuple[float, Param] | None:
    """What the longest-remembering units add to the gate that keeps the state, and where."""
    biases = [
        param
        for param in layer.with_role(Role.BIAS, Role.RECURRENT_BIAS)
        if param.gate == KEEPING[layer.op] and param.direction == direction
    ]
    values = [array for param in biases if (array := context.measures.read(param)) is not None]
    if not values or len(values) != len(biases):
        return None
    total = np.sum([array.astype(np.float64) for array in values], axis=0)
    if not np.isfinite(total).all():
        return None
    return float(np.clip(np.percentile(total, LONGEST), -700, 700)), biases[0]


def _finding(steps: int, found: list[_Memory], *, known: bool, last: bool) -> Finding:
    worst = min(found, key=lambda item: item.decades)
    layer, param, gate = worst.layer, worst.param, worst.gate
    memory = 1.0 / log1p(exp(-worst.bias))
    severe = known and worst.decades < WARNING_DECADES and (last or memory < ONE_STEP)
    assumed = "" if known else " (assumed)"
    layers = tuple(dict.fromkeys(item.layer.id for item in found))
    others = f" and {len(layers) - 1} more layers" if len(layers) > 1 else ""
    needed = max(-log(10 ** (-INFO_DECADES / steps) - 1.0), 1.0)
    sign = "" if worst.opening > 0 else "-"
    which = f"the {gate} slice of {param.name}" if param.gate else param.name
    if worst.rows is not None:
        which = f"{which}[{worst.rows[0]}:{worst.rows[1]}]"
    bound = "or more" if worst.opening > 0 else "or less"
    return Finding(
        severity=Severity.WARNING if severe else Severity.INFO,
        confidence=Confidence.HIGH if known else Confidence.LOW,
        layer=layer.id,
        param=param.name,
        layers=layers,
        message=f"the memory of {layer.id}{others} starts at {memory:.1f} steps out of "
        f"{steps}{assumed}",
        evidence={
            "gate": gate,
            "bias": worst.opening * worst.bias,
            "memory_steps": memory,
            "gradient_decades": worst.decades,
            "steps": steps,
            "steps_known": known,
            "all_steps_read": not last,
        },
        why=f"the {gate} gate multiplies the gradient by its opening at every step"
        if worst.opening > 0
        else f"the {gate} gate multiplies the gradient by what it leaves open at every step",
        measured=f"{gate} bias {worst.opening * worst.bias:.2g}: gradient along the cell "
        f"10^{worst.decades:.1f}",
        expected=f"a {gate} bias of {sign}{needed:.1f} {bound}, or biases spread over the time "
        "scales of the task",
        fix=Fix(
            "forget_bias",
            params=tuple(item.param.key for item in found),
            code=f"torch.nn.init.constant_ {which} to {sign}{needed:.1f}, or draw it from "
            f"{sign}log U(1, T-1)",
            arguments={"value": round(worst.opening * needed, 2)},
        ),
    )
