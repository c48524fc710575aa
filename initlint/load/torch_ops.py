"""What each PyTorch function is in the closed vocabulary of operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from initlint.load.torch_products import (
    Mapped,
    Use,
    einsum,
    linear,
    matrix_product,
    operand,
    recurrent,
)
from initlint.load.torch_tracer import Call, Ref
from initlint.load.torch_weights import Static, constant_value
from initlint.model import Op, Role, View

Handler = Callable[[Call], "list[Mapped]"]


@dataclass(frozen=True, slots=True)
class _Simple:
    """A function of one tensor whose settings are plain arguments: name to (position, default)."""

    op: Op
    settings: Mapping[str, tuple[int, str, Any]] = field(default_factory=dict)

    def __call__(self, call: Call) -> list[Mapped]:
        attrs = {
            name: call.arg(position, keyword, default)
            for name, (position, keyword, default) in self.settings.items()
        }
        attrs = {name: value for name, value in attrs.items() if value is not None}
        return [Mapped(self.op, attrs, _data(call))]


def _data(call: Call) -> list[Any]:
    return [call.arg(0, "input")]


def _all_tensors(call: Call) -> list[Any]:
    found: list[Any] = []
    for item in (*call.args, *call.kwargs.values()):
        if isinstance(item, torch.Tensor):
            found.append(item)
        elif isinstance(item, (list, tuple)):
            found.extend(part for part in item if isinstance(part, torch.Tensor))
    return found


def _tuple(value: Any, axes: int) -> tuple[int, ...]:
    if isinstance(value, (list, tuple)):
        return tuple(int(item) for item in value) if len(value) > 1 else (int(value[0]),) * axes
    return (int(value),) * axes


# element-wise arithmetic


def _arithmetic(op: Op, *, swapped: bool = False) -> Handler:
    def handle(call: Call) -> list[Mapped]:
        operands = [call.arg(0, "input"), call.arg(1, "other", call.kwargs.get("exponent"))]
        if call.arg(2, "alpha", 1) not in (1, None) and op in (Op.ADD, Op.SUB):
            return other(call)
        if call.kwargs.get("rounding_mode"):
            return other(call)
        return [_binary(call, op, operands[::-1] if swapped else operands)]

    return handle


def _is_activation(call: Call, item: Any) -> bool:
    return isinstance(item, torch.Tensor) and isinstance(call.value(item), Ref)


def _binary(call: Call, op: Op, operands: list[Any]) -> Mapped:
    active = [item for item in operands if _is_activation(call, item)]
    if len(active) == 2:
        if op is Op.MUL and operands[0] is operands[1]:
            return Mapped(Op.SQUARE, {}, operands[:1])
        return Mapped(op, {}, operands)
    first = not _is_activation(call, operands[0])
    fixed = operands[0] if first else operands[1]
    attrs: dict[str, Any] = {}
    if first and op in (Op.SUB, Op.DIV, Op.POW):
        attrs["constant_first"] = True
    if isinstance(fixed, torch.Tensor):
        static = call.value(fixed)
        assert isinstance(static, Static)
        if static.sources:
            return Mapped(op, attrs, active, [_operand_use(op, static, call)])
        value = constant_value(fixed)
        if value is not None:
            attrs["constant"] = value
        return _special_power(op, attrs, active)
    if isinstance(fixed, (int, float)):
        attrs["constant"] = fixed
    return _special_power(op, attrs, active)


_POWERS = {2: Op.SQUARE, 0.5: Op.SQRT, -1: Op.RECIPROCAL, -0.5: Op.RECIPROCAL_SQRT}


def _special_power(op: Op, attrs: dict[str, Any], active: list[Any]) -> Mapped:
    constant = attrs.get("constant")
    if op is Op.POW and isinstance(constant, (int, float)) and "constant_first" not in attrs:
        special = _POWERS.get(constant)
        if special is not None:
            return Mapped(special, {}, active)
    return Mapped(op, attrs, active)


def _operand_use(op: Op, static: Static, call: Call) -> Use:
    """The role of a trainable operand.

    Addends with a single axis longer than one broadcast over positions: a bias. An addend with
    more such axes, as learned positions have, is a table.
    """
    if op in (Op.MUL, Op.DIV):
        return Use(Role.GAIN, static, "weight")
    if op in (Op.ADD, Op.SUB):
        long = [side for side in static.tensor.shape if side > 1]
        return Use(Role.SHIFT if len(long) < 2 else Role.TABLE, static, "bias")
    return Use(Role.OTHER, static, "weight")


# layers with weights


def _linear(call: Call) -> list[Mapped]:
    return linear(call, call.arg(0, "input"), call.arg(1, "weight"), call.arg(2, "bias"))


def _weighted(call: Call, op: Op, attrs: dict[str, Any], views: tuple[View, ...] = ()) -> Mapped:
    weight, bias = call.arg(1, "weight"), call.arg(2, "bias")
    value = call.value(weight)
    if not isinstance(value, Static):
        return Mapped(Op.OTHER, {"function": call.name}, _all_tensors(call))
    uses = [Use(Role.WEIGHT, value, "weight", views)]
    inputs = _data(call)
    if bias is not None:
        static = call.value(bias)
        if isinstance(static, Static):
            uses.append(Use(Role.BIAS, static, "bias"))
        else:
            inputs.append(bias)
    return Mapped(op, attrs, inputs, uses)


def _conv(call: Call) -> list[Mapped]:
    weight = call.arg(1, "weight")
    axes = weight.ndim - 2
    kernel = tuple(weight.shape[2:])
    dilation = _tuple(call.arg(5, "dilation", 1), axes)
    attrs = {
        "kernel": kernel,
        "stride": _tuple(call.arg(3, "stride", 1), axes),
        "padding": _padding(call.arg(4, "padding", 0), kernel, dilation),
        "dilation": dilation,
        "groups": int(call.arg(6, "groups", 1)),
    }
    mapped = _weighted(call, Op.CONV, attrs)
    mapped.channel_axis = 1
    return [mapped]


def _padding(padding: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...]:
    """Padding as numbers; ``same`` pads the odd element at the end (`torch.nn.functional`)."""
    if padding == "valid":
        return (0,) * len(kernel)
    if padding == "same":
        total = [step * (side - 1) for side, step in zip(kernel, dilation, strict=True)]
        begins = tuple(side // 2 for side in total)
        ends = tuple(side - begin for side, begin in zip(total, begins, strict=True))
        return begins if begins == ends else (*begins, *ends)
    return _tuple(padding, len(kernel))


def _conv_transpose(call: Call) -> list[Mapped]:
    weight = call.arg(1, "weight")
    axes = weight.ndim - 2
    groups = int(call.arg(6, "groups", 1))
    kernel = tuple(weight.shape[2:])
    attrs = {
        "kernel": kernel,
        "stride": _tuple(call.arg(3, "stride", 1), axes),
        "padding": _tuple(call.arg(4, "padding", 0), axes),
        "output_padding": _tuple(call.arg(5, "output_padding", 0), axes),
        "dilation": _tuple(call.arg(7, "dilation", 1), axes),
        "groups": groups,
    }
    fan_in, per_group = weight.shape[0] // groups, weight.shape[1]
    if groups == 1:
        views: tuple[View, ...] = (View("transpose", (1, 0, *range(2, weight.ndim))),)
    else:
        views = (
            View("reshape", (groups, fan_in, per_group, *kernel)),
            View("transpose", (0, 2, 1, *range(3, weight.ndim + 1))),
            View("reshape", (groups * per_group, fan_in, *kernel)),
        )
    mapped = _weighted(call, Op.CONV_TRANSPOSE, attrs, views)
    mapped.channel_axis = 1
    return [mapped]


def _bilinear(call: Call) -> list[Mapped]:
    value = call.value(call.arg(2, "weight"))
    if not isinstance(value, Static):
        return other(call)
    uses = [Use(Role.WEIGHT, value, "weight")]
    bias = call.arg(3, "bias")
    if bias is not None and isinstance(call.value(bias), Static):
        uses.append(Use(Role.BIAS, call.value(bias), "bias"))  # type: ignore[arg-type]
    return [Mapped(Op.BILINEAR, {}, [call.arg(0, "input1"), call.arg(1, "input2")], uses)]


def _embedding(call: Call) -> list[Mapped]:
    first, second = call.arg(0, "input"), call.arg(1, "weight")
    builtin = not isinstance(call.function, type(_embedding))
    table = first if builtin and first.is_floating_point() else second
    index = second if table is first else first
    value = call.value(table)
    if not isinstance(value, Static):
        return [Mapped(Op.GATHER, {}, [table, index])]
    attrs: dict[str, Any] = {}
    padding = call.arg(2, "padding_idx")
    if isinstance(padding, int) and padding >= 0:
        attrs["padding_idx"] = padding
    if call.name == "embedding_bag":
        attrs["kind"] = call.arg(6, "mode", "mean")
    return [Mapped(Op.EMBEDDING, attrs, [index], [Use(Role.WEIGHT, value, "weight")], -1)]


# normalisers


def _norm(
    op: Op, weight: int, bias: int | None, settings: Callable[[Call], dict[str, Any]]
) -> Handler:
    def handle(call: Call) -> list[Mapped]:
        uses = []
        inputs = _data(call)
        roles = [(Role.GAIN, weight, "weight")]
        if bias is not None:
            roles.append((Role.SHIFT, bias, "bias"))
        for role, position, keyword in roles:
            tensor = call.arg(position, keyword)
            if tensor is None:
                continue
            value = call.value(tensor)
            if isinstance(value, Static):
                uses.append(Use(role, value, keyword))
            else:
                inputs.append(tensor)
        if op in (Op.BATCH_NORM, Op.INSTANCE_NORM):
            uses += _running(call)
        first = op in (Op.BATCH_NORM, Op.GROUP_NORM, Op.INSTANCE_NORM)
        axis = 1 if first and inputs[0].ndim > 1 else -1
        return [Mapped(op, settings(call), inputs, uses, axis)]

    return handle


def _running(call: Call) -> list[Use]:
    uses = []
    for role, position, keyword in (
        (Role.RUNNING_MEAN, 1, "running_mean"),
        (Role.RUNNING_VAR, 2, "running_var"),
    ):
        tensor = call.arg(position, keyword)
        if tensor is not None:
            value = call.value(tensor)
            uses.append(Use(role, Static(tensor, getattr(value, "sources", ())), keyword))
    return uses


def _layer_norm_settings(call: Call) -> dict[str, Any]:
    shape = call.arg(1, "normalized_shape")
    sides = 1 if isinstance(shape, int) else len(shape)
    eps = call.arg(4 if call.name == "layer_norm" else 3, "eps")
    if eps is None:
        eps = torch.finfo(call.arg(0, "input").dtype).eps
    return {"axis": -sides, "eps": eps}


# reductions, pools, softmax


def _axes(value: Any) -> Any:
    if value is None:
        return None
    return tuple(value) if isinstance(value, (list, tuple, torch.Size)) else (int(value),)


def _reduce(kind: str) -> Handler:
    def handle(call: Call) -> list[Mapped]:
        if isinstance(call.arg(1, "other"), torch.Tensor):
            pair = Op.MAXIMUM if kind == "max" else Op.MINIMUM
            return [_binary(call, pair, [call.arg(0, "input"), call.arg(1, "other")])]
        dim = call.arg(2, "dim") if kind == "norm" else call.arg(1, "dim", call.kwargs.get("axis"))
        attrs: dict[str, Any] = {"kind": kind, "axis": None, "keepdims": False}
        if kind == "norm":
            order = call.arg(1, "ord" if call.name == "vector_norm" else "p")
            attrs["kind"] = "l2" if order in (None, 2, "fro") else f"l{order}"
            keep = call.arg(3, "keepdim", False)
        else:
            keep = call.arg(2, "keepdim", call.kwargs.get("keepdims", False))
        if kind in ("var", "std"):
            unbiased = dim if isinstance(dim, bool) else call.kwargs.get("unbiased", True)
            dim = None if isinstance(dim, bool) else dim
            unbiased = call.arg(2, "unbiased", unbiased)
            attrs["ddof"] = int(call.kwargs.get("correction", int(bool(unbiased))))
            keep = call.arg(3, "keepdim", False)
        attrs["axis"] = _axes(dim)
        attrs["keepdims"] = bool(keep)
        return [Mapped(Op.REDUCE, attrs, _data(call))]

    return handle


def _pool(kind: str) -> Handler:
    def handle(call: Call) -> list[Mapped]:
        data = call.arg(0, "input")
        axes = int(call.name.split("d")[-2][-1]) if call.name[-1] == "d" else data.ndim - 2
        shift = 1 if call.name.startswith("lp_") else 0
        kernel = _tuple(call.arg(1 + shift, "kernel_size"), axes)
        stride = call.arg(2 + shift, "stride")
        attrs = {
            "kind": kind,
            "kernel": kernel,
            "stride": kernel if stride in (None, [], ()) else _tuple(stride, axes),
            "padding": _tuple(call.arg(3, "padding", 0), axes) if not shift else (0,) * axes,
        }
        if kind == "max":
            attrs["dilation"] = _tuple(call.arg(4, "dilation", 1), axes)
        return [Mapped(Op.POOL, attrs, [data], channel_axis=1)]

    return handle


def _adaptive_pool(kind: str) -> Handler:
    def handle(call: Call) -> list[Mapped]:
        data = call.arg(0, "input")
        axes = int(call.name[-2])
        result = call.outputs[0]
        attrs: dict[str, Any] = {"kind": kind}
        if any(side != 1 for side in result.shape[-axes:]):
            pairs = list(zip(data.shape[-axes:], result.shape[-axes:], strict=True))
            kernel = tuple(max(-(-before // max(after, 1)), 1) for before, after in pairs)
            attrs |= {"kernel": kernel, "stride": kernel, "padding": (0,) * axes}
        return [Mapped(Op.POOL, attrs, [data], channel_axis=1)]

    return handle


# attention


def _attention(call: Call) -> list[Mapped]:
    query, key, value = (call.arg(i, name) for i, name in enumerate(("query", "key", "value")))
    width = int(query.shape[-1])
    scale = call.arg(6, "scale")
    attrs: dict[str, Any] = {
        "heads": int(query.shape[-3]) if query.ndim > 3 else 1,
        "head_dim": width,
        "scale": float(scale) if scale is not None else width**-0.5,
        "causal": bool(call.arg(5, "is_causal", False)),
    }
    inputs = [query, key, value]
    mask = call.arg(3, "attn_mask")
    if mask is not None:
        if _is_activation(call, mask):
            inputs.append(mask)
        attrs["masked"] = True
    return [Mapped(Op.ATTENTION, attrs, inputs)]


# shapes


def _perm(call: Call) -> list[Mapped]:
    data = call.arg(0, "input")
    order = torch.empty(tuple(range(2, 2 + data.ndim)), device="meta")
    rest = map_first(call, order)
    perm = tuple(int(side) - 2 for side in rest.shape)
    return [Mapped(Op.TRANSPOSE, {"perm": perm}, [data])]


def map_first(call: Call, tensor: Any) -> Any:
    """The call's function on another first tensor."""
    if call.args:
        return call.function(tensor, *call.args[1:], **call.kwargs)
    return call.function(**{**call.kwargs, "input": tensor})


