"""A network as schemes see it: its layers, residual branches, heads, and a generator per tensor."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod, sqrt
from typing import Any

import numpy as np

from initlint.fix.balance import DEEP, balanced_gain, deep_plain_layers, saturating_depth
from initlint.fix.draws import Array
from initlint.fix.schemes import fill
from initlint.fix.slot import Slot, slot_of
from initlint.model import SATURATING, Layer, LayerGraph, Op, Param, Role
from initlint.model.residual import Residual, residual_branches
from initlint.model.structure import heads
from initlint.model.written_cells import KeepingGate, keeping_gates


@dataclass(frozen=True, slots=True)
class Drawn:
    """New values of one parameter block, with the scheme that made them."""

    layer: Layer
    param: Param
    values: Array
    scheme: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Network:
    """A layer graph with what composite schemes ask of it.

    Attributes:
        graph: the layers.
        residuals: residual additions, in order.
        heads: ids of the layers whose output goes to the loss.
        seed: of all draws; every parameter has a generator of its own.
        saturating: longest run of saturating activations.
        deep: layers of deep plain stacks, which Gaussian weights do not suit.
        keeping: gates of written-out cells that keep the state, by the keys of their biases.
        steps: length of the sequences that recurrent layers see; None: unknown.
    """

    graph: LayerGraph
    residuals: tuple[Residual, ...]
    heads: frozenset[str]
    seed: int
    saturating: int = 0
    steps: int | None = None
    deep: frozenset[str] = frozenset()
    keeping: Mapping[str, KeepingGate] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: LayerGraph, seed: int, steps: int | None = None) -> Network:
        """The structure of a graph."""
        found = frozenset(layer.id for layer in heads(graph))
        return cls(
            graph,
            residual_branches(graph),
            found,
            seed,
            saturating_depth(graph),
            steps,
            deep_plain_layers(graph),
            {
                bias.key: gate
                for gate in keeping_gates(graph)
                for bias in (gate.bias, *gate.further)
            },
        )

    def slot(self, layer: Layer, param: Param) -> Slot:
        """What a scheme is told about a parameter."""
        return slot_of(self.graph, layer, param, head=layer.id in self.heads)

    def rng(self, param: Param) -> np.random.Generator:
        """A generator that depends on the seed and the parameter's identity alone."""
        return np.random.default_rng([self.seed, zlib.crc32(param.key.encode("utf-8", "replace"))])

    def draw(self, name: str, layer: Layer, param: Param, **arguments: Any) -> Drawn:
        """One parameter filled by a tensor scheme."""
        values = fill(name, self.slot(layer, param), self.rng(param), **arguments)
        return Drawn(layer, param, values, name, arguments)

    def scaled(self, name: str, factor: float, layer: Layer, param: Param, **more: Any) -> Drawn:
        """The same times a factor."""
        drawn = self.draw(name, layer, param, **more)
        return Drawn(layer, param, drawn.values * factor, name, {**more, "factor": factor})

    def deep_gain(self, layer: Layer, param: Param) -> float | None:
        """The gain of an orthogonal weight in a deep stack; None where a Gaussian one will do.

        Between saturating units it balances signal and gradient over the depth; else it keeps the
        second moment through the activation, also where a layer has more outputs than inputs, and
        where a stride leaves part of a transposed convolution's terms out of each sum.
        """
        if param.role is not Role.WEIGHT or layer.op is Op.EMBEDDING or param.packed > 1:
            return None
        slot = self.slot(layer, param)
        if slot.activation in SATURATING and self.saturating >= DEEP:
            return balanced_gain(slot.activation, self.saturating)
        if layer.id not in self.deep or layer.id in self.heads:
            return None
        longer = max(slot.shape[0] / slot.groups, prod(slot.shape[1:]))
        return slot.gain * sqrt(longer / slot.fan_in)

    def params(self) -> Iterator[tuple[Layer, Param]]:
        """Trainable parameters, each stored block once."""
        seen: set[str] = set()
        for layer, param in self.graph.params:
            if param.trainable and param.tied_to is None and param.key not in seen:
                seen.add(param.key)
                yield layer, param
