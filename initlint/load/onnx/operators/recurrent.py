"""LSTM, GRU and RNN: packed weights split by direction and gate.

Gate orders are ONNX's (operator documentation): LSTM input, output, forget, cell; GRU update,
reset, hidden; peepholes input, output, forget.
"""

from __future__ import annotations

from typing import Any

from initlint.load.onnx.builder import Builder
from initlint.load.onnx.call import Call
from initlint.load.onnx.dequantise import dequantised
from initlint.load.onnx.operators.registry import MICROSOFT, Result, handles
from initlint.load.onnx.values import Dynamic, Fixed, ParamDraft, Shape, Value, scaled, shifted
from initlint.model import Op, Role

_GATES: dict[str, tuple[str | None, ...]] = {
    "LSTM": ("input", "output", "forget", "cell"),
    "GRU": ("update", "reset", "new"),
    "RNN": (None,),
}
_OPS = {"LSTM": Op.LSTM, "GRU": Op.GRU, "RNN": Op.RNN}
_USUAL = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh")}
"""Activations of a direction's gates, cell and output, where a node names none."""

_PEEPHOLES = ("input", "output", "forget")


@handles("LSTM", "GRU", "RNN")
def _recurrent(builder: Builder, call: Call) -> Result:
    return recurrent(builder, call, call.op, call.value(1), call.value(2))


@handles("DynamicQuantizeLSTM", domain=MICROSOFT)
def _dynamic_quantised(builder: Builder, call: Call) -> Result:
    """Weights are (directions, in, 4·hidden) integers with scales per direction or column."""
    weights: list[Fixed | None] = []
    for index, scale_index, zero_index in ((1, 8, 9), (2, 10, 11)):
        stored, scale, zero = call.fixed(index), call.fixed(scale_index), call.fixed(zero_index)
        if stored is None or scale is None or len(stored.shape) != 3:
            return None
        stored = stored.seen_as(stored.tensor.transpose(0, 2, 1))
        scale, zero = _per_row(scale), None if zero is None else _per_row(zero)
        weights.append(_scaled(stored, scale, zero))
    return recurrent(builder, call, "LSTM", weights[0], weights[1])


def _per_row(fixed: Fixed) -> Fixed:
    """A scale per direction (D,) or per row (D, rows) so that it broadcasts to (D, rows, in)."""
    shape = (*fixed.shape, *(1,) * (3 - len(fixed.shape)))
    return fixed.seen_as(fixed.tensor.reshape(*shape))


def _scaled(stored: Fixed, scale: Fixed, zero: Fixed | None) -> Fixed:
    tensor = stored.tensor
    if zero is not None and zero.small and zero.values().any():
        tensor = shifted(tensor, -zero.values())
    if scale.small:
        tensor = scaled(tensor, scale.values())
        return stored.seen_as(tensor, integer=False, quantised=True)
    return dequantised(stored, scale, zero, 0, 0)


def recurrent(
    builder: Builder, call: Call, kind: str, weight: Value | None, hidden_weight: Value | None
) -> Result:
    """One recurrent layer with a parameter per gate and direction."""
    gates = _GATES[kind]
    if not isinstance(weight, Fixed) or not isinstance(hidden_weight, Fixed):
        return None
    shape, size = weight.shape, call.integer("hidden_size", 0)
    if len(shape) != 3 or len(hidden_weight.shape) != 3 or not weight.floating:
        return None
    size = size or hidden_weight.shape[2]
    directions = shape[0]
    rows = len(gates) * size
    if shape[1] != rows or hidden_weight.shape[:2] != (directions, rows) or directions > 2:
        return None
    reverse = call.text("direction", "forward") == "reverse"
    params: list[ParamDraft] = []
    for direction in range(directions):
        number = 1 if reverse else direction
        for role, fixed, leaf in (
            (Role.WEIGHT, weight, "weight_ih"),
            (Role.RECURRENT_WEIGHT, hidden_weight, "weight_hh"),
        ):
            params.extend(_blocks(builder, role, fixed, leaf, gates, size, direction, number))
        params.extend(_biases(builder, call.value(3), gates, size, direction, number))
        if kind == "LSTM":
            params.extend(_peepholes(builder, call.value(7), size, direction, number))
    params.extend(_states(builder, call, kind))
    attrs: dict[str, Any] = {
        "hidden_size": size,
        "input_size": shape[2],
        "num_layers": 1,
        "directions": directions,
        "bidirectional": directions == 2,
        "reverse": reverse,
        "layout": call.integer("layout", 0),
    }
    attrs |= _cell(call, kind)
    if kind == "LSTM":
        attrs["input_forget"] = bool(call.integer("input_forget", 0))
    clip = call.attrs.get("clip")
    if isinstance(clip, (int, float)):
        attrs["clip"] = float(clip)
    return _emit(builder, call, kind, params, attrs, directions, size)