def _reshape(call: Call) -> list[Mapped]:
    return [Mapped(Op.RESHAPE, {"shape": tuple(call.outputs[0].shape[1:])}, _data(call))]


def _split(call: Call) -> list[Mapped]:
    data, parts = call.arg(0, "input"), call.outputs
    default = 0
    dim = call.arg(1 if call.name == "unbind" else 2, "dim", default)
    axis = int(dim) - data.ndim if int(dim) >= 0 else int(dim)
    kept = call.name != "unbind"
    sizes = tuple(int(part.shape[axis]) if kept else 1 for part in parts)
    attrs = {"axis": axis, "parts": len(parts), "sizes": sizes}
    return [Mapped(Op.SPLIT, attrs, [data])]


def _index(call: Call) -> list[Mapped]:
    data, index = call.args[0], call.args[1] if len(call.args) > 1 else None
    value = call.value(data)
    if isinstance(value, Static):
        active = [item for item in _all_tensors(call)[1:] if _is_activation(call, item)]
        if value.sources and data.ndim == 2 and not isinstance(index, tuple):
            return [Mapped(Op.EMBEDDING, {}, active, [Use(Role.WEIGHT, value, "weight")], -1)]
        uses = [Use(Role.TABLE, value, "weight")] if value.sources else []
        return [Mapped(Op.GATHER, {}, active, uses)]
    items = index if isinstance(index, tuple) else (index,)
    if any(isinstance(item, (torch.Tensor, list)) for item in items):
        return [Mapped(Op.GATHER, {}, _all_tensors(call))]
    cuts = _cuts(data, items)
    if not cuts:
        return _reshape(call)
    return [Mapped(Op.SLICE, cuts[0] if len(cuts) == 1 else {}, [data])]


