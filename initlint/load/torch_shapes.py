"""Calls that reduce, cut, join, choose and reshape."""

from __future__ import annotations

from typing import Any

import torch

from initlint.load.torch_arithmetic import (
    Handler,
    all_tensors,
    binary,
    data_of,
    is_activation,
    other,
    per_axis,
)
from initlint.load.torch_products import (
    Mapped,
    Use,
)
from initlint.load.torch_tracer import Call, Ref
from initlint.load.torch_weights import Static, constant_value
from initlint.model import Op, Role

# reductions, pools, softmax


def _axes(value: Any) -> Any:
    if value is None:
        return None
    return tuple(value) if isinstance(value, (list, tuple, torch.Size)) else (int(value),)


def reduce(kind: str) -> Handler:
    """Reductions along axes; with a tensor as second argument, `max` and `min` are binary."""

    def handle(call: Call) -> list[Mapped]:
        if isinstance(call.arg(1, "other"), torch.Tensor):
            pair = Op.MAXIMUM if kind == "max" else Op.MINIMUM
            return [binary(call, pair, [call.arg(0, "input"), call.arg(1, "other")])]
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
        return [Mapped(Op.REDUCE, attrs, data_of(call))]

    return handle


def pool(kind: str) -> Handler:
    """Pooling over windows."""

    def handle(call: Call) -> list[Mapped]:
        data = call.arg(0, "input")
        axes = int(call.name.split("d")[-2][-1]) if call.name[-1] == "d" else data.ndim - 2
        shift = 1 if call.name.startswith("lp_") else 0
        kernel = per_axis(call.arg(1 + shift, "kernel_size"), axes)
        stride = call.arg(2 + shift, "stride")
        attrs = {
            "kind": kind,
            "kernel": kernel,
            "stride": kernel if stride in (None, [], ()) else per_axis(stride, axes),
            "padding": per_axis(call.arg(3, "padding", 0), axes) if not shift else (0,) * axes,
        }
        if kind == "max":
            attrs["dilation"] = per_axis(call.arg(4, "dilation", 1), axes)
        return [Mapped(Op.POOL, attrs, [data], channel_axis=1)]

    return handle


def adaptive_pool(kind: str) -> Handler:
    """Pooling to a given size; over all of space for size one."""

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


# shapes


def perm(call: Call) -> list[Mapped]:
    """Any exchange of axes, read off what it does to a shape of distinct sides."""
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


def reshape(call: Call) -> list[Mapped]:
    """Any change of shape that keeps the order of elements."""
    return [Mapped(Op.RESHAPE, {"shape": tuple(call.outputs[0].shape[1:])}, data_of(call))]


def split(call: Call) -> list[Mapped]:
    """Parts along an axis; ``sizes`` where they differ."""
    data, parts = call.arg(0, "input"), call.outputs
    default = 0
    dim = call.arg(1 if call.name == "unbind" else 2, "dim", default)
    axis = int(dim) - data.ndim if int(dim) >= 0 else int(dim)
    kept = call.name != "unbind"
    sizes = tuple(int(part.shape[axis]) if kept else 1 for part in parts)
    attrs = {"axis": axis, "parts": len(parts), "sizes": sizes}
    return [Mapped(Op.SPLIT, attrs, [data])]


def index(call: Call) -> list[Mapped]:
    """``x[...]``: a cut along an axis, a choice of rows, or a look-up in a parameter."""
    data, index = call.args[0], call.args[1] if len(call.args) > 1 else None
    value = call.value(data)
    if isinstance(value, Static):
        active = [item for item in all_tensors(call)[1:] if is_activation(call, item)]
        if value.sources and data.ndim == 2 and not isinstance(index, tuple):
            return [Mapped(Op.EMBEDDING, {}, active, [Use(Role.WEIGHT, value, "weight")], -1)]
        uses = [Use(Role.TABLE, value, "weight")] if value.sources else []
        return [Mapped(Op.GATHER, {}, active, uses)]
    items = index if isinstance(index, tuple) else (index,)
    if any(isinstance(item, (torch.Tensor, list)) for item in items):
        return [Mapped(Op.GATHER, {}, all_tensors(call))]
    cuts = _cuts(data, items)
    if not cuts:
        return reshape(call)
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


def select(call: Call) -> list[Mapped]:
    """``select`` and ``narrow``."""
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


