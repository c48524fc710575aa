"""Shapes of results, as far as they follow from shapes of operands; unknown stays None."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from initlint.load.onnx.values import Shape


def broadcast(*shapes: Shape | None) -> Shape | None:
    """The shape that operands broadcast to, by NumPy's rule."""
    if None in shapes:
        return None
    if shapes.count(shapes[0]) == len(shapes):
        return shapes[0]
    known = [shape for shape in shapes if shape is not None]
    rank = max((len(shape) for shape in known), default=0)
    result: list[int | None] = []
    for axis in range(-rank, 0):
        sides = [shape[axis] for shape in known if len(shape) >= -axis]
        fixed = [side for side in sides if side not in (None, 1)]
        if fixed:
            result.append(fixed[0])
        else:
            result.append(None if None in sides else 1)
    return tuple(result)


def matmul(left: Shape | None, right: Shape | None) -> Shape | None:
    """Shape of a matrix product with broadcast leading axes."""
    if left is None or right is None or not left or not right:
        return None
    rows = () if len(left) == 1 else (left[-2],)
    columns = () if len(right) == 1 else (right[-1],)
    batch = broadcast(left[:-2], right[:-2])
    return None if batch is None else (*batch, *rows, *columns)


def sliding(
    size: int | None, kernel: int, stride: int, pad: int, dilation: int, ceil: bool = False
) -> int | None:
    """Positions of a window of ``kernel`` taps along an axis; ``pad`` counts both ends."""
    if size is None:
        return None
    span = size + pad - dilation * (kernel - 1) - 1
    return max((-(-span // stride) if ceil else span // stride) + 1, 0) if stride else None


def reshape(shape: Shape | None, wanted: Sequence[int | None], zero_copies: bool) -> Shape:
    """The shape after a Reshape to ``wanted``, with 0 and -1 resolved where possible."""
    result: list[int | None] = []
    for axis, side in enumerate(wanted):
        if side == 0 and zero_copies:
            result.append(shape[axis] if shape is not None and axis < len(shape) else None)
        else:
            result.append(side)
    if result.count(-1) == 1:
        at = result.index(-1)
        others = result[:at] + result[at + 1 :]
        result[at] = _remaining(shape, others)
    return tuple(None if side is not None and side < 0 else side for side in result)


def _remaining(shape: Shape | None, others: Sequence[int | None]) -> int | None:
    """The side that -1 stands for: unknown sides cancel when both shapes have as many."""
    if shape is None or shape.count(None) != list(others).count(None):
        return None
    if shape.count(None) > 1:
        return None
    total = prod(side for side in shape if side is not None)
    rest = prod(side for side in others if side is not None)
    return total // rest if rest and total % rest == 0 else None


def transpose(shape: Shape | None, axes: Sequence[int]) -> Shape | None:
    """The shape with its axes permuted."""
    if shape is None or sorted(axis % max(len(shape), 1) for axis in axes) != list(
        range(len(shape))
    ):
        return None
    return tuple(shape[axis] for axis in axes)


def concatenate(shapes: Sequence[Shape | None], axis: int) -> Shape | None:
    """The shape of a concatenation."""
    known = [shape for shape in shapes if shape is not None]
    if not known:
        return None
    rank = len(known[0])
    if any(len(shape) != rank for shape in known) or not -rank <= axis < rank:
        return None
    axis %= rank
    result: list[int | None] = []
    for position in range(rank):
        sides = [shape[position] for shape in known]
        if position == axis:
            complete = len(known) == len(shapes) and None not in sides
            result.append(sum(side for side in sides if side is not None) if complete else None)
        else:
            result.append(next((side for side in sides if side is not None), None))
    return tuple(result)


def reduced(shape: Shape | None, axes: Sequence[int] | None, keep: bool) -> Shape | None:
    """The shape after a reduction; ``axes`` None reduces all."""
    if shape is None:
        return None
    rank = len(shape)
    chosen = set(range(rank)) if axes is None else {axis % max(rank, 1) for axis in axes}
    if keep:
        return tuple(1 if axis in chosen else side for axis, side in enumerate(shape))
    return tuple(side for axis, side in enumerate(shape) if axis not in chosen)


def squeezed(shape: Shape | None, axes: Sequence[int] | None) -> Shape | None:
    """The shape without the axes (all of length 1 when None)."""
    if shape is None:
        return None
    if axes is None:
        return None if None in shape else tuple(side for side in shape if side != 1)
    chosen = {axis % max(len(shape), 1) for axis in axes}
    return tuple(side for axis, side in enumerate(shape) if axis not in chosen)


def unsqueezed(shape: Shape | None, axes: Sequence[int]) -> Shape | None:
    """The shape with axes of length 1 inserted (positions in the result)."""
    if shape is None:
        return None
    rank = len(shape) + len(axes)
    chosen = {axis % rank for axis in axes}
    sides = iter(shape)
    return tuple(1 if axis in chosen else next(sides, None) for axis in range(rank))


def sliced(side: int | None, start: int, stop: int, step: int) -> int | None:
    """Length of ``start:stop:step`` along an axis, as ONNX clamps it."""
    if step == 0:
        return None
    if side is None:
        bounded = 0 <= start <= stop or start <= stop < 0
        known = bounded and step > 0 and stop < 1 << 31
        return -(-(stop - start) // step) if known and start < 0 else None
    return len(
        range(*slice(start, stop if step > 0 or stop >= -side else None, step).indices(side))
    )


def flattened(shape: Shape, axis: int) -> Shape:
    """The two sides of a Flatten at ``axis``."""
    axis += len(shape) if axis < 0 else 0

    def side(part: Shape) -> int | None:
        return None if None in part else prod(entry for entry in part if entry is not None)

    return (side(shape[:axis]), side(shape[axis:]))


def window(
    shape: Shape | None,
    kernel: Sequence[int],
    stride: Sequence[int],
    pads: Sequence[int],
    dilation: Sequence[int],
    auto_pad: str = "",
    ceil: bool = False,
    channels: int | None = None,
) -> Shape | None:
    """(batch, channels, *space) after a convolution or pool."""
    axes = len(kernel)
    if shape is None or len(shape) != axes + 2 or not axes:
        return None
    if not len(stride) == len(dilation) == axes or len(pads) != 2 * axes:
        return None
    space: list[int | None] = []
    for axis in range(axes):
        size = shape[axis + 2]
        if auto_pad.startswith("SAME"):
            space.append(None if size is None or not stride[axis] else -(-size // stride[axis]))
        else:
            pad = 0 if auto_pad == "VALID" else pads[axis] + pads[axis + axes]
            space.append(sliding(size, kernel[axis], stride[axis], pad, dilation[axis], ceil))
    return (shape[0], shape[1] if channels is None else channels, *space)
