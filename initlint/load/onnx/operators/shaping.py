"""Operators that move values without changing them, reductions, pools and softmax."""

from __future__ import annotations

from math import sqrt
from typing import Any

from initlint.load.onnx import shapes
from initlint.load.onnx.builder import Builder
from initlint.load.onnx.call import Call
from initlint.load.onnx.fold import fold_shape, split_sizes
from initlint.load.onnx.operators.registry import MICROSOFT, Result, handles
from initlint.load.onnx.values import Dynamic, Extent, Fixed, ParamDraft, Shape
from initlint.model import Op, Role


@handles("Identity", "CastLike", "StringNormalizer")
def _identity(builder: Builder, call: Call) -> Result:
    op = Op.CAST if call.op == "CastLike" else Op.IDENTITY
    return builder.emit(op, call, [call.value(0)], shape=call.shape(0))


@handles("Cast")
def _cast(builder: Builder, call: Call) -> Result:
    value = call.value(0)
    if isinstance(value, Dynamic) and value.layer.attrs.get("integer_product"):
        value.layer.outputs = [name for name in call.outputs if name]
        value.layer.uses = call.output_uses
        return value
    axis = value.layer.channel_axis if isinstance(value, Dynamic) else -1
    return builder.emit(Op.CAST, call, [value], shape=call.shape(0), channel_axis=axis)


@handles("Dropout", "AlphaDropout")
def _dropout(builder: Builder, call: Call) -> Result:
    ratio = call.fixed(1)
    p = ratio.scalar() if ratio is not None else call.number("ratio", 0.5)
    training = call.fixed(2)
    attrs = {"p": p, "training": bool(training.scalar()) if training is not None else False}
    result = builder.emit(Op.DROPOUT, call, [call.value(0)], attrs=attrs, shape=call.shape(0))
    return builder.outputs(result, call, call.shape(0))


@handles("BiasDropout", domain=MICROSOFT)
def _bias_dropout(builder: Builder, call: Call) -> Result:
    from initlint.load.onnx.operators.elementwise import with_bias

    value, bias = call.value(0), call.value(1)
    if value is None or bias is None:
        return None
    value = with_bias(builder, call, value, bias)
    if call.value(2) is not None:
        value = builder.emit(Op.ADD, call, [value, call.value(2)], shape=value.shape, part="add")
    return builder.outputs(builder.emit(Op.DROPOUT, call, [value], shape=value.shape), call)


@handles("Reshape")
def _reshape(builder: Builder, call: Call) -> Result:
    wanted = call.partial("shape", 1)
    shape: Shape | None = None
    if wanted is not None:
        shape = shapes.reshape(call.shape(0), wanted, not call.integer("allowzero", 0))
    return builder.emit(Op.RESHAPE, call, [call.value(0)], shape=shape)


@handles("Flatten")
def _flatten(builder: Builder, call: Call) -> Result:
    shape, axis = call.shape(0), call.integer("axis", 1)
    flat: Shape | None = None
    if shape is not None:
        flat = shapes.flattened(shape, axis)
    return builder.emit(Op.RESHAPE, call, [call.value(0)], shape=flat)


@handles("Squeeze")
def _squeeze(builder: Builder, call: Call) -> Result:
    shape = shapes.squeezed(call.shape(0), call.integers("axes", 1))
    return builder.emit(Op.RESHAPE, call, [call.value(0)], shape=shape)


@handles("Unsqueeze")
def _unsqueeze(builder: Builder, call: Call) -> Result:
    axes = call.integers("axes", 1)
    shape = None if axes is None else shapes.unsqueezed(call.shape(0), axes)
    return builder.emit(Op.RESHAPE, call, [call.value(0)], shape=shape)


@handles("Transpose")
def _transpose(builder: Builder, call: Call) -> Result:
    shape = call.shape(0)
    axes = call.ints("perm")
    if not axes and shape is not None:
        axes = tuple(range(len(shape)))[::-1]
    attrs = {"axes": axes}
    return builder.emit(
        Op.TRANSPOSE, call, [call.value(0)], attrs=attrs, shape=shapes.transpose(shape, axes)
    )


@handles("Expand", "Tile")
def _expand(builder: Builder, call: Call) -> Result:
    shape = None
    if call.op == "Expand":
        wanted = call.partial("shape", 1)
        shape = None if wanted is None else shapes.broadcast(call.shape(0), wanted)
    return builder.emit(Op.EXPAND, call, [call.value(0)], shape=shape)


