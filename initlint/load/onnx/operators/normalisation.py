"""Normalisers."""

from __future__ import annotations

from typing import Any

from initlint.load.onnx.builder import Builder
from initlint.load.onnx.call import Call
from initlint.load.onnx.operators.elementwise import with_bias
from initlint.load.onnx.operators.registry import MICROSOFT, Result, handles
from initlint.load.onnx.values import Dynamic, Fixed, ParamDraft, Value
from initlint.model import Op, Role


def affine(
    builder: Builder, gain: Value | None, shift: Value | None, leaves: tuple[str, str]
) -> list[ParamDraft]:
    """Gain and shift of a normaliser."""
    found: list[ParamDraft] = []
    for role, value, leaf in ((Role.GAIN, gain, leaves[0]), (Role.SHIFT, shift, leaves[1])):
        if isinstance(value, Fixed) and value.floating:
            found.append(builder.param(role, value, leaf))
    return found


_LEAVES = ("weight", "bias")


def _edges(call: Call, *positions: int) -> list[Value | None]:
    """The input, and those of the parameters that the graph computes."""
    values: list[Value | None] = [call.value(0)]
    for position in positions:
        value = call.value(position)
        values.append(value if isinstance(value, Dynamic) else None)
    return values


@handles("BatchNormalization")
def _batch_norm(builder: Builder, call: Call) -> Result:
    params = affine(builder, call.value(1), call.value(2), _LEAVES)
    for role, index, leaf in (
        (Role.RUNNING_MEAN, 3, "running_mean"),
        (Role.RUNNING_VAR, 4, "running_var"),
    ):
        params.extend(builder.vector(role, call.value(index), leaf, trainable=False))
    training = bool(call.integer("training_mode", 0))
    if call.opset < 7:
        training = not call.integer("is_test", 0)
    attrs = {
        "eps": call.number("epsilon", 1e-5),
        "momentum": call.number("momentum", 0.9),
        "training": training,
    }
    result = builder.emit(
        Op.BATCH_NORM,
        call,
        _edges(call, 1, 2),
        params,
        attrs,
        shape=call.shape(0),
        channel_axis=1,
    )
    return builder.outputs(result, call)


@handles("InstanceNormalization")
def _instance_norm(builder: Builder, call: Call) -> Result:
    params = affine(builder, call.value(1), call.value(2), _LEAVES)
    attrs = {"eps": call.number("epsilon", 1e-5)}
    return builder.emit(
        Op.INSTANCE_NORM, call, _edges(call, 1, 2), params, attrs, call.shape(0), channel_axis=1
    )


@handles("GroupNormalization")
def _group_norm(builder: Builder, call: Call) -> Result:
    params = affine(builder, call.value(1), call.value(2), _LEAVES)
    attrs = {"eps": call.number("epsilon", 1e-5), "groups": call.integer("num_groups", 1)}
    return builder.emit(
        Op.GROUP_NORM, call, _edges(call, 1, 2), params, attrs, call.shape(0), channel_axis=1
    )


@handles("GroupNorm", "SkipGroupNorm", domain=MICROSOFT)
def _group_norm_microsoft(builder: Builder, call: Call) -> Result:
    value = call.value(0)
    if value is None:
        return None
    if call.op == "SkipGroupNorm":
        value = builder.emit(Op.ADD, call, [value, call.value(3)], shape=value.shape, part="add")
        bias = call.value(4)
        if bias is not None:
            value = with_bias(builder, call, value, bias)
    params = affine(builder, call.value(1), call.value(2), _LEAVES)
    attrs = {"eps": call.number("epsilon", 1e-5), "groups": call.integer("groups", 32)}
    axis = -1 if call.integer("channels_last", 1) else 1
    silu = bool(call.integer("activation", 0))
    result = builder.emit(
        Op.GROUP_NORM,
        call,
        [value],
        params,
        attrs,
        value.shape,
        channel_axis=axis,
        part="norm" if silu else "",
    )
    if silu:
        result = builder.emit(Op.SILU, call, [result], shape=value.shape, channel_axis=axis)
    return builder.outputs(result, call)


@handles("LayerNormalization")
@handles("LayerNormalization", domain=MICROSOFT)
def _layer_norm(builder: Builder, call: Call) -> Result:
    params = affine(builder, call.value(1), call.value(2), _LEAVES)
    attrs = {"eps": call.number("epsilon", 1e-5), "axis": call.integer("axis", -1)}
    result = builder.emit(Op.LAYER_NORM, call, _edges(call, 1, 2), params, attrs, call.shape(0))
    return builder.outputs(result, call)


