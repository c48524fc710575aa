"""The walk: every node of every graph, subgraph and called function, in execution order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from initlint.load.files import shown
from initlint.load.onnx.builder import Builder
from initlint.load.onnx.call import Attributes, Call, attributes
from initlint.load.onnx.fold import fold
from initlint.load.onnx.limits import FunctionKey, call_key, function_key, subgraphs
from initlint.load.onnx.names import computed_parameters
from initlint.load.onnx.operators import HANDLERS, other
from initlint.load.onnx.operators.sequences import SEQUENCE_READERS, flattened
from initlint.load.onnx.order import names_of, ordered
from initlint.load.onnx.stated import attributes_of_function, opsets, stated_dtype, stated_shape
from initlint.load.onnx.tensors import INTEGERS, TensorReader
from initlint.load.onnx.values import Draft, Dynamic, Extent, Fixed, Origin, Value
from initlint.model import LoadError, Op, Tensor, from_array

Scope = dict[str, Value | None]


_UNFOLDED = frozenset(
    {
        "Celu",
        "Elu",
        "Erf",
        "Gelu",
        "Gemm",
        "HardSigmoid",
        "HardSwish",
        "LayerNormalization",
        "LeakyRelu",
        "LogSoftmax",
        "LpNormalization",
        "Mish",
        "RMSNormalization",
        "Selu",
        "Softmax",
        "Swish",
    }
)
"""Operators that are not computed while loading: over constants alone (a learned query, a network
that makes another's weights) their first operand is what enters."""


class Walk:
    """Visits the nodes of one model and fills a `Builder`.

    Attributes:
        builder: where layers go.
        unused: initializers of the main graph that no node reads.
    """

    def __init__(self, model: Any, reader: TensorReader, builder: Builder) -> None:
        self.builder = builder
        self._model = model
        self._reader = reader
        self._functions: dict[FunctionKey, Any] = {
            function_key(function): function for function in model.functions
        }
        self._opsets = opsets(model.opset_import)
        self._index = 0
        self._frame: tuple[Attributes, Mapping[str, int]] = ({}, self._opsets)
        self.unused: list[Fixed] = []

    def run(self) -> None:
        """Walk the main graph.

        Raises:
            LoadError: a node reads a value that nothing produces, a value is produced twice, or
                the nodes form a cycle.
        """
        graph = self._model.graph
        scope: Scope = {}
        read = self._constants(graph, scope, main=True)
        for proto in graph.input:
            if proto.name not in scope:
                scope[proto.name] = self._input(proto)
        main = Origin(None, "")
        used = self._nodes(graph, graph.node, scope, {}, main, self._opsets, graph.output)
        for position, proto in enumerate(graph.output):
            if proto.name not in scope:
                raise LoadError(f"graph output {shown(proto.name)!r} is produced by no node")
            self._output(proto, scope[proto.name], position)
        self.unused = [value for name, value in read if name not in used]

    def _input(self, proto: Any) -> Dynamic:
        shape = stated_shape(proto)
        origin = Origin(None, proto.name, main=True)
        attrs = {"dtype": stated_dtype(proto)}
        draft = Draft(Op.INPUT, [], [], attrs, origin, shape, [proto.name])
        draft.channel_axis = 1 if shape is not None and len(shape) >= 3 else -1
        self.builder.drafts.append(draft)
        return Dynamic(draft, 0, shape)

    def _output(self, proto: Any, value: Value | None, position: int) -> None:
        origin = Origin(None, proto.name, main=True, index=position)
        call = Call("", "", {}, (), (proto.name,), origin, 0)
        edges = [] if value is None else [(0, self.builder.dynamic(value, call))]
        shape = value.shape if value is not None else None
        draft = Draft(Op.OUTPUT, edges, [], {}, origin, shape, [proto.name])
        draft.part = "output"
        self.builder.drafts.append(draft)

    def _constants(
        self, graph: Any, scope: Scope, *, main: bool = False
    ) -> list[tuple[str, Fixed]]:
        """Put the initializers of a graph into its scope."""
        read: list[tuple[str, Fixed]] = []
        computed = computed_parameters(graph.value_info)
        for proto in graph.initializer:
            name = proto.name
            if name in scope and any(name == earlier for earlier, _ in read):
                raise LoadError(f"initializer {shown(name)!r} is stored twice")
            fixed = stored_constant(self._reader.tensor(proto, name, main=main), name)
            if computed:
                fixed.parameter = computed.get(name)
            scope[name] = fixed
            read.append((name, fixed))
        for proto in graph.sparse_initializer:
            fixed = stored_constant(self._reader.sparse(proto), proto.values.name)
            scope[proto.values.name] = fixed
            read.append((proto.values.name, fixed))
        return read

    def _nodes(
        self,
        graph: Any,
        nodes: Sequence[Any],
        scope: Scope,
        outer: Attributes,
        owner: Origin,
        versions: Mapping[str, int],
        results: Iterable[Any],
    ) -> Mapping[str, int]:
        """Walk one node list in an order in which values exist before they are read.

        Returns:
            How often each name is read, the results of the graph included.
        """
        frame, self._frame = self._frame, (outer, versions)
        nodes = list(nodes)
        names = names_of(nodes)
        uses = names.uses(result if isinstance(result, str) else result.name for result in results)
        prefix = f"{owner.prefix}{owner.name}/" if owner.name else owner.prefix
        main = owner.main and not owner.name
        for index in ordered(nodes, names, scope):
            node, outputs = nodes[index], names.outputs[index]
            self._index += 1
            name = node.name or _first(outputs) or node.op_type
            origin = Origin(node, name, prefix, main, self._index)
            domain = node.domain
            if domain == "ai.onnx":
                domain = ""
            call = Call(
                node.op_type,
                domain,
                {} if index in names.plain else attributes(node, outer),
                tuple([scope.get(text) if text else None for text in names.inputs[index]]),
                outputs,
                origin,
                versions.get(domain, 1),
                uses[outputs[0]] if outputs else 0,
            )
            values = self._visit(call, node, scope)
            for text, value in zip(outputs, values, strict=False):
                if text:
                    scope[text] = value
            for text in outputs[len(values) :]:
                if text:
                    scope[text] = None
        self._frame = frame
        return uses

    def _visit(self, call: Call, node: Any, scope: Scope) -> Sequence[Value | None]:
        if call.op == "Constant" and call.domain == "":
            return [self._constant(call)]
        function = self._functions.get(call_key(node)) if self._functions else None
        if function is not None:
            return self._call(function, call)
        if call.op == "ConstantOfShape" and call.domain == "":
            call.attrs = {**call.attrs, "fill": self._fill(call)}
        alike = call.op == "CastLike" and not isinstance(call.value(0), Dynamic)
        fixed = Dynamic not in map(type, call.inputs)
        if fixed or alike:
            folded = fold(call)
            if folded is not None:
                return folded
        if call.op in _BODIES and call.domain == "":
            body: Callable[[Call, Scope], Sequence[Value | None]] = getattr(self, _BODIES[call.op])
            return body(call, scope)
        if call.op not in SEQUENCE_READERS:
            call = flattened(call)
        if fixed and call.op in _UNFOLDED:
            call = self._from_parameter(call)
        handled = self._handled(call)
        if handled is not None:
            return handled
        call = flattened(call)
        if any(True for _ in subgraphs(node)):
            return self._other_with_graphs(call, node, scope)
        return other(self.builder, call)

    def _from_parameter(self, call: Call) -> Call:
        """A node over constants alone, its first operand seen as what enters when it is learned."""
        first = call.weight(0)
        if first is None or not first.stored or first.size < 2:
            return call
        return replace(call, inputs=[self.builder.dynamic(first, call), *call.inputs[1:]])

    def _handled(self, call: Call) -> list[Value | None] | None:
        """What the operator's handler makes of a node; a node that does not fit is a notice."""
        handler = HANDLERS.get((call.domain, call.op))
        if handler is None:
            return None
        try:
            found = handler(self.builder, call)
        except _MISFITS as error:
            reason = shown(str(error) or type(error).__name__)
            self.builder.notices.append(
                f"node {shown(call.origin.name)!r} ({shown(call.op)}) was not understood: {reason}"
            )
            return None
        return found if found is None or isinstance(found, list) else [found]

    def _constant(self, call: Call) -> Fixed | None:
        name = call.outputs[0] if call.outputs else call.origin.name
        attrs = call.attrs
        if "value" in attrs:
            return stored_constant(self._reader.tensor(attrs["value"], name), name, stored=False)
        if "sparse_value" in attrs:
            tensor = self._reader.sparse(attrs["sparse_value"])
            return stored_constant(tensor, name, stored=False)
        for key, dtype in (
            ("value_float", "float32"),
            ("value_floats", "float32"),
            ("value_int", "int64"),
            ("value_ints", "int64"),
        ):
            if key in attrs:
                array = np.array(attrs[key], dtype=np.float64)
                return stored_constant(from_array(name, array, dtype), name, stored=False)
        for key in ("value_string", "value_strings"):
            if key in attrs:
                held = attrs[key]
                shape = (len(held),) if isinstance(held, tuple) else ()
                tensor = Tensor(name, "string", shape, from_array(name, np.empty(0)).source)
                return Fixed(tensor, (name,), stored=False, integer=True)
        return None

    def _fill(self, call: Call) -> tuple[float, bool]:
        """Value of a ConstantOfShape, and whether it is an integer."""
        proto = call.attrs.get("value")
        if proto is None or not hasattr(proto, "data_type"):
            return 0.0, False
        fixed = stored_constant(self._reader.tensor(proto, ""), "")
        return fixed.scalar() or 0.0, fixed.integer

    def _call(self, function: Any, call: Call) -> list[Value | None]:
        """Walk a local function's body with the actual arguments."""
        scope: Scope = {}
        for index, name in enumerate(function.input):
            scope[name] = call.value(index)
        defaults = attributes_of_function(function)
        outer = {**defaults, **call.attrs}
        versions = {**self._opsets, **opsets(function.opset_import)}
        self._nodes(function, function.node, scope, outer, call.origin, versions, function.output)
        for name in function.output:
            if name not in scope:
                raise LoadError(
                    f"function {shown(function.name)!r} does not produce {shown(name)!r}"
                )
        return [scope[name] for name in function.output]

    def _body(
        self, graph: Any, call: Call, scope: Scope, bound: Mapping[str, Value | None]
    ) -> list[Value | None]:
        """Walk a subgraph, which sees the values around it, and return its outputs."""
        inner: Scope = _Layered(scope, bound)
        self._constants(graph, inner)
        for proto in graph.input:
            inner.setdefault(proto.name, None)
        outer, versions = self._frame
        self._nodes(graph, graph.node, inner, outer, call.origin, versions, graph.output)
        found: list[Value | None] = []
        for proto in graph.output:
            if proto.name not in inner:
                raise LoadError(f"subgraph output {shown(proto.name)!r} is produced by no node")
            found.append(inner[proto.name])
        return found

    def _if(self, call: Call, scope: Scope) -> list[Value | None]:
        """Both branches; each output is a choice between the two."""
        branches = [
            self._body(call.attrs[name], call, scope, {})
            for name in ("then_branch", "else_branch")
            if _is_graph(call.attrs.get(name))
        ]
        found: list[Value | None] = []
        for index in range(len(call.outputs)):
            options = [branch[index] for branch in branches if index < len(branch)]
            found.append(self._choice(call, options, index))
        return found

    def _choice(self, call: Call, options: list[Value | None], index: int) -> Value | None:
        """One value that is either of several."""
        present = [option for option in options if option is not None]
        if not present:
            return None
        first = present[0]
        if all(_same(first, option) for option in present[1:]):
            return first
        if all(isinstance(option, Extent) for option in present):
            return first
        edges = [self.builder.dynamic(option, call) for option in present]
        roots = {id(_root(edge)) for edge in edges}
        shape = first.shape if len({edge.shape for edge in edges}) == 1 else None
        if len(roots) == 1:
            edges = edges[:1]
        op = Op.IDENTITY if len(roots) == 1 else Op.WHERE
        part = "" if index == 0 else f"output {index}"
        result = self.builder.emit(op, call, edges, attrs={"choice": True}, shape=shape, part=part)
        if part:
            result.layer.outputs = [call.outputs[index]]
        return result

    def _loop(self, call: Call, scope: Scope) -> list[Value | None]:
        """The body once, its carried inputs bound to their first values."""
        graph: Any = call.attrs.get("body")
        if not _is_graph(graph):
            return other(self.builder, call)
        carried = [call.value(index) for index in range(2, len(call.inputs))]
        names = [proto.name for proto in graph.input]
        unchanged = _unchanged(graph, 2, 1)
        bound: dict[str, Value | None] = {}
        for index, name in enumerate(names):
            value = carried[index - 2] if 2 <= index < 2 + len(carried) else None
            if index < 2:
                bound[name] = Extent((None,), True, None)
            else:
                bound[name] = self._varying(value, call, name in unchanged)
        results = self._body(graph, call, scope, bound)[1:]
        return [self._grown(value, index >= len(carried)) for index, value in enumerate(results)]

    def _scan(self, call: Call, scope: Scope) -> list[Value | None]:
        """The body once; scanned inputs lose the axis they are scanned along."""
        graph: Any = call.attrs.get("body")
        if not _is_graph(graph):
            return other(self.builder, call)
        given = list(call.inputs[1:] if call.opset == 8 else call.inputs)
        scans = call.integer("num_scan_inputs", 0)
        states = len(given) - scans
        unchanged = _unchanged(graph, 0, 0)
        axes = call.ints("scan_input_axes") or (0,) * max(scans, 0)
        bound: dict[str, Value | None] = {}
        for index, proto in enumerate(graph.input):
            value = given[index] if index < len(given) else None
            if index < states:
                bound[proto.name] = self._varying(value, call, proto.name in unchanged)
            elif value is not None:
                edge = self.builder.dynamic(value, call)
                axis = axes[index - states] if index - states < len(axes) else 0
                shape = edge.shape
                if shape is not None and -len(shape) <= axis < len(shape):
                    at = axis % len(shape)
                    shape = shape[:at] + shape[at + 1 :]
                bound[proto.name] = Dynamic(edge.layer, edge.output, shape)
        results = self._body(graph, call, scope, bound)
        return [self._grown(value, index >= states) for index, value in enumerate(results)]

    def _varying(self, value: Value | None, call: Call, unchanged: bool) -> Value | None:
        """A carried value inside the body: only what the body hands on untouched stays constant."""
        if value is None or unchanged or isinstance(value, Dynamic):
            return value
        return self.builder.dynamic(value, call)

    @staticmethod
    def _grown(value: Value | None, stacked: bool) -> Value | None:
        """An output of a loop: stacked outputs gain an axis."""
        if not stacked or not isinstance(value, Dynamic):
            return value
        shape = None if value.shape is None else (None, *value.shape)
        return Dynamic(value.layer, value.output, shape)

    def _other_with_graphs(self, call: Call, node: Any, scope: Scope) -> list[Value | None]:
        """An unknown operator with bodies (SequenceMap): walk them with its inputs."""
        results: list[Value | None] = []
        for graph in subgraphs(node):
            given = [None if value is None else value for value in call.inputs]
            names = [proto.name for proto in graph.input]
            bound = {name: given[i] if i < len(given) else None for i, name in enumerate(names)}
            results.extend(self._body(graph, call, scope, bound))
        inputs = [*call.inputs, *(value for value in results if isinstance(value, Dynamic))]
        result = self.builder.emit(Op.OTHER, call, inputs, attrs={"operator": call.op})
        return self.builder.outputs(result, call)


_MISFITS = (ValueError, IndexError, KeyError, TypeError, ArithmeticError)
"""What arithmetic on shapes and attributes raises when a node's parts do not fit together."""

_BODIES = {"If": "_if", "Loop": "_loop", "Scan": "_scan"}


class _Layered(dict[str, Any]):
    """A scope inside another one: looks outward, writes inside."""

    def __init__(self, outer: Mapping[str, Any], own: Mapping[str, Any]) -> None:
        super().__init__(own)
        self._outer = outer

    def __missing__(self, key: str) -> Any:
        return self._outer[key]

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or key in self._outer

    def get(self, key: str, default: Any = None) -> Any:
        """The value inside, else outside."""
        if super().__contains__(key):
            return super().__getitem__(key)
        return self._outer.get(key, default)

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Bind inside unless the name is bound inside already."""
        return super().setdefault(key, default)


def _first(names: Iterable[str]) -> str:
    """The first name that is there."""
    for name in names:
        if name:
            return name
    return ""


def stored_constant(tensor: Tensor, name: str, stored: bool = True) -> Fixed:
    """A constant as it lies in the file."""
    return Fixed(tensor, (name,), stored=stored, integer=tensor.dtype in INTEGERS)


def _is_graph(value: Any) -> bool:
    return hasattr(value, "node") and hasattr(value, "output")


def _unchanged(graph: Any, first_input: int, first_output: int) -> frozenset[str]:
    """Carried inputs that a loop body hands to the next round untouched."""
    alias = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Identity" and node.input and node.output
    }
    names = [proto.name for proto in graph.input][first_input:]
    results = [proto.name for proto in graph.output][first_output:]
    return frozenset(
        name
        for name, result in zip(names, results, strict=False)
        if name in (result, alias.get(result))
    )


def _same(left: Value, right: Value) -> bool:
    if isinstance(left, Dynamic) and isinstance(right, Dynamic):
        return left.layer is right.layer and left.output == right.output
    if isinstance(left, Fixed) and isinstance(right, Fixed):
        plain = not left.tensor.views and not right.tensor.views
        if plain and left.tensor.source is right.tensor.source:
            return True
        both_small = left.small and right.small and left.shape == right.shape
        return both_small and bool(np.array_equal(left.values(), right.values()))
    return left is right


_SHAPING = frozenset({Op.RESHAPE, Op.IDENTITY, Op.CAST})


def _root(value: Dynamic) -> Draft:
    """The layer behind operators that only change the shape."""
    layer = value.layer
    while layer.op in _SHAPING and len(layer.inputs) == 1:
        layer = layer.inputs[0][1].layer
    return layer
