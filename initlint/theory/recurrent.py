"""What a recurrent layer does to a state and to a gradient over T steps, with its real weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initlint.model import Layer, Op, Param, Role
from initlint.model.unrolled import Unrolled

Array = NDArray[Any]

SATURATED_SLOPE = 0.06
"""Relative slope below which a unit counts as saturated: tanh' < 0.06 at |z| > 2.09;
for the logistic function, whose slope peaks at 1/4, the same share of the peak is |z| > 4.1."""

STATES = 8
"""Steps whose states are compared: with two sequences eight differences are left to compare."""

MAX_WORK = 4e9
"""Multiply-adds one simulation may cost (about a tenth of a second): wider layers use fewer
sequences, down to two; the estimate is a mean over units, which width itself averages."""


@dataclass(frozen=True, slots=True)
class RecurrentWeights:
    """One direction of one recurrent layer, per gate, in canonical orientation.

    Attributes:
        op: RNN, LSTM or GRU.
        inputs: gate name to ``(hidden, in)``; an RNN's one gate is called ``""``.
        recurrent: gate name to ``(hidden, hidden)``.
        biases: gate name to ``(hidden,)``: both biases of the framework added.
        activation: of an RNN: ``tanh`` or ``relu``.
        reset_after: of a GRU: the reset gate multiplies ``R h + b`` (cuDNN, PyTorch).
    """

    op: Op
    inputs: Mapping[str, Array]
    recurrent: Mapping[str, Array]
    biases: Mapping[str, Array]
    activation: str = "tanh"
    reset_after: bool = True


@dataclass(frozen=True, slots=True)
class RecurrentResponse:
    """Measured on simulated sequences of unit-variance inputs.

    Attributes:
        gradient_decades: log10 of the rms of dh_T/dh_0 (for an LSTM of d(h,c)_T/d(h,c)_0) applied
            to a random unit vector, after 1, 2, … T steps.
        saturated: share of gate and cell pre-activations, over the second half of the steps, at
            which the activation's slope is below `SATURATED_SLOPE` of its peak.
        candidate_saturated: the same of a gated cell's candidate alone, its bias aside: that is the
            signal, where gates may start open or shut.
        state_rms: rms of h over the second half of the steps.
        one_direction: share of what differs between the sequences, over the second half of the
            steps, that lies along one direction of h.
    """

    gradient_decades: tuple[float, ...]
    saturated: float
    state_rms: float
    one_direction: float
    candidate_saturated: float = 0.0

    def decades_at(self, steps: int) -> float:
        """Decades of gradient gain after a number of steps (the last value beyond the end)."""
        return self.gradient_decades[min(steps, len(self.gradient_decades)) - 1]


def _sigmoid(z: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * z))


class _Cell:
    """State and tangent of one simulated cell; ``step`` advances both by one input."""

    def __init__(self, weights: RecurrentWeights, samples: int, rng: np.random.Generator) -> None:
        self.weights = weights
        self.hidden = next(iter(weights.recurrent.values())).shape[0]
        shape = (samples, self.hidden)
        self.h = np.zeros(shape)
        self.c = np.zeros(shape)
        self.dh = rng.standard_normal(shape)
        self.dc = rng.standard_normal(shape) if weights.op is Op.LSTM else np.zeros(shape)
        self.log_scale = np.zeros((samples, 1))
        self.slopes: list[float] = []
        self.candidate: list[float] = []

    def _gate(self, name: str, x: Array, h: Array) -> Array:
        w = self.weights
        z: Array = x @ w.inputs[name].T + h @ w.recurrent[name].T + w.biases[name]
        return z

    def _note(self, *shares: Array) -> None:
        self.slopes.extend(float(np.mean(share < SATURATED_SLOPE)) for share in shares)

    def _note_candidate(self, z: Array, gate: str) -> None:
        """Of what enters the candidate's tanh: what its bias saturates is the bias's."""
        slope = 1 - np.tanh(z - self.weights.biases[gate]) ** 2
        self.candidate.append(float(np.mean(slope < SATURATED_SLOPE)))

    def _renormalise(self) -> None:
        """Keep the tangent near unit norm, so that T steps neither under- nor overflow."""
        norm = np.sqrt((self.dh**2 + self.dc**2).sum(axis=1, keepdims=True))
        norm = np.where(norm > 0, norm, 1.0)
        self.dh, self.dc = self.dh / norm, self.dc / norm
        self.log_scale += np.log10(norm)

    def decades(self) -> float:
        norm = np.sqrt((self.dh**2 + self.dc**2).sum(axis=1, keepdims=True))
        with np.errstate(divide="ignore"):
            logs = self.log_scale + np.log10(norm)
        peak = float(logs.max())
        if not np.isfinite(peak):
            return -300.0
        return peak + 0.5 * float(np.log10(np.mean(10 ** (2 * (logs - peak)))))

    def step(self, x: Array) -> None:
        if self.weights.op is Op.LSTM:
            self._lstm(x)
        elif self.weights.op is Op.GRU:
            self._gru(x)
        else:
            self._rnn(x)

    def _rnn(self, x: Array) -> None:
        z = self._gate("", x, self.h)
        dz = self.dh @ self.weights.recurrent[""].T
        if self.weights.activation == "relu":
            self.h, self.dh = np.minimum(np.maximum(z, 0), 1e100), dz * (z > 0)
            return
        self.h = np.tanh(z)
        slope = 1 - self.h**2
        self._note(slope)
        self.dh = dz * slope

    def _lstm(self, x: Array) -> None:
        w = self.weights
        gates, tangents = {}, {}
        for name in ("input", "forget", "cell", "output"):
            z = self._gate(name, x, self.h)
            value = np.tanh(z) if name == "cell" else _sigmoid(z)
            slope = 1 - value**2 if name == "cell" else value * (1 - value)
            self._note(slope if name == "cell" else 4 * slope)
            if name == "cell":
                self._note_candidate(z, name)
            gates[name], tangents[name] = value, slope * (self.dh @ w.recurrent[name].T)
        c = gates["forget"] * self.c + gates["input"] * gates["cell"]
        dc = (
            gates["forget"] * self.dc
            + tangents["forget"] * self.c
            + tangents["input"] * gates["cell"]
            + gates["input"] * tangents["cell"]
        )
        squashed = np.tanh(c)
        self.dh = tangents["output"] * squashed + gates["output"] * (1 - squashed**2) * dc
        self.h, self.c, self.dc = gates["output"] * squashed, c, dc

    def _gru(self, x: Array) -> None:
        w = self.weights
        reset, update = (_sigmoid(self._gate(name, x, self.h)) for name in ("reset", "update"))
        dreset, dupdate = (
            gate * (1 - gate) * (self.dh @ w.recurrent[name].T)
            for name, gate in (("reset", reset), ("update", update))
        )
        if w.reset_after:
            inner = self.h @ w.recurrent["new"].T
            dinner = self.dh @ w.recurrent["new"].T
            z = x @ w.inputs["new"].T + reset * inner + w.biases["new"]
            dz = dreset * inner + reset * dinner
        else:
            z = x @ w.inputs["new"].T + (reset * self.h) @ w.recurrent["new"].T + w.biases["new"]
            dz = (dreset * self.h + reset * self.dh) @ w.recurrent["new"].T
        new = np.tanh(z)
        slope = 1 - new**2
        self._note(4 * reset * (1 - reset), 4 * update * (1 - update), slope)
        self._note_candidate(z, "new")
        self.dh = dupdate * (self.h - new) + update * self.dh + (1 - update) * slope * dz
        self.h = (1 - update) * new + update * self.h


def simulate(
    weights: RecurrentWeights, steps: int, *, input_rms: float = 1.0, seed: int = 0
) -> RecurrentResponse:
    """Run one recurrent direction on white noise and carry a random tangent along.

    E||Jv||^2 over v ~ N(0, I) is ||J||_F^2, so the mean square of the tangent is
    the mean square of the gradient that reaches step 0, per unit of gradient at step T.

    Args:
        weights: one direction of a layer.
        steps: T, at least 1.
        input_rms: rms of the inputs.
        seed: seed of inputs and tangents.

    Returns:
        Gradient gain per number of steps, saturation, and what becomes of the state.
    """
    hidden = next(iter(weights.recurrent.values())).shape[0]
    width = next(iter(weights.inputs.values())).shape[1]
    work_per_sample = steps * len(weights.recurrent) * hidden * (2 * hidden + width)
    samples = int(np.clip(MAX_WORK / max(work_per_sample, 1), 2, 16))
    rng = np.random.default_rng(seed)
    cell = _Cell(weights, samples, rng)
    start = cell.decades()
    decades: list[float] = []
    squares: list[float] = []
    differences: list[Array] = []
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(steps):
            if step == steps // 2:
                cell.slopes.clear()
                cell.candidate.clear()
            cell.step(input_rms * rng.standard_normal((samples, width)))
            decades.append(cell.decades() - start)
            cell._renormalise()
            if step >= steps // 2:
                squares.append(float(np.mean(cell.h**2)))
            if step >= steps // 2 and (steps - 1 - step) % max(steps // 2 // STATES, 1) == 0:
                differences.append(cell.h - cell.h.mean(axis=0))
        aligned = _along_one_direction(np.concatenate(differences))
    saturated = float(np.mean(cell.slopes)) if cell.slopes else 0.0
    candidate = float(np.mean(cell.candidate)) if cell.candidate else 0.0
    state_rms = float(np.sqrt(np.mean(squares)))
    return RecurrentResponse(tuple(decades), saturated, state_rms, aligned, candidate)


def _along_one_direction(rows: Array) -> float:
    """Share of the rows' power along their first principal direction; NaN without any."""
    gram = rows @ rows.T
    power = float(np.trace(gram))
    if not 0.0 < power < np.inf:
        return float("nan")
    return float(np.linalg.eigvalsh(gram)[-1]) / power


