"""What the readers of an input say about it: tables that it indexes, weights that multiply it."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from math import prod
from typing import Any

from initlint.model.record import record
from initlint.probe.inputs import Axis, Extent

_SAME_VALUES = frozenset(
    {"Cast", "CastLike", "Unsqueeze", "Squeeze", "Reshape", "Identity", "Flatten", "Transpose"}
    | {
        "Slice",
        "Clip",
        "Add",
        "Sub",
        "Mul",
        "Where",
        "Expand",
        "Split",
        "Concat",
        "Gather",
        "Max",
        "Min",
    }
)
"""Operators after which an index is still (nearly) that index."""

_SAME_AXES = frozenset(
    {"Cast", "Identity", "Dropout", "Relu", "LeakyRelu", "Tanh", "Sigmoid", "Neg", "Abs", "Sqrt"}
    | {"Add", "Sub", "Mul", "Div", "Clip", "QuantizeLinear", "DequantizeLinear", "Log"}
    | {"DynamicQuantizeLinear", "LayerNormalization", "BatchNormalization"}
)

_RECURRENT = {"LSTM": 5, "GRU": 5, "RNN": 5, "DynamicQuantizeLSTM": 5}
"""Position of the initial hidden state; the initial cell follows it."""


@record(frozen=True, slots=True)
class _Use:
    node: Any
    position: int


class GraphHints:
    """Who reads which value in a graph and its subgraphs, and the shapes of its constants."""

    def __init__(self, graph: Any) -> None:
        self.uses: dict[str, list[_Use]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._producers: dict[str, Any] = {}
        for body in _graphs(graph):
            for tensor in body.initializer:
                self._shapes[tensor.name] = tuple(tensor.dims)
            for node in body.node:
                self._add(node)

    def _add(self, node: Any) -> None:
        for position, name in enumerate(node.input):
            if name:
                self.uses.setdefault(name, []).append(_Use(node, position))
        for name in node.output:
            self._producers[name] = node
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    self._shapes[node.output[0]] = tuple(attribute.t.dims)

    def shape(self, name: str, depth: int = 8) -> tuple[int, ...] | None:
        """Shape of a constant, also behind Identity, Cast, Transpose or a quantised table."""
        if name in self._shapes:
            return self._shapes[name]
        node = self._producers.get(name)
        if node is None or not depth or not node.input:
            return None
        if node.op_type in ("Identity", "Cast", "DequantizeLinear", "QuantizeLinear"):
            return self.shape(node.input[0], depth - 1)
        if node.op_type in ("Mul", "Sub"):  # a table of integers, its scale and zero point
            sides = [self.shape(name, depth - 1) for name in node.input]
            known = [side for side in sides if side is not None]
            return max(known, key=prod) if len(known) == len(sides) else None
        if node.op_type == "Transpose":
            shape = self.shape(node.input[0], depth - 1)
            order = _ints(node, "perm")
            if shape is None or (order is not None and sorted(order) != list(range(len(shape)))):
                return None
            return tuple(shape[axis] for axis in order) if order else shape[::-1]
        return None

    def index_bound(self, name: str) -> int | None:
        """Rows of the smallest table that the values of ``name`` index; None: they index none."""
        bounds = []
        for use in self._reach(name):
            node, position = use.node, use.position
            if node.op_type == "Gather" and position == 1:
                table = self.shape(node.input[0])
                axis = (_int(node, "axis") or 0) if table else 0
                if table and -len(table) <= axis < len(table):
                    bounds.append(table[axis])
            elif node.op_type == "EmbedLayerNormalization" and position == 0:
                table = self.shape(node.input[2])
                bounds += table[:1] if table else ()
            elif node.op_type == "OneHot" and position == 0:
                bounds += self._scalar(node.input[1])
        return min((bound for bound in bounds if bound > 0), default=None)

    def is_initial_state(self, name: str) -> bool:
        """True when a recurrent operator starts from these values."""
        return any(
            use.node.op_type in _RECURRENT and 0 <= use.position - _RECURRENT[use.node.op_type] < 2
            for use in self._reach(name)
        )

    def _reach(self, name: str) -> Iterator[_Use]:
        """Uses of the values of ``name``, through operators that keep them."""
        seen, waiting = {name}, [name]
        while waiting:
            for use in self.uses.get(waiting.pop(), ()):
                yield use
                indexes = use.node.op_type == "Gather" and use.position == 1
                if use.node.op_type not in _SAME_VALUES or indexes:
                    continue
                for output in use.node.output:
                    if output and output not in seen:
                        seen.add(output)
                        waiting.append(output)

    def _scalar(self, name: str) -> list[int]:
        node = self._producers.get(name)
        if node is not None and node.op_type == "Constant":
            tensor = next((a.t for a in node.attribute if a.name == "value"), None)
            if tensor is not None and len(tensor.raw_data) == 8:
                return [int.from_bytes(tensor.raw_data, "little", signed=True)]
            if tensor is not None and len(tensor.int64_data) == 1:
                return [int(tensor.int64_data[0])]
        return []

    def widths(self, name: str, rank: int) -> dict[int, Axis]:
        """Axes of an input whose size the first weights that read it dictate."""
        found: dict[int, Axis] = {}
        waiting: list[tuple[str, tuple[int | None, ...]]] = [(name, tuple(range(rank)))]
        seen = {name}
        while waiting:
            value, axes = waiting.pop()
            for use in self.uses.get(value, ()):
                for axis, kind in self._demands(use, len(axes)).items():
                    origin = axes[axis]
                    if origin is not None:
                        found.setdefault(origin, kind)
                following = _axes_after(use.node, use.position, axes)
                for output in use.node.output[:1]:
                    if following is not None and output not in seen:
                        seen.add(output)
                        waiting.append((output, following))
        return found

    def _demands(self, use: _Use, rank: int) -> dict[int, Axis]:
        node, op = use.node, use.node.op_type
        if use.position != 0 or rank == 0:
            return {}
        weight = self.shape(node.input[1]) if len(node.input) > 1 else None
        if not weight:
            return {}
        if op in ("Conv", "ConvInteger") and rank == len(weight) and rank > 2:
            return {1: Axis(Extent.FIXED, weight[1] * (_int(node, "group") or 1))}
        if op == "ConvTranspose" and rank == len(weight) and rank > 2:
            return {1: Axis(Extent.FIXED, weight[0])}
        if op in ("MatMul", "MatMulInteger", "FusedMatMul") and len(weight) == 2:
            return {rank - 1: Axis(Extent.FIXED, weight[0])}
        if op == "Gemm" and rank == 2 and len(weight) == 2 and not _int(node, "transA"):
            return {1: Axis(Extent.FIXED, weight[1 if _int(node, "transB") else 0])}
        if op in ("LSTM", "GRU", "RNN") and rank == 3 and len(weight) == 3:
            return {
                0: Axis(Extent.LENGTH),
                1: Axis(Extent.BATCH),
                2: Axis(Extent.FIXED, weight[2]),
            }
        if op == "DynamicQuantizeLSTM" and rank == 3 and len(weight) == 3:
            return {0: Axis(Extent.LENGTH), 1: Axis(Extent.BATCH), 2: Axis(Extent.FIXED, weight[1])}
        if op == "BatchNormalization" and rank > 1 and len(weight) == 1:
            return {1: Axis(Extent.FIXED, weight[0])}
        if op == "LayerNormalization" and len(weight) == 1:
            return {rank - 1: Axis(Extent.FIXED, weight[0])}
        return {}

    def rank(self, name: str) -> int:
        """Number of axes of an input that declares none."""
        for use in self.uses.get(name, ()):
            if use.node.op_type == "Conv":
                return len(self.shape(use.node.input[1]) or (0, 0, 0, 0))
            if use.node.op_type in ("LSTM", "GRU", "RNN"):
                return 3
        return 2


def _axes_after(
    node: Any, position: int, axes: tuple[int | None, ...]
) -> tuple[int | None, ...] | None:
    """Which input axis each axis of the node's output is; None where the trail ends."""
    op = node.op_type
    if op in _SAME_AXES:
        return axes
    if position != 0:
        return None
    if op == "Transpose":
        order = _ints(node, "perm") or tuple(range(len(axes)))[::-1]
        return tuple(axes[axis] for axis in order) if len(order) == len(axes) else None
    if op in ("Unsqueeze", "Squeeze"):
        places = _ints(node, "axes")
        if places is None or len(places) != 1:
            return None
        if op == "Unsqueeze":
            place = places[0] % (len(axes) + 1)
            return (*axes[:place], None, *axes[place:])
        place = places[0] % len(axes)
        return (*axes[:place], *axes[place + 1 :])
    return None


