"""Activations and arithmetic."""

from __future__ import annotations

from typing import Any

from initlint.load.onnx import shapes
from initlint.load.onnx.builder import Builder, long_axis, operand_view
from initlint.load.onnx.call import Call
from initlint.load.onnx.names import names_a_parameter
from initlint.load.onnx.operators.registry import MICROSOFT, Result, handles
from initlint.load.onnx.values import Dynamic, Fixed, RuntimeScale, Value, scaled
from initlint.model import Op, Role

_UNARY: dict[str, tuple[Op, dict[str, tuple[str, float]]]] = {
    "Relu": (Op.RELU, {}),
    "LeakyRelu": (Op.LEAKY_RELU, {"negative_slope": ("alpha", 0.01)}),
    "ThresholdedRelu": (Op.THRESHOLDED_RELU, {"alpha": ("alpha", 1.0)}),
    "Elu": (Op.ELU, {"alpha": ("alpha", 1.0)}),
    "Celu": (Op.CELU, {"alpha": ("alpha", 1.0)}),
    "Selu": (Op.SELU, {"alpha": ("alpha", 1.6732632), "gamma": ("gamma", 1.0507010)}),
    "Mish": (Op.MISH, {}),
    "HardSwish": (Op.HARD_SWISH, {}),
    "Softplus": (Op.SOFTPLUS, {}),
    "Sigmoid": (Op.SIGMOID, {}),
    "HardSigmoid": (Op.HARD_SIGMOID, {"alpha": ("alpha", 0.2), "beta": ("beta", 0.5)}),
    "Tanh": (Op.TANH, {}),
    "Softsign": (Op.SOFTSIGN, {}),
    "Erf": (Op.ERF, {}),
    "Atan": (Op.ATAN, {}),
    "Sin": (Op.SIN, {}),
    "Cos": (Op.COS, {}),
    "Exp": (Op.EXP, {}),
    "Log": (Op.LOG, {}),
    "Sqrt": (Op.SQRT, {}),
    "Reciprocal": (Op.RECIPROCAL, {}),
    "Abs": (Op.ABS, {}),
    "Neg": (Op.NEG, {}),
    "Not": (Op.COMPARE, {}),
    "IsNaN": (Op.COMPARE, {}),
    "IsInf": (Op.COMPARE, {}),
}


def _unary(builder: Builder, call: Call) -> Result:
    op, settings = _UNARY[call.op]
    attrs = {ours: call.number(theirs, default) for ours, (theirs, default) in settings.items()}
    value = call.value(0)
    axis = value.layer.channel_axis if isinstance(value, Dynamic) else -1
    return builder.emit(op, call, [value], attrs=attrs, shape=call.shape(0), channel_axis=axis)


handles(*_UNARY)(_unary)


@handles("Gelu")
def _gelu(builder: Builder, call: Call) -> Result:
    attrs = {"approximate": call.text("approximate", "none")}
    return builder.emit(Op.GELU, call, [call.value(0)], attrs=attrs, shape=call.shape(0))


@handles("Gelu", domain=MICROSOFT)
def _gelu_microsoft(builder: Builder, call: Call) -> Result:
    attrs = {"approximate": "none"}
    return builder.emit(Op.GELU, call, [call.value(0)], attrs=attrs, shape=call.shape(0))


@handles("QuickGelu", domain=MICROSOFT)
def _quick_gelu(builder: Builder, call: Call) -> Result:
    alpha = call.number("alpha", 1.702)
    op, attrs = (Op.SILU, {}) if alpha == 1 else (Op.QUICK_GELU, {"alpha": alpha})
    return builder.emit(op, call, [call.value(0)], attrs=attrs, shape=call.shape(0))


@handles("Swish")
def _swish(builder: Builder, call: Call) -> Result:
    alpha = call.number("alpha", 1.0)
    op, attrs = (Op.SILU, {}) if alpha == 1 else (Op.QUICK_GELU, {"alpha": alpha})
    return builder.emit(op, call, [call.value(0)], attrs=attrs, shape=call.shape(0))


@handles("BiasGelu", "FastGelu", domain=MICROSOFT)
def _bias_gelu(builder: Builder, call: Call) -> Result:
    value = call.value(0)
    if value is None:
        return None
    bias = call.value(1)
    if bias is not None:
        value = with_bias(builder, call, value, bias)
    attrs = {"approximate": "tanh" if call.op == "FastGelu" else "none"}
    return builder.emit(Op.GELU, call, [value], attrs=attrs, shape=value.shape)


