"""Query, key and value that one linear layer computes together, found by following its rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import torch

from initlint.load.torch_functions import map_tensors
from initlint.load.torch_tracer import Call
from initlint.model import TRANSPARENT, Op, Param, Role, View

if TYPE_CHECKING:
    from initlint.load.torch_capture import Node

_GATES = ("query", "key", "value")

_LARGEST = 1 << 24
"""Elements of an index tensor that is followed through reshapes: 64 MiB of int32."""

_BEFORE_PRODUCT = TRANSPARENT | {
    Op.ADD,
    Op.MUL,
    Op.DIV,
    Op.NEG,
    Op.CONCAT,
    Op.LAYER_NORM,
    Op.RMS_NORM,
    Op.LP_NORM,
    Op.SOFTMAX,
}
"""What may stand between a projection and its use in attention: heads, rotation, scale, norms."""


def split_packed(nodes: Sequence[Node]) -> None:
    """Replace the weight of every packed projection by its three blocks, in place."""
    readers: defaultdict[int, list[int]] = defaultdict(list)
    for index, node in enumerate(nodes):
        for entry in node.inputs:
            if entry is not None:
                readers[entry[0]].append(index)
    for index, node in enumerate(nodes):
        if node.op is not Op.LINEAR or node.channel_axis != -1:
            continue
        weights = [param for param in node.params if param.role is Role.WEIGHT]
        if len(weights) != 1 or weights[0].packed != 1:
            continue
        parts = _parts(nodes, readers, index, weights[0].shape[0])
        if parts is None:
            continue
        if len(parts) > 1:
            node.params = [block for param in node.params for block in _blocks(param, parts)]
        else:
            node.params = [_labelled(param, *parts) for param in node.params]


def _labelled(param: Param, gate: str) -> Param:
    """A part of a stored tensor, with the name of the one thing it computes."""
    return replace(param, gate=gate, packed=len(_GATES)) if _is_slice(param) else param


def _is_slice(param: Param) -> bool:
    """True for a parameter that is a part of a stored tensor."""
    return param.tensor is not None and param.tensor.shape != param.tensor.stored_shape


def _parts(
    nodes: Sequence[Node], readers: defaultdict[int, list[int]], start: int, rows: int
) -> dict[str, torch.Tensor] | None:
    """Row numbers of query, key and value, those of them that a projection makes.

    None when its rows go elsewhere too, or the same row serves twice.
    """
    shape = nodes[start].shapes[0]
    if not shape or shape[-1] != rows or prod(shape) > _LARGEST or 0 in shape:
        return None
    index = torch.arange(rows, dtype=torch.int32).expand(shape)
    found: dict[str, torch.Tensor] = {}
    queue: list[tuple[int, int, torch.Tensor]] = [(start, 0, index)]
    while queue:
        place, output, rows_here = queue.pop()
        for reader in dict.fromkeys(readers[place]):
            node = nodes[reader]
            if not any(entry is not None and entry[:2] == (place, output) for entry in node.inputs):
                continue
            if node.op in TRANSPARENT and node.replay is not None:
                for number, piece in enumerate(_replay(node, rows_here)):
                    queue.append((reader, number, piece))
                continue
            for gate in _uses(nodes, readers, reader, (place, output)):
                chosen = torch.unique(rows_here)
                known = found.get(gate)
                found[gate] = chosen if known is None else torch.unique(torch.cat([known, chosen]))
    parts = list(found.values())
    if sum(len(part) for part in parts) != rows or len(torch.unique(torch.cat(parts))) != rows:
        return None
    return {gate: found[gate] for gate in _GATES if gate in found}


def replayable(call: Call) -> Callable[[Any], Any]:
    """The call's function of its first tensor; holds no activation alive."""
    holes: list[Any] = []

    def cut(tensor: Any) -> Any:
        holes.append(None)
        return torch.empty(0) if len(holes) > 1 else _HOLE

    args, kwargs = map_tensors(call.args, cut), map_tensors(call.kwargs, cut)
    function = call.function

    def run(tensor: Any) -> Any:
        def fill(item: Any) -> Any:
            return tensor if item is _HOLE else item

        return function(*map_tensors(args, fill), **map_tensors(kwargs, fill))

    return run


