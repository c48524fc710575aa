"""One layer with what arrives at it: the argument of every operator's rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from initlint.model.graph import Edge, LayerGraph
from initlint.model.layer import Layer, Param
from initlint.model.op import Op
from initlint.model.record import record
from initlint.theory.state import Gradient, State

Shape = tuple[int | None, ...]

MAX_READ = 1_000_000
"""Largest fixed operand (elements) whose moments theory takes by itself."""

BALANCED = 1e-2
"""Mean of a weight over the standard error of independent draws, below which its rows may sum to
zero: draws come so near by chance once in 125 tensors, which costs a pass over them and no more.
bfloat16 leaves rows of sum zero 1e-3 of it."""

MEAN_ERROR = 2e-6
"""What the measured mean may be off, in standard deviations (`initlint.measure.moments`)."""

CHANCE = 1e-6
"""Probability below which row sums are not those of independent draws. For m rows of Gaussian sums
whose mean square is rho times the expected one, P <= (rho e^(1 - rho))^(m/2) (Chernoff)."""


class Statistics(Protocol):
    """What theory needs to know of a tensor's elements."""

    @property
    def count(self) -> int:
        """Number of elements."""
        ...

    @property
    def mean(self) -> float:
        """Mean of the finite elements."""
        ...

    @property
    def second_moment(self) -> float:
        """Mean square of the finite elements."""
        ...

    @property
    def non_finite(self) -> int:
        """Elements that are NaN or infinite."""
        ...


class Weights(Protocol):
    """What theory asks of the measurements."""

    def moments(self, param: Param) -> Statistics | None:
        """Statistics of a parameter; None when its values are not known."""
        ...

    def leading(self, param: Param) -> NDArray[Any] | None:
        """Values of a parameter, of a huge one the leading rows; None when not known."""
        ...


def size(shape: Shape | None) -> int | None:
    """Number of elements over the known axes; None for an unknown shape."""
    if shape is None:
        return None
    return math.prod(side for side in shape if side is not None)


class Context:
    """What all rules share: the graph, the measured weights, and lengths the graph leaves open."""

    def __init__(
        self, graph: LayerGraph, weights: Weights, sequence_length: int, input_q: float = 1.0
    ) -> None:
        """Keep the references; nothing is read yet."""
        self.graph = graph
        self.weights = weights
        self.sequence_length = sequence_length
        self.input_q = input_q
        self.free_batch = any(
            layer.op is Op.INPUT and layer.output_shape is not None and None in layer.output_shape
            for layer in graph
        )
        self._moments: dict[int, tuple[float, float] | None] = {}
        self._products: dict[int, float | None] = {}

    def moments(self, param: Param) -> tuple[float, float] | None:
        """Mean square and mean of a parameter's elements; None when unknown or not finite."""
        key = id(param)
        if key not in self._moments:
            found = self.weights.moments(param) if param.tensor is not None else None
            usable = (
                found is not None
                and found.count > 0
                and found.non_finite == 0
                and math.isfinite(found.second_moment)
            )
            self._moments[key] = (
                (found.second_moment, found.mean) if usable and found is not None else None
            )
        return self._moments[key]

    def row_product(self, param: Param) -> float | None:
        """Mean product of two different weights of one row, where draws are not independent.

        Rows of sum zero (weight standardisation) have E[w_j w_k] = -E[w^2]/(n-1): what their inputs
        have in common does not pass. None for rows whose sums are those of independent draws.
        """
        key = id(param)
        if key not in self._products:
            self._products[key] = self._row_product(param)
        return self._products[key]

    def _row_product(self, param: Param) -> float | None:
        measured = self.moments(param)
        length = math.prod(param.shape[1:])
        if measured is None or length < 2:
            return None
        second, mean = measured
        std = math.sqrt(max(second - mean * mean, 0.0))
        if abs(mean) > (BALANCED / math.sqrt(param.size) + MEAN_ERROR) * std or std == 0:
            return None
        values = self.weights.leading(param)
        if values is None:
            return None
        sums = values.reshape(len(values), -1).sum(axis=1, dtype=np.float64)
        found = float(np.mean(sums * sums))
        ratio = max(found / (length * second), 1e-300)
        if 0.5 * len(sums) * (math.log(ratio) + 1 - ratio) > math.log(CHANCE):
            return None
        return (found / length - second) / (length - 1)

    def constant(self, value: Any) -> tuple[float, float, bool] | None:
        """Mean square, mean, and whether a fixed operand is a single number; None when unknown."""
        try:
            array = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError):
            return None
        if array.size == 0 or array.size > MAX_READ or not np.isfinite(array).all():
            return None
        return float(np.mean(array * array)), float(np.mean(array)), array.size == 1


@record(frozen=True, slots=True)
class Node:
    """A layer, the edges into it, and the states that arrive on them.

    Attributes:
        layer: the layer.
        edges: edges into it, by input position.
        states: the state on each edge; None where unknown.
        context: what all rules share.
        signals: indices of the inputs that carry a signal (known or unknown), not indices or masks.
    """

    layer: Layer
    edges: tuple[Edge, ...]
    states: tuple[State | None, ...]
    context: Context
    signals: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Work out once what every rule asks for."""
        found = [i for i, state in enumerate(self.states) if state is None or not state.side]
        object.__setattr__(self, "signals", tuple(found))

    @property
    def first(self) -> State | None:
        """The state of the first input that carries a signal."""
        return self.states[self.signals[0]] if self.signals else None

    def input_shape(self, index: int = 0) -> Shape | None:
        """Shape of an input, from its edge or its producer."""
        if index >= len(self.edges):
            return None
        edge = self.edges[index]
        if edge.shape is not None:
            return edge.shape
        return self.context.graph[edge.source].output_shape if edge.output == 0 else None

    @property
    def output_shape(self) -> Shape | None:
        """Shape of the first output."""
        return self.layer.output_shape

    def ratio(self, index: int = 0) -> float:
        """Elements of the output per element of an input; 1 when unknown."""
        before, after = self.input_shape(index), self.output_shape
        if before is None or after is None:
            return 1.0
        if sum(side is None for side in before) != sum(side is None for side in after):
            return 1.0
        small, large = size(before), size(after)
        return large / small if small and large else 1.0

    def channels(self, index: int | None = None) -> int | None:
        """Units of the output (or of an input): the size of the channel axis."""
        shape = self.output_shape if index is None else self.input_shape(index)
        axis = self.layer.channel_axis
        if shape is None or not -len(shape) <= axis < len(shape):
            return None
        return shape[axis]

    def positions(self) -> int:
        """Positions of the output: known axes that are neither the batch nor the units."""
        shape, axis = self.output_shape, self.layer.channel_axis
        if shape is None or len(shape) < 3 or not -len(shape) <= axis < len(shape):
            return 1
        rest = [side for i, side in enumerate(shape) if i not in (0, axis % len(shape))]
        return math.prod(side for side in rest if side is not None)


ForwardRule = Callable[[Node], State | None]
"""The state of a layer's first output; None where the operator cannot be followed."""

BackwardRule = Callable[[Node, Gradient], Sequence[Gradient | None]]
"""Gradient at each input from the gradient at the output; None where it cannot be followed."""


@dataclass(frozen=True, slots=True)
class OperatorRule:
    """Forward and backward rule of one operator."""

    forward: ForwardRule
    backward: BackwardRule
