"""Inputs for a probe run: what each input of a graph should hold, and arrays that hold it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MAX_ELEMENTS = 1 << 24
"""Elements of all inputs together: a batch of 111 images of 3×224×224, 64 MiB of float32."""


class Content(str, Enum):
    """What an input is filled with."""

    NORMAL = "normal"
    PIXELS = "pixels"
    TOKENS = "tokens"
    ONES = "ones"
    ZEROS = "zeros"
    POSITIONS = "positions"
    LENGTHS = "lengths"
    SAMPLE_RATE = "sample_rate"
    TEXT = "text"


RANDOM = frozenset({Content.NORMAL, Content.PIXELS, Content.TOKENS})
"""Contents that differ between samples."""


class Extent(str, Enum):
    """What decides the size of an axis."""

    FIXED = "fixed"
    BATCH = "batch"
    SPATIAL = "spatial"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of an input; ``size`` counts for a fixed one only."""

    extent: Extent
    size: int = 0


@dataclass(frozen=True, slots=True)
class InputSpec:
    """How to make one input.

    Attributes:
        name: the input's name in the graph.
        dtype: element type as NumPy spells it, or ``string``.
        axes: its axes.
        content: what to fill it with.
        bound: for tokens and positions, integers stay below it.
    """

    name: str
    dtype: str
    axes: tuple[Axis, ...]
    content: Content = Content.NORMAL
    bound: int = 0

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back."""
        axes = [[axis.extent.value, axis.size] for axis in self.axes]
        return {
            "name": self.name,
            "dtype": self.dtype,
            "axes": axes,
            "content": self.content.value,
            "bound": self.bound,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> InputSpec:
        """The inverse of `to_json`."""
        axes = tuple(Axis(Extent(extent), size) for extent, size in data["axes"])
        return cls(data["name"], data["dtype"], axes, Content(data["content"]), data["bound"])


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the axes that the graph leaves open; every axis of one kind gets the same."""

    batch: int
    spatial: int
    length: int

    def of(self, axis: Axis) -> int:
        """The size of one axis."""
        if axis.extent is Extent.FIXED:
            return axis.size
        if axis.extent is Extent.BATCH:
            return self.batch
        return self.spatial if axis.extent is Extent.SPATIAL else self.length

    def shape(self, spec: InputSpec) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(self.of(axis) for axis in spec.axes)


LADDER = ((224, 16), (64, 64), (128, 128), (512, 512), (32, 256), (1024, 16000))
"""Image side and length of every other open axis, tried in turn until the graph runs.

A length of 16 is the shortest that says something about a sequence; convolution stacks need more,
audio models hundreds of samples, or a second of them.
"""


def attempts(specs: Sequence[InputSpec], batch: int = 1) -> tuple[Sizes, ...]:
    """The sizes to try, in order, without those that give the same shapes again."""
    extents = {axis.extent for spec in specs for axis in spec.axes}
    found: dict[tuple[int, int], Sizes] = {}
    for spatial, length in LADDER:
        key = (
            spatial if Extent.SPATIAL in extents else 0,
            length if Extent.LENGTH in extents else 0,
        )
        sizes = Sizes(batch, spatial, length)
        if key not in found and volume(specs, sizes) <= MAX_ELEMENTS:
            found[key] = sizes
    return tuple(found.values())


def volume(specs: Sequence[InputSpec], sizes: Sizes) -> int:
    """Elements of all inputs together."""
    return sum(prod(sizes.shape(spec)) for spec in specs)


def has_batch(specs: Sequence[InputSpec]) -> bool:
    """True when the number of samples per run is open."""
    return any(axis.extent is Extent.BATCH for spec in specs for axis in spec.axes)


def fixed_batch(specs: Sequence[InputSpec]) -> int:
    """Samples per run when it is not open: the common first size of all inputs, else 1."""
    firsts = {
        spec.axes[0].size if spec.axes[0].extent is Extent.FIXED else 1
        for spec in specs
        if len(spec.axes) > 1 and spec.content in RANDOM
    }
    return max(firsts.pop(), 1) if len(firsts) == 1 else 1


def synthesise(
    specs: Sequence[InputSpec], sizes: Sizes, *, seed: int, run: int = 0
) -> dict[str, Array]:
    """Arrays for every input.

    Floats are N(0, 1), the input statistics that every initialisation scheme assumes, and bytes
    where the graph divides them like bytes; samples are distinct. The same seed and run number give
    the same arrays.
    """
    length = _length(specs, sizes)
    return {
        spec.name: _fill(spec, sizes.shape(spec), length, np.random.default_rng([seed, run, index]))
        for index, spec in enumerate(specs)
    }


def describe(spec: InputSpec, array: Array) -> str:
    """One line: element type, shape, content."""
    sides = ",".join(str(side) for side in array.shape)
    content = {
        Content.NORMAL: "N(0,1)",
        Content.PIXELS: "pixels from 0 to 255",
        Content.TOKENS: f"integers below {spec.bound}",
        Content.ONES: "ones",
        Content.ZEROS: "zeros",
        Content.POSITIONS: "0, 1, 2, …",
        Content.LENGTHS: "sequence length",
        Content.SAMPLE_RATE: "16000",
        Content.TEXT: '"a"',
    }[spec.content]
    return f"{spec.dtype}[{sides}] {content}"


def _length(specs: Sequence[InputSpec], sizes: Sizes) -> int:
    """The sequence length that a length input should state."""
    bodies = [spec for spec in specs if spec.content is not Content.LENGTHS]
    if any(axis.extent is Extent.LENGTH for spec in bodies for axis in spec.axes):
        return sizes.length
    return max((side for spec in bodies for side in sizes.shape(spec)[1:2]), default=sizes.length)


def _fill(
    spec: InputSpec, shape: tuple[int, ...], length: int, generator: np.random.Generator
) -> Array:
    if spec.dtype == "string":
        return np.full(shape, "a", dtype=object)
    dtype = np.dtype(spec.dtype)
    if spec.content is Content.NORMAL:
        return generator.standard_normal(shape, dtype=np.float32).astype(dtype)
    if spec.content is Content.PIXELS:
        return generator.integers(0, 256, size=shape).astype(dtype)
    if spec.content is Content.TOKENS:
        low = 1 if spec.bound > 2 else 0  # 0 is padding in most vocabularies
        return generator.integers(low, max(spec.bound, 1), size=shape).astype(dtype)
    if spec.content is Content.POSITIONS:
        last = shape[-1] if shape else 1
        positions = np.arange(last) % (spec.bound or max(last, 1))
        return np.broadcast_to(positions, shape).astype(dtype)
    value = {
        Content.ONES: 1,
        Content.ZEROS: 0,
        Content.LENGTHS: length,
        Content.SAMPLE_RATE: 16000,
        Content.TEXT: 0,
    }[spec.content]
    return np.full(shape, value, dtype=dtype)