@handles("Slice", "DynamicSlice")
def _slice(builder: Builder, call: Call) -> Result:
    starts, stops = call.integers("starts", 1), call.integers("ends", 2)
    shape = call.shape(0)
    attrs: dict[str, Any] = {}
    result: Shape | None = None
    if starts is not None and stops is not None and len(starts) == len(stops):
        axes = call.integers("axes", 3) or tuple(range(len(starts)))
        steps = call.integers("steps", 4) or (1,) * len(starts)
        if len(axes) == len(starts) == len(steps):
            attrs = {"axes": axes, "starts": starts, "stops": stops, "steps": steps}
            if shape is not None and all(-len(shape) <= axis < len(shape) for axis in axes):
                sides = list(shape)
                for axis, start, stop, step in zip(axes, starts, stops, steps, strict=True):
                    sides[axis] = shapes.sliced(sides[axis], start, stop, step)
                result = tuple(sides)
    elif shape is not None:
        moved = call.integers("axes", 3)
        if moved is not None and all(-len(shape) <= axis < len(shape) for axis in moved):
            chosen = {axis % len(shape) for axis in moved}
            result = tuple(None if axis in chosen else side for axis, side in enumerate(shape))
    return builder.emit(Op.SLICE, call, [call.value(0)], attrs=attrs, shape=result)


@handles("Split")
def _split(builder: Builder, call: Call) -> Result:
    axis, shape = call.integer("axis", 0), call.shape(0)
    side = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
    sizes = call.integers("split", 1) or split_sizes(side, len(call.outputs))
    parts: list[Shape | None] = [None] * len(call.outputs)
    if shape is not None and sizes is not None and len(sizes) == len(call.outputs):
        at = axis % max(len(shape), 1)
        parts = [(*shape[:at], size, *shape[at + 1 :]) for size in sizes]
    attrs = {"axis": axis, "sizes": sizes}
    result = builder.emit(
        Op.SPLIT, call, [call.value(0)], attrs=attrs, shape=parts[0] if parts else None
    )
    return builder.outputs(result, call, *parts[1:])


@handles("Concat")
def _concat(builder: Builder, call: Call) -> Result:
    """A constant part of real numbers is a table: class tokens, prompts, registers."""
    axis = call.integer("axis", 1)
    shape = shapes.concatenate([call.shape(index) for index in range(len(call.inputs))], axis)
    params: list[ParamDraft] = []
    constants: list[int] = []
    for index, value in enumerate(call.inputs):
        if isinstance(value, Fixed):
            constants.append(index)
            if value.floating and value.size > 1 and (value.stored or not value.small):
                params.append(builder.param(Role.TABLE, value, "table"))
    attrs: dict[str, Any] = {"axis": axis}
    if constants:
        attrs["constant_positions"] = tuple(constants)
    return builder.emit(Op.CONCAT, call, call.inputs, params, attrs, shape=shape)


@handles("Gather")
def _gather(builder: Builder, call: Call) -> Result:
    axis = call.integer("axis", 0)
    table, index = call.value(0), call.value(1)
    shape, at = call.shape(0), call.shape(1)
    result: Shape | None = None
    if shape is not None and at is not None and -len(shape) <= axis < len(shape):
        position = axis % len(shape)
        result = (*shape[:position], *at, *shape[position + 1 :])
    if isinstance(table, Fixed) and not isinstance(index, Fixed):
        return _embedding(builder, call, table, axis, result)
    attrs: dict[str, Any] = {"axis": axis}
    if isinstance(index, Fixed):
        attrs["indices"] = index.integers()
        attrs["scalar_index"] = index.shape == ()
        return builder.emit(Op.GATHER, call, [table], attrs=attrs, shape=result)
    return builder.emit(Op.GATHER, call, [table, index], attrs=attrs, shape=result)


