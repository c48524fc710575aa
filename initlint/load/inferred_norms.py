"""Normalisers and other vectors of gains, inferred from names and shapes."""

from __future__ import annotations

from initlint.load.decode import FLOATING
from initlint.load.inferred_packed import Found
from initlint.load.inferred_params import Maker
from initlint.load.naming import GAIN_WORDS, NORM_WORDS, SLOPE_WORDS, Group, words
from initlint.model import Layer, Op, Param, Role


def norm_layer(group: Group, stem: str | None, maker: Maker) -> Found:
    """A gain and perhaps a shift: a normaliser, a scale or a slope, by its words.

    Args:
        group: the module.
        stem: its member called weight, if it has one.
        maker: makes the parameters.

    Returns:
        The layer, or None where the words do not tell, and the members it did not take.
    """
    rest = set(group.members)
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
    if size == 1 and not found & NORM_WORDS:
        return None, rest
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


def batch_norm_layer(group: Group, maker: Maker, rank: int) -> Found:
    """A normaliser with running statistics, after a kernel of ``rank`` axes."""
    instance = bool(words(group.leaf) & {"instancenorm"})
    kind = "InstanceNorm" if instance else "BatchNorm"
    module = f"torch.nn.{kind}{max(rank - 2, 1)}d"
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
