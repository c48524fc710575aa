"""Recurrent layers: the mean-field recursion over T steps, per gate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from initlint.model.layer import Layer, Param, Role
from initlint.model.op import Op
from initlint.model.record import record
from initlint.theory.activations import activation, moments
from initlint.theory.node import Node, OperatorRule
from initlint.theory.operators.weighted import project
from initlint.theory.state import Gradient, State, add, fixed, unit

GATES = {
    Op.RNN: ("",),
    Op.LSTM: ("input", "forget", "cell", "output"),
    Op.GRU: ("reset", "update", "new"),
}

SETTLED = 1e-6
"""Relative change of E[h²] below which further steps change nothing visible."""


@record(frozen=True, slots=True)
class _Gate:
    """Second moments of one gate's weights, times their fans."""

    from_input: float
    from_hidden: float
    to_input: float
    to_hidden: float
    bias: State
    recurrent_bias: State
    inner: State


def _unit_gate(op: Op, state: State) -> tuple[float, float, float, float]:
    """E[φ], E[φ²], E[φ'²] and the pair moment E[φφ'] at the samples' cosine."""
    function = activation(op)
    found = moments(function, state.log_q, state.mean) if function else None
    if found is None:
        return 0.0, 0.0, 0.0, 0.0
    second = math.exp(found.log_second)
    rest = 1 - state.mean**2
    centred = unit((state.samples - state.mean**2) / rest) if rest > 1e-9 else 1.0
    pair = second * found.cosine(centred) if found.spectrum or second > 0 else second
    return found.mean * math.sqrt(second), second, math.exp(found.log_derivative), pair


@record(frozen=True, slots=True)
class _Response:
    """Where the recursion settled, and one-step gradient gains.

    Attributes:
        q, pair, mean: E[h²], its pair moment over samples, and E[h].
        state_gain: E[δ²] one step earlier at (h, c), per unit at h and per unit at c.
        input_gain: E[δ²] at the input, per unit at h and per unit at c.
    """

    q: float
    pair: float
    mean: float
    state_gain: tuple[tuple[float, float], tuple[float, float]]
    input_gain: tuple[float, float]


def _gates(node: Node, x: State, direction: int, layer: str) -> dict[str, _Gate] | None:
    found: dict[str, _Gate] = {}
    for gate in GATES[node.layer.op]:
        params = {
            param.role: param
            for param in node.layer.params
            if param.direction == direction
            and (param.gate or "") == gate
            and _stack(param) == layer
        }
        weight, recurrent = params.get(Role.WEIGHT), params.get(Role.RECURRENT_WEIGHT)
        if weight is None or recurrent is None or len(weight.shape) != 2:
            return None
        measured = [node.context.moments(param) for param in (weight, recurrent)]
        if measured[0] is None or measured[1] is None:
            return None
        biases = []
        for role in (Role.BIAS, Role.RECURRENT_BIAS):
            value = node.context.moments(params[role]) if role in params else (0.0, 0.0)
            if value is None:
                return None
            biases.append(fixed(*value))
        rows, columns = weight.shape
        found[gate] = _Gate(
            columns * measured[0][0],
            recurrent.shape[1] * measured[1][0],
            rows * measured[0][0],
            recurrent.shape[0] * measured[1][0],
            biases[0],
            biases[1],
            project(x, columns, *measured[0], weight.size),
        )
    return found


def _stack(param: Param) -> str:
    """Which of several stacked layers a tensor belongs to: the ``l0`` of ``weight_ih_l0``."""
    tail = param.name.rpartition(".")[2].removesuffix("_reverse")
    head, _, number = tail.rpartition("_l")
    return number if head and number.isdigit() else ""


def _hidden(q: float, pair: float, mean: float) -> State:
    if q <= 0:
        return State(-math.inf)
    ratio = max(min(mean / math.sqrt(q), 1.0), -1.0)
    return State(math.log(q), ratio, unit(pair / q), unit(pair / q), ratio * ratio)


def _pre(gate: _Gate, h: State, *, bias: bool = True) -> State:
    carried = (
        replace(h.scaled(math.log(gate.from_hidden)), mean=0.0, units=0.0)
        if gate.from_hidden > 0 and h.log_q > -math.inf
        else State(-math.inf)
    )
    total = add(add(gate.inner, gate.bias), carried)
    return add(total, gate.recurrent_bias) if bias else total


