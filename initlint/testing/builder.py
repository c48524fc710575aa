"""The core of the hand-made network: values, layers, edges, and the finished model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from initlint.model.graph import Edge, LayerGraph
from initlint.model.layer import Layer, Param, Role, Where
from initlint.model.model import Kind, Model
from initlint.model.op import Op
from initlint.model.tensor import Array, from_array
from initlint.probe.result import Activations
from initlint.testing.forward import compute, evaluate
from initlint.testing.observe import observe

_INPUT_STREAM = 1

_SHAPE_BATCH = 2
"""Samples in the batch of zeros that tells output shapes: two, so that a statistic over the batch
is defined."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor in a network under construction: what the builder's methods take and return.

    Attributes:
        layer: id of the layer that produces it.
        output: index among that layer's outputs.
        shape: its shape; the batch axis is None.
    """

    layer: str
    output: int = 0
    shape: tuple[int | None, ...] = ()


class Builder:
    """Collects layers and edges call by call, computing shapes on the way."""

    def __init__(self, name: str = "network", *, seed: int = 0) -> None:
        """Start an empty network; ``rng`` is seeded with ``seed``."""
        self.name = name
        self.rng = np.random.default_rng(seed)
        self._layers: list[Layer] = []
        self._edges: list[Edge] = []
        self._values: dict[str, tuple[Array, ...]] = {}
        self._axes: dict[str, int] = {}
        self._vocabulary: dict[str, int] = {}
        self._counts: Counter[str] = Counter()

    # the ends of the graph

    def input(self, *shape: int, name: str = "input") -> Value:
        """A float input of the given shape, batch axis left out."""
        return self._add(Op.INPUT, (), name=name, values=(np.zeros((_SHAPE_BATCH, *shape)),))

    def tokens(self, length: int, vocabulary: int, *, name: str = "tokens") -> Value:
        """An integer input of ``length`` ids below ``vocabulary``."""
        self._vocabulary[name] = vocabulary
        attrs = {"dtype": "int64"}
        values = (np.zeros((_SHAPE_BATCH, length)),)
        return self._add(Op.INPUT, (), name=name, attrs=attrs, values=values)

    def output(self, value: Value, name: str = "output") -> Value:
        """Mark a tensor as an output of the network."""
        return self.layer(Op.OUTPUT, value, name=self._free(name))

    def constant(self, array: Array, *, name: str | None = None) -> Value:
        """A fixed tensor."""
        return self.layer(Op.CONSTANT, name=name, constant=np.asarray(array))

    def parameter(self, array: Array, *, name: str, trainable: bool = True) -> Value:
        """A trainable tensor that is an operand by itself (a query, a codebook)."""
        params = (self.param(Role.OTHER, name, array, trainable=trainable),)
        return self.layer(Op.CONSTANT, params=params, name=name)

    # the general form

    def param(self, role: Role, name: str, array: Array, **fields: Any) -> Param:
        """A parameter over an array; ``fields`` are further attributes of `Param`."""
        tensor = from_array(name, np.asarray(array))
        stored = fields.pop("stored_name", name)
        return Param(role, name, tensor.shape, tensor.dtype, tensor, stored_name=stored, **fields)

    def layer(
        self,
        op: Op,
        *inputs: Value,
        params: Sequence[Param] = (),
        name: str | None = None,
        channel_axis: int | None = None,
        **attrs: Any,
    ) -> Value:
        """Any layer of the vocabulary.

        Raises:
            ValueError: when the operator cannot be computed on inputs of these shapes.
        """
        return self._add(
            op, inputs, name=name, params=tuple(params), attrs=attrs, channel_axis=channel_axis
        )

    def other(self, *inputs: Value, name: str | None = None) -> Value:
        """An operator outside the vocabulary; here it passes its first input on."""
        arrays = [self._values[value.layer][value.output] for value in inputs]
        return self._add(Op.OTHER, inputs, name=name, values=(arrays[0],))

    def _free(self, name: str) -> str:
        taken = self._values
        return name if name not in taken else f"{name}_{sum(key.startswith(name) for key in taken)}"

    def _name(self, op: Op, name: str | None) -> str:
        if name is not None:
            return name
        self._counts[op.value] += 1
        return f"{op.value}_{self._counts[op.value]}"

    def _inherited_axis(self, inputs: Sequence[Value], ndim: int) -> int:
        """Axis of the units: that of the first input while the number of axes stays."""
        if not inputs or len(inputs[0].shape) != ndim:
            return -1 if ndim != 4 else 1
        return self._axes[inputs[0].layer]

    def _add(
        self,
        op: Op,
        inputs: Sequence[Value],
        *,
        name: str | None = None,
        params: tuple[Param, ...] = (),
        attrs: Mapping[str, Any] | None = None,
        channel_axis: int | None = None,
        values: tuple[Array, ...] | None = None,
    ) -> Value:
        key = self._name(op, name)
        if key in self._values:
            raise ValueError(f"two layers are called {key!r}")
        layer = Layer(
            key,
            op,
            params,
            dict(attrs or {}),
            scope=key.rpartition(".")[0],
            where=Where(node=key),
        )
        if values is None:
            arrays = [self._values[value.layer][value.output] for value in inputs]
            with np.errstate(all="ignore"):
                values = compute(layer, arrays)
        batched = op is not Op.CONSTANT and values[0].ndim > 0
        shapes = [(None, *value.shape[1:]) if batched else value.shape for value in values]
        self._values[key] = values
        if channel_axis is None:
            channel_axis = self._inherited_axis(inputs, len(shapes[0]))
        self._layers.append(replace(layer, output_shape=shapes[0], channel_axis=channel_axis))
        self._axes[key] = channel_axis
        for position, value in enumerate(inputs):
            self._edges.append(Edge(value.layer, key, position, value.output, value.shape))
        return Value(key, 0, shapes[0])

    # the result

    @property
    def graph(self) -> LayerGraph:
        """The layer graph built so far."""
        return LayerGraph(self._layers, self._edges)

    def model(self, *, fresh_hint: bool | None = None, **metadata: Any) -> Model:
        """The network as a model; `run` stands in for its probe."""
        return Model(
            self.name,
            Kind.TORCH,
            self.graph,
            producer="initlint.testing",
            fresh_hint=fresh_hint,
            metadata=dict(metadata),
        )

    def feeds(self, batch: int = 64, seed: int = 0) -> dict[str, Array]:
        """Synthesised inputs: N(0, 1), and uniform ids for token inputs."""
        # another stream than the weights': equal seeds would draw inputs that equal weights
        rng = np.random.default_rng((seed, _INPUT_STREAM))
        feeds: dict[str, Array] = {}
        for layer in self._layers:
            if layer.op is not Op.INPUT:
                continue
            shape = (batch, *self._values[layer.id][0].shape[1:])
            high = self._vocabulary.get(layer.id)
            feeds[layer.id] = (
                rng.standard_normal(shape) if high is None else rng.integers(0, high, shape)
            )
        return feeds

    def evaluate(self, feeds: Mapping[str, Array] | None = None) -> dict[str, tuple[Array, ...]]:
        """Outputs of every layer, by layer id."""
        return evaluate(self.graph, self.feeds() if feeds is None else feeds)

    def run(self, batch: int = 64, seed: int = 0) -> Activations:
        """One forward pass on synthesised inputs, summarised as a probe would."""
        return observe(self.graph, self.feeds(batch, seed))