def _cuts(data: Any, items: tuple[Any, ...]) -> list[dict[str, Any]]:
    """``axis, start, stop`` of every axis an index cuts; ``squeeze`` when it removes the axis."""
    spent = sum(item is not None and item is not Ellipsis for item in items)
    axis = 0
    cuts: list[dict[str, Any]] = []
    for item in items:
        if item is None:
            continue
        if item is Ellipsis:
            axis += data.ndim - spent
            continue
        side = int(data.shape[axis])
        if isinstance(item, slice) and (item.step in (None, 1)):
            start, stop, _ = slice(_int(item.start), _int(item.stop)).indices(side)
            if (start, stop) != (0, side):
                cuts.append({"axis": axis, "start": start, "stop": stop})
        elif isinstance(item, int) and not isinstance(item, bool):
            start = item % side if side else 0
            cuts.append({"axis": axis, "start": start, "stop": start + 1, "squeeze": True})
        else:
            cuts.append({})
        axis += 1
    return cuts


def _int(value: Any) -> int | None:
    return None if value is None else int(value)


def _select(call: Call) -> list[Mapped]:
    data, dim, start = call.arg(0, "input"), int(call.arg(1, "dim")), call.arg(2, "start")
    if call.name == "select":
        start = call.arg(2, "index")
        length: Any = 1
    else:
        length = call.arg(3, "length")
    if isinstance(start, torch.Tensor) or isinstance(length, torch.Tensor):
        return [Mapped(Op.GATHER, {}, [data])]
    axis = dim % data.ndim
    start = int(start) % int(data.shape[axis])
    attrs = {"axis": axis, "start": start, "stop": start + int(length)}
    if call.name == "select":
        attrs["squeeze"] = True
    return [Mapped(Op.SLICE, attrs, [data])]