def _rnn(gates: dict[str, _Gate], steps: int, relu: bool) -> _Response:
    gate, op = gates[""], Op.RELU if relu else Op.TANH
    q = pair = mean = 0.0
    derivative = 0.0
    for _ in range(steps):
        mean, new, derivative, pair = _unit_gate(op, _pre(gate, _hidden(q, pair, mean)))
        done, q = abs(new - q) <= SETTLED * new, new
        if done or not q < 1e100:
            break
    return _Response(
        q,
        pair,
        mean,
        ((derivative * gate.to_hidden, 0.0), (0.0, 0.0)),
        (derivative * gate.to_input, 0.0),
    )


def _lstm(gates: dict[str, _Gate], steps: int) -> _Response:
    q = pair = mean = cell = cell_pair = along = 0.0
    gains = ((0.0, 0.0), (0.0, 0.0))
    to_input = (0.0, 0.0)
    for _ in range(steps):
        h = _hidden(q, pair, mean)
        i, f, g, o = (
            _unit_gate(Op.TANH if name == "cell" else Op.SIGMOID, _pre(gates[name], h))
            for name in GATES[Op.LSTM]
        )
        before = cell
        cell = f[1] * cell + i[1] * g[1] + 2 * f[0] * i[0] * along
        cell_pair = f[3] * cell_pair + i[3] * g[3] + 2 * f[0] * i[0] * along
        along = f[0] * along + i[0] * g[3]
        squashed = _unit_gate(Op.TANH, _hidden(cell, min(cell_pair, cell), 0.0))
        new = o[1] * squashed[1]
        pair, mean = o[3] * squashed[3], o[0] * squashed[0]
        done = abs(new - q) <= SETTLED * new and abs(cell - before) <= SETTLED * cell
        q = new
        # δc = δh·o·tanh'(c) + …; each gate's pre-activation gets δc or δh times its partner
        through = o[1] * squashed[2]
        per_cell = {
            "input": g[1] * i[2],
            "forget": before * f[2],
            "cell": i[1] * g[2],
        }
        hidden = sum(gates[name].to_hidden * value for name, value in per_cell.items())
        inputs = sum(gates[name].to_input * value for name, value in per_cell.items())
        direct = squashed[1] * o[2]
        gains = (
            (through * hidden + direct * gates["output"].to_hidden, through * f[1]),
            (hidden, f[1]),
        )
        to_input = (through * inputs + direct * gates["output"].to_input, inputs)
        if done:
            break
    return _Response(q, pair, mean, gains, to_input)


def _gru(gates: dict[str, _Gate], steps: int) -> _Response:
    q = pair = mean = along = 0.0
    gain = to_input = 0.0
    for _ in range(steps):
        h = _hidden(q, pair, mean)
        r = _unit_gate(Op.SIGMOID, _pre(gates["reset"], h))
        z = _unit_gate(Op.SIGMOID, _pre(gates["update"], h))
        new = gates["new"]
        carried = add(
            replace(h.scaled(math.log(new.from_hidden)), mean=0.0, units=0.0)
            if new.from_hidden > 0 and h.log_q > -math.inf
            else State(-math.inf),
            new.recurrent_bias,
        )
        inner = carried.scaled(math.log(r[1])) if r[1] > 0 else State(-math.inf)
        inner = replace(inner, mean=0.0, samples=unit(inner.samples * r[3] / max(r[1], 1e-300)))
        n = _unit_gate(Op.TANH, add(add(new.inner, new.bias), inner))
        keep = z[1]
        replaced = 1 - 2 * z[0] + z[1]
        cross = 2 * (z[0] - z[1])
        updated = replaced * n[1] + keep * q + cross * along
        pair_new = (1 - 2 * z[0] + z[3]) * n[3] + z[3] * pair + 2 * (z[0] - z[3]) * along
        along = (1 - z[0]) * n[3] + z[0] * along
        through = replaced * n[2]
        to_update = (q + n[1] - 2 * along) * z[2]
        inside = math.exp(carried.log_q) if carried.log_q > -math.inf else 0.0
        to_reset = through * inside * r[2]
        gain = (
            keep
            + through * r[1] * new.to_hidden
            + max(to_update, 0.0) * gates["update"].to_hidden
            + to_reset * gates["reset"].to_hidden
        )
        to_input = (
            through * new.to_input
            + max(to_update, 0.0) * gates["update"].to_input
            + to_reset * gates["reset"].to_input
        )
        mean = (1 - z[0]) * n[0] + z[0] * mean
        done = abs(updated - q) <= SETTLED * updated
        q, pair = updated, min(max(pair_new, 0.0), updated)
        if done:
            break
    return _Response(q, pair, mean, ((gain, 0.0), (0.0, 0.0)), (to_input, 0.0))