def _embedding(
    builder: Builder, call: Call, table: Fixed, axis: int, result: Shape | None
) -> Result:
    eight_bit = table.integer and table.tensor.dtype in ("int8", "uint8", "int4", "uint4")
    if not (table.floating or eight_bit) or len(table.shape) < 2:
        role = Role.TABLE
        params = [builder.param(role, table, "table")] if table.floating else []
        attrs = {"axis": axis}
        return builder.emit(Op.GATHER, call, [None, call.value(1)], params, attrs, shape=result)
    tensor = table.tensor
    axis %= len(table.shape)
    if axis:
        others = [at for at in range(len(table.shape)) if at != axis]
        tensor = tensor.transpose(axis, *others)
    if len(tensor.shape) > 2:
        tensor = tensor.reshape(tensor.shape[0], -1) if tensor.size else tensor
    weight = builder.param(Role.WEIGHT, table, "weight", tensor)
    weight.quantised = weight.quantised or eight_bit
    attrs = {"num_embeddings": tensor.shape[0]}
    return builder.emit(Op.EMBEDDING, call, [call.value(1)], [weight], attrs, shape=result)


@handles("GatherElements", "GatherND")
def _gather_other(builder: Builder, call: Call) -> Result:
    table = call.value(0)
    if isinstance(table, Fixed):
        params = [builder.param(Role.TABLE, table, "table")] if table.floating else []
        return builder.emit(Op.GATHER, call, [None, call.value(1)], params)
    return builder.emit(Op.GATHER, call, [table, call.value(1)])


@handles("Pad")
def _pad(builder: Builder, call: Call) -> Result:
    pads = call.integers("pads", 1) or call.ints("paddings")
    shape = call.shape(0)
    result: Shape | None = None
    if pads and shape is not None and call.value(3) is None and len(pads) == 2 * len(shape):
        half = len(shape)
        result = tuple(
            None if side is None else side + pads[axis] + pads[axis + half]
            for axis, side in enumerate(shape)
        )
    attrs = {"padding": pads or (), "mode": call.text("mode", "constant")}
    return builder.emit(Op.PAD, call, [call.value(0)], attrs=attrs, shape=result)


@handles("Resize", "Upsample")
def _resize(builder: Builder, call: Call) -> Result:
    attrs = {"mode": call.text("mode", "nearest")}
    shape = call.shape(0)
    sizes = call.fixed(3)
    result: Shape | None = None
    if shape is not None:
        known = sizes.integers() if sizes is not None else None
        kept: Shape = (*shape[:2], *(None for _ in shape[2:]))
        result = known if known is not None and len(known) == len(shape) else kept
    return builder.emit(Op.RESIZE, call, [call.value(0)], attrs=attrs, shape=result, channel_axis=1)