@handles("BiasSplitGelu", domain=MICROSOFT)
def _bias_split_gelu(builder: Builder, call: Call) -> Result:
    value = call.value(0)
    if value is None:
        return None
    bias = call.value(1)
    if bias is not None:
        value = with_bias(builder, call, value, bias)
    attrs = {"activation": "gelu", "gate_first": False, "axis": -1}
    return builder.emit(Op.GLU, call, [value], attrs=attrs)


def with_bias(builder: Builder, call: Call, value: Value, bias: Value) -> Value:
    """``value + bias`` inside a fused operator: taken into the layer before where that is one."""
    if isinstance(value, Dynamic) and isinstance(bias, Fixed):
        outputs = value.layer.outputs
        taken = builder.take_bias(value, bias, call)
        if taken is not None:
            taken.layer.outputs = outputs
            return taken
        params, attrs = builder.constant_operand(bias, Role.SHIFT, "bias", True)
        return builder.emit(Op.ADD, call, [value], params, attrs, shape=value.shape, part="bias")
    return builder.emit(Op.ADD, call, [value, bias], shape=value.shape, part="bias")


@handles("BiasAdd", domain=MICROSOFT)
def _bias_add(builder: Builder, call: Call) -> Result:
    value, bias = call.value(0), call.value(1)
    if value is None or bias is None:
        return None
    summed = with_bias(builder, call, value, bias)
    return builder.emit(Op.ADD, call, [summed, call.value(2)], shape=summed.shape)


@handles("Clip")
def _clip(builder: Builder, call: Call) -> Result:
    low, high = _bound(call, "min", 1), _bound(call, "max", 2)
    attrs: dict[str, Any] = {"min": low, "max": high}
    op = Op.CLIP
    if (low, high) == (0.0, 6.0):
        op = Op.RELU6
    elif (low, high) == (0.0, None):
        op = Op.RELU
    elif (low, high) == (-1.0, 1.0):
        op = Op.HARD_TANH
    return builder.emit(op, call, [call.value(0)], attrs=attrs, shape=call.shape(0))


def _bound(call: Call, name: str, index: int) -> float | None:
    """A bound of Clip; an infinite one, or the largest float, is none."""
    fixed = call.fixed(index)
    value = fixed.scalar() if fixed is not None else call.attrs.get(name)
    return float(value) if isinstance(value, (int, float)) and abs(value) < 3e38 else None


@handles("Shrink")
def _shrink(builder: Builder, call: Call) -> Result:
    bias, lambd = call.number("bias", 0.0), call.number("lambd", 0.5)
    op = Op.HARDSHRINK if bias == 0 else Op.SOFTSHRINK if bias == lambd else Op.OTHER
    attrs = {"alpha": lambd, "operator": "Shrink"}
    return builder.emit(op, call, [call.value(0)], attrs=attrs, shape=call.shape(0))


@handles("PRelu")
def _prelu(builder: Builder, call: Call) -> Result:
    slope = call.weight(1)
    if slope is None:
        attrs: dict[str, Any] = {"operator": "PRelu"}
        return builder.emit(Op.OTHER, call, call.inputs, attrs=attrs, shape=call.shape(0))
    params = [builder.param(Role.SLOPE, slope, "weight", operand_view(slope))]
    return builder.emit(Op.PRELU, call, [call.value(0)], params, shape=call.shape(0))


_ARITHMETIC = {
    "Add": Op.ADD,
    "Sub": Op.SUB,
    "Mul": Op.MUL,
    "Div": Op.DIV,
    "Pow": Op.POW,
    "Max": Op.MAXIMUM,
    "Min": Op.MINIMUM,
    "Sum": Op.ADD,
}
_ORDERED = (Op.SUB, Op.DIV, Op.POW)


@handles(*_ARITHMETIC)
def _arithmetic(builder: Builder, call: Call) -> Result:
    op = _ARITHMETIC[call.op]
    inputs = [_aligned(call, index) for index in range(len(call.inputs))]
    shape = shapes.broadcast(*(value.shape for value in inputs if value is not None))
    if len(inputs) == 1:
        return inputs[0]
    if len(inputs) != 2:
        return builder.emit(op, call, inputs, shape=shape)
    left, right = inputs
    scaled = _runtime(call.op, left, right)
    if scaled is not None:
        return scaled
    if isinstance(left, RuntimeScale) or isinstance(right, RuntimeScale):
        return builder.emit(Op.OTHER, call, inputs, attrs={"operator": call.op}, shape=shape)
    fixed = right if isinstance(right, Fixed) else left if isinstance(left, Fixed) else None
    value = left if isinstance(right, Fixed) else right
    if fixed is None or value is None:
        return builder.emit(op, call, inputs, shape=shape)
    if not isinstance(value, Dynamic):
        value = builder.dynamic(value, call)
    first = fixed is left
    if op is Op.ADD:
        taken = builder.take_bias(value, fixed, call)
        if taken is not None:
            return taken
    role, leaf = _role(op, fixed)
    parameter = fixed.size == 1 and _is_parameter(builder, call, op, fixed)
    params, attrs = builder.constant_operand(fixed, role, leaf, parameter)
    if params and (axis := long_axis(fixed.shape)) is not None:
        attrs["along"] = axis
    if op in _ORDERED and first:
        attrs["constant_first"] = True
    axis = value.layer.channel_axis
    return builder.emit(op, call, [value], params, attrs, shape=shape, channel_axis=axis)