def _gather(call: Call) -> list[Mapped]:
    data = call.arg(0, "input")
    if isinstance(call.value(data), Static):
        return _index(call) if call.name == "index_select" else other(call)
    return [Mapped(Op.GATHER, {}, _all_tensors(call))]


def _concat(call: Call) -> list[Mapped]:
    tensors = call.args[0] if call.args else call.kwargs.get("tensors")
    default = {"hstack": 1, "vstack": 0}.get(call.name, 0)
    axis = int(call.arg(1, "dim", call.kwargs.get("axis", default)))
    if call.name == "hstack" and tensors[0].ndim == 1:
        axis = 0
    attrs: dict[str, Any] = {"axis": axis}
    if call.name == "stack":
        attrs["new_axis"] = True
    return [Mapped(Op.CONCAT, attrs, list(tensors))]


def _pad(call: Call) -> list[Mapped]:
    attrs = {"pad": tuple(call.arg(1, "pad")), "mode": call.arg(2, "mode", "constant")}
    return [Mapped(Op.PAD, attrs, _data(call))]


def _resize(call: Call) -> list[Mapped]:
    data, result = call.arg(0, "input"), call.outputs[0]
    factor = result.shape[-1] / max(int(data.shape[-1]), 1)
    attrs = {"factor": int(factor) if factor == int(factor) else factor}
    attrs["mode"] = call.arg(3, "mode", "nearest")
    return [Mapped(Op.RESIZE, attrs, [data], channel_axis=1)]