def gather(call: Call) -> list[Mapped]:
    """Choices of elements that leave their values as they are."""
    data = call.arg(0, "input")
    if isinstance(call.value(data), Static):
        return index(call) if call.name == "index_select" else other(call)
    return [Mapped(Op.GATHER, {}, all_tensors(call))]


def concat(call: Call) -> list[Mapped]:
    """Joins along an axis; ``new_axis`` for stacks."""
    tensors = list(call.args[0] if call.args else call.kwargs["tensors"])
    default = {"hstack": 1, "vstack": 0}.get(call.name, 0)
    axis = int(call.arg(1, "dim", call.kwargs.get("axis", default)))
    if call.name == "hstack" and tensors[0].ndim == 1:
        axis = 0
    attrs: dict[str, Any] = {"axis": axis}
    if call.name == "stack":
        attrs["new_axis"] = True
    return [Mapped(Op.CONCAT, attrs, tensors)]


def pad(call: Call) -> list[Mapped]:
    """`torch.nn.functional.pad`."""
    attrs = {"pad": tuple(call.arg(1, "pad")), "mode": call.arg(2, "mode", "constant")}
    return [Mapped(Op.PAD, attrs, data_of(call))]


def resize(call: Call) -> list[Mapped]:
    """Interpolation."""
    data, result = call.arg(0, "input"), call.outputs[0]
    factor = result.shape[-1] / max(int(data.shape[-1]), 1)
    attrs = {"factor": int(factor) if factor == int(factor) else factor}
    attrs["mode"] = call.arg(3, "mode", "nearest")
    return [Mapped(Op.RESIZE, attrs, [data], channel_axis=1)]


# choices


def where(call: Call) -> list[Mapped]:
    """Choices between two operands; a fixed one is an attribute."""
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


def compare(kind: str) -> Handler:
    """Comparisons and logic."""

    def handle(call: Call) -> list[Mapped]:
        operands = [call.arg(0, "input"), call.arg(1, "other")]
        if kind == "logical_not" or operands[1] is None:
            return [Mapped(Op.COMPARE, {"kind": kind}, operands[:1])]
        mapped = binary(call, Op.COMPARE, operands)
        mapped.attrs["kind"] = kind
        return [mapped]

    return handle


def clip(call: Call) -> list[Mapped]:
    """Bounds; a lower bound of zero alone is a ReLU."""
    low = call.arg(1, "min") if call.name != "clamp_max" else None
    high = call.arg(2, "max") if call.name != "clamp_max" else call.arg(1, "max")
    if isinstance(low, torch.Tensor) or isinstance(high, torch.Tensor):
        return other(call)
    if low == 0 and high is None:
        return [Mapped(Op.RELU, {}, data_of(call))]
    attrs = {name: value for name, value in (("min", low), ("max", high)) if value is not None}
    return [Mapped(Op.CLIP, attrs, data_of(call))]


def rrelu(call: Call) -> list[Mapped]:
    """Randomised leaky ReLU: its slope's expectation."""
    slope = (call.arg(1, "lower", 1 / 8) + call.arg(2, "upper", 1 / 3)) / 2
    return [Mapped(Op.LEAKY_RELU, {"negative_slope": slope}, data_of(call))]


def prelu(call: Call) -> list[Mapped]:
    """Leaky ReLU with a trainable slope."""
    value = call.value(call.arg(1, "weight"))
    if not isinstance(value, Static):
        return other(call)
    return [Mapped(Op.PRELU, {}, data_of(call), [Use(Role.SLOPE, value, "weight")])]


def threshold(call: Call) -> list[Mapped]:
    """`torch.nn.functional.threshold`, in vocabulary where it replaces by zero."""
    limit, value = call.arg(1, "threshold"), call.arg(2, "value")
    if value != 0:
        return other(call)
    if limit == 0:
        return [Mapped(Op.RELU, {}, data_of(call))]
    return [Mapped(Op.THRESHOLDED_RELU, {"alpha": limit}, data_of(call))]


def dropout(call: Call) -> list[Mapped]:
    """Dropout; ``p`` is zero where it is switched off."""
    training = call.arg(2, "training", True)
    p = float(call.arg(1, "p", 0.5)) if training else 0.0
    return [Mapped(Op.DROPOUT, {"p": p}, data_of(call))]


def detach(call: Call) -> list[Mapped]:
    """Values pass, gradients do not."""
    return [Mapped(Op.IDENTITY, {"stop_gradient": True}, data_of(call))]
