"""What a scheme is told about the tensor it draws: shape, fans, activation, place."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from initlint.model import Fans, Layer, LayerGraph, Op, Param, Role, fans
from initlint.theory.activations import activation as function_of
from initlint.theory.activations import forward_gain

WEIGHT_ROLES = (Role.WEIGHT, Role.RECURRENT_WEIGHT, Role.PROJECTION)
"""Parameters that are drawn at random; all others start at a constant."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One parameter block to fill.

    Attributes:
        layer: id of the layer that reads it.
        op: what that layer computes.
        role: what the block is for.
        shape: canonical, ``(out, in/groups, *kernel)``.
        fan_in, fan_out: true fans (`initlint.model.fans`); the shape's where none apply.
        gain: what keeps the second moment through the activation behind it (1 without one).
        activation: that activation.
        groups: groups of a convolution.
        gate: gate or packed block it is (``forget``, ``query``…).
        head: True when the layer's output goes to the loss alone.
    """

    layer: str
    op: Op
    role: Role
    shape: tuple[int, ...]
    fan_in: float
    fan_out: float
    gain: float = 1.0
    activation: Op | None = None
    groups: int = 1
    gate: str | None = None
    head: bool = False

    @property
    def random(self) -> bool:
        """True for weights, which are drawn; biases, gains and shifts start at a constant."""
        return self.role in WEIGHT_ROLES or self.role is Role.TABLE

    def fan(self, mode: str) -> float:
        """``fan_in``, ``fan_out``, or ``fan_avg``.

        Raises:
            ValueError: for another word.
        """
        if mode == "fan_avg":
            return (self.fan_in + self.fan_out) / 2
        if mode not in ("fan_in", "fan_out"):
            raise ValueError(f"unknown fan mode {mode!r}: fan_in, fan_out or fan_avg")
        return self.fan_in if mode == "fan_in" else self.fan_out


def slot_of(graph: LayerGraph, layer: Layer, param: Param, *, head: bool = False) -> Slot:
    """The slot of a parameter in its layer."""
    found = fans(layer, param) or _shape_fans(param.shape)
    bend = graph.activation(layer.id) if param.role is Role.WEIGHT else None
    return Slot(
        layer=layer.id,
        op=layer.op,
        role=param.role,
        shape=param.shape,
        fan_in=max(found.fan_in, 1.0),
        fan_out=max(found.fan_out, 1.0),
        gain=gain_of(bend),
        activation=bend.op if bend else None,
        groups=int(layer.attrs.get("groups", 1) or 1) if layer.op is not Op.LINEAR else 1,
        gate=param.gate,
        head=head,
    )


def gain_of(bend: Layer | None) -> float:
    """What keeps the second moment through an activation; 1 without one, or for an unknown one."""
    if bend is None or function_of(bend.op, bend.attrs) is None:
        return 1.0
    return forward_gain(bend.op, bend.attrs)


def _shape_fans(shape: tuple[int, ...]) -> Fans:
    if len(shape) < 2:
        return Fans(prod(shape), prod(shape))
    kernel = prod(shape[2:])
    return Fans(shape[1] * kernel, shape[0] * kernel)
