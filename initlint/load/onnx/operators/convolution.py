"""Convolutions, plain, transposed, deformable and fused."""

from __future__ import annotations

from typing import Any

from initlint.load.onnx import shapes
from initlint.load.onnx.builder import Builder
from initlint.load.onnx.call import Call
from initlint.load.onnx.operators.linear import activation
from initlint.load.onnx.operators.registry import MICROSOFT, Result, handles
from initlint.load.onnx.values import Dynamic, Fixed, ParamDraft, Shape, Value
from initlint.model import Op, Role, Tensor


def settings(call: Call, kernel: tuple[int, ...]) -> dict[str, Any]:
    """Stride, padding, dilation, kernel and groups in the vocabulary of `Layer.attrs`."""
    axes = len(kernel)
    return {
        "kernel": kernel,
        "stride": call.ints("strides") or (1,) * axes,
        "dilation": call.ints("dilations") or (1,) * axes,
        "padding": call.ints("pads") or (0,) * 2 * axes,
        "auto_pad": call.text("auto_pad", "NOTSET"),
        "groups": call.integer("group", 1),
    }


def convolution(
    builder: Builder,
    call: Call,
    value: Value | None,
    weight: Value | None,
    bias: Value | None,
    *,
    channels_last: bool = False,
    part: str = "",
    extra: tuple[Value | None, ...] = (),
) -> Dynamic:
    """A CONV layer; without a constant weight its kernel comes in by an edge."""
    kernel = call.ints("kernel_shape")
    params: list[ParamDraft] = []
    inputs: list[Value | None] = [value]
    channels = None
    if isinstance(weight, Fixed):
        kernel = kernel or weight.shape[2:]
        if weight.floating or weight.quantised:
            params.append(builder.param(Role.WEIGHT, weight, "weight"))
        channels = weight.shape[0] if weight.shape else None
    else:
        inputs.append(weight)
    params.extend(builder.vector(Role.BIAS, bias, "bias"))
    if isinstance(bias, Dynamic):
        inputs.append(bias)
    attrs = settings(call, kernel)
    shape = None
    if not channels_last and value is not None:
        shape = shapes.window(
            value.shape,
            kernel,
            attrs["stride"],
            attrs["padding"],
            attrs["dilation"],
            attrs["auto_pad"],
            channels=channels,
        )
    axis = -1 if channels_last else 1
    return builder.emit(
        Op.CONV, call, [*inputs, *extra], params, attrs, shape, channel_axis=axis, part=part
    )


@handles("Conv")
def _conv(builder: Builder, call: Call) -> Result:
    return convolution(builder, call, call.value(0), call.value(1), call.value(2))


@handles("NhwcConv", domain=MICROSOFT)
def _nhwc_conv(builder: Builder, call: Call) -> Result:
    values = call.value(0), call.value(1), call.value(2)
    return convolution(builder, call, *values, channels_last=True)


@handles("FusedConv", "NhwcFusedConv", domain=MICROSOFT)
def _fused_conv(builder: Builder, call: Call) -> Result:
    """Convolution, then the addition of a fourth input, then an activation."""
    last = call.op.startswith("Nhwc")
    values = call.value(0), call.value(1), call.value(2)
    result = convolution(builder, call, *values, channels_last=last, part="conv")
    if call.value(3) is not None:
        result.layer.attrs["fused"] = True
        result = builder.emit(
            Op.ADD,
            call,
            [result, call.value(3)],
            shape=result.shape,
            channel_axis=-1 if last else 1,
            part="add",
        )
    return activation(builder, call, result)


@handles("DeformConv")
def _deformable(builder: Builder, call: Call) -> Result:
    extra = (call.value(2), call.value(4))
    result = convolution(builder, call, call.value(0), call.value(1), call.value(3), extra=extra)
    result.layer.attrs["deformable"] = True
    return result


def canonical_transposed(tensor: Tensor, groups: int) -> Tensor:
    """``(in, out/groups, *kernel)`` to ``(out, in/groups, *kernel)``."""
    inputs, units, *kernel = tensor.shape
    rest = tuple(range(2, len(tensor.shape)))
    if groups == 1:
        return tensor.transpose(1, 0, *rest)
    split = tensor.reshape(groups, inputs // groups, units, *kernel)
    moved = split.transpose(0, 2, 1, *(axis + 1 for axis in rest))
    return moved.reshape(groups * units, inputs // groups, *kernel)


@handles("ConvTranspose")
def _transposed(builder: Builder, call: Call) -> Result:
    weight, groups = call.weight(1), call.integer("group", 1)
    kernel = call.ints("kernel_shape") or (weight.shape[2:] if weight is not None else ())
    attrs = settings(call, kernel)
    attrs["output_padding"] = call.ints("output_padding") or (0,) * len(kernel)
    usable = weight is not None and len(weight.shape) >= 2 and weight.size > 0
    if weight is None or not usable or groups < 1 or weight.shape[0] % groups:
        return builder.emit(Op.CONV_TRANSPOSE, call, call.inputs, attrs=attrs, channel_axis=1)
    tensor = canonical_transposed(weight.tensor, groups)
    params = [builder.param(Role.WEIGHT, weight, "weight", tensor)]
    params.extend(builder.vector(Role.BIAS, call.value(2), "bias"))
    inputs = [call.value(0), None, call.value(2) if isinstance(call.value(2), Dynamic) else None]
    shape = _transposed_shape(call, attrs, tensor.shape[0])
    return builder.emit(Op.CONV_TRANSPOSE, call, inputs, params, attrs, shape, channel_axis=1)


def _transposed_shape(call: Call, attrs: dict[str, Any], channels: int) -> Shape | None:
    shape, kernel = call.shape(0), attrs["kernel"]
    axes = len(kernel)
    if shape is None or len(shape) != axes + 2:
        return None
    stated = call.ints("output_shape")
    if stated:
        return (shape[0], channels, *stated[-axes:])
    if len(attrs["padding"]) != 2 * axes or len(attrs["stride"]) != axes:
        return None
    space: list[int | None] = []
    for axis in range(axes):
        size, stride = shape[axis + 2], attrs["stride"][axis]
        if size is None:
            space.append(None)
        elif attrs["auto_pad"].startswith("SAME"):
            space.append(size * stride)
        else:
            reach = attrs["dilation"][axis] * (kernel[axis] - 1) + 1
            pad = attrs["padding"][axis] + attrs["padding"][axis + axes]
            extra = attrs["output_padding"][axis] if attrs["output_padding"] else 0
            space.append(stride * (size - 1) + extra + reach - pad)
    return (shape[0], channels, *space)