# choices


def _where(call: Call) -> list[Mapped]:
    if call.name == "masked_fill":
        data, mask, fill = (call.arg(i, key) for i, key in enumerate(("input", "mask", "value")))
        operands = [mask, fill, data]
    else:
        operands = [call.arg(0, "condition"), call.arg(1, "input"), call.arg(2, "other")]
    attrs: dict[str, Any] = {}
    inputs: list[Any] = []
    for position, item in enumerate(operands):
        if isinstance(item, torch.Tensor):
            value = call.value(item)
            if isinstance(value, Ref) or value.sources:
                inputs.append(item)
                continue
            fixed = constant_value(item)
        else:
            fixed = item
        if position and isinstance(fixed, (int, float)):
            attrs |= {"constant": fixed, "constant_position": position}
    return [Mapped(Op.WHERE, attrs, inputs)]


def _compare(kind: str) -> Handler:
    def handle(call: Call) -> list[Mapped]:
        operands = [call.arg(0, "input"), call.arg(1, "other")]
        if kind == "logical_not" or operands[1] is None:
            return [Mapped(Op.COMPARE, {"kind": kind}, operands[:1])]
        mapped = _binary(call, Op.COMPARE, operands)
        mapped.attrs["kind"] = kind
        return [mapped]

    return handle


