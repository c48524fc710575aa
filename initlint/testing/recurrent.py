"""Recurrent layers in NumPy, from per-gate blocks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from initlint.model.layer import Layer, Role
from initlint.model.op import Op
from initlint.model.tensor import Array
from initlint.testing.activations import sigmoid

GATES = {
    Op.RNN: ("",),
    Op.LSTM: ("input", "forget", "cell", "output"),
    Op.GRU: ("reset", "update", "new"),
}
"""Gates in the order in which `torch.nn` packs them."""


def _blocks(layer: Layer, direction: int) -> dict[tuple[Role, str], Array]:
    return {
        (param.role, param.gate or ""): param.tensor.read().astype(np.float64)
        for param in layer.params
        if param.direction == direction and param.tensor is not None
    }


def _cell(layer: Layer, direction: int, hidden: int) -> Callable[..., tuple[Array, Array]]:
    blocks = _blocks(layer, direction)
    none = np.zeros(1)

    def from_input(gate: str, x: Array) -> Array:
        result: Array = x @ blocks[Role.WEIGHT, gate].T + blocks.get((Role.BIAS, gate), none)
        return result

    def from_hidden(gate: str, h: Array) -> Array:
        bias = blocks.get((Role.RECURRENT_BIAS, gate), none)
        result: Array = h @ blocks[Role.RECURRENT_WEIGHT, gate].T + bias
        return result

    def total(gate: str, x: Array, h: Array) -> Array:
        return from_input(gate, x) + from_hidden(gate, h)

    def rnn(x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        z = total("", x, h)
        relu = layer.attrs.get("nonlinearity") == "relu"
        return (np.maximum(z, 0.0) if relu else np.tanh(z)), c

    def lstm(x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        kept = sigmoid(total("forget", x, h)) * c
        c = kept + sigmoid(total("input", x, h)) * np.tanh(total("cell", x, h))
        return sigmoid(total("output", x, h)) * np.tanh(c), c

    def gru(x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        reset, update = sigmoid(total("reset", x, h)), sigmoid(total("update", x, h))
        new = np.tanh(from_input("new", x) + reset * from_hidden("new", h))
        return (1.0 - update) * new + update * h, c

    return {Op.RNN: rnn, Op.LSTM: lstm, Op.GRU: gru}[layer.op]


def recur(layer: Layer, x: Array) -> Array:
    """Outputs ``(batch, time, directions * hidden)`` for inputs ``(batch, time, features)``."""
    hidden = layer.with_role(Role.RECURRENT_WEIGHT)[0].shape[1]
    directions = 1 + max(param.direction for param in layer.params)
    outputs = []
    for direction in range(directions):
        step = _cell(layer, direction, hidden)
        h = c = np.zeros((x.shape[0], hidden))
        times = range(x.shape[1]) if direction == 0 else range(x.shape[1])[::-1]
        trace = np.zeros((x.shape[0], x.shape[1], hidden))
        for time in times:
            h, c = step(x[:, time], h, c)
            trace[:, time] = h
        outputs.append(trace)
    return np.concatenate(outputs, axis=-1)
