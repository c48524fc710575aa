"""The rules of `initlint.theory.liveness` for recurrent layers, gate by gate.

Sigmoid gates are never zero, so what keeps a cell at zero is its candidate: ``cell`` of an LSTM,
``new`` of a GRU, the only gate of a plain RNN. Sequences are taken to be longer than one step, and
states to start at zero unless they are given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from initlint.model.layer import Layer, Param, Role
from initlint.model.op import Op

NonZero = Callable[[Param], bool]
Inputs = Sequence[bool]

_CANDIDATE = {Op.RNN: None, Op.LSTM: "cell", Op.GRU: "new"}


def _some(layer: Layer, direction: int, gate: str | None, non_zero: NonZero, *roles: Role) -> bool:
    return any(
        non_zero(param)
        for param in layer.params
        if param.role in roles and param.direction == direction and param.gate == gate
    )


def _directions(layer: Layer) -> range:
    return range(1 + max((param.direction for param in layer.params), default=0))


def _gates(layer: Layer) -> tuple[str | None, ...]:
    return tuple(dict.fromkeys(param.gate for param in layer.with_role(Role.WEIGHT)))


def _packed(layer: Layer) -> bool:
    """True when the gates are as the operator has them; else nothing is claimed."""
    return _CANDIDATE[layer.op] in _gates(layer)


def _given_state(inputs: Inputs) -> bool:
    return any(inputs[1:])


def _hidden(layer: Layer, direction: int, inputs: Inputs, non_zero: NonZero) -> bool:
    """Whether the hidden state becomes non-zero."""
    gate = _CANDIDATE[layer.op]
    fed = inputs[0] if inputs else True
    return (
        _given_state(inputs)
        or (fed and _some(layer, direction, gate, non_zero, Role.WEIGHT))
        or _some(layer, direction, gate, non_zero, Role.BIAS, Role.RECURRENT_BIAS)
        or any(map(non_zero, layer.with_role(Role.INITIAL_STATE)))
    )


def _projected(layer: Layer, direction: int, non_zero: NonZero) -> bool:
    blocks = [p for p in layer.with_role(Role.PROJECTION) if p.direction == direction]
    return not blocks or any(map(non_zero, blocks))


def _reached(
    layer: Layer, direction: int, gate: str | None, inputs: Inputs, non_zero: NonZero
) -> bool:
    """Whether the gradient at the output reaches a gate's pre-activation."""
    hidden = _hidden(layer, direction, inputs, non_zero)
    if not _projected(layer, direction, non_zero):
        return False
    if gate == _CANDIDATE[layer.op]:
        return hidden or layer.attrs.get("nonlinearity") != "relu"
    if layer.op is Op.GRU and gate == "reset":
        recurrent = _some(layer, direction, "new", non_zero, Role.RECURRENT_WEIGHT)
        bias = _some(layer, direction, "new", non_zero, Role.RECURRENT_BIAS)
        return (hidden and recurrent) or bias
    return hidden


def recurrent_alive(layer: Layer, inputs: Inputs, non_zero: NonZero) -> bool:
    """Whether the output sequence is alive."""
    return not _packed(layer) or any(
        _hidden(layer, direction, inputs, non_zero) and _projected(layer, direction, non_zero)
        for direction in _directions(layer)
    )


def recurrent_passes(layer: Layer, inputs: Inputs, non_zero: NonZero) -> bool:
    """Whether a gradient at the output reaches the input sequence."""
    return not _packed(layer) or any(
        _reached(layer, direction, gate, inputs, non_zero)
        and _some(layer, direction, gate, non_zero, Role.WEIGHT)
        for direction in _directions(layer)
        for gate in _gates(layer)
    )


def recurrent_learns(layer: Layer, param: Param, inputs: Inputs, non_zero: NonZero) -> bool:
    """Whether a gradient at the output reaches one parameter."""
    if not _packed(layer):
        return True
    hidden = _hidden(layer, param.direction, inputs, non_zero)
    if param.role is Role.PROJECTION:
        return hidden
    if param.gate not in _gates(layer):
        return True
    if not _reached(layer, param.direction, param.gate, inputs, non_zero):
        return False
    if param.role is Role.WEIGHT:
        return inputs[0] if inputs else True
    return hidden if param.role is Role.RECURRENT_WEIGHT else True