def reached_values(
    graph: Any, inputs: Iterable[str], without: Container[str] = ()
) -> frozenset[str]:
    """Values of the main graph that depend on some of its inputs, those included.

    Not through the operators in ``without``.
    """
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        if node.op_type in without:
            continue
        for name in _read_by(node):
            readers.setdefault(name, []).append(node)
    waiting = list(inputs)
    seen = set(waiting)
    while waiting:
        for node in readers.get(waiting.pop(), ()):
            for output in node.output:
                if output not in seen:
                    seen.add(output)
                    waiting.append(output)
    return frozenset(seen)


def constants(graph: Any) -> frozenset[str]:
    """Every value that the nodes of a graph without inputs compute."""
    return frozenset(name for node in graph.node for name in node.output if name)


def _read_by(node: Any) -> set[str]:
    """Names that a node or anything in its subgraphs reads."""
    found = set(node.input)
    for attribute in node.attribute:
        for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            for body in _graphs(graph):
                for inner in body.node:
                    found.update(inner.input)
    return found


def _graphs(graph: Any) -> Iterator[Any]:
    waiting = [graph]
    while waiting:
        body = waiting.pop()
        yield body
        for node in body.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    waiting.append(attribute.g)
                waiting.extend(attribute.graphs)


def _int(node: Any, name: str) -> int | None:
    return next((int(item.i) for item in node.attribute if item.name == name), None)


def _ints(node: Any, name: str) -> tuple[int, ...] | None:
    return next((tuple(item.ints) for item in node.attribute if item.name == name), None)