@handles("RMSNormalization", "SimplifiedLayerNormalization")
@handles("SimplifiedLayerNormalization", domain=MICROSOFT)
def _rms_norm(builder: Builder, call: Call) -> Result:
    params = affine(builder, call.value(1), None, _LEAVES)
    attrs = {"eps": call.number("epsilon", 1e-5), "axis": call.integer("axis", -1)}
    result = builder.emit(Op.RMS_NORM, call, _edges(call, 1), params, attrs, call.shape(0))
    return builder.outputs(result, call)


@handles("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def _skip_layer_norm(builder: Builder, call: Call) -> Result:
    """``norm(input + bias + skip)``; the fourth output is the sum."""
    rms = call.op == "SkipSimplifiedLayerNormalization"
    value, bias = call.value(0), call.value(3 if rms else 4)
    if value is None:
        return None
    if bias is not None:
        value = with_bias(builder, call, value, bias)
    summed = builder.emit(Op.ADD, call, [value, call.value(1)], shape=value.shape, part="add")
    params = affine(builder, call.value(2), None if rms else call.value(3), _LEAVES)
    attrs: dict[str, Any] = {"eps": call.number("epsilon", 1e-5), "axis": -1}
    op = Op.RMS_NORM if rms else Op.LAYER_NORM
    result = builder.emit(op, call, [summed], params, attrs, value.shape)
    found = builder.outputs(result, call)
    if len(found) > 3:
        found[3] = summed
        summed.layer.outputs = [call.outputs[3]]
    return found


@handles("EmbedLayerNormalization", domain=MICROSOFT)
def _embed_layer_norm(builder: Builder, call: Call) -> Result:
    """Word, position and segment tables, summed and normalised."""
    parts: list[Dynamic] = []
    for index, source, leaf in (
        (2, 0, "word_embeddings"),
        (3, 8, "position_embeddings"),
        (4, 1, "token_type_embeddings"),
    ):
        table = call.weight(index)
        if table is not None and len(table.shape) == 2:
            weight = builder.param(Role.WEIGHT, table, f"{leaf}.weight")
            attrs: dict[str, Any] = {"num_embeddings": table.shape[0]}
            found = builder.emit(
                Op.EMBEDDING, call, [call.value(source)], [weight], attrs, part=leaf
            )
            parts.append(found)
    if not parts:
        return None
    total = parts[0]
    for number, piece in enumerate(parts[1:]):
        total = builder.emit(Op.ADD, call, [total, piece], part=f"add_{number}")
    params = affine(builder, call.value(5), call.value(6), _LEAVES)
    attrs = {"eps": call.number("epsilon", 1e-12), "axis": -1}
    result = builder.emit(Op.LAYER_NORM, call, [total], params, attrs)
    found_outputs = builder.outputs(result, call)
    if len(found_outputs) > 2:
        found_outputs[2] = total
    return found_outputs


@handles("LpNormalization")
def _lp_norm(builder: Builder, call: Call) -> Result:
    attrs = {"axis": call.integer("axis", -1), "p": call.integer("p", 2)}
    return builder.emit(Op.LP_NORM, call, [call.value(0)], attrs=attrs, shape=call.shape(0))


@handles("LRN")
def _local_response_norm(builder: Builder, call: Call) -> Result:
    attrs = {
        "size": call.integer("size", 1),
        "alpha": call.number("alpha", 1e-4),
        "beta": call.number("beta", 0.75),
        "bias": call.number("bias", 1.0),
    }
    return builder.emit(
        Op.LOCAL_RESPONSE_NORM,
        call,
        [call.value(0)],
        attrs=attrs,
        shape=call.shape(0),
        channel_axis=1,
    )


@handles("MeanVarianceNormalization")
def _mean_variance(builder: Builder, call: Call) -> Result:
    axes = call.ints("axes") or (0, 2, 3)
    op = Op.BATCH_NORM if 0 in axes else Op.INSTANCE_NORM if 1 not in axes else Op.LAYER_NORM
    attrs = {"eps": 1e-9, "axes": axes, "training": True}
    return builder.emit(op, call, [call.value(0)], attrs=attrs, shape=call.shape(0), channel_axis=1)