def _clip(call: Call) -> list[Mapped]:
    low = call.arg(1, "min") if call.name != "clamp_max" else None
    high = call.arg(2, "max") if call.name != "clamp_max" else call.arg(1, "max")
    if isinstance(low, torch.Tensor) or isinstance(high, torch.Tensor):
        return other(call)
    if low == 0 and high is None:
        return [Mapped(Op.RELU, {}, _data(call))]
    attrs = {name: value for name, value in (("min", low), ("max", high)) if value is not None}
    return [Mapped(Op.CLIP, attrs, _data(call))]


def _rrelu(call: Call) -> list[Mapped]:
    """Randomised leaky ReLU: its slope's expectation."""
    slope = (call.arg(1, "lower", 1 / 8) + call.arg(2, "upper", 1 / 3)) / 2
    return [Mapped(Op.LEAKY_RELU, {"negative_slope": slope}, _data(call))]


def _prelu(call: Call) -> list[Mapped]:
    value = call.value(call.arg(1, "weight"))
    if not isinstance(value, Static):
        return other(call)
    return [Mapped(Op.PRELU, {}, _data(call), [Use(Role.SLOPE, value, "weight")])]


def _threshold(call: Call) -> list[Mapped]:
    limit, value = call.arg(1, "threshold"), call.arg(2, "value")
    if value != 0:
        return other(call)
    if limit == 0:
        return [Mapped(Op.RELU, {}, _data(call))]
    return [Mapped(Op.THRESHOLDED_RELU, {"alpha": limit}, _data(call))]


def _dropout(call: Call) -> list[Mapped]:
    training = call.arg(2, "training", True)
    p = float(call.arg(1, "p", 0.5)) if training else 0.0
    return [Mapped(Op.DROPOUT, {"p": p}, _data(call))]


def _detach(call: Call) -> list[Mapped]:
    return [Mapped(Op.IDENTITY, {"stop_gradient": True}, _data(call))]


def other(call: Call) -> list[Mapped]:
    """An operator outside the vocabulary: its edges and its trainable operands are kept."""
    inputs, uses = [], []
    for tensor in _all_tensors(call):
        value = call.value(tensor)
        if isinstance(value, Ref):
            inputs.append(tensor)
        elif value.sources:
            uses.append(Use(Role.OTHER, value, "weight"))
    return [Mapped(Op.OTHER, {"function": call.name}, inputs, uses)]


_UNARY: dict[str, Op] = {
    "relu": Op.RELU,
    "relu6": Op.RELU6,
    "selu": Op.SELU,
    "silu": Op.SILU,
    "mish": Op.MISH,
    "hardswish": Op.HARD_SWISH,
    "sigmoid": Op.SIGMOID,
    "special_expit": Op.SIGMOID,
    "hardsigmoid": Op.HARD_SIGMOID,
    "logsigmoid": Op.LOG_SIGMOID,
    "log_sigmoid": Op.LOG_SIGMOID,
    "tanh": Op.TANH,
    "softsign": Op.SOFTSIGN,
    "erf": Op.ERF,
    "special_erf": Op.ERF,
    "atan": Op.ATAN,
    "arctan": Op.ATAN,
    "sin": Op.SIN,
    "cos": Op.COS,
    "square": Op.SQUARE,
    "sqrt": Op.SQRT,
    "reciprocal": Op.RECIPROCAL,
    "rsqrt": Op.RECIPROCAL_SQRT,
    "exp": Op.EXP,
    "log": Op.LOG,
    "abs": Op.ABS,
    "absolute": Op.ABS,
    "neg": Op.NEG,
    "negative": Op.NEG,
    "positive": Op.IDENTITY,
}