def _emit(
    builder: Builder,
    call: Call,
    kind: str,
    params: list[ParamDraft],
    attrs: dict[str, Any],
    directions: int,
    size: int,
) -> Result:
    inputs: list[Value | None] = [call.value(0), None, None, None, None]
    inputs += [value if isinstance(value, Dynamic) else None for value in call.inputs[5:7]]
    given = call.shape(0)
    batch = steps = None
    if given is not None and len(given) == 3:
        steps, batch = (given[1], given[0]) if attrs["layout"] else (given[0], given[1])
    if steps is not None:
        attrs["sequence_length"] = steps
    shape: Shape
    state: Shape
    if attrs["layout"]:
        shape = (batch, steps, directions, size)
        state = (batch, directions, size)
    else:
        shape = (steps, directions, batch, size)
        state = (directions, batch, size)
    result = builder.emit(_OPS[kind], call, inputs, params, attrs, shape)
    if call.outputs and not call.outputs[0]:
        result.layer.uses = 0
    return builder.outputs(result, call, state, state)


def _cell(call: Call, kind: str) -> dict[str, Any]:
    """What the cell computes, in the words of every other loader.

    ``nonlinearity`` of a plain cell; ``custom_activations`` where a gated one has others than its
    own; ``reset_after`` of a GRU (ONNX's ``linear_before_reset``).
    """
    given = call.attrs.get("activations", ())
    names = [str(name).lower() for name in given] if isinstance(given, tuple) else []
    if kind == "RNN":
        kinds = set(names) or {"tanh"}
        return {"nonlinearity": kinds.pop() if len(kinds) == 1 else "several"}
    usual = _USUAL[kind]
    found: dict[str, Any] = {}
    if any(name != usual[index % len(usual)] for index, name in enumerate(names)):
        found["custom_activations"] = True
    if kind == "GRU":
        found["reset_after"] = bool(call.integer("linear_before_reset", 0))
    return found


def _blocks(
    builder: Builder,
    role: Role,
    fixed: Fixed,
    leaf: str,
    gates: tuple[str | None, ...],
    size: int,
    direction: int,
    number: int,
) -> list[ParamDraft]:
    columns = fixed.shape[2]
    own = fixed.tensor.take(0, direction, direction + 1)
    found = []
    for position, gate in enumerate(gates):
        block = own.take(1, position * size, (position + 1) * size).reshape(size, columns)
        found.append(
            builder.param(
                role, fixed, leaf, block, gate=gate, direction=number, packed=_packed(gates, fixed)
            )
        )
    return found


def _packed(gates: tuple[str | None, ...], fixed: Fixed) -> int:
    return len(gates) * fixed.shape[0]


def _biases(
    builder: Builder,
    value: Value | None,
    gates: tuple[str | None, ...],
    size: int,
    direction: int,
    number: int,
) -> list[ParamDraft]:
    """Wb then Rb, each in gate order."""
    rows = len(gates) * size
    if not isinstance(value, Fixed) or not value.floating or len(value.shape) != 2:
        return []
    if value.shape[1] != 2 * rows or direction >= value.shape[0]:
        return []
    own = value.tensor.take(0, direction, direction + 1)
    found = []
    for half, role, leaf in ((0, Role.BIAS, "bias_ih"), (1, Role.RECURRENT_BIAS, "bias_hh")):
        for position, gate in enumerate(gates):
            start = half * rows + position * size
            block = own.take(1, start, start + size).reshape(size)
            packed = 2 * _packed(gates, value)
            found.append(
                builder.param(role, value, leaf, block, gate=gate, direction=number, packed=packed)
            )
    return found


def _peepholes(
    builder: Builder, value: Value | None, size: int, direction: int, number: int
) -> list[ParamDraft]:
    if not isinstance(value, Fixed) or not value.floating or len(value.shape) != 2:
        return []
    if value.shape[1] != 3 * size or direction >= value.shape[0]:
        return []
    own = value.tensor.take(0, direction, direction + 1)
    return [
        builder.param(
            Role.PEEPHOLE,
            value,
            "peephole",
            own.take(1, position * size, (position + 1) * size).reshape(size),
            gate=gate,
            direction=number,
            packed=3 * value.shape[0],
        )
        for position, gate in enumerate(_PEEPHOLES)
    ]


def _states(builder: Builder, call: Call, kind: str) -> list[ParamDraft]:
    """Learned initial states; a constant fill is no parameter."""
    found = []
    for index, leaf in ((5, "initial_h"), (6, "initial_c")):
        value = call.value(index)
        if kind != "LSTM" and index == 6:
            break
        if isinstance(value, Fixed) and value.floating and value.stored and value.small:
            values = value.values()
            if values.size and not (values == values.reshape(-1)[0]).all():
                found.append(builder.param(Role.INITIAL_STATE, value, leaf))
    return found
