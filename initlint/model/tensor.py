"""Lazily read tensors: storage that is decoded in pieces, and views that put it in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from initlint.model.record import record

Array = NDArray[Any]

CHUNK_ELEMENTS = 1 << 18
"""Elements per streamed piece: 1 MiB of float32, which stays in a core's second-level cache."""


class Source(Protocol):
    """The stored elements of one tensor, in storage order, decoded to floats.

    Half, bfloat16, float8, float4 and integers decode to float32; float64 and 64-bit integers to
    float64. Reads never go beyond what the file holds: a short file raises `LoadError`.
    """

    def read(self, start: int, stop: int) -> Array:
        """Elements ``start`` to ``stop`` of the flattened storage as a 1-D float array."""
        ...


class StoredSource(Source, Protocol):
    """A source that can also give its elements undecoded, for sums that decode as they go."""

    def read_stored(self, start: int, stop: int) -> tuple[str, Array] | None:
        """Element type and the elements ``start`` to ``stop`` as they are stored, 1-D.

        bfloat16 comes as unsigned integers of 16 bits. None for types that NumPy and the hardware
        have no use for.
        """
        ...


@dataclass(frozen=True, slots=True)
class InFile:
    """Elements of a file on this machine, one after the other, as they are stored.

    Attributes:
        dtype: element type, one that `StoredSource.read_stored` gives.
        offset: byte of the first one.
        count: how many.
        use: gives what a reader of these elements makes of the file's descriptor; raises
            `LoadError` where the file changed or cannot be read.
        read: the elements as floats.
    """

    dtype: str
    offset: int
    count: int
    use: Callable[[Callable[[int], Any]], Any]
    read: Callable[[], Array]


@dataclass(frozen=True, slots=True)
class ArraySource:
    """A source that is already in memory."""

    array: Array

    def read(self, start: int, stop: int) -> Array:
        """Elements ``start`` to ``stop`` of the flattened array."""
        piece = self.array.reshape(-1)[start:stop]
        return piece if piece.dtype in (np.float32, np.float64) else piece.astype(np.float32)


@dataclass(frozen=True, slots=True)
class ConstantSource:
    """A tensor of one repeated value (ONNX ConstantOfShape), never expanded on disk."""

    value: float

    def read(self, start: int, stop: int) -> Array:
        """``stop - start`` copies of the value."""
        return np.full(stop - start, self.value, dtype=np.float32)


@record(frozen=True, slots=True)
class View:
    """One step from storage to canonical orientation.

    ``kind`` is ``reshape`` (argument: the new shape), ``transpose`` (the axes), ``slice``
    (``(axis, start, stop)``), ``scale`` (a factor: an array that broadcasts, or a number),
    ``shift`` (an addend, likewise) or ``exp`` (the exponential; no argument).
    """

    kind: str
    argument: Any


def _shape_after(shape: tuple[int, ...], view: View) -> tuple[int, ...]:
    if view.kind == "reshape":
        return tuple(view.argument)
    if view.kind == "transpose":
        return tuple([shape[axis] for axis in view.argument])
    if view.kind == "slice":
        axis, start, stop = view.argument
        return (*shape[:axis], stop - start, *shape[axis + 1 :])
    return shape


def _apply(array: Array, view: View) -> Array:
    if view.kind == "reshape":
        return array.reshape(view.argument)
    if view.kind == "transpose":
        return array.transpose(view.argument)
    if view.kind == "slice":
        axis, start, stop = view.argument
        index: list[slice] = [slice(None)] * array.ndim
        index[axis] = slice(start, stop)
        return array[tuple(index)]
    if view.kind == "exp":
        return np.asarray(np.exp(array))
    operand: Array = np.asarray(view.argument, dtype=array.dtype)
    changed: Array = array * operand if view.kind == "scale" else array + operand
    return changed