_SETTINGS: dict[str, _Simple] = {
    "leaky_relu": _Simple(Op.LEAKY_RELU, {"negative_slope": (1, "negative_slope", 0.01)}),
    "elu": _Simple(Op.ELU, {"alpha": (1, "alpha", 1.0)}),
    "celu": _Simple(Op.CELU, {"alpha": (1, "alpha", 1.0)}),
    "gelu": _Simple(Op.GELU, {"approximate": (1, "approximate", "none")}),
    "softplus": _Simple(Op.SOFTPLUS, {"beta": (1, "beta", 1.0)}),
    "hardtanh": _Simple(Op.HARD_TANH, {"min": (1, "min_val", -1.0), "max": (2, "max_val", 1.0)}),
    "softshrink": _Simple(Op.SOFTSHRINK, {"lambd": (1, "lambd", 0.5)}),
    "hardshrink": _Simple(Op.HARDSHRINK, {"lambd": (1, "lambd", 0.5)}),
    "softmax": _Simple(Op.SOFTMAX, {"axis": (1, "dim", -1)}),
    "log_softmax": _Simple(Op.LOG_SOFTMAX, {"axis": (1, "dim", -1)}),
    "glu": _Simple(Op.GLU, {"axis": (1, "dim", -1)}),
    "local_response_norm": _Simple(
        Op.LOCAL_RESPONSE_NORM,
        {"size": (1, "size", None), "alpha": (2, "alpha", 1e-4), "beta": (3, "beta", 0.75)},
    ),
    "normalize": _Simple(
        Op.LP_NORM, {"p": (1, "p", 2.0), "axis": (2, "dim", 1), "eps": (3, "eps", 1e-12)}
    ),
    "pixel_shuffle": _Simple(Op.PIXEL_SHUFFLE, {"factor": (1, "upscale_factor", None)}),
}

_COMPARISONS = {
    "gt": "greater",
    "greater": "greater",
    "lt": "less",
    "less": "less",
    "ge": "greater_equal",
    "greater_equal": "greater_equal",
    "le": "less_equal",
    "less_equal": "less_equal",
    "eq": "equal",
    "ne": "not_equal",
    "not_equal": "not_equal",
    "logical_and": "logical_and",
    "logical_or": "logical_or",
    "logical_xor": "logical_xor",
    "logical_not": "logical_not",
    "isnan": "is_nan",
    "isinf": "is_inf",
    "isfinite": "is_finite",
}

_SHAPES = {
    **dict.fromkeys(
        [
            "reshape",
            "view",
            "view_as",
            "reshape_as",
            "flatten",
            "unflatten",
            "squeeze",
            "unsqueeze",
            "ravel",
            "pixel_unshuffle",
            "channel_shuffle",
            "atleast_2d",
        ],
        _reshape,
    ),
    **dict.fromkeys(
        [
            "permute",
            "transpose",
            "t",
            "T",
            "mT",
            "swapaxes",
            "swapdims",
            "movedim",
            "moveaxis",
            "adjoint",
            "H",
            "mH",
        ],
        _perm,
    ),
    **dict.fromkeys(
        ["expand", "expand_as", "broadcast_to", "repeat", "tile", "repeat_interleave"],
        _Simple(Op.EXPAND),
    ),
    **dict.fromkeys(["chunk", "split", "split_with_sizes", "tensor_split", "unbind"], _split),
    **dict.fromkeys(
        [
            "gather",
            "index_select",
            "take",
            "take_along_dim",
            "masked_select",
            "roll",
            "flip",
            "unfold",
            "_pack_padded_sequence",
            "_pad_packed_sequence",
        ],
        _gather,
    ),
    **dict.fromkeys(["cat", "concat", "concatenate", "stack", "hstack", "vstack"], _concat),
    **dict.fromkeys(["interpolate", "upsample", "upsample_nearest", "upsample_bilinear"], _resize),
    "getitem": _index,
    "select": _select,
    "narrow": _select,
    "pad": _pad,
}

_NORMS: dict[str, Handler] = {
    "layer_norm": _norm(Op.LAYER_NORM, 2, 3, _layer_norm_settings),
    "rms_norm": _norm(Op.RMS_NORM, 2, None, _layer_norm_settings),
    "batch_norm": _norm(
        Op.BATCH_NORM,
        3,
        4,
        lambda call: {
            "eps": call.arg(7, "eps", 1e-5),
            "training": bool(call.arg(5, "training", False)),
        },
    ),
    "instance_norm": _norm(Op.INSTANCE_NORM, 3, 4, lambda call: {"eps": call.arg(7, "eps", 1e-5)}),
    "group_norm": _norm(
        Op.GROUP_NORM,
        2,
        3,
        lambda call: {"groups": int(call.arg(1, "num_groups")), "eps": call.arg(4, "eps", 1e-5)},
    ),
}

_POOLS: dict[str, Handler] = {
    **{
        f"{kind}_pool{n}d": _pool(op)
        for n in "123"
        for kind, op in (("max", "max"), ("avg", "mean"))
    },
    **{f"lp_pool{n}d": _pool("l2") for n in "12"},
    **{
        f"adaptive_{kind}_pool{n}d": _adaptive_pool(op)
        for n in "123"
        for kind, op in (("max", "max"), ("avg", "mean"))
    },
}

