"""Layers whose stored tensors hold several blocks: gates, attention, experts, packed integers."""

from __future__ import annotations

from dataclasses import replace

from initlint.load.decode import FLOATING
from initlint.load.inferred_params import Maker
from initlint.load.naming import Group, path_words, recurrent_stem
from initlint.model import Layer, Op, Param, Role, Tensor

_GATES = {
    Op.LSTM: ("input", "forget", "cell", "output"),
    Op.GRU: ("reset", "update", "new"),
    Op.RNN: (None,),
}
"""PyTorch's order of gates (``torch/nn/modules/rnn.py``)."""

_ROLES = {
    "weight_ih": Role.WEIGHT,
    "weight_hh": Role.RECURRENT_WEIGHT,
    "weight_hr": Role.PROJECTION,
    "bias_ih": Role.BIAS,
    "bias_hh": Role.RECURRENT_BIAS,
}
_QKV = ("query", "key", "value")
_THIRDS = frozenset({"qkv", "c_attn", "Wqkv", "qkv_proj", "to_qkv", "in_proj", "attn_qkv"})
_BY_HEAD = frozenset({"query_key_value"})
_EXPERT_STEMS = frozenset({"gate_up_proj", "down_proj", "gate_proj", "up_proj", "w1", "w2", "w3"})
_QUANTISED_STEMS = frozenset({"qweight", "SCB", "weight_packed"})

Found = tuple[Layer | None, set[str]]


def recurrent_layer(group: Group, maker: Maker) -> Found:
    """An RNN, GRU or LSTM: the rows of its hidden weights over its width are 1, 3 or 4."""
    parsed = {stem: recurrent_stem(stem) for stem in group.members}
    known = {stem: parts for stem, parts in parsed.items() if parts is not None}
    op, hidden = _recurrent_kind(group, known)
    if op is None or not _fits(group, known, len(_GATES[op]), hidden):
        return None, set(group.members)
    params: list[Param] = []
    cell = not any("_l" in stem for stem in known)
    module = f"torch.nn.{op.value.upper()}{'Cell' if cell else ''}"
    order = list(_ROLES)
    for stem, (kind, _, direction) in sorted(
        known.items(), key=lambda item: (*item[1][1:], order.index(item[1][0]))
    ):
        whole = maker.param(_ROLES[kind], group, stem, module=module, direction=direction)
        params.extend([whole] if kind == "weight_hr" else _blocks(whole, _GATES[op]))
    attrs = {
        "hidden_size": hidden,
        "num_layers": 1 + max(layer for _, layer, _ in known.values()),
    }
    layer = Layer(group.path, op, tuple(params), attrs, scope=group.parent)
    return layer, set(group.members) - known.keys()


def _recurrent_kind(group: Group, known: dict[str, tuple[str, int, int]]) -> tuple[Op | None, int]:
    for stem, (kind, _, _) in known.items():
        shape = group.members[stem].tensor.shape
        if kind == "weight_hr" and len(shape) == 2:
            return Op.LSTM, shape[1]
    for stem, (kind, _, _) in known.items():
        shape = group.members[stem].tensor.shape
        if kind == "weight_hh" and len(shape) == 2 and shape[1]:
            ops = {1: Op.RNN, 3: Op.GRU, 4: Op.LSTM}
            count, rest = divmod(shape[0], shape[1])
            return (ops.get(count) if rest == 0 else None), shape[1]
    return None, 0


def _fits(group: Group, known: dict[str, tuple[str, int, int]], gates: int, hidden: int) -> bool:
    """Every block of every tensor has the width of the hidden state."""
    for stem, (kind, _, _) in known.items():
        shape = group.members[stem].tensor.shape
        rank = 1 if kind.startswith("bias") else 2
        rows = (
            shape[1]
            if kind == "weight_hr" and len(shape) == 2
            else shape[0] // gates
            if shape
            else 0
        )
        if len(shape) != rank or rows != hidden or group.members[stem].tensor.dtype not in FLOATING:
            return False
    return True


def _blocks(whole: Param, gates: tuple[str | None, ...]) -> list[Param]:
    """One parameter per equal block of rows."""
    if len(gates) == 1:
        return [whole]
    rows = whole.shape[0] // len(gates)
    blocks = []
    for index, gate in enumerate(gates):
        tensor = whole.tensor and whole.tensor.take(0, index * rows, (index + 1) * rows)
        blocks.append(_block(whole, gate, tensor, (rows, *whole.shape[1:]), len(gates)))
    return blocks


def _block(
    whole: Param, gate: str | None, tensor: Tensor | None, shape: tuple[int, ...], packed: int
) -> Param:
    return replace(whole, gate=gate, tensor=tensor, shape=shape, packed=packed)


def attention_layer(group: Group, maker: Maker) -> Found:
    """The input projections of ``torch.nn.MultiheadAttention``, one block each for q, k and v."""
    params: list[Param] = []
    used: set[str] = set()
    for stem, stored in group.members.items():
        shape = stored.tensor.shape
        role = Role.BIAS if stem.endswith("bias") else Role.WEIGHT
        whole = maker.param(role, group, stem, module="torch.nn.MultiheadAttention")
        if stem in ("in_proj_weight", "in_proj_bias") and shape and shape[0] % 3 == 0:
            params.extend(_blocks(whole, _QKV))
        elif stem in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
            gate = next(gate for gate in _QKV if gate[0] == stem[0])
            params.append(replace(whole, gate=gate))
        else:
            continue
        used.add(stem)
    if not params:
        return None, set(group.members)
    layer = Layer(group.path, Op.LINEAR, tuple(params), scope=group.parent)
    return layer, set(group.members) - used


