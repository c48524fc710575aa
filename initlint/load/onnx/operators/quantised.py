"""Integer operators: weights behind a scale, activations passed on as if not quantised."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from initlint.load.onnx import shapes
from initlint.load.onnx.builder import Builder, flat
from initlint.load.onnx.call import Call
from initlint.load.onnx.dequantise import dequantised
from initlint.load.onnx.operators.convolution import convolution
from initlint.load.onnx.operators.elementwise import apply_scale
from initlint.load.onnx.operators.linear import activation, matrices, swapped
from initlint.load.onnx.operators.registry import MICROSOFT, Result, handles
from initlint.load.onnx.values import (
    Dynamic,
    Fixed,
    ParamDraft,
    RuntimeScale,
    Value,
    scaled,
    shifted,
)
from initlint.model import Op, Role, Source, Tensor
from initlint.model.tensor import Array


@handles("QuantizeLinear", "DequantizeLinear")
@handles("QuantizeLinear", "DequantizeLinear", domain=MICROSOFT)
def _pass(builder: Builder, call: Call) -> Result:
    """Quantising and back changes activations by rounding only.

    Values looked up in an integer table get the table's scale here.
    """
    value = call.value(0)
    if not isinstance(value, Dynamic):
        return None
    scale = call.fixed(1)
    if call.op == "DequantizeLinear" and value.layer.op is Op.EMBEDDING and scale is not None:
        weight = value.layer.param(Role.WEIGHT)
        if weight is not None and weight.fixed.integer and not value.layer.attrs.get("scaled"):
            _scale_table(weight, scale, call.fixed(2))
            value.layer.attrs["scaled"] = True
    return value


def _scale_table(weight: ParamDraft, scale: Fixed, zero: Fixed | None) -> None:
    columns = weight.tensor.shape[-1]
    for fixed, shift in ((zero, True), (scale, False)):
        if fixed is None or not fixed.small or fixed.size not in (1, columns):
            continue
        values = fixed.values().reshape(-1)
        operand: Any = float(values[0]) if values.size == 1 else values
        if shift:
            weight.tensor = shifted(weight.tensor, -operand)
        else:
            weight.tensor = scaled(weight.tensor, operand)


@handles("DynamicQuantizeLinear")
def _dynamic_quantize(builder: Builder, call: Call) -> Result:
    return [call.value(0), RuntimeScale(), None]


def _integers(
    fixed: Fixed | None, scale: Value | None, zero: Value | None, axis: int
) -> Value | None:
    """Integer weights as real numbers; without a known scale they stay integers, shifted."""
    if fixed is None:
        return None
    offset = zero if isinstance(zero, Fixed) else None
    if isinstance(scale, Fixed):
        return dequantised(fixed, scale, offset, axis, 0)
    tensor = fixed.tensor
    if offset is not None and offset.small and offset.values().any():
        values = offset.values().reshape(-1)
        rank = len(fixed.shape)
        if values.size > 1 and rank:
            spread = [-1 if at == axis % rank else 1 for at in range(rank)]
            tensor = shifted(tensor, -values.reshape(spread))
        else:
            tensor = shifted(tensor, -float(values[0]))
    return fixed.seen_as(tensor, integer=False, quantised=True)


def _matmul(
    builder: Builder, call: Call, left: Value | None, right: Value | None, part: str = ""
) -> Dynamic:
    shape = shapes.matmul(
        None if left is None else left.shape, None if right is None else right.shape
    )
    if isinstance(right, Fixed):
        params = matrices(builder, right, swapped(right.tensor))
        return builder.emit(Op.LINEAR, call, [left], params, shape=shape, part=part)
    return builder.emit(Op.MATMUL, call, [left, right], shape=shape, part=part)


@handles("MatMulInteger")
@handles("MatMulInteger16", domain=MICROSOFT)
def _matmul_integer(builder: Builder, call: Call) -> Result:
    fixed = call.fixed(1)
    right = _integers(fixed, None, call.value(3), -1) if fixed is not None else call.value(1)
    result = _matmul(builder, call, call.value(0), right)
    result.layer.attrs["integer_product"] = True
    return result


@handles("MatMulIntegerToFloat", domain=MICROSOFT)
def _matmul_integer_to_float(builder: Builder, call: Call) -> Result:
    fixed = call.fixed(1)
    right = call.value(1)
    if fixed is not None:
        right = _integers(fixed, call.value(3), call.value(5), -1)
    result = _matmul(builder, call, call.value(0), right)
    result.layer.params.extend(builder.vector(Role.BIAS, call.value(6), "bias"))
    return result


@handles("DynamicQuantizeMatMul", domain=MICROSOFT)
def _dynamic_quantize_matmul(builder: Builder, call: Call) -> Result:
    fixed = call.fixed(1)
    right = call.value(1)
    if fixed is not None:
        right = _integers(fixed, call.value(2), call.value(3), -1)
    result = _matmul(builder, call, call.value(0), right)
    result.layer.params.extend(builder.vector(Role.BIAS, call.value(4), "bias"))
    return result


@handles("QLinearMatMul")
@handles("QLinearMatMul", domain=MICROSOFT)
def _qlinear_matmul(builder: Builder, call: Call) -> Result:
    fixed = call.fixed(3)
    right = call.value(3)
    if fixed is not None:
        right = _integers(fixed, call.value(4), call.value(5), -1)
    return _matmul(builder, call, call.value(0), right)


@handles("QGemm", domain=MICROSOFT)
def _qgemm(builder: Builder, call: Call) -> Result:
    fixed = call.fixed(3)
    if fixed is None:
        return None
    transposed = bool(call.integer("transB", 0))
    weight = _integers(fixed, call.value(4), call.value(5), 0 if transposed else -1)
    if not isinstance(weight, Fixed):
        return None
    tensor = weight.tensor if transposed else swapped(weight.tensor)
    alpha = call.number("alpha", 1.0)
    params = matrices(builder, weight, tensor if alpha == 1 else scaled(tensor, alpha))
    params.extend(_integer_bias(builder, call.value(6), call.fixed(1), call.fixed(4)))
    return builder.emit(Op.LINEAR, call, [call.value(0)], params)


def _integer_bias(
    builder: Builder, bias: Value | None, x_scale: Fixed | None, w_scale: Fixed | None
) -> list[ParamDraft]:
    """A bias of integers in units of input scale times weight scale."""
    if not isinstance(bias, Fixed) or x_scale is None or w_scale is None:
        return []
    if not (x_scale.small and w_scale.small):
        return []
    scale = x_scale.values().reshape(-1)[0] * w_scale.values().reshape(-1)
    tensor = flat(bias.tensor)
    if scale.size not in (1, *tensor.shape):
        return []
    fixed = bias.seen_as(scaled(tensor, scale), integer=False, quantised=True)
    return [builder.param(Role.BIAS, fixed, "bias")]


@handles("ConvInteger")
def _conv_integer(builder: Builder, call: Call) -> Result:
    fixed = call.fixed(1)
    weight = _integers(fixed, None, call.value(3), 0) if fixed is not None else call.value(1)
    result = convolution(builder, call, call.value(0), weight, None)
    result.layer.attrs["integer_product"] = True
    return result


@handles("QLinearConv")
@handles("QLinearConv", domain=MICROSOFT)
def _qlinear_conv(builder: Builder, call: Call) -> Result:
    fixed = call.fixed(3)
    weight = call.value(3)
    if fixed is not None:
        weight = _integers(fixed, call.value(4), call.value(5), 0)
    last = bool(call.integer("channels_last", 0))
    result = convolution(builder, call, call.value(0), weight, None, channels_last=last)
    result.layer.params.extend(_integer_bias(builder, call.value(8), call.fixed(1), call.fixed(4)))
    return result


@handles("QLinearAdd", "QLinearMul", domain=MICROSOFT)
def _qlinear_binary(builder: Builder, call: Call) -> Result:
    op = Op.ADD if call.op == "QLinearAdd" else Op.MUL
    left = _integers(call.fixed(0), call.value(1), call.value(2), 0) or call.value(0)
    right = _integers(call.fixed(3), call.value(4), call.value(5), 0) or call.value(3)
    shape = shapes.broadcast(*(v.shape for v in (left, right) if v is not None))
    fixed = next((v for v in (right, left) if isinstance(v, Fixed)), None)
    if fixed is None:
        return builder.emit(op, call, [left, right], shape=shape)
    role, leaf = (Role.SHIFT, "bias") if op is Op.ADD else (Role.GAIN, "weight")
    params, attrs = builder.constant_operand(fixed, role, leaf, False)
    return builder.emit(op, call, [left, right], params, attrs, shape=shape)


_QLINEAR_UNARY: dict[str, tuple[Op, dict[str, Any]]] = {
    "QLinearSigmoid": (Op.SIGMOID, {}),
    "QLinearSoftmax": (Op.SOFTMAX, {"axis": -1}),
    "QLinearGlobalAveragePool": (Op.POOL, {"kind": "mean", "global": True}),
    "QLinearAveragePool": (Op.POOL, {"kind": "mean"}),
    "QLinearReduceMean": (Op.REDUCE, {"kind": "mean"}),
    "QLinearLeakyRelu": (Op.LEAKY_RELU, {}),
}


@handles(*_QLINEAR_UNARY, domain=MICROSOFT)
def _qlinear_unary(builder: Builder, call: Call) -> Result:
    op, settings = _QLINEAR_UNARY[call.op]
    attrs = dict(settings)
    if op is Op.LEAKY_RELU:
        attrs["negative_slope"] = call.number("alpha", 0.01)
    if call.ints("kernel_shape"):
        attrs["kernel"] = call.ints("kernel_shape")
        attrs["stride"] = call.ints("strides") or (1,) * len(call.ints("kernel_shape"))
    keeps = op not in (Op.POOL, Op.REDUCE)
    shape = call.shape(0) if keeps else None
    return builder.emit(op, call, [call.value(0)], attrs=attrs, shape=shape)


@handles("QLinearConcat", domain=MICROSOFT)
def _qlinear_concat(builder: Builder, call: Call) -> Result:
    attrs = {"axis": call.integer("axis", 1)}
    return builder.emit(Op.CONCAT, call, list(call.inputs[2::3]), attrs=attrs)


@dataclass(frozen=True, slots=True, eq=False)
class BlockQuantisedSource:
    """A matrix of packed small integers with a scale per block of columns (MatMulNBits).

    ONNX Runtime, ContribOperators.md, com.microsoft.MatMulNBits: ``B`` is
    (N, blocks, block_size·bits/8) bytes, the first element in the lowest bits; without zero
    points the zero is the middle, ``2^(bits-1)``.

    Attributes:
        packed: the bytes, scales, and zero points when stored.
        rows: N.
        columns: K.
        bits: 2, 4 or 8.
        block: columns that share a scale.
    """

    packed: Source
    scales: Tensor
    zeros: Tensor | None
    rows: int
    columns: int
    bits: int
    block: int

    def read(self, start: int, stop: int) -> Array:
        """Elements ``start`` to ``stop`` of the dequantised (N, K) matrix."""
        first, last = start // self.columns, -(-stop // self.columns)
        blocks = ceil(self.columns / self.block)
        width = blocks * self.block * self.bits // 8
        with np.errstate(invalid="ignore"):
            raw = self.packed.read(first * width, last * width).astype(np.uint8)
        codes = _unpacked(raw.reshape(last - first, blocks, -1), self.bits)
        scales = self.scales.read().reshape(self.rows, blocks)[first:last]
        zeros: Any = float(1 << (self.bits - 1))
        if self.zeros is not None:
            stored = self.zeros.read()
            if self.zeros.dtype == "uint8":
                stored = _unpacked(stored.astype(np.uint8).reshape(self.rows, -1), self.bits)
            zeros = stored.reshape(self.rows, -1)[first:last, :blocks, None]
        matrix = (codes - zeros) * scales[:, :, None]
        flat_rows = matrix.reshape(last - first, -1)[:, : self.columns].reshape(-1)
        offset = first * self.columns
        piece: Array = flat_rows[start - offset : stop - offset].astype(np.float32)
        return piece


def _unpacked(raw: Array, bits: int) -> Array:
    """Small integers from bytes along the last axis, lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = (raw[..., None] >> shifts) & ((1 << bits) - 1)
    return codes.reshape(*raw.shape[:-1], -1).astype(np.float32)


