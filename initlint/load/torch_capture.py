"""A layer graph from one eager run of a PyTorch module."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from initlint.load.torch_functions import tensors_in
from initlint.load.torch_opaque import is_quantised, opaque
from initlint.load.torch_ops import HANDLERS, UNCHANGED, describe
from initlint.load.torch_packed import replayable, split_packed
from initlint.load.torch_products import Mapped, Use
from initlint.load.torch_tracer import Call, Ref, Tracer
from initlint.load.torch_weights import Names, Static, make_param
from initlint.model import TRANSPARENT, Edge, Layer, Op, Param, Role, View, Where

_SMALL = TRANSPARENT | {Op.SHAPE, Op.COMPARE, Op.CONSTANT}
"""Operators that do not count when a module has one thing it computes."""


@dataclass(slots=True)
class Node:
    """A layer under construction.

    Attributes:
        call: the intercepted call, None for inputs, outputs and learned constants.
        key: identity over runs; several nodes of one call share its prefix.
        inputs: ``(node index, output)`` by position; None where the operand is a constant.
        shapes: shapes of its outputs.
    """

    op: Op
    path: str
    visit: int
    name: str
    attrs: dict[str, Any]
    inputs: list[tuple[int, int, tuple[int, ...]] | None]
    params: list[Param]
    shapes: list[tuple[int, ...]]
    channel_axis: int
    key: str = ""
    replay: Any = None


@dataclass(slots=True)
class Capture:
    """Collects nodes while a `Tracer` runs."""

    names: Names
    nodes: list[Node] = field(default_factory=list)
    produced: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    constants: dict[int, int] = field(default_factory=dict)
    reached: set[str] = field(default_factory=set)
    sources: dict[str, tuple[str, ...]] = field(default_factory=dict)
    batch: int | None = None
    _alive: list[Any] = field(default_factory=list)

    def add_input(self, ref: Ref, name: str, tensor: Any) -> None:
        """A tensor the network is fed."""
        attrs = {"dtype": str(tensor.dtype).removeprefix("torch.")}
        shape = tuple(tensor.shape)
        node = Node(Op.INPUT, "", 1, name, attrs, [], [], [shape], 1 if len(shape) > 3 else -1)
        self.produced[ref.call, ref.output] = (len(self.nodes), 0)
        self.nodes.append(node)

    def on_call(self, call: Call) -> None:
        """One intercepted call: no, one or several nodes."""
        module = call.kwargs.get("module") if call.name == "module" else None
        if module is None and call.name not in HANDLERS and call.name not in UNCHANGED:
            owner = self.names.modules.get(call.path)
            module = owner if is_quantised(owner) else None
        mapped = describe(call) if module is None else opaque(call, module, self.names)
        outputs = call.outputs
        if not mapped:
            self._alias(call, outputs)
            return
        previous = None
        for level, item in enumerate(mapped):
            self._note_written(call)
            node = self._node(call, item, outputs, previous, level)
            previous = len(self.nodes)
            self.nodes.append(node)
        assert previous is not None
        for number in range(max(len(outputs), 1)):
            self.produced[call.index, number] = (previous, number)

    def _note_written(self, call: Call) -> None:
        for tensor in tensors_in((call.args, call.kwargs), 4):
            value = call.value(tensor)
            if isinstance(value, Static):
                self.reached.update(value.sources)

    def _alias(self, call: Call, outputs: Sequence[Any]) -> None:
        value = call.value(call.arg(0, "input"))
        if isinstance(value, Ref):
            self.produced[call.index, 0] = self.produced[value.call, value.output]
            return
        self.produced[call.index, 0] = (self._constant(value, call.path), 0)

    def _node(
        self, call: Call, item: Mapped, outputs: Sequence[Any], previous: int | None, level: int
    ) -> Node:
        inputs: list[tuple[int, int, tuple[int, ...]] | None] = []
        if previous is not None:
            inputs.append((previous, 0, self.nodes[previous].shapes[0]))
        inputs += [self._edge(call, tensor) for tensor in item.inputs]
        params = [self._param(use, call.path) for use in item.uses]
        shapes = [tuple(tensor.shape) for tensor in outputs] or [()]
        axis = item.channel_axis
        node = Node(
            item.op,
            call.path,
            call.visit,
            call.name,
            item.attrs,
            inputs,
            params,
            shapes,
            -1 if axis is None else axis,
            key=call.key if level == 0 else f"{call.key}+{level}",
        )
        if axis is None:
            node.channel_axis = self._inherited_axis(node)
        if item.op in TRANSPARENT:
            node.replay = replayable(call)
        return node

    def _edge(self, call: Call, tensor: Any) -> tuple[int, int, tuple[int, ...]] | None:
        value = call.value(tensor)
        shape = tuple(tensor.shape)
        if isinstance(value, Ref):
            return (*self.produced[value.call, value.output], shape)
        if value.sources:
            return (self._constant(value, call.path), 0, shape)
        return None

    def _constant(self, value: Static, path: str) -> int:
        """The node of a learned tensor that is data by itself (a query, a class token)."""
        key = id(value.tensor)
        if key not in self.constants:
            collapsed = _collapse(value)
            param = self._param(Use(Role.TABLE, collapsed, "constant"), path)
            shape = tuple(value.tensor.shape)
            self.constants[key] = len(self.nodes)
            node = Node(Op.CONSTANT, path, 1, "constant", {}, [], [param], [shape], -1)
            self._alive.append(value.tensor)
            self.nodes.append(node)
        return self.constants[key]

    def _param(self, use: Use, path: str) -> Param:
        views: tuple[View, ...] = use.views
        if use.role in (Role.GAIN, Role.SHIFT) and not views:
            use.static = _collapse(use.static)
        param = make_param(
            self.names, use.static, use.role, path, use.stem, views=views, **use.fields
        )
        self.reached.update(use.static.sources)
        own = self.names.of(use.static.tensor)
        self.sources.setdefault(param.key, use.static.sources or ((own,) if own else ()))
        if own:
            self.reached.add(own)
        return param

    def _inherited_axis(self, node: Node) -> int:
        """The axis of units: that of the first input, followed through changes of shape."""
        first = next((entry for entry in node.inputs if entry is not None), None)
        shape = node.shapes[0]
        if first is None:
            return -1
        source = self.nodes[first[0]]
        axis, before = source.channel_axis, first[2]
        if not before or axis >= len(before) or -axis > len(before):
            return -1
        axis %= len(before)
        if node.op is Op.TRANSPOSE and "perm" in node.attrs:
            axis = node.attrs["perm"].index(axis)
        elif node.op in (Op.RESHAPE, Op.SLICE, Op.REDUCE, Op.SPLIT, Op.GATHER):
            axis = _axis_after(before, shape, axis)
        elif len(shape) != len(before):
            return -1
        return axis if 0 <= axis < len(shape) - 1 else -1

    def add_outputs(self, tensors: Sequence[Any], tracer: Tracer) -> None:
        """The tensors the network returns."""
        seen = set()
        for tensor in tensors:
            value = tracer.value(tensor)
            if isinstance(value, Ref):
                entry = self.produced[value.call, value.output]
            elif value.sources:
                entry = (self._constant(value, ""), 0)
                self.reached.update(value.sources)
            else:
                continue
            if entry in seen:
                continue
            seen.add(entry)
            shape = tuple(tensor.shape)
            axis = self.nodes[entry[0]].channel_axis
            self.nodes.append(
                Node(Op.OUTPUT, "", 1, "output", {}, [(*entry, shape)], [], [shape], axis)
            )


def _axis_after(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> int:
    """Where an axis went when its neighbours were merged, cut or dropped; -1 when it is gone."""
    if axis < len(after) and after[axis] == before[axis] and before[:axis] == after[:axis]:
        return axis
    behind = len(before) - axis
    place = len(after) - behind
    if place >= 0 and after[place] == before[axis] and before[axis:] == after[place:]:
        return place
    return axis if axis < len(after) and after[axis] == before[axis] else -1


def _collapse(static: Static) -> Static:
    """A learned tensor without the copies that broadcasting made."""
    tensor = static.tensor
    for axis, step in enumerate(tensor.stride()):
        if step == 0 and tensor.shape[axis] > 1:
            tensor = tensor.narrow(axis, 0, 1)
    return static if tensor is static.tensor else Static(tensor, static.sources)


# names, layers, edges


def layers_of(
    capture: Capture, sites: Mapping[str, Where]
) -> tuple[list[Layer], list[Edge], dict[str, str]]:
    """Layers, edges, and the layer id of every call key."""
    whole = {param.name: param.key for node in capture.nodes for param in node.params}
    split_packed(capture.nodes)
    for node in capture.nodes:
        for param in node.params:
            capture.sources.setdefault(param.key, capture.sources[whole[param.name]])
    ids = _layer_ids(capture)
    layers, edges, keys = [], [], {}
    for index, node in enumerate(capture.nodes):
        shape = node.shapes[0]
        layers.append(
            Layer(
                ids[index],
                node.op,
                tuple(node.params),
                {key: value for key, value in node.attrs.items() if value is not None},
                scope=node.path if ids[index] != node.path else node.path.rpartition(".")[0],
                where=_site(node, capture.names, sites),
                output_shape=_dynamic(shape, capture.batch),
                channel_axis=node.channel_axis,
            )
        )
        if node.key:
            keys[node.key] = ids[index]
        for position, entry in enumerate(node.inputs):
            if entry is not None:
                source, output, fed = entry
                edges.append(
                    Edge(ids[source], ids[index], position, output, _dynamic(fed, capture.batch))
                )
    return layers, edges, keys


def _dynamic(shape: tuple[int, ...], batch: int | None) -> tuple[int | None, ...]:
    """The shape with its batch axis left open."""
    if shape and batch is not None and shape[0] == batch:
        return (None, *shape[1:])
    return shape


def _site(node: Node, names: Names, sites: Mapping[str, Where]) -> Where:
    if node.params and node.params[0].module is not None:
        owner = node.params[0].name.rpartition(".")[0]
        while owner and owner not in sites:
            owner = owner.rpartition(".")[0]
        if owner in sites:
            return sites[owner]
    path = node.path
    while path and path not in sites:
        path = path.rpartition(".")[0]
    return sites.get(path, Where())


def _layer_ids(capture: Capture) -> list[str]:
    """A unique id per node: the module's path where the node is what the module computes.

    Otherwise the name of its parameter, else the module's path and the operator.
    """
    groups: defaultdict[tuple[str, int], list[Node]] = defaultdict(list)
    for node in capture.nodes:
        groups[node.path, node.visit].append(node)
    main = {id(node) for group in groups.values() for node in _main(group, capture.names)}
    taken: Counter[str] = Counter()
    ids = [""] * len(capture.nodes)
    for first in (True, False):  # a module's own path must not go to an operator of that name
        for index, node in enumerate(capture.nodes):
            if (id(node) in main or bool(node.params)) == first:
                ids[index] = _unique(_base_id(node, id(node) in main), taken)
    return ids


def _unique(base: str, taken: Counter[str]) -> str:
    """The name, with a number where it is taken; counts it as taken."""
    taken[base] += 1
    candidate = base if taken[base] == 1 else f"{base}#{taken[base]}"
    while taken[base] > 1 and taken[candidate]:
        taken[base] += 1
        candidate = f"{base}#{taken[base]}"
    if candidate != base:
        taken[candidate] += 1
    return candidate


def _main(group: Sequence[Node], names: Names) -> list[Node]:
    """The one node that is what a module without children computes."""
    path = group[0].path
    module = names.modules.get(path)
    if not path or module is None:
        return []
    if any(name != "parametrizations" for name, _ in module.named_children()):
        return []
    owned = [node for node in group if node.params and node.op is not Op.CONSTANT]
    if owned:
        return owned[:1] if len(owned) == 1 else []
    large = [node for node in group if node.op not in _SMALL]
    if len(large) == 1:
        return large
    return list(group) if len(group) == 1 else []


def _base_id(node: Node, main: bool) -> str:
    if main:
        return node.path
    prefix = f"{node.path}." if node.path else ""
    if node.op in (Op.INPUT, Op.OUTPUT):
        return node.name
    if node.params:
        name = node.params[0].name
        for ending in ("weight", "bias"):
            for joint in (".", "_"):
                name = name.removesuffix(f"{joint}{ending}")
        level = node.attrs.get("level")
        if level is not None:
            several = node.attrs.get("num_layers", 1) > 1
            return f"{prefix}l{level}" if several else node.path or node.op.value
        return name if name not in ("weight", "bias") else f"{prefix}{node.op.value}"
    if node.op is Op.OTHER:
        return f"{prefix}{node.attrs.get('function', node.name)}"
    return f"{prefix}{node.op.value}"


def loose_params(capture: Capture) -> tuple[Param, ...]:
    """Parameters that no call read."""
    found = []
    for name, tensor in capture.names.unique():
        if name in capture.names.parameters and name not in capture.reached:
            path, _, stem = name.rpartition(".")
            role = _ROLES.get(stem, Role.OTHER)
            found.append(make_param(capture.names, Static(tensor, (name,)), role, path, stem))
    return tuple(found)


_ROLES = {"weight": Role.WEIGHT, "bias": Role.BIAS}