_HOLE = torch.empty(0)


def _replay(node: Node, rows: torch.Tensor) -> list[torch.Tensor]:
    """A shape-only call repeated on row numbers."""
    if node.op is Op.DROPOUT:  # would draw from the generators
        return [rows]
    for candidate in (rows, rows.contiguous()):  # copies have no node of their own
        try:
            result = node.replay(candidate)
        except (RuntimeError, TypeError, IndexError, NotImplementedError):  # not on row numbers
            continue
        return [result] if isinstance(result, torch.Tensor) else list(result)
    return []


def _uses(
    nodes: Sequence[Node],
    readers: defaultdict[int, list[int]],
    start: int,
    came_from: tuple[int, int],
) -> set[str]:
    """What attention makes of a tensor: query, key, value, by the operand it ends up as."""
    found: set[str] = set()
    seen: set[tuple[int, int]] = set()
    queue = [(start, came_from)]
    while queue:
        place, source = queue.pop()
        if (place, source[0]) in seen:
            continue
        seen.add((place, source[0]))
        node = nodes[place]
        positions = [
            number
            for number, entry in enumerate(node.inputs)
            if entry is not None and entry[:2] == source
        ]
        if node.op is Op.ATTENTION:
            found.update(_GATES[number] for number in positions if number < 3)
        elif node.op is Op.MATMUL:
            found.update(_operand(nodes, readers, place, positions))
        elif node.op in _BEFORE_PRODUCT:
            for reader in dict.fromkeys(readers[place]):
                for entry in nodes[reader].inputs:
                    if entry is not None and entry[0] == place:
                        queue.append((reader, entry[:2]))
    return found


def _operand(
    nodes: Sequence[Node],
    readers: defaultdict[int, list[int]],
    place: int,
    positions: Sequence[int],
) -> set[str]:
    """Names of a product's operands: logits when a softmax follows, else weights times value."""
    if _reaches_softmax(nodes, readers, place):
        return {_GATES[number] for number in positions if number < 2}
    return {"value"}


def _reaches_softmax(
    nodes: Sequence[Node], readers: defaultdict[int, list[int]], place: int
) -> bool:
    queue, seen = [place], set()
    while queue:
        here = queue.pop()
        if here in seen:
            continue
        seen.add(here)
        for reader in readers[here]:
            op = nodes[reader].op
            if op is Op.SOFTMAX:
                return True
            if op in TRANSPARENT or op in (Op.ADD, Op.MUL, Op.DIV, Op.WHERE, Op.SUB):
                queue.append(reader)
    return False


def _blocks(param: Param, parts: Mapping[str, torch.Tensor]) -> list[Param]:
    """One parameter cut into its blocks of rows."""
    if param.role not in (Role.WEIGHT, Role.BIAS):
        return [param]
    found = []
    packed = len(_GATES) if _is_slice(param) else len(parts)
    for gate, rows in parts.items():
        views = _row_views(rows, param.shape)
        if views is None:
            return [param]
        tensor, shape = param.tensor, (len(rows), *param.shape[1:])
        if tensor is not None:
            for view in views:
                tensor = replace(tensor, views=(*tensor.views, view))
        found.append(replace(param, gate=gate, packed=packed, tensor=tensor, shape=shape))
    return found


def _row_views(rows: torch.Tensor, shape: tuple[int, ...]) -> tuple[View, ...] | None:
    """Views that pick rows: one run, or equal runs at equal distances (heads interleaved)."""
    first, count, total = int(rows[0]), len(rows), shape[0]
    if int(rows[-1]) - first + 1 == count:
        return (View("slice", (0, first, first + count)),)
    breaks = torch.nonzero(rows[1:] != rows[:-1] + 1).flatten()
    run = int(breaks[0]) + 1
    period = int(rows[run]) - first
    if count % run or total % period or count // run != total // period:
        return None
    expected = first + torch.arange(count // run)[:, None] * period + torch.arange(run)[None]
    if not torch.equal(expected.flatten(), rows.to(expected.dtype)):
        return None
    groups = total // period
    return (
        View("reshape", (groups, period, *shape[1:])),
        View("slice", (1, first, first + run)),
        View("reshape", (count, *shape[1:])),
    )