def _is_parameter(builder: Builder, call: Call, op: Op, fixed: Fixed) -> bool:
    """A learned scalar, by its name; a factor of zero is one whatever its name.

    Nobody multiplies by a literal zero, but ReZero gates start there, and exporters fold constant
    factors into them under a made-up name.
    """
    if names_a_parameter(call, fixed, builder.torch):
        return True
    return op is Op.MUL and fixed.floating and fixed.scalar() == 0


def _role(op: Op, fixed: Fixed) -> tuple[Role, str]:
    """Role of a constant operand: a shift repeats over positions, a table does not."""
    if op in (Op.MUL, Op.DIV):
        return Role.GAIN, "weight"
    if op in (Op.ADD, Op.SUB):
        vector = sum(side != 1 for side in fixed.shape) <= 1
        return (Role.SHIFT, "bias") if vector else (Role.TABLE, "table")
    return Role.OTHER, "value"


def _aligned(call: Call, index: int) -> Value | None:
    """An operand; before operator set 7, ``axis`` says where the second one is aligned."""
    value = call.value(index)
    if index != 1 or "axis" not in call.attrs or call.opset >= 7 or not isinstance(value, Fixed):
        return value
    shape = call.shape(0)
    axis = call.integer("axis", -1)
    if shape is None or not 0 <= axis <= len(shape) - len(value.shape):
        return value
    trailing = len(shape) - axis - len(value.shape)
    return value.seen_as(value.tensor.reshape(*value.shape, *(1,) * trailing))


def _runtime(op: str, left: Value | None, right: Value | None) -> Value | None:
    """Products with the scale that DynamicQuantizeLinear computed.

    Activations pass the loader unquantised, so of ``x_scale * w_scale`` only ``w_scale`` is left
    to apply, and it belongs to the weight.
    """
    if op != "Mul":
        return None
    if isinstance(right, RuntimeScale):
        left, right = right, left
    if not isinstance(left, RuntimeScale):
        return None
    if isinstance(right, Fixed):
        return RuntimeScale(right) if left.constant is None else None
    if isinstance(right, Dynamic):
        if left.constant is None:
            return right
        weight = right.layer.param(Role.WEIGHT)
        if weight is not None and weight.quantised:
            apply_scale(weight, left.constant)
            return right
    return None


def apply_scale(weight: Any, scale: Fixed) -> None:
    """Multiply a canonical weight by a scale per tensor or per output unit."""
    if not scale.small:
        return
    values = scale.values().reshape(-1)
    units = weight.tensor.shape[0]
    if values.size == 1:
        weight.tensor = scaled(weight.tensor, float(values[0]))
    elif values.size == units:
        weight.tensor = scaled(
            weight.tensor, values.reshape(-1, *(1,) * (len(weight.tensor.shape) - 1))
        )


@handles("Where")
def _where(builder: Builder, call: Call) -> Result:
    shape = shapes.broadcast(*(call.shape(index) for index in range(3)))
    attrs: dict[str, Any] = {}
    for index in (1, 2):
        fixed = call.fixed(index)
        if fixed is not None and fixed.small:
            attrs["constant"] = fixed.scalar() if fixed.size == 1 else fixed.values()
            attrs["constant_position"] = index
    return builder.emit(Op.WHERE, call, call.inputs, attrs=attrs, shape=shape)


@handles("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Xor")
def _compare(builder: Builder, call: Call) -> Result:
    shape = shapes.broadcast(*(call.shape(index) for index in range(len(call.inputs))))
    attrs: dict[str, Any] = {"kind": call.op}
    fixed = [call.fixed(index) for index in range(len(call.inputs))]
    for index, bound in enumerate(fixed):
        if bound is not None and bound.size == 1 and sum(item is not None for item in fixed) == 1:
            attrs |= {"constant": bound.scalar()} | ({} if index else {"constant_first": True})
    return builder.emit(Op.COMPARE, call, call.inputs, attrs=attrs, shape=shape)
