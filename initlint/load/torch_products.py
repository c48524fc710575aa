"""Matrix products with parameters, and recurrent layers: which block is which weight."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch

from initlint.load.einsum import is_bilinear, is_elementwise
from initlint.load.torch_tracer import Call, Ref
from initlint.load.torch_weights import Static
from initlint.model import Op, Role, View


@dataclass(slots=True)
class Use:
    """One parameter of a layer: its role, its tensor, and the way to canonical orientation."""

    role: Role
    static: Static
    stem: str
    views: tuple[View, ...] = ()
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Mapped:
    """One layer: operator, settings, the tensors it reads (by position) and its parameters."""

    op: Op
    attrs: dict[str, Any] = field(default_factory=dict)
    inputs: list[Any] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    channel_axis: int | None = None


def operand(call: Call) -> Any:
    """The first tensor of a call."""
    return call.arg(0, "input")


def _bias_use(call: Call, bias: Any) -> tuple[list[Use], list[Any]]:
    """A bias as a parameter, or as an input when activations made it."""
    if bias is None:
        return [], []
    value = call.value(bias)
    if isinstance(value, Ref):
        return [], [bias]
    return [Use(Role.BIAS, value, "bias", _flat(bias))], []


def _flat(bias: Any) -> tuple[View, ...]:
    """A bias stored with leading axes of size one is seen as a vector."""
    if bias.ndim > 1 and max(bias.shape) == bias.numel():
        return (View("reshape", (bias.numel(),)),)
    return ()


def linear(call: Call, data: Any, weight: Any, bias: Any) -> list[Mapped]:
    """``data @ weight.T + bias``."""
    value = call.value(weight)
    biases, extra = _bias_use(call, bias)
    if isinstance(value, Ref):
        return [Mapped(Op.MATMUL, {"transposed": True}, [data, weight, *extra], biases)]
    return [Mapped(Op.LINEAR, {}, [data, *extra], [*_weights(value, (0,), (1,)), *biases], -1)]


def _weights(static: Static, outs: tuple[int, ...], ins: tuple[int, ...]) -> list[Use]:
    """Weight blocks of a static tensor; the axes beside ``outs`` and ``ins`` count the blocks."""
    if static.stack is not None and static.stack.ndim == static.tensor.ndim:
        static = Static(static.stack, static.sources)
    shape = tuple(static.tensor.shape)
    stack = [axis for axis in range(len(shape)) if axis not in outs and axis not in ins]
    n_out, n_in = prod(shape[axis] for axis in outs), prod(shape[axis] for axis in ins)
    count = prod(shape[axis] for axis in stack)
    order = (*stack, *outs, *ins)
    views: list[View] = []
    if order != tuple(range(len(shape))):
        views.append(View("transpose", order))
    if count == 1:
        if tuple(shape[axis] for axis in order) != (n_out, n_in):
            views.append(View("reshape", (n_out, n_in)))
        return [Use(Role.WEIGHT, static, "weight", tuple(views))]
    if len(order) != 3:
        views.append(View("reshape", (count, n_out, n_in)))
    return [
        Use(
            Role.WEIGHT,
            static,
            "weight",
            (*views, View("slice", (0, block, block + 1)), View("reshape", (n_out, n_in))),
            {"gate": f"block.{block}", "packed": count},
        )
        for block in range(count)
    ]


def matrix_product(call: Call) -> list[Mapped]:
    """Every product of two tensors: a linear layer when one side is made of parameters alone."""
    bias = None
    if call.name in ("addmm", "addmv", "baddbmm", "addbmm"):
        bias, left, right = call.arg(0, "input"), call.args[1], call.args[2]
        if call.kwargs.get("beta", 1) == 0:
            bias = None
    elif call.name == "rmatmul":
        right, left = call.args[0], call.args[1]
    else:
        left, right = call.arg(0, "input"), call.arg(1, "other", call.kwargs.get("mat2"))
    if call.name == "inner":
        return linear(call, left, right, None)
    attrs: dict[str, Any] = {}
    if call.kwargs.get("alpha", 1) != 1:
        attrs["scale"] = call.kwargs["alpha"]
    return _product(call, left, right, bias, attrs)


def _is_weight(value: Ref | Static, tensor: Any) -> bool:
    return isinstance(value, Static) and bool(value.sources) and tensor.ndim > 0


def _product(call: Call, left: Any, right: Any, bias: Any, attrs: dict[str, Any]) -> list[Mapped]:
    left_value, right_value = call.value(left), call.value(right)
    biases, extra = _bias_use(call, bias)
    if _is_weight(right_value, right) and not _is_weight(left_value, left):
        assert isinstance(right_value, Static)
        last = right.ndim - 1
        if right.ndim == 1:
            uses = [Use(Role.WEIGHT, right_value, "weight", (View("reshape", (1, right.numel())),))]
        else:
            uses = _weights(right_value, (last,), (last - 1,))
        return [Mapped(Op.LINEAR, attrs, [left, *extra], [*uses, *biases], -1)]
    if _is_weight(left_value, left) and not _is_weight(right_value, right):
        assert isinstance(left_value, Static)
        last = left.ndim - 1
        if left.ndim == 1:
            uses = [Use(Role.WEIGHT, left_value, "weight", (View("reshape", (1, left.numel())),))]
        else:
            uses = _weights(left_value, (last - 1,), (last,))
        axis = -2 if right.ndim > 1 else -1
        return [Mapped(Op.LINEAR, {**attrs, "axis": axis}, [right, *extra], [*uses, *biases], axis)]
    inputs = [left, right, *extra]
    return [Mapped(Op.MATMUL, attrs, inputs, biases)]


def einsum(call: Call) -> list[Mapped]:
    """Contractions with a parameter are linear or bilinear layers; others are products."""
    equation = call.args[0] if call.args and isinstance(call.args[0], str) else None
    operands = call.args[1:]
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    values = [call.value(item) for item in operands if isinstance(item, torch.Tensor)]
    inputs = [item for item in operands if isinstance(item, torch.Tensor)]
    active = [item for item, value in zip(inputs, values, strict=True) if isinstance(value, Ref)]
    op = Op.MUL if equation is not None and is_elementwise(equation) else Op.MATMUL
    plain = Mapped(op, {"equation": equation}, inputs)
    if equation is not None and len(inputs) == 3 and len(active) == 2:
        return [_bilinear(equation, inputs, values, active)]
    if equation is None or len(inputs) != 2 or len(active) != 1:
        return [plain if len(inputs) == 2 else Mapped(Op.OTHER, {"function": "einsum"}, inputs)]
    weight_first = isinstance(values[0], Static)
    static = values[0] if weight_first else values[1]
    assert isinstance(static, Static)
    if not static.sources:
        return [plain]
    left, _, result = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    weight, data = (terms[0], terms[1]) if weight_first else (terms[1], terms[0])
    if "..." in weight or not result:
        return [plain]
    outs = tuple(i for i, label in enumerate(weight) if label in result and label not in data)
    ins = tuple(i for i, label in enumerate(weight) if label in data and label not in result)
    if not ins:
        return [Mapped(Op.MUL, {"equation": equation}, active, [Use(Role.GAIN, static, "weight")])]
    axis = result.index(weight[outs[-1]]) - len(result) if outs else -1
    attrs = {"equation": equation}
    return [Mapped(Op.LINEAR, attrs, active, _weights(static, outs, ins), axis)]


def _bilinear(equation: str, inputs: list[Any], values: list[Any], active: list[Any]) -> Mapped:
    """A parameter between two activations, of which each sums over one of its axes."""
    left, _, result = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    place = next(index for index, value in enumerate(values) if isinstance(value, Static))
    own, static = terms[place], values[place]
    sources = [term for index, term in enumerate(terms) if index != place]
    ins = [next((i for i, label in enumerate(own) if label in term), -1) for term in sources]
    outs = [index for index, label in enumerate(own) if label in result]
    if not static.sources or not is_bilinear(terms, result) or len({*outs, *ins}) != len(own):
        return Mapped(Op.OTHER, {"function": "einsum"}, inputs)
    shape = tuple(static.tensor.shape)
    views = (
        View("transpose", (*outs, *ins)),
        View("reshape", (prod(shape[axis] for axis in outs), *(shape[axis] for axis in ins))),
    )
    axis = result.index(own[outs[-1]]) - len(result) if outs else -1
    use = Use(Role.WEIGHT, static, "weight", views)
    return Mapped(Op.BILINEAR, {"equation": equation}, active, [use], axis)


# recurrent layers

_GATES = {
    Op.RNN: (None,),
    Op.LSTM: ("input", "forget", "cell", "output"),
    Op.GRU: ("reset", "update", "new"),
}
"""Blocks in the order in which `torch.nn` packs them (torch/nn/modules/rnn.py)."""

_RECURRENT_OPS = {"lstm": Op.LSTM, "gru": Op.GRU, "rnn_tanh": Op.RNN, "rnn_relu": Op.RNN}


def recurrent(call: Call) -> list[Mapped]:
    """One layer per stacked level, both directions in it; gates split."""
    kind = call.name.removesuffix("_cell")
    op = _RECURRENT_OPS[kind]
    attrs: dict[str, Any] = {}
    if op is Op.RNN:
        attrs["nonlinearity"] = kind.removeprefix("rnn_")
    if call.name.endswith("_cell"):
        return [_cell(call, op, attrs)]
    packed = isinstance(call.args[3], (list, tuple))
    weights, state = (call.args[3], call.args[2]) if packed else (call.args[2], call.args[1])
    has_bias, levels = call.args[4 if packed else 3], int(call.args[5 if packed else 4])
    bidirectional = bool(call.args[8 if packed else 7])
    directions = 2 if bidirectional else 1
    per_cell = len(weights) // (levels * directions)
    hidden = int(weights[1].shape[0]) // len(_GATES[op])
    attrs |= {"hidden_size": hidden, "num_layers": levels, "bidirectional": bidirectional}
    if not packed:
        batch_first = bool(call.args[8])
        data = call.args[0]
        if data.ndim == 3:
            attrs["batch_first"] = batch_first
            attrs["sequence_length"] = int(data.shape[1 if batch_first else 0])
        else:
            attrs["sequence_length"] = int(data.shape[0])
    found = []
    for level in range(levels):
        uses: list[Use] = []
        for direction in range(directions):
            start = (level * directions + direction) * per_cell
            uses += _cell_uses(call, op, weights[start : start + per_cell], has_bias, direction)
        inputs = [call.args[0]] if level == 0 else []
        found.append(Mapped(op, {**attrs, "level": level}, inputs, uses, -1))
    states = state if isinstance(state, (list, tuple)) else [state]
    for item in states:
        value = call.value(item)
        if isinstance(value, Ref):
            found[0].inputs.append(item)
        elif value.sources:
            found[0].uses.append(Use(Role.INITIAL_STATE, value, "initial_state"))
    return found


def _cell(call: Call, op: Op, attrs: dict[str, Any]) -> Mapped:
    data, state, *weights = call.args
    weights = [item for item in weights if isinstance(item, torch.Tensor)]
    hidden = int(weights[1].shape[0]) // len(_GATES[op])
    uses = _cell_uses(call, op, weights, len(weights) > 2, 0)
    states = state if isinstance(state, (list, tuple)) else [state]
    inputs = [data, *(item for item in states if isinstance(call.value(item), Ref))]
    for item in states:
        value = call.value(item)
        if isinstance(value, Static) and value.sources:
            uses.append(Use(Role.INITIAL_STATE, value, "initial_state"))
    return Mapped(op, {**attrs, "hidden_size": hidden, "cell": True}, inputs, uses, -1)


def _cell_uses(call: Call, op: Op, weights: Any, has_bias: bool, direction: int) -> list[Use]:
    roles = [(Role.WEIGHT, "weight_ih"), (Role.RECURRENT_WEIGHT, "weight_hh")]
    if has_bias:
        roles += [(Role.BIAS, "bias_ih"), (Role.RECURRENT_BIAS, "bias_hh")]
    uses = []
    gates = _GATES[op]
    for (role, stem), tensor in zip(roles, weights, strict=False):
        value = call.value(tensor)
        if not isinstance(value, Static):
            continue
        height = int(tensor.shape[0]) // len(gates)
        for number, gate in enumerate(gates):
            views: tuple[View, ...] = ()
            if len(gates) > 1:
                views = (View("slice", (0, number * height, (number + 1) * height)),)
            fields = {"gate": gate, "direction": direction, "packed": len(gates)}
            uses.append(Use(role, value, stem, views, fields))
    if len(weights) > len(roles):
        value = call.value(weights[len(roles)])
        if isinstance(value, Static):
            fields = {"direction": direction}
            uses.append(Use(Role.PROJECTION, value, "weight_hr", (), fields))
    return uses