@record(frozen=True, slots=True)
class Tensor:
    """A stored tensor seen through a chain of views; nothing is read until asked.

    Attributes:
        name: the name in the file (initializer, state_dict key), the handle for a fix.
        dtype: the storage dtype as NumPy or ONNX spell it (``float32``, ``bfloat16``,
            ``float8_e4m3fn``, ``int4``, ``string``…).
        stored_shape: the shape in the file.
        source: where the elements come from.
        views: the steps from storage to what the operator uses.
    """

    name: str
    dtype: str
    stored_shape: tuple[int, ...]
    source: Source
    views: tuple[View, ...] = ()
    shape: tuple[int, ...] = field(init=False, compare=False, repr=False)
    """The shape after all views."""
    size: int = field(init=False, compare=False, repr=False)
    """The number of elements after all views."""

    def __post_init__(self) -> None:
        """Work out what is asked for again and again."""
        shape = self.stored_shape
        for view in self.views:
            shape = _shape_after(shape, view)
        made: Any = self  # a record has no guard to go around
        made.shape, made.size = shape, prod(shape)

    @property
    def operands(self) -> tuple[Tensor, ...]:
        """The stored tensors that this one is computed from; empty where the file holds it."""
        direct: tuple[Tensor, ...] = getattr(self.source, "operands", ())
        return tuple(leaf for operand in direct for leaf in operand.operands or (operand,))

    def read(self) -> Array:
        """The whole tensor after all views, as a float array of `shape`.

        A leading slice along the first stored axis is read alone, so that one block of a packed
        tensor does not read its siblings.
        """
        shape, views = self.stored_shape, self.views
        start, stop = 0, prod(shape)
        if views and views[0].kind == "slice" and views[0].argument[0] == 0:
            row = prod(shape[1:])
            _, first, last = views[0].argument
            start, stop = first * row, last * row
            shape, views = (last - first, *shape[1:]), views[1:]
        array = self.source.read(start, stop).reshape(shape)
        for view in views:
            array = _apply(array, view)
        return array

    def chunks(self, elements: int = CHUNK_ELEMENTS) -> Iterator[Array]:
        """1-D pieces that together hold the elements of the viewed tensor, in any order.

        Streams from storage when the views only reorder (moments do not depend on order);
        otherwise the viewed tensor is read once and cut.
        """
        kinds = {view.kind for view in self.views}
        if kinds <= {"reshape", "transpose"}:
            total = prod(self.stored_shape)
            for start in range(0, total, elements):
                yield self.source.read(start, min(start + elements, total))
            return
        flat = self.read().reshape(-1)
        for start in range(0, flat.size, elements):
            yield flat[start : start + elements]

    def stored_chunks(self, elements: int) -> Iterator[tuple[str, Array]] | None:
        """Element type and pieces of the elements as they are stored, in any order.

        None where views change them or the source does not give them.
        """
        read = getattr(self.source, "read_stored", None)
        if read is None or any(view.kind not in ("reshape", "transpose") for view in self.views):
            return None
        if read(0, 0) is None:
            return None
        total = prod(self.stored_shape)
        return (read(start, min(start + elements, total)) for start in range(0, total, elements))

    def file_chunks(self, elements: int) -> Iterator[InFile] | None:
        """As `stored_chunks`, where a file of this machine holds the elements and none is read."""
        place = getattr(self.source, "in_file", None)
        if place is None or any(view.kind not in ("reshape", "transpose") for view in self.views):
            return None
        if place(0, 0) is None:
            return None
        total = prod(self.stored_shape)
        return (place(start, min(start + elements, total)) for start in range(0, total, elements))

    def reshape(self, *shape: int) -> Tensor:
        """This tensor seen with another shape of the same size."""
        if -1 in shape:
            rest = prod(side for side in shape if side != -1)
            shape = tuple(self.size // max(rest, 1) if side == -1 else side for side in shape)
        if prod(shape) != self.size:
            raise ValueError(f"cannot see {self.shape} as {shape}")
        return replace(self, views=(*self.views, View("reshape", tuple(shape))))

    def transpose(self, *axes: int) -> Tensor:
        """This tensor with its axes permuted (all reversed when none are given)."""
        order = axes or tuple(range(len(self.shape)))[::-1]
        views = (*self.views, View("transpose", tuple(order)))
        return Tensor(self.name, self.dtype, self.stored_shape, self.source, views)

    def take(self, axis: int, start: int, stop: int) -> Tensor:
        """The block ``start`` to ``stop`` along ``axis``."""
        axis %= len(self.shape)
        return replace(self, views=(*self.views, View("slice", (axis, start, stop))))

    def scale(self, factor: Any) -> Tensor:
        """This tensor times a number, or an array that broadcasts to its shape."""
        return replace(self, views=(*self.views, View("scale", factor)))

    def shift(self, addend: Any) -> Tensor:
        """This tensor plus a number, or an array that broadcasts to its shape."""
        return replace(self, views=(*self.views, View("shift", addend)))


def from_array(name: str, array: Array, dtype: str | None = None) -> Tensor:
    """A tensor over an array in memory."""
    return Tensor(name, dtype or str(array.dtype), tuple(array.shape), ArraySource(array))
