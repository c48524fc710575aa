"""Attention operators, standard and com.microsoft, and what goes with them."""

from __future__ import annotations

from typing import Any

from initlint.load.onnx.builder import Builder, flat
from initlint.load.onnx.call import Call
from initlint.load.onnx.dequantise import dequantised
from initlint.load.onnx.operators.linear import swapped
from initlint.load.onnx.operators.registry import MICROSOFT, Result, handles
from initlint.load.onnx.values import Dynamic, Fixed, ParamDraft, Value
from initlint.model import Op, Role, Tensor

GATES = ("query", "key", "value")


def _settings(call: Call, heads: str = "num_heads") -> dict[str, Any]:
    attrs: dict[str, Any] = {"heads": call.integer(heads, 0)}
    scale = call.number("scale", 0.0)
    if scale:
        attrs["scale"] = scale
    attrs["causal"] = bool(call.integer("unidirectional", call.integer("is_causal", 0)))
    return attrs


@handles("Attention")
def _attention(builder: Builder, call: Call) -> Result:
    """Operator set 23: query, key, value, mask, past key and value."""
    attrs = _settings(call, "q_num_heads")
    attrs["kv_heads"] = call.integer("kv_num_heads", attrs["heads"])
    shape = call.shape(0)
    value_shape = call.shape(2)
    result = None
    if shape is not None and value_shape is not None and len(shape) == len(value_shape) == 4:
        result = (*shape[:-1], value_shape[-1])
    layer = builder.emit(Op.ATTENTION, call, list(call.inputs), attrs=attrs, shape=result)
    return builder.outputs(layer, call)


@handles(
    "MultiHeadAttention",
    "DecoderMaskedMultiHeadAttention",
    "GroupQueryAttention",
    "PagedAttention",
    domain=MICROSOFT,
)
def _multi_head(builder: Builder, call: Call) -> Result:
    attrs = _settings(call)
    if call.op == "GroupQueryAttention":
        attrs["causal"] = True
        attrs["kv_heads"] = call.integer("kv_num_heads", attrs["heads"])
    params: list[ParamDraft] = []
    bias = call.fixed(3) if call.op == "MultiHeadAttention" else None
    if bias is not None and bias.floating and bias.size % 3 == 0:
        tensor = flat(bias.tensor)
        third = bias.size // 3
        params = [
            builder.param(
                Role.BIAS,
                bias,
                "in_proj_bias",
                tensor.take(0, index * third, (index + 1) * third),
                gate=gate,
                packed=3,
            )
            for index, gate in enumerate(GATES)
        ]
    inputs: list[Value | None] = list(call.inputs[:3])
    if call.value(1) is None and call.value(2) is None:
        attrs["packed"] = True
    layer = builder.emit(Op.ATTENTION, call, inputs, params, attrs, shape=call.shape(0))
    return builder.outputs(layer, call)


@handles("Attention", "QAttention", domain=MICROSOFT)
def _packed_attention(builder: Builder, call: Call) -> Result:
    """Input, (in, 3·hidden) weights and bias: the projection and the attention."""
    weight = call.fixed(1)
    if weight is None or len(weight.shape) != 2:
        return None
    if call.op == "QAttention":
        scale = call.fixed(4)
        if scale is None:
            return None
        weight = dequantised(weight, scale, call.fixed(7), -1, 0)
    sizes = call.ints("qkv_hidden_sizes")
    columns = weight.shape[1]
    if len(sizes) != 3 or sum(sizes) != columns:
        if columns % 3:
            return None
        sizes = (columns // 3,) * 3
    params = packed_blocks(
        builder, Role.WEIGHT, weight, swapped(weight.tensor), "in_proj_weight", sizes
    )
    bias = call.fixed(2)
    if bias is not None and bias.floating and bias.size == columns:
        params += packed_blocks(builder, Role.BIAS, bias, flat(bias.tensor), "in_proj_bias", sizes)
    given = call.shape(0)
    inner = None if given is None else (*given[:-1], columns)
    projected = builder.emit(
        Op.LINEAR, call, [call.value(0)], params, {"packed": sizes}, inner, part="in_proj"
    )
    shape = None if given is None else (*given[:-1], sizes[2])
    thirds = [
        Dynamic(projected.layer, index, None if given is None else (*given[:-1], size))
        for index, size in enumerate(sizes)
    ]
    layer = builder.emit(Op.ATTENTION, call, thirds, attrs=_settings(call), shape=shape)
    return builder.outputs(layer, call)


def packed_blocks(
    builder: Builder,
    role: Role,
    fixed: Fixed,
    tensor: Tensor,
    leaf: str,
    sizes: tuple[int, ...],
) -> list[ParamDraft]:
    """Query, key and value blocks along the first canonical axis."""
    found: list[ParamDraft] = []
    start = 0
    for gate, size in zip(GATES, sizes, strict=True):
        block = tensor.take(0, start, start + size)
        found.append(builder.param(role, fixed, leaf, block, gate=gate, packed=3))
        start += size
    return found


@handles("RotaryEmbedding")
@handles("RotaryEmbedding", "GemmaRotaryEmbedding", domain=MICROSOFT)
def _rotary(builder: Builder, call: Call) -> Result:
    """A rotation: norms and second moments pass unchanged."""
    attrs = {"kind": "rotary"}
    result = builder.emit(Op.IDENTITY, call, [call.value(0)], attrs=attrs, shape=call.shape(0))
    return builder.outputs(result, call)
