"""Calls that read weights: linear layers, convolutions, tables, normalisers, attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from initlint.load.torch_arithmetic import (
    Handler,
    all_tensors,
    data_of,
    is_activation,
    other,
    per_axis,
)
from initlint.load.torch_products import (
    Mapped,
    Use,
    linear,
)
from initlint.load.torch_tracer import Call
from initlint.load.torch_weights import Static
from initlint.model import Op, Role, View

# layers with weights


def linear_layer(call: Call) -> list[Mapped]:
    """`torch.nn.functional.linear`."""
    return linear(call, call.arg(0, "input"), call.arg(1, "weight"), call.arg(2, "bias"))


def _weighted(call: Call, op: Op, attrs: dict[str, Any], views: tuple[View, ...] = ()) -> Mapped:
    weight, bias = call.arg(1, "weight"), call.arg(2, "bias")
    value = call.value(weight)
    if not isinstance(value, Static):
        return Mapped(Op.OTHER, {"function": call.name}, all_tensors(call))
    uses = [Use(Role.WEIGHT, value, "weight", views)]
    inputs = data_of(call)
    if bias is not None:
        static = call.value(bias)
        if isinstance(static, Static):
            uses.append(Use(Role.BIAS, static, "bias"))
        else:
            inputs.append(bias)
    return Mapped(op, attrs, inputs, uses)


def conv(call: Call) -> list[Mapped]:
    """Convolutions in one to three dimensions."""
    weight = call.arg(1, "weight")
    axes = weight.ndim - 2
    kernel = tuple(weight.shape[2:])
    dilation = per_axis(call.arg(5, "dilation", 1), axes)
    attrs = {
        "kernel": kernel,
        "stride": per_axis(call.arg(3, "stride", 1), axes),
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
    return per_axis(padding, len(kernel))


def conv_transpose(call: Call) -> list[Mapped]:
    """Transposed convolutions; torch stores ``(in, out/groups, *kernel)``."""
    weight = call.arg(1, "weight")
    axes = weight.ndim - 2
    groups = int(call.arg(6, "groups", 1))
    kernel = tuple(weight.shape[2:])
    attrs = {
        "kernel": kernel,
        "stride": per_axis(call.arg(3, "stride", 1), axes),
        "padding": per_axis(call.arg(4, "padding", 0), axes),
        "output_padding": per_axis(call.arg(5, "output_padding", 0), axes),
        "dilation": per_axis(call.arg(7, "dilation", 1), axes),
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


def bilinear(call: Call) -> list[Mapped]:
    """`torch.nn.functional.bilinear`."""
    value = call.value(call.arg(2, "weight"))
    if not isinstance(value, Static):
        return other(call)
    uses = [Use(Role.WEIGHT, value, "weight")]
    bias = call.arg(3, "bias")
    if bias is not None and isinstance(call.value(bias), Static):
        uses.append(Use(Role.BIAS, call.value(bias), "bias"))  # type: ignore[arg-type]
    return [Mapped(Op.BILINEAR, {}, [call.arg(0, "input1"), call.arg(1, "input2")], uses)]


def embedding(call: Call) -> list[Mapped]:
    """Look-ups in a table; the builtin takes the table first, the Python function last."""
    first, second = call.arg(0, "input"), call.arg(1, "weight")
    builtin = not isinstance(call.function, type(embedding))
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


def norm(
    op: Op, weight: int, bias: int | None, settings: Callable[[Call], dict[str, Any]]
) -> Handler:
    """Normalisers with their gain and shift at the given argument positions."""

    def handle(call: Call) -> list[Mapped]:
        uses = []
        inputs = data_of(call)
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


def layer_norm_settings(call: Call) -> dict[str, Any]:
    """Normalised axes and epsilon; RMSNorm takes the machine epsilon by default."""
    shape = call.arg(1, "normalized_shape")
    sides = 1 if isinstance(shape, int) else len(shape)
    eps = call.arg(4 if call.name == "layer_norm" else 3, "eps")
    if eps is None:
        eps = torch.finfo(call.arg(0, "input").dtype).eps
    return {"axis": -sides, "eps": eps}


# attention


def attention(call: Call) -> list[Mapped]:
    """`torch.nn.functional.scaled_dot_product_attention`."""
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
        if is_activation(call, mask):
            inputs.append(mask)
        attrs["masked"] = True
    return [Mapped(Op.ATTENTION, attrs, inputs)]
