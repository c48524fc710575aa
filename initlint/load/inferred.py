"""Layers from names and shapes alone, for checkpoints that bring no architecture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from initlint.load.decode import FLOATING
from initlint.load.inferred_packed import (
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
    BUFFER_WORDS,
    EMBEDDING_WORDS,
    GAIN_WORDS,
    NORM_WORDS,
    PACKED_ATTENTION,
    PROJECTION_WORDS,
    SLOPE_WORDS,
    Group,
    group_by_module,
    in_reading_order,
    recurrent_stem,
    words,
)
from initlint.load.stored import Contents
from initlint.model import Layer, Op, Param, Role

_TRANSPOSED_CONV_WORDS = frozenset({"deconv", "transpose", "transposed", "convtranspose", "upconv"})
_CONV1D_NAMES = frozenset({"c_attn", "c_proj", "c_fc", "q_attn"})
_WEIGHTS = ("weight", "weight_orig", "weight_v", "kernel", "embedding")
_BIASES = ("bias", "bias_orig")
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
    context = _Context(groups, maker, heads, _is_conv1d(groups))
    inferred = Inferred()
    for index in range(len(groups)):
        _infer_group(context, index, inferred)
    inferred.layers = _with_adapters(_with_unique_ids(inferred.layers))
    return inferred


@dataclass(frozen=True, slots=True)
class _Context:
    groups: Sequence[Group]
    maker: Maker
    heads: int | None
    conv1d: bool


def _infer_group(context: _Context, index: int, inferred: Inferred) -> None:
    group, maker = context.groups[index], context.maker
    if any(recurrent_stem(stem) for stem in group.members):
        layer, rest = recurrent_layer(group, maker)
    elif PACKED_ATTENTION & group.members.keys():
        layer, rest = attention_layer(group, maker)
    elif is_quantised(group):
        layer, rest = quantised_layer(group, maker)
    elif {"running_mean", "running_var"} & group.members.keys():
        layer, rest = _batch_norm(context, index)
    elif any(stem in group.members for stem in (*_WEIGHTS, "gamma", "scale", "bias")):
        layer, rest = _weighted(context, index)
    else:
        layer, rest = None, set(group.members)
    if layer is not None:
        inferred.layers.append(layer)
    for stem in group.members:
        if stem in rest:
            _raw(group, stem, maker, inferred)


def _weighted(context: _Context, index: int) -> tuple[Layer | None, set[str]]:
    group = context.groups[index]
    stem = next((stem for stem in _WEIGHTS if stem in group.members), None)
    if stem is None or group.members[stem].tensor.dtype not in FLOATING:
        return _norm(context, group, None)
    rank = len(group.members[stem].tensor.shape)
    if rank == 1 and stem != "weight_v":
        return _norm(context, group, stem)
    if is_expert_stack(group, stem) or rank < 2 or rank > 5:
        return None, set(group.members)
    if rank == 2 or stem == "embedding":
        return _linear(context, group, stem)
    return _conv(context, index, stem)


def _norm(context: _Context, group: Group, stem: str | None) -> tuple[Layer | None, set[str]]:
    """A gain and perhaps a shift: a normaliser, a scale or a slope, by its words."""
    maker, rest = context.maker, set(group.members)
    gain = next((s for s in (stem, "gamma", "scale") if s and s in group.members), None)
    shift = next((s for s in ("bias", "beta") if s in group.members), None)
    used = {s for s in (gain, shift) if s}
    params: tuple[Param, ...]
    if any(
        len(group.members[s].tensor.shape) != 1 or group.members[s].tensor.dtype not in FLOATING
        for s in used
    ):
        return None, rest
    found = words(group.leaf)
    if gain is None:
        if shift != "bias":
            return None, rest
        params = (maker.param(Role.SHIFT, group, "bias"),)
        return Layer(group.path, Op.ADD, params, scope=group.parent), rest - used
    size = group.members[gain].tensor.size
    if shift is None and (found & SLOPE_WORDS or (size == 1 and not found & NORM_WORDS)):
        params = (maker.param(Role.SLOPE, group, gain, module="torch.nn.PReLU"),)
        return Layer(group.path, Op.PRELU, params, scope=group.parent), rest - used
    op, module = _norm_kind(group, found, shift is not None, gain)
    if op is None:
        return None, rest
    params = tuple(
        maker.param(role, group, s, module=module)
        for role, s in ((Role.GAIN, gain), (Role.SHIFT, shift))
        if s
    )
    return Layer(group.path, op, params, scope=group.parent), rest - used


def _norm_kind(
    group: Group, found: frozenset[str], shifted: bool, gain: str
) -> tuple[Op | None, str | None]:
    if found & {"bn", "batchnorm"}:
        return Op.BATCH_NORM, None
    if found & {"gn", "groupnorm"}:
        return Op.GROUP_NORM, "torch.nn.GroupNorm"
    if found & {"instancenorm"}:
        return Op.INSTANCE_NORM, None
    if shifted:
        return Op.LAYER_NORM, "torch.nn.LayerNorm"
    if found & NORM_WORDS or "norm" in group.leaf.lower():
        return Op.RMS_NORM, None
    if gain == "gamma" or found & GAIN_WORDS:
        return Op.MUL, None
    return None, None


def _batch_norm(context: _Context, index: int) -> tuple[Layer | None, set[str]]:
    group, maker = context.groups[index], context.maker
    rank = next(
        (
            rank
            for rank in (_kernel_rank(group) for group in reversed(context.groups[:index]))
            if rank
        ),
        None,
    )
    instance = bool(words(group.leaf) & {"instancenorm"})
    kind = "InstanceNorm" if instance else "BatchNorm"
    module = f"torch.nn.{kind}{max((rank or 3) - 2, 1)}d"
    roles = {
        "weight": Role.GAIN,
        "bias": Role.SHIFT,
        "running_mean": Role.RUNNING_MEAN,
        "running_var": Role.RUNNING_VAR,
    }
    params = tuple(
        maker.param(role, group, stem, module=module, trainable=stem in ("weight", "bias"))
        for stem, role in roles.items()
        if stem in group.members
    )
    op = Op.INSTANCE_NORM if instance else Op.BATCH_NORM
    layer = Layer(group.path, op, params, scope=group.parent, channel_axis=1)
    return layer, set(group.members) - roles.keys()


def _kernel_rank(group: Group) -> int | None:
    for stem in _WEIGHTS:
        if stem in group.members:
            rank = len(group.members[stem].tensor.shape)
            return rank if rank >= 2 else None
    return None


def _linear(context: _Context, group: Group, stem: str) -> tuple[Layer | None, set[str]]:
    maker = context.maker
    bias = next((name for name in _BIASES if name in group.members), None)
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


def _conv(context: _Context, index: int, stem: str) -> tuple[Layer | None, set[str]]:
    group, maker = context.groups[index], context.maker
    bias = next((name for name in _BIASES if name in group.members), None)
    weight = effective_weight(group, stem)
    rank = len(weight.shape)
    if stem == "kernel":
        weight = weight.transpose(rank - 1, rank - 2, *range(rank - 2))
    attrs: dict[str, Any] = {}
    if rank == 3 and "bilinear" in words(group.path):
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
    for other in reversed(context.groups[:index]):
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
    if stored.tensor.dtype not in FLOATING or _is_buffer(group, stem, stored.tensor.shape):
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


def _is_buffer(group: Group, stem: str, shape: tuple[int, ...]) -> bool:
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
        unique.append(replace(layer, id=key))
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
        else replace(layer, params=tuple(replace(p, trainable=False) for p in layer.params))
        for layer in layers
    ]