_GATES: Mapping[Op, tuple[str, ...]] = {
    Op.RNN: ("",),
    Op.LSTM: ("input", "forget", "cell", "output"),
    Op.GRU: ("reset", "update", "new"),
}


def recurrent_weights(
    layer: Layer, direction: int, read: Callable[[Param], Array | None]
) -> RecurrentWeights | None:
    """Gather one direction of a layer for `simulate`.

    Args:
        layer: an RNN, LSTM or GRU layer with one `Param` per gate.
        direction: 0 forward, 1 backward.
        read: reads a parameter, e.g. ``Measures.read``.

    Returns:
        None when a gate is missing, shapes disagree (a projected LSTM), or the cell uses
        activations other than the standard ones.
    """
    here = [param for param in layer.params if param.direction == direction]

    def blocks(role: Role) -> dict[str, Param]:
        return {param.gate or "": param for param in here if param.role is role}

    gates = _GATES[layer.op]
    inputs, recurrent = blocks(Role.WEIGHT), blocks(Role.RECURRENT_WEIGHT)
    if set(inputs) != set(gates) or set(recurrent) != set(gates):
        return None
    hidden = recurrent[gates[0]].shape[0]
    if any(recurrent[gate].shape != (hidden, hidden) for gate in gates):
        return None
    if any(param.tensor is None for param in here):
        return None
    activation = str(layer.attrs.get("nonlinearity", "tanh")).lower()
    if activation not in ("tanh", "relu") or layer.attrs.get("custom_activations"):
        return None

    def numbers(param: Param) -> Array:
        array = read(param)
        return np.zeros(param.shape) if array is None else array.astype(np.float64)

    biases = {gate: np.zeros(hidden) for gate in gates}
    for role in (Role.BIAS, Role.RECURRENT_BIAS):
        for gate, param in blocks(role).items():
            if gate in biases:
                biases[gate] = biases[gate] + numbers(param)
    return RecurrentWeights(
        layer.op,
        {gate: numbers(inputs[gate]) for gate in gates},
        {gate: numbers(recurrent[gate]) for gate in gates},
        biases,
        activation,
        reset_after=bool(layer.attrs.get("reset_after", True)),
    )


def unrolled_weights(
    recurrence: Unrolled, layer: Layer, read: Callable[[Param], Array | None]
) -> RecurrentWeights | None:
    """A recurrence written out step by step, for `simulate`.

    What each step adds is given as it is, so the input weights are the identity and ``input_rms``
    is the rms of what is added.

    Args:
        recurrence: from `unrolled_recurrences`.
        layer: its first step, which holds the bias.
        read: reads a parameter, e.g. ``Measures.read``.

    Returns:
        None when the numbers are not known.
    """
    weight = read(recurrence.weight)
    if weight is None:
        return None
    hidden = recurrence.weight.shape[0]
    bias = read(layer.bias) if layer.bias is not None else None
    return RecurrentWeights(
        Op.RNN,
        {"": np.eye(hidden)},
        {"": weight.astype(np.float64)},
        {"": np.zeros(hidden) if bias is None else bias.astype(np.float64)},
        recurrence.activation.value,
    )
