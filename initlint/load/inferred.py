"""Layers from names and shapes alone, for checkpoints that bring no architecture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from initlint.load.decode import FLOATING
from initlint.load.inferred_norms import batch_norm_layer, norm_layer
from initlint.load.inferred_packed import (
    Found,
    attention_layer,
    expert_layers,
    is_expert_stack,
    is_quantised,
    quantised_layer,
    recurrent_layer,
    split_qkv,
)
from initlint.load.inferred_params import Maker, effective_weight
from initlint.load.naming import (
    BASIS_WORDS,
    BUFFER_WORDS,
    EMBEDDING_WORDS,
    GAIN_WORDS,
    PACKED_ATTENTION,
    PROJECTION_WORDS,
    Group,
    group_by_module,
    in_reading_order,
    path_words,
    recurrent_stem,
    words,
)
from initlint.load.stored import Contents
from initlint.model import Layer, Op, Param, Role
from initlint.model.record import record

_TRANSPOSED_CONV_WORDS = frozenset({"deconv", "transpose", "transposed", "convtranspose", "upconv"})
_CONV1D_NAMES = frozenset({"c_attn", "c_proj", "c_fc", "q_attn"})
_WEIGHTS = ("weight", "weight_orig", "weight_v", "kernel", "embedding")
_BIASES = ("bias", "bias_orig")
_NEARBY = 8
"""Modules looked back at for the one that feeds a kernel: an activation, a norm and a gate or two
may lie between."""

_POSITION_WORDS = frozenset({"pos", "position", "positions", "positional"})


@dataclass(slots=True)
class Inferred:
    """What names and shapes tell.

    Attributes:
        layers: in the order of the file.
        loose: tensors that are no parameter of a layer: counters, masks, fixed tables.
    """

    layers: list[Layer] = field(default_factory=list)
    loose: list[Param] = field(default_factory=list)


def infer_layers(contents: Contents, heads: int | None = None) -> Inferred:
    """Layers, roles and canonical orientation from names and shapes.

    Args:
        contents: the tensors.
        heads: number of attention heads where a configuration tells; a projection that packs
            query, key and value head by head can be split only with it.

    What cannot be told stays `Op.OTHER` with `Role.OTHER`.
    """
    tensors = contents.tensors
    if not contents.ordered:
        tensors = {name: tensors[name] for name in in_reading_order(tensors)}
    groups = group_by_module(tensors)
    maker = Maker.of(tensors)
    context = _Context(groups, _kernel_ranks(groups), maker, heads, _is_conv1d(groups))
    inferred = Inferred()
    for index in range(len(groups)):
        _infer_group(context, index, inferred)
    inferred.layers = _with_adapters(_with_unique_ids(inferred.layers))
    return inferred


@record(frozen=True, slots=True)
class _Context:
    """What inferring one module may look at.

    Attributes:
        groups: all modules in order.
        ranks: for each, the number of axes of the last kernel or matrix up to it.
        maker: makes parameters.
        heads: number of attention heads, if known.
        conv1d: True when GPT-2's names mean its ``(in, out)`` layout.
    """

    groups: Sequence[Group]
    ranks: Sequence[int]
    maker: Maker
    heads: int | None
    conv1d: bool


def _kernel_ranks(groups: Sequence[Group]) -> list[int]:
    ranks, last = [], 0
    for group in groups:
        found = [
            len(group.members[stem].tensor.shape) for stem in _WEIGHTS if stem in group.members
        ]
        last = next((rank for rank in found if rank >= 2), last)
        ranks.append(last)
    return ranks


def _infer_group(context: _Context, index: int, inferred: Inferred) -> None:
    group, maker = context.groups[index], context.maker
    if any(recurrent_stem(stem) for stem in group.members):
        layer, rest = recurrent_layer(group, maker)
    elif PACKED_ATTENTION & group.members.keys():
        layer, rest = attention_layer(group, maker)
    elif is_quantised(group):
        layer, rest = quantised_layer(group, maker)
    elif {"running_mean", "running_var"} & group.members.keys():
        layer, rest = batch_norm_layer(group, maker, context.ranks[index])
    elif any(stem in group.members for stem in (*_WEIGHTS, "gamma", "scale", "bias")):
        layer, rest = _weighted(context, index)
    else:
        layer, rest = None, set(group.members)
    if layer is not None:
        inferred.layers.append(_frozen(layer) if path_words(group.path) & BASIS_WORDS else layer)
    for stem in group.members:
        if stem in rest:
            _raw(group, stem, maker, inferred)


def _weighted(context: _Context, index: int) -> Found:
    group = context.groups[index]
    stem = next((stem for stem in _WEIGHTS if stem in group.members), None)
    if stem is None or group.members[stem].tensor.dtype not in FLOATING:
        return norm_layer(group, None, context.maker)
    rank = len(group.members[stem].tensor.shape)
    if rank == 1 and stem != "weight_v":
        return norm_layer(group, stem, context.maker)
    if is_expert_stack(group, stem) or rank < 2 or rank > 5:
        return None, set(group.members)
    if rank == 2 or stem == "embedding":
        return _linear(context, group, stem)
    return _conv(context, index, stem)


def _linear(context: _Context, group: Group, stem: str) -> Found:
    maker = context.maker
    bias = _bias(group)
    if stem == "embedding" or (bias is None and _names_embedding(group)):
        params: tuple[Param, ...] = (
            maker.param(Role.WEIGHT, group, stem, module="torch.nn.Embedding"),
        )
        return Layer(group.path, Op.EMBEDDING, params, scope=group.parent), _rest(group, stem)
    weight = effective_weight(group, stem)
    outputs = group.members[bias].tensor.shape if bias else ()
    conv1d = context.conv1d and group.leaf in _CONV1D_NAMES
    by_bias = outputs == weight.shape[1:] and outputs != weight.shape[:1]
    flipped = stem == "kernel" or conv1d or by_bias
    if flipped:
        weight = weight.transpose()
    module = (
        "transformers.pytorch_utils.Conv1D" if conv1d else None if flipped else "torch.nn.Linear"
    )
    params = (maker.param(Role.WEIGHT, group, stem, weight, module=module),)
    if bias:
        params += (maker.param(Role.BIAS, group, bias, module=module),)
    params = split_qkv(group.leaf, params, context.heads)
    layer = Layer(group.path, Op.LINEAR, params, scope=group.parent)
    return layer, _rest(group, stem, bias)


def _bias(group: Group) -> str | None:
    for stem in _BIASES:
        if stem in group.members:
            tensor = group.members[stem].tensor
            return stem if len(tensor.shape) == 1 and tensor.dtype in FLOATING else None
    return None


def _names_embedding(group: Group) -> bool:
    found = words(group.leaf)
    if group.leaf in ("relative_attention_bias", "shared"):
        return True
    return bool(found & EMBEDDING_WORDS) and not found & PROJECTION_WORDS


def _rest(group: Group, *used: str | None) -> set[str]:
    """Members that a layer did not take; the vectors behind a reparametrised weight are its own."""
    own = (
        {"weight_g", "weight_v", "weight_u"}
        if {"weight_g", "weight_orig"} & group.members.keys()
        else set()
    )
    return set(group.members) - set(used) - own


def _conv(context: _Context, index: int, stem: str) -> Found:
    group, maker = context.groups[index], context.maker
    bias = _bias(group)
    weight = effective_weight(group, stem)
    rank = len(weight.shape)
    if stem == "kernel":
        weight = weight.transpose(rank - 1, rank - 2, *range(rank - 2))
    attrs: dict[str, Any] = {}
    if rank == 3 and "bilinear" in path_words(group.path):
        params: tuple[Param, ...] = (
            maker.param(Role.WEIGHT, group, stem, weight, module="torch.nn.Bilinear"),
        )
        op = Op.BILINEAR
        module = "torch.nn.Bilinear"
    else:
        outputs = group.members[bias].tensor.size if bias else None
        transposed = stem != "kernel" and _is_transposed(context, index, weight.shape, outputs)
        op = Op.CONV_TRANSPOSE if transposed else Op.CONV
        module = f"torch.nn.Conv{'Transpose' if transposed else ''}{rank - 2}d"
        if transposed:
            weight = weight.transpose(1, 0, *range(2, rank))
        attrs["kernel"] = weight.shape[2:]
        if not transposed and _is_depthwise(context, index, weight.shape):
            attrs["groups"] = weight.shape[0]
        params = (maker.param(Role.WEIGHT, group, stem, weight, module=module),)
    if bias:
        params += (maker.param(Role.BIAS, group, bias, module=module),)
    layer = Layer(group.path, op, params, attrs, scope=group.parent, channel_axis=1)
    return layer, _rest(group, stem, bias)


def _is_transposed(
    context: _Context, index: int, shape: tuple[int, ...], outputs: int | None
) -> bool:
    """Whether a kernel is stored ``(in, out, …)``: told by its bias, its norms, or its name."""
    if outputs is not None and shape[0] != shape[1]:
        return outputs == shape[1] and outputs != shape[0]
    if shape[0] != shape[1] and shape[1] != 1:
        following = _norm_size(context, index, +1)
        if following is not None:
            return following == shape[1]
        preceding = _norm_size(context, index, -1)
        if preceding is not None and preceding in shape[:2]:
            return preceding == shape[0]
    return bool(words(context.groups[index].leaf) & _TRANSPOSED_CONV_WORDS)


def _norm_size(context: _Context, index: int, step: int) -> int | None:
    """Width of the normaliser beside a layer, in the same container."""
    if not 0 <= index + step < len(context.groups):
        return None
    group, other = context.groups[index], context.groups[index + step]
    mean = other.members.get("running_mean")
    return mean.tensor.size if mean is not None and other.parent == group.parent else None


def _is_depthwise(context: _Context, index: int, shape: tuple[int, ...]) -> bool:
    """One input channel per kernel, after a layer that gives as many channels as it has kernels."""
    if shape[1] != 1 or shape[0] == 1:
        return False
    for other in reversed(context.groups[max(index - _NEARBY, 0) : index]):
        for stem in (*_WEIGHTS, "running_mean"):
            if stem in other.members:
                return other.members[stem].tensor.shape[:1] == shape[:1]
    return False


def _is_conv1d(groups: Sequence[Group]) -> bool:
    """True when the layers called ``c_attn``, ``c_fc`` store ``(in, out)`` as GPT-2's do.

    nanoGPT uses the same names for ordinary linear layers. The square ``c_proj`` cannot tell, so
    the others decide: by their bias, or by the packed axis (three times the other).
    """
    votes = []
    for group in groups:
        weight = group.members.get("weight")
        if group.leaf not in _CONV1D_NAMES or weight is None or len(weight.tensor.shape) != 2:
            continue
        rows, columns = weight.tensor.shape
        bias = group.members.get("bias")
        if bias is not None and rows != columns:
            votes.append(bias.tensor.size == columns)
        elif group.leaf == "c_attn" and rows != columns:
            votes.append(columns == 3 * rows)
    return bool(votes) and all(votes)


def _raw(group: Group, stem: str, maker: Maker, inferred: Inferred) -> None:
    """A tensor that its module uses directly."""
    stored, name = group.members[stem], group.names[stem]
    found = words(stem)
    buffer = maker.states_gradients and stored.requires_grad is False
    if buffer or stored.tensor.dtype not in FLOATING or _is_buffer(group, stem):
        inferred.loose.append(maker.param(Role.OTHER, group, stem, trainable=False))
        return
    if is_expert_stack(group, stem):
        inferred.layers.extend(expert_layers(group, stem, maker))
        return
    op, role = Op.OTHER, Role.OTHER
    if len(stored.tensor.shape) >= 2 and found & (
        EMBEDDING_WORDS | {"token", "tokens", "query", "latents"}
    ):
        op, role = (Op.ADD if found & _POSITION_WORDS else Op.OTHER), Role.TABLE
    elif "table" in found:
        op, role = Op.ADD, Role.TABLE
    elif len(stored.tensor.shape) <= 1 and found & GAIN_WORDS and "logit" not in found:
        op, role = Op.MUL, Role.GAIN
    inferred.layers.append(Layer(name, op, (maker.param(role, group, stem),), scope=group.path))


def _is_buffer(group: Group, stem: str) -> bool:
    """A causal mask, a rotary table, a schedule: told by the words of its name, or its shape."""
    shape = group.members[stem].tensor.shape
    if stem == "bias" and len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]:
        return True
    found = words(stem)
    if found & BUFFER_WORDS and not found & {"token", "tokens", "embed", "embedding"}:
        return True
    return bool(words(group.leaf) & {"rope", "rotary", "rotaryemb"})


def _with_unique_ids(layers: list[Layer]) -> list[Layer]:
    """Layer ids that differ, a module without a path called by its first parameter."""
    seen: set[str] = set()
    unique = []
    for layer in layers:
        key = layer.id or layer.params[0].name
        number = 1
        while key in seen:
            number += 1
            key = f"{layer.id or layer.params[0].name}#{number}"
        seen.add(key)
        unique.append(layer if key == layer.id else replace(layer, id=key))
    return unique


_DOWN, _UP = frozenset({"a", "down"}), frozenset({"b", "up"})


def _with_adapters(layers: list[Layer]) -> list[Layer]:
    """Adapters marked (``attrs["lora"]`` and ``["base"]``), the layers they adapt frozen."""
    marks: dict[str, Mapping[str, Any]] = {}
    for layer in layers:
        base, found, tail = layer.id.partition("lora_")
        side = tail.split(".")[0].lower().removeprefix("embedding_")
        if found and side in _DOWN | _UP:
            marks[layer.id] = {"lora": "down" if side in _DOWN else "up", "base": base.rstrip("._")}
    if not marks:
        return layers
    return [
        replace(layer, attrs={**layer.attrs, **marks[layer.id]})
        if layer.id in marks
        else _frozen(layer)
        for layer in layers
    ]


def _frozen(layer: Layer) -> Layer:
    return replace(layer, params=tuple(replace(param, trainable=False) for param in layer.params))