_REDUCTIONS: dict[str, Handler] = {
    **{name: _reduce(name) for name in ("mean", "sum", "max", "min", "prod", "var", "std", "norm")},
    "amax": _reduce("max"),
    "amin": _reduce("min"),
    "nanmean": _reduce("mean"),
    "nansum": _reduce("sum"),
    "logsumexp": _reduce("logsumexp"),
    "vector_norm": _reduce("norm"),
    "linalg_vector_norm": _reduce("norm"),
}

_ARITHMETIC: dict[str, Handler] = {
    "add": _arithmetic(Op.ADD),
    "sub": _arithmetic(Op.SUB),
    "subtract": _arithmetic(Op.SUB),
    "rsub": _arithmetic(Op.SUB, swapped=True),
    "mul": _arithmetic(Op.MUL),
    "multiply": _arithmetic(Op.MUL),
    "div": _arithmetic(Op.DIV),
    "divide": _arithmetic(Op.DIV),
    "true_divide": _arithmetic(Op.DIV),
    "rdiv": _arithmetic(Op.DIV, swapped=True),
    "pow": _arithmetic(Op.POW),
    "rpow": _arithmetic(Op.POW, swapped=True),
    "maximum": _arithmetic(Op.MAXIMUM),
    "minimum": _arithmetic(Op.MINIMUM),
}

_LAYERS: dict[str, Handler] = {
    "linear": _linear,
    "bilinear": _bilinear,
    "embedding": _embedding,
    "embedding_bag": _embedding,
    **{f"conv{n}d": _conv for n in "123"},
    **{f"conv_transpose{n}d": _conv_transpose for n in "123"},
    **dict.fromkeys(
        [
            "lstm",
            "gru",
            "rnn_tanh",
            "rnn_relu",
            "lstm_cell",
            "gru_cell",
            "rnn_tanh_cell",
            "rnn_relu_cell",
        ],
        recurrent,
    ),
    **dict.fromkeys(
        [
            "matmul",
            "rmatmul",
            "mm",
            "bmm",
            "mv",
            "dot",
            "inner",
            "addmm",
            "addmv",
            "baddbmm",
            "addbmm",
            "vecdot",
            "linalg_matmul",
            "_grouped_mm",
            "grouped_mm",
        ],
        matrix_product,
    ),
    "einsum": einsum,
    "scaled_dot_product_attention": _attention,
}

_CHOICES: dict[str, Handler] = {
    "where": _where,
    "masked_fill": _where,
    **{name: _compare(kind) for name, kind in _COMPARISONS.items()},
    **dict.fromkeys(["clamp", "clip", "clamp_min", "clamp_max"], _clip),
    "rrelu": _rrelu,
    "prelu": _prelu,
    "threshold": _threshold,
    **dict.fromkeys(
        [
            "dropout",
            "dropout1d",
            "dropout2d",
            "dropout3d",
            "alpha_dropout",
            "feature_alpha_dropout",
            "feature_dropout",
        ],
        _dropout,
    ),
    "detach": _detach,
    "data": _detach,
}

UNCHANGED = frozenset(
    [
        "contiguous",
        "clone",
        "to",
        "float",
        "half",
        "double",
        "bfloat16",
        "type",
        "type_as",
        "requires_grad",
        "identity",
        "alias",
        "cpu",
        "cuda",
        "_to_copy",
        "conj",
        "resolve_conj",
        "resolve_neg",
        "view_as_real",
        "int",
        "long",
        "lift_fresh",
    ]
)
"""Functions whose result holds the same values in the same shape: no layer of their own."""

HANDLERS: dict[str, Handler] = {
    **{name: _Simple(op) for name, op in _UNARY.items()},
    **_SETTINGS,
    **_SHAPES,
    **_NORMS,
    **_POOLS,
    **_REDUCTIONS,
    **_ARITHMETIC,
    **_LAYERS,
    **_CHOICES,
}


def describe(call: Call) -> list[Mapped]:
    """The layers that one call stands for, in order; each but the first reads the one before."""
    if call.name in UNCHANGED and operand(call).shape == call.outputs[0].shape:
        return []
    return HANDLERS.get(call.name, other)(call)
