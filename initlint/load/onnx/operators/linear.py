"""Matrix products: Gemm, MatMul, Einsum and their fused relatives."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from initlint.load.einsum import is_bilinear, is_elementwise, pairwise
from initlint.load.onnx import shapes
from initlint.load.onnx.builder import Builder, flat
from initlint.load.onnx.call import Call
from initlint.load.onnx.operators.registry import MICROSOFT, Result, handles
from initlint.load.onnx.values import Dynamic, Fixed, ParamDraft, Shape, Value, scaled
from initlint.model import Op, Role, Tensor

MAX_STACKED = 256
"""Matrices of a stacked weight (experts, heads) that become parameters of their own."""


def matrices(builder: Builder, fixed: Fixed, tensor: Tensor) -> list[ParamDraft]:
    """Weights of a layer from ``(…, out, in)``: one per matrix of a stack."""
    if len(tensor.shape) <= 2:
        return [builder.param(Role.WEIGHT, fixed, "weight", tensor)]
    rows, columns = tensor.shape[-2:]
    count = prod(tensor.shape[:-2])
    if count == 1 or not tensor.size:
        return [builder.param(Role.WEIGHT, fixed, "weight", tensor.reshape(rows, columns))]
    if count > MAX_STACKED:
        merged = tensor.reshape(count * rows, columns)
        return [builder.param(Role.WEIGHT, fixed, "weight", merged, packed=count)]
    stack = tensor.reshape(count, rows, columns)
    return [
        builder.param(
            Role.WEIGHT,
            fixed,
            "weight",
            stack.take(0, index, index + 1).reshape(rows, columns),
            gate=str(index),
            packed=count,
        )
        for index in range(count)
    ]


def swapped(tensor: Tensor) -> Tensor:
    """The last two axes exchanged; a vector becomes one row."""
    if len(tensor.shape) == 1:
        return tensor.reshape(1, *tensor.shape)
    last = len(tensor.shape) - 1
    return tensor.transpose(*range(last - 1), last, last - 1)


def product(
    builder: Builder,
    call: Call,
    left: Value | None,
    right: Value | None,
    transposed: tuple[bool, bool] = (False, False),
    alpha: float = 1.0,
    part: str = "",
) -> Dynamic:
    """``alpha · left @ right`` as a layer: LINEAR when one side is a weight, MATMUL otherwise."""
    shape = shapes.matmul(_seen(left, transposed[0]), _seen(right, transposed[1]))
    attrs: dict[str, Any] = {} if alpha == 1 else {"alpha": alpha}
    if isinstance(right, Fixed) and right.floating and not isinstance(left, Fixed):
        tensor = right.tensor if transposed[1] else swapped(right.tensor)
        params = matrices(builder, right, tensor if alpha == 1 else scaled(tensor, alpha))
        return builder.emit(Op.LINEAR, call, [left], params, shape=shape, part=part)
    if isinstance(left, Fixed) and left.floating and not isinstance(right, Fixed):
        tensor = left.tensor
        if len(tensor.shape) == 1:
            tensor = tensor.reshape(1, *tensor.shape)
        tensor = swapped(tensor) if transposed[0] else tensor
        params = matrices(builder, left, tensor if alpha == 1 else scaled(tensor, alpha))
        return builder.emit(
            Op.LINEAR, call, [right], params, {}, shape=shape, channel_axis=-2, part=part
        )
    sides = [value if value is None else builder.dynamic(value, call) for value in (left, right)]
    attrs["transposed"] = transposed
    return builder.emit(Op.MATMUL, call, sides, attrs=attrs, shape=shape, part=part)


def _seen(value: Value | None, transposed: bool) -> Shape | None:
    shape = None if value is None else value.shape
    if shape is None or not transposed or len(shape) < 2:
        return shape
    return (*shape[:-2], shape[-1], shape[-2])


@handles("MatMul")
def _matmul(builder: Builder, call: Call) -> Result:
    return product(builder, call, call.value(0), call.value(1))


@handles("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)
def _fused_matmul(builder: Builder, call: Call) -> Result:
    if call.integer("transBatchA", 0) or call.integer("transBatchB", 0):
        return None
    transposed = bool(call.integer("transA", 0)), bool(call.integer("transB", 0))
    alpha = call.number("alpha", 1.0)
    return product(builder, call, call.value(0), call.value(1), transposed, alpha)


@handles("FusedMatMulActivation", domain=MICROSOFT)
def _fused_matmul_activation(builder: Builder, call: Call) -> Result:
    transposed = bool(call.integer("transA", 0)), bool(call.integer("transB", 0))
    alpha = call.number("alpha", 1.0)
    result = product(builder, call, call.value(0), call.value(1), transposed, alpha, "matmul")
    return activation(builder, call, result)


def gemm(builder: Builder, call: Call, part: str = "") -> Dynamic:
    """``alpha · A @ B + beta · C``."""
    transposed = bool(call.integer("transA", 0)), bool(call.integer("transB", 0))
    left, right, addend = call.value(0), call.value(1), call.value(2)
    beta = call.number("beta", 1.0)
    bias: list[ParamDraft] = []
    weight = next((v for v in (right, left) if isinstance(v, Fixed) and v.floating), None)
    inner = part
    if addend is not None and beta:
        units = _units(right, transposed[1]) if weight is right else None
        if isinstance(addend, Fixed) and addend.floating and addend.size == units:
            tensor = flat(addend.tensor) if beta == 1 else scaled(flat(addend.tensor), beta)
            bias = [builder.param(Role.BIAS, addend, "bias", tensor)]
        else:
            inner = "matmul"
    result = product(builder, call, left, right, transposed, call.number("alpha", 1.0), inner)
    result.layer.params.extend(bias)
    if inner == part:
        return result
    if isinstance(addend, Fixed):
        if beta != 1:
            addend = addend.seen_as(scaled(addend.tensor, beta))
        vector = sum(side != 1 for side in addend.shape) <= 1
        role, leaf = (Role.SHIFT, "bias") if vector else (Role.TABLE, "bias")
        params, attrs = builder.constant_operand(addend, role, leaf, False)
        return builder.emit(Op.ADD, call, [result], params, attrs, shape=result.shape, part=part)
    return builder.emit(Op.ADD, call, [result, addend], shape=result.shape, part=part)


def _units(value: Value | None, transposed: bool) -> int | None:
    if not isinstance(value, Fixed) or len(value.shape) != 2:
        return None
    return value.shape[0] if transposed else value.shape[1]


@handles("Gemm")
def _gemm(builder: Builder, call: Call) -> Result:
    return gemm(builder, call)


@handles("FusedGemm", "GemmFastGelu", domain=MICROSOFT)
def _fused_gemm(builder: Builder, call: Call) -> Result:
    if call.op == "GemmFastGelu":
        result = product(builder, call, call.value(0), call.value(1), part="gemm")
        result.layer.params.extend(builder.vector(Role.BIAS, call.value(2), "bias"))
        attrs = {"approximate": "tanh"}
        return builder.emit(Op.GELU, call, [result], attrs=attrs, shape=result.shape)
    return activation(builder, call, gemm(builder, call, "gemm"))


_ACTIVATIONS = {
    "Relu": Op.RELU,
    "LeakyRelu": Op.LEAKY_RELU,
    "Tanh": Op.TANH,
    "Sigmoid": Op.SIGMOID,
    "HardSigmoid": Op.HARD_SIGMOID,
    "Softplus": Op.SOFTPLUS,
    "Elu": Op.ELU,
    "Selu": Op.SELU,
    "Clip": Op.CLIP,
    "Gelu": Op.GELU,
    "QuickGelu": Op.QUICK_GELU,
    "HardSwish": Op.HARD_SWISH,
}


def activation(builder: Builder, call: Call, value: Dynamic) -> Dynamic:
    """The activation that a fused operator names in its attributes."""
    name = call.text("activation")
    if not name:
        value.layer.part = ""
        value.layer.outputs = [text for text in call.outputs if text]
        value.layer.uses = call.output_uses
        return value
    value.layer.attrs["fused"] = True
    attrs: dict[str, Any] = {}
    given = call.attrs.get("activation_params", ())
    alpha = given[0] if isinstance(given, tuple) and given else None
    alpha = call.number(
        "activation_alpha", call.number("leaky_relu_alpha", 0.01 if alpha is None else float(alpha))
    )
    if name == "LeakyRelu":
        attrs["negative_slope"] = alpha
    elif name in ("Elu", "HardSigmoid"):
        attrs["alpha"] = alpha
    elif name == "Clip" and isinstance(given, tuple) and len(given) == 2:
        attrs.update(min=float(given[0]), max=float(given[1]))
    op = _ACTIVATIONS.get(name, Op.OTHER)
    return builder.emit(
        op,
        call,
        [value],
        attrs=attrs,
        shape=value.shape,
        channel_axis=value.layer.channel_axis,
    )


@handles("Einsum")
def _einsum(builder: Builder, call: Call) -> Result:
    equation = call.text("equation").replace(" ", "")
    steps = pairwise(equation)
    dynamic = any(isinstance(value, Dynamic) for value in call.inputs[:2])
    if len(steps) + 1 != len(call.inputs) or not dynamic:
        return _product(builder, call, equation)
    made = call.inputs[0]
    for step, operand in zip(steps, call.inputs[1:], strict=True):
        last = step is steps[-1]
        pair = replace(call, inputs=(made, operand), outputs=call.outputs if last else ())
        result = _product(builder, pair, step)
        if isinstance(result, list) or result is None:
            return None
        made = result
    return made


def _product(builder: Builder, call: Call, equation: str) -> Result:
    """One Einstein sum of two tensors, or a bilinear form."""
    terms, _, result = equation.partition("->")
    operands = terms.split(",")
    fixed = [
        index
        for index, value in enumerate(call.inputs)
        if isinstance(value, Fixed) and value.floating
    ]
    attrs = {"equation": equation}
    plain = "->" in equation and "." not in terms and len(operands) == len(call.inputs)
    if not plain or len(fixed) != 1 or len(set(operands[fixed[0]])) != len(operands[fixed[0]]):
        product = Op.MUL if is_elementwise(equation) else Op.MATMUL
        op = product if len(call.inputs) == 2 and not fixed else Op.OTHER
        if len(call.inputs) == 1:
            op = Op.TRANSPOSE if sorted(terms) == sorted(result) else Op.REDUCE
            attrs["kind"] = "sum"
        return builder.emit(op, call, call.inputs, attrs=attrs)
    weight = call.inputs[fixed[0]]
    if not isinstance(weight, Fixed) or len(weight.shape) != len(operands[fixed[0]]):
        return None
    return _einsum_weight(builder, call, weight, operands, fixed[0], result, attrs)


def _einsum_weight(
    builder: Builder,
    call: Call,
    weight: Fixed,
    operands: list[str],
    position: int,
    result: str,
    attrs: dict[str, Any],
) -> Result:
    """Labels of the weight that survive are units, or a stack when the input has them too."""
    own = operands[position]
    elsewhere = set("".join(operands[:position] + operands[position + 1 :]))
    stacked = [label for label in own if label in result and label in elsewhere]
    units = [label for label in own if label in result and label not in elsewhere]
    inputs = [label for label in own if label not in result]
    dynamic = [value for index, value in enumerate(call.inputs) if index != position]
    sources = [term for index, term in enumerate(operands) if index != position]
    inputs.sort(key=lambda label: next((n for n, term in enumerate(sources) if label in term), 0))
    sizes = dict(zip(own, weight.shape, strict=True))
    shape: Shape = tuple(sizes.get(label) for label in result)
    if not inputs:
        role = Role.GAIN if len(own) == 1 else Role.TABLE
        params = [builder.param(role, weight, "weight")]
        return builder.emit(Op.MUL, call, dynamic, params, attrs, shape=shape)
    order = [own.index(label) for label in (*stacked, *units, *inputs)]
    tensor = weight.tensor.transpose(*order)
    rows = prod(sizes[label] for label in units)
    if len(inputs) == 2 and not stacked and is_bilinear(operands, result):
        sides = tuple(sizes[label] for label in inputs)
        params = [builder.param(Role.WEIGHT, weight, "weight", tensor.reshape(rows, *sides))]
        return builder.emit(Op.BILINEAR, call, dynamic, params, attrs, shape=shape)
    columns = prod(sizes[label] for label in inputs)
    count = prod(sizes[label] for label in stacked)
    if not tensor.size:
        return None
    full = (count, rows, columns) if stacked else (rows, columns)
    params = matrices(builder, weight, tensor.reshape(*full))
    axis = -1
    if units:
        axis = result.index(units[0]) if len(units) == 1 else -1
        axis = -1 if axis == len(result) - 1 else axis
    return builder.emit(Op.LINEAR, call, dynamic, params, attrs, shape=shape, channel_axis=axis)
