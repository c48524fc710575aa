"""What a scheme is told about the tensor it draws: shape, fans, activation, place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod, sqrt

from initlint.model import TRANSPARENT, Edge, Fans, Layer, LayerGraph, Op, Param, Role, fans
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
        gain: what keeps the second moment through the activation behind it (1 without one), or
            through the products whose weights it writes.
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
    gain = gain_of(bend)
    if param.role is Role.WEIGHT and bend is None:
        gain = written_gain(graph, layer.id)
    return Slot(
        layer=layer.id,
        op=layer.op,
        role=param.role,
        shape=param.shape,
        fan_in=max(found.fan_in, 1.0),
        fan_out=max(found.fan_out, 1.0),
        gain=gain,
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


def written_gain(graph: LayerGraph, key: str) -> float:
    """Gain of a layer that writes the weights of products, for it the rms of what it gives; else 1.

    A hypernetwork's output stands where a weight would, so it needs that weight's scale: the gain
    of the activation behind the product over the square root of the terms that are summed (Chang,
    Flokas, Lipson 2020).
    """
    products = [(product, fan) for product, fan in _products(graph, key) if fan > 0]
    if not products or len(products) < len(_readers(graph, key)):
        return 1.0
    return min(gain_of(graph.activation(product)) / sqrt(fan) for product, fan in products)


def _readers(graph: LayerGraph, key: str) -> list[Edge]:
    """Edges on which a tensor enters something that computes, seen through changes of its shape."""
    found: list[Edge] = []
    for edge in graph.outputs(key):
        reader = graph[edge.target]
        shaping = reader.op in TRANSPARENT and not reader.params
        found.extend(_readers(graph, reader.id) if shaping else [edge])
    return found


def _products(graph: LayerGraph, key: str) -> Iterator[tuple[str, int]]:
    """Matrix products that use a tensor as weights, each with the number of terms it sums."""
    for edge in _readers(graph, key):
        others = [item for item in graph.inputs(edge.target) if item.position != edge.position]
        if graph[edge.target].op is not Op.MATMUL or len(others) != 1:
            continue
        shape = graph[others[0].source].output_shape
        if shape and _sees_data(graph, others[0].source) and not _sees_data(graph, edge.source):
            yield edge.target, shape[-1] or 0


def _sees_data(graph: LayerGraph, key: str) -> bool:
    seen, waiting = {key}, [key]
    while waiting:
        layer = graph[waiting.pop()]
        if layer.op is Op.INPUT:
            return True
        above = {edge.source for edge in graph.inputs(layer.id)} - seen
        seen |= above
        waiting.extend(above)
    return False


def _shape_fans(shape: tuple[int, ...]) -> Fans:
    if len(shape) < 2:
        return Fans(prod(shape), prod(shape))
    kernel = prod(shape[2:])
    return Fans(shape[1] * kernel, shape[0] * kernel)