def steps_of(layer: Layer, default: int) -> int:
    """Steps a recurrent layer takes: 1 for a cell, else the sequence's length where known."""
    if layer.attrs.get("cell"):
        return 1
    known = layer.attrs.get("sequence_length")
    return int(known) if isinstance(known, int) and known > 0 else default


def _steps(node: Node) -> int:
    shape = node.input_shape(node.signals[0]) if node.signals else None
    default = node.context.sequence_length
    if shape is not None and len(shape) == 3:
        attrs = node.layer.attrs
        axis = 1 if attrs.get("batch_first", attrs.get("layout", True)) else 0
        default = shape[axis] or default
    return steps_of(node.layer, default)


def _responses(node: Node) -> list[list[_Response]] | None:
    """One list per stacked layer, with one response per direction."""
    x = node.first
    if x is None:
        return None
    directions = sorted({param.direction for param in node.layer.params})
    stacks = sorted({_stack(param) for param in node.layer.params if param.role is Role.WEIGHT})
    steps = max(int(_steps(node)), 1)
    found: list[list[_Response]] = []
    attrs = node.layer.attrs
    relu = attrs.get("nonlinearity") == "relu"
    for stack in stacks:
        row = []
        for direction in directions:
            gates = _gates(node, x, direction, stack)
            if gates is None:
                return None
            if node.layer.op is Op.RNN:
                row.append(_rnn(gates, steps, relu))
            elif node.layer.op is Op.LSTM:
                row.append(_lstm(gates, steps))
            else:
                row.append(_gru(gates, steps))
        if not row:
            return None
        found.append(row)
        q, pair, mean = (
            sum(getattr(item, name) for item in row) / len(row) for name in ("q", "pair", "mean")
        )
        x = _hidden(q, pair, mean)
    return found or None


def _forward(node: Node) -> State | None:
    responses = _responses(node)
    if responses is None:
        return None
    last = responses[-1]
    q, pair, mean = (
        sum(getattr(item, name) for item in last) / len(last) for name in ("q", "pair", "mean")
    )
    if not math.isfinite(q):
        return None
    # a recurrent layer settles at its own scale: the input's scatter does not multiply through it
    return replace(_hidden(q, pair, mean), roots=((node.layer.id, 1.0),))


def _accumulated(response: _Response, steps: int) -> float:
    """Mean over the steps of E[δx²], for a gradient of unit mean square at every output.

    The recursion carries (E[δh²], E[δc²]) back in time.
    """
    (hh, hc), (ch, cc) = response.state_gain
    h = c = total = 0.0
    for _ in range(steps):
        arriving = h + 1.0
        total += response.input_gain[0] * arriving + response.input_gain[1] * c
        h, c = hh * arriving + ch * c, hc * arriving + cc * c
        if not h + c < 1e200:
            return math.inf
    return total / steps


def _backward(node: Node, gradient: Gradient) -> Sequence[Gradient | None]:
    others: list[Gradient | None] = [Gradient(-math.inf)] * len(node.edges)
    if not node.signals:
        return others
    responses = _responses(node)
    factor = 1.0
    for row in responses or []:
        factor *= sum(_accumulated(item, max(int(_steps(node)), 1)) for item in row)
    if responses is None or not 0 < factor < math.inf:
        others[node.signals[0]] = None
    else:
        others[node.signals[0]] = Gradient(gradient.log_g + math.log(factor))
    return others


_RECURRENT = OperatorRule(_forward, _backward)

RECURRENCE = {Op.RNN: _RECURRENT, Op.LSTM: _RECURRENT, Op.GRU: _RECURRENT}