def split_qkv(leaf: str, params: tuple[Param, ...], heads: int | None) -> tuple[Param, ...]:
    """A projection to query, key and value as three blocks; others as they are.

    Only where the split is certain: three equal parts under a name that says so. GPT-NeoX and
    BLOOM interleave the three head by head (``query_key_value``), which takes the head count.
    """
    weight = params[0]
    if len(weight.shape) != 2 or weight.shape[0] % 3 or not weight.shape[0]:
        return params
    equal = weight.shape[0] == 3 * weight.shape[1]
    if leaf in _THIRDS and (equal or leaf in ("qkv", "to_qkv")):
        return tuple(block for param in params for block in _blocks(param, _QKV))
    width = weight.shape[0] // 3
    if leaf in _BY_HEAD and equal and heads and width % heads == 0:
        return tuple(block for param in params for block in _head_blocks(param, heads))
    return params


def _head_blocks(whole: Param, heads: int) -> list[Param]:
    """Blocks of rows stored as ``(heads, 3, width of a head)``."""
    if whole.tensor is None:
        return [whole]
    width, tail = whole.shape[0] // 3, whole.shape[1:]
    apart = whole.tensor.reshape(heads, 3, width // heads, *tail)
    return [
        _block(
            whole, gate, apart.take(1, index, index + 1).reshape(width, *tail), (width, *tail), 3
        )
        for index, gate in enumerate(_QKV)
    ]


def is_expert_stack(group: Group, stem: str) -> bool:
    """Three axes, the first over the experts of a mixture."""
    shape = group.members[stem].tensor.shape
    if len(shape) != 3 or shape[0] < 2:
        return False
    named = stem in _EXPERT_STEMS or stem in ("weight", "kernel")
    return named and bool(path_words(group.path) & {"expert", "experts"})


def expert_layers(group: Group, stem: str, maker: Maker) -> list[Layer]:
    """One linear layer per expert of a stacked weight."""
    whole = maker.param(Role.WEIGHT, group, stem)
    flipped = _experts_flipped(group, stem)
    layers = []
    for index in range(whole.shape[0]):
        tensor = whole.tensor and whole.tensor.take(0, index, index + 1).reshape(*whole.shape[1:])
        if tensor is not None and flipped:
            tensor = tensor.transpose()
        shape = whole.shape[:0:-1] if flipped else whole.shape[1:]
        param = replace(
            _block(whole, None, tensor, shape, whole.shape[0]), name=f"{whole.name}.{index}"
        )
        layers.append(Layer(param.name, Op.LINEAR, (param,), scope=group.path))
    return layers


def _experts_flipped(group: Group, stem: str) -> bool:
    """True when experts are stored ``(in, out)``: only then do the two halves of the block chain.

    With hidden width h and inner width i, stored ``(out, in)`` they are ``(2i, h)`` and ``(h, i)``;
    stored ``(in, out)`` they are ``(h, 2i)`` and ``(i, h)``.
    """
    up, down = group.members.get("gate_up_proj"), group.members.get("down_proj")
    if up is None or down is None or stem not in ("gate_up_proj", "down_proj"):
        return False
    if len(up.tensor.shape) != 3 or len(down.tensor.shape) != 3:
        return False
    _, first, second = up.tensor.shape
    return (second, first) == (2 * down.tensor.shape[1], down.tensor.shape[2])


def is_quantised(group: Group) -> bool:
    """Integers behind a scale: GPTQ, AWQ, bitsandbytes, compressed-tensors and plain int8."""
    if _QUANTISED_STEMS & group.members.keys():
        return True
    weight = group.members.get("weight")
    beside = any(
        stem.startswith("weight.") or stem.startswith("weight_scale") for stem in group.members
    )
    if weight is None:
        return any(
            stem.startswith("weight.") and stored.tensor.dtype not in FLOATING
            for stem, stored in group.members.items()
        )
    narrow = weight.tensor.dtype not in FLOATING or weight.tensor.dtype.startswith("float8")
    return weight.quantised or (narrow and (beside or "scales" in group.members))


def quantised_layer(group: Group, maker: Maker) -> Found:
    """A linear or convolution whose stored integers say nothing without their scales.

    The packed values are marked `Param.quantised`. Where several share an integer, their count
    and shape are those of the storage and they are not readable as weights (no tensor).
    """
    params: list[Param] = []
    used: set[str] = set()
    for stem, stored in group.members.items():
        if stem == "bias" and stored.tensor.dtype in FLOATING:
            params.append(maker.param(Role.BIAS, group, stem))
        elif stem in ("qweight", "weight_packed", "weight") or (
            stem.startswith("weight.") and stored.tensor.dtype not in FLOATING
        ):
            param = replace(maker.param(Role.WEIGHT, group, stem, trainable=False), quantised=True)
            scaled = stored.quantised or stored.tensor.dtype.startswith("float8")
            params.append(param if scaled else replace(param, tensor=None))
        else:
            params.append(maker.param(Role.OTHER, group, stem, trainable=False))
        used.add(stem)
    rank = max(len(param.shape) for param in params)
    params.sort(key=lambda param: (param.role is not Role.WEIGHT, param.role is not Role.BIAS))
    op = Op.CONV if rank > 2 else Op.LINEAR if rank == 2 else Op.OTHER
    return Layer(group.path, op, tuple(params), scope=group.parent), set(group.members) - used