@handles("MatMulNBits", domain=MICROSOFT)
def _matmul_nbits(builder: Builder, call: Call) -> Result:
    stored, scales = call.fixed(1), call.fixed(2)
    columns, rows = call.integer("K", 0), call.integer("N", 0)
    bits, block = call.integer("bits", 4), call.integer("block_size", 32)
    if stored is None or scales is None or min(columns, rows) < 1 or block < 1:
        return None
    blocks = -(-columns // block)
    if bits not in (2, 4, 8) or stored.size != rows * blocks * block * bits // 8:
        return None
    zeros = call.fixed(3)
    if scales.size != rows * blocks:
        return None
    if zeros is not None:
        packed = rows * -(-blocks * bits // 8)
        if zeros.size != (packed if zeros.tensor.dtype == "uint8" else rows * blocks):
            return None
    source = BlockQuantisedSource(
        stored.tensor.source,
        scales.tensor,
        None if zeros is None else zeros.tensor,
        rows,
        columns,
        bits,
        block,
    )
    tensor = Tensor(stored.tensor.name, f"uint{bits}", (rows, columns), source)
    weight = builder.param(Role.WEIGHT, stored, "weight", tensor)
    weight.quantised = True
    params = [weight, *builder.vector(Role.BIAS, call.value(5), "bias")]
    given = call.shape(0)
    shape = None if given is None else (*given[:-1], rows)
    result = builder.emit(Op.LINEAR, call, [call.value(0)], params, shape=shape)
    return activation(builder, call, result) if call.text("activation") else result


@handles("GatherBlockQuantized", domain=MICROSOFT)
def _gather_block_quantised(builder: Builder, call: Call) -> Result:
    table, scales = call.fixed(0), call.fixed(2)
    if table is None or scales is None or len(table.shape) != 2:
        return None
    axis = call.integer("quantize_axis", 1)
    block = call.integer("block_size", 128)
    if table.tensor.dtype == "uint8" and call.integer("bits", 4) == 4:
        return None
    weight = dequantised(table, scales, call.fixed(3), axis, block)
    params = [builder.param(Role.WEIGHT, weight, "weight")]
    attrs = {"num_embeddings": table.shape[0]}
    return builder.emit(Op.EMBEDDING, call, [call.value(1)], params, attrs)


__all__ = ["BlockQuantisedSource", "apply_scale"]
