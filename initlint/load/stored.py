"""Tensors as a file stores them: by name, lazily readable, before layers are inferred."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from math import prod

from initlint.load.decode import BITS, Array, bits
from initlint.load.files import shown
from initlint.model import InFile, LoadError, Source, Tensor

MAX_RANK = 64
"""NumPy's limit on the number of axes; no framework stores more."""

MAX_TENSORS = 200_000
"""The largest public mixture-of-experts checkpoints hold about 100,000 tensors."""

MAX_OVERLAP = 16
"""How often the bytes of one storage may be seen by different tensors, on average.

Tied and fused parameters see each byte twice or three times; without a bound a small file could
name a hundred thousand views of everything it holds and have each of them measured.
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of a file.

    Attributes:
        tensor: how to read it.
        identity: equal for two tensors that are the same stored elements, which is how frameworks
            write tied parameters; None where the format cannot tell.
        requires_grad: as the file states it; None where it does not.
        quantised: True when the stored values are integers behind a scale.
    """

    tensor: Tensor
    identity: Hashable = None
    requires_grad: bool | None = None
    quantised: bool = False


@dataclass(frozen=True, slots=True)
class Contents:
    """What a checkpoint file holds.

    Attributes:
        tensors: by name, in the order of the file.
        notices: what was left out or could not be read, one line each.
        metadata: facts about the file, strings and numbers.
        producer: framework that wrote it.
        ordered: True when the order of `tensors` is the order of definition.
    """

    tensors: Mapping[str, Stored]
    notices: tuple[str, ...] = ()
    metadata: Mapping[str, object] = field(default_factory=dict)
    producer: str = ""
    ordered: bool = False


MAX_NAME = 4096
"""Characters: the longest module paths in use have about two hundred."""


def checked_name(name: str) -> str:
    """A tensor name from a file.

    Raises:
        LoadError: longer than any module path.
    """
    if len(name) > MAX_NAME:
        raise LoadError(f"refused: a tensor name of {len(name)} characters, {shown(name)!r}")
    return name


def checked_shape(shape: object, name: str) -> tuple[int, ...]:
    """A shape from a file as a tuple.

    Raises:
        LoadError: not a short list of non-negative integers.
    """
    if not isinstance(shape, (list, tuple)) or len(shape) > MAX_RANK:
        raise LoadError(f"tensor {shown(name)!r}: damaged shape")
    if any(type(side) is not int or not 0 <= side < 1 << 62 for side in shape):
        raise LoadError(f"tensor {shown(name)!r}: damaged shape {shown(list(shape))}")
    return tuple(shape)


def real_parts(dtype: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """Element type and shape by which a complex tensor reads as pairs of real numbers."""
    if dtype.startswith("complex"):
        return ("float32" if dtype == "complex64" else "float64"), (*shape, 2)
    return dtype, shape


def strided(
    name: str,
    dtype: str,
    source: Source,
    available: int,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
) -> Tensor:
    """A tensor laid over a storage with an offset and strides, counted in elements.

    Args:
        name: its name in the file.
        dtype: element type of storage and tensor.
        source: the storage, from its first element.
        available: number of elements in the storage.
        offset: element where the tensor begins.
        shape: its shape.
        strides: elements to step along each axis.

    Raises:
        LoadError: it reaches outside the storage, or has more elements than the storage (which
            only repeats elements: a few stored numbers could claim any size).
    """
    count = prod(shape)
    if len(strides) != len(shape) or offset < 0 or any(step < 0 for step in strides):
        raise LoadError(f"tensor {shown(name)!r}: damaged strides")
    last = offset + sum((side - 1) * step for side, step in zip(shape, strides, strict=True))
    if count and last >= available:
        raise LoadError(f"tensor {shown(name)!r} reaches outside its storage")
    if count > available:
        raise LoadError(f"tensor {shown(name)!r} has more elements than its storage")
    bits(dtype)
    if not count:
        return Tensor(name, dtype, shape, Part(source, 0, 0))
    axes = sorted(range(len(shape)), key=lambda axis: (-strides[axis], axis))
    ordered = tuple(shape[axis] for axis in axes)
    if _dense([shape[axis] for axis in axes], [strides[axis] for axis in axes]):
        tensor = Tensor(name, dtype, ordered, Part(source, offset, count))
        back = tuple(axes.index(axis) for axis in range(len(shape)))
        return tensor if back == tuple(range(len(shape))) else tensor.transpose(*back)
    return Tensor(name, dtype, shape, Gathered(source, offset, shape, strides))


def _dense(sides: list[int], steps: list[int]) -> bool:
    expected = 1
    for side, step in zip(reversed(sides), reversed(steps), strict=True):
        if side != 1 and step != expected:
            return False
        expected *= side
    return True


@dataclass(frozen=True, slots=True)
class Part:
    """``count`` elements of another source from ``offset``."""

    source: Source
    offset: int
    count: int

    def read(self, start: int, stop: int) -> Array:
        """Elements ``start`` to ``stop``."""
        if not 0 <= start <= stop <= self.count:
            raise LoadError(f"elements {start} to {stop} of {self.count} do not exist")
        return self.source.read(self.offset + start, self.offset + stop)

    def read_stored(self, start: int, stop: int) -> tuple[str, Array] | None:
        """Elements ``start`` to ``stop`` as they are stored."""
        read = getattr(self.source, "read_stored", None)
        if read is None or not 0 <= start <= stop <= self.count:
            return None
        found: tuple[str, Array] | None = read(self.offset + start, self.offset + stop)
        return found

    def in_file(self, start: int, stop: int) -> InFile | None:
        """Where elements ``start`` to ``stop`` are."""
        place = getattr(self.source, "in_file", None)
        if place is None or not 0 <= start <= stop <= self.count:
            return None
        found: InFile | None = place(self.offset + start, self.offset + stop)
        return found


@dataclass(frozen=True, slots=True)
class Gathered:
    """Elements of another source that are not adjacent: a column slice, a repeated row."""

    source: Source
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self, start: int, stop: int) -> Array:
        """Elements ``start`` to ``stop`` in the tensor's own order."""
        from numpy.lib.stride_tricks import as_strided

        if not 0 <= start <= stop <= prod(self.shape):
            raise LoadError(f"elements {start} to {stop} of {prod(self.shape)} do not exist")
        pairs = zip(self.shape, self.strides, strict=True)
        extent = 1 + sum((side - 1) * step for side, step in pairs)
        base = self.source.read(self.offset, self.offset + extent)
        steps = tuple(step * base.itemsize for step in self.strides)
        gathered: Array = as_strided(base, self.shape, steps).reshape(-1)[start:stop]
        return gathered


def check_overlap(tensors: Mapping[str, Stored], stored_bytes: int) -> None:
    """Refuse a file whose different tensors see the same bytes over and over.

    Raises:
        LoadError: together they are more than `MAX_OVERLAP` times what the file holds.
    """
    distinct = {
        stored.identity or name: stored.tensor.size * BITS.get(stored.tensor.dtype, 0) // 8
        for name, stored in tensors.items()
    }
    if sum(distinct.values()) > MAX_OVERLAP * stored_bytes:
        raise LoadError("the tensors overlap so much that the file cannot be an honest checkpoint")