@handles("DepthToSpace", "SpaceToDepth")
def _pixel_shuffle(builder: Builder, call: Call) -> Result:
    block, shape = call.integer("blocksize", 1), call.shape(0)
    result: Shape | None = None
    if shape is not None and len(shape) == 4 and block > 0:
        batch, channels, height, width = shape
        if call.op == "DepthToSpace":
            area = None if channels is None else channels // block**2
            result = (batch, area, _times(height, block), _times(width, block))
        else:
            down = tuple(None if side is None else side // block for side in (height, width))
            result = (batch, _times(channels, block**2), *down)
    attrs = {"block": block, "kind": call.op, "mode": call.text("mode", "DCR")}
    return builder.emit(
        Op.PIXEL_SHUFFLE, call, [call.value(0)], attrs=attrs, shape=result, channel_axis=1
    )


def _times(side: int | None, factor: int) -> int | None:
    return None if side is None else side * factor


@handles("ConstantOfShape", "Range")
def _filled(builder: Builder, call: Call) -> Result:
    """A fill or a count whose size only a run can tell: it carries no signal."""
    fill = call.attrs.get("fill")
    if any(isinstance(value, Dynamic) for value in call.inputs) and call.op == "Range":
        return None
    attrs: dict[str, Any] = {"constant": fill[0]} if fill is not None else {"kind": "range"}
    wanted = call.partial("", 0) if call.op == "ConstantOfShape" else (None,)
    return builder.emit(Op.CONSTANT, call, [], attrs=attrs, shape=wanted)


@handles("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
def _noise(builder: Builder, call: Call) -> Result:
    """Noise: of the tensor that the ``Like`` forms read only shape and type enter."""
    low, high = call.number("low", 0.0), call.number("high", 1.0)
    mean, std = (low + high) / 2, (high - low) / sqrt(12.0)
    if call.op.startswith("RandomNormal"):
        mean, std = call.number("mean", 0.0), call.number("scale", 1.0)
    shape = call.shape(0) if call.inputs else call.attrs.get("shape")
    attrs: dict[str, Any] = {"mean": mean, "std": std, "kind": "noise"}
    return builder.emit(Op.CONSTANT, call, [], attrs=attrs, shape=shape and tuple(shape))


@handles("Shape", "Size")
def _shape(builder: Builder, call: Call) -> Result:
    known = fold_shape(call)
    if known is not None:
        return known
    value = call.value(0)
    if call.op == "Size" and isinstance(value, Dynamic):
        return Extent((None,), True, value)
    return builder.emit(Op.SHAPE, call, [value])


_REDUCTIONS = {
    "ReduceMean": "mean",
    "ReduceSum": "sum",
    "ReduceMax": "max",
    "ReduceMin": "min",
    "ReduceProd": "prod",
    "ReduceL1": "l1",
    "ReduceL2": "l2",
    "ReduceSumSquare": "sum_square",
    "ReduceLogSum": "log_sum",
    "ReduceLogSumExp": "log_sum_exp",
}


@handles(*_REDUCTIONS)
def _reduce(builder: Builder, call: Call) -> Result:
    axes = call.integers("axes", 1)
    keep = bool(call.integer("keepdims", 1))
    if not axes:
        if call.integer("noop_with_empty_axes", 0):
            return builder.emit(Op.IDENTITY, call, [call.value(0)], shape=call.shape(0))
        axes = None if call.value(1) is None or axes == () else axes
    unknown = axes is None and call.value(1) is not None and call.fixed(1) is None
    shape = None if unknown else shapes.reduced(call.shape(0), axes, keep)
    attrs = {"kind": _REDUCTIONS[call.op], "axes": axes, "keepdims": keep}
    return builder.emit(Op.REDUCE, call, [call.value(0)], attrs=attrs, shape=shape)


_POOLS = {
    "MaxPool": "max",
    "AveragePool": "mean",
    "LpPool": "lp",
    "GlobalMaxPool": "max",
    "GlobalAveragePool": "mean",
    "GlobalLpPool": "lp",
}


@handles(*_POOLS)
def _pool(builder: Builder, call: Call) -> Result:
    shape = call.shape(0)
    if call.op.startswith("Global"):
        attrs: dict[str, Any] = {"kind": _POOLS[call.op], "global": True}
        result = None if shape is None else (*shape[:2], *(1 for _ in shape[2:]))
    else:
        kernel = call.ints("kernel_shape")
        stride = call.ints("strides") or (1,) * len(kernel)
        dilation = call.ints("dilations") or (1,) * len(kernel)
        pads = call.ints("pads") or (0,) * 2 * len(kernel)
        attrs = {
            "kind": _POOLS[call.op],
            "kernel": kernel,
            "stride": stride,
            "padding": pads,
            "dilation": dilation,
        }
        result = shapes.window(
            shape,
            kernel,
            stride,
            pads,
            dilation,
            call.text("auto_pad"),
            bool(call.integer("ceil_mode", 0)),
        )
    layer = builder.emit(Op.POOL, call, [call.value(0)], attrs=attrs, shape=result, channel_axis=1)
    return builder.outputs(layer, call, result)


@handles("Softmax", "LogSoftmax", "Hardmax")
def _softmax(builder: Builder, call: Call) -> Result:
    default = -1 if call.opset >= 13 else 1
    ops = {"Softmax": Op.SOFTMAX, "LogSoftmax": Op.LOG_SOFTMAX}
    attrs: dict[str, Any] = {"axis": call.integer("axis", default)}
    if call.op == "Hardmax":
        attrs["operator"] = "Hardmax"
    op = ops.get(call.op, Op.OTHER)
    return builder.emit(op, call, [call.value(0)], attrs=attrs, shape=call.shape(0))


@handles("BiasSoftmax", domain=MICROSOFT)
def _bias_softmax(builder: Builder, call: Call) -> Result:
    bias = call.value(1)
    if isinstance(bias, Fixed):
        params, attrs = builder.constant_operand(bias, Role.TABLE, "table", False)
        added = builder.emit(
            Op.ADD, call, [call.value(0)], params, attrs, shape=call.shape(0), part="add"
        )
    else:
        added = builder.emit(Op.ADD, call, [call.value(0), bias], shape=call.shape(0), part="add")
    attrs = {"axis": -1}
    return builder.emit(Op.SOFTMAX, call, [added], attrs=attrs, shape=call.shape(0))
