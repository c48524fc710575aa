"""ONNX files: the protobuf to a layer graph with lazily read, canonically oriented weights.

The road: `reading` parses and refuses, `limits` counts work before it is done, `walk` visits the
nodes with `fold` resolving constants and `operators` naming layers, `packed` cuts packed
projections, `folded_norms` puts normalisers back, `finish` names, ties and connects, and
`initlint.model.patterns` puts decomposed layers together again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from initlint.load.files import shown
from initlint.load.onnx.builder import Builder
from initlint.load.onnx.finish import Finish, Finished
from initlint.load.onnx.folded_norms import folded_values, restore_norms
from initlint.load.onnx.limits import expanded_nodes
from initlint.load.onnx.names import Modules, best_stored_name, from_torch, scopes_of
from initlint.load.onnx.packed import split_packed
from initlint.load.onnx.pixels import mark_pixels
from initlint.load.onnx.reading import Read, read_model
from initlint.load.onnx.stated import opsets, stated_dtype, stated_shape
from initlint.load.onnx.tensors import TensorReader
from initlint.load.onnx.values import Fixed, Shape
from initlint.load.onnx.walk import Walk
from initlint.load.onnx_runnable import GraphInput, LeftOut, OnnxRunnable
from initlint.load.steps import sequence_length
from initlint.model import Kind, LayerGraph, LoadError, Model, Param, Role
from initlint.model.collector import collector_paused

__all__ = ["load_onnx"]

_DAMAGE = (ValueError, LookupError, TypeError, ArithmeticError, RecursionError, MemoryError)
"""What inconsistent protobuf content raises when something is computed from it."""


def load_onnx(path: str, shared: Sequence[tuple[str, ...]] = ()) -> Model:
    """The layer graph of an ONNX file.

    Args:
        path: the file; external data must lie in its folder or below.
        shared: groups of parameter names that are one parameter, of which an export keeps one.

    Returns:
        A `Model` of kind ONNX whose ``runnable`` is an `OnnxRunnable`. Weights are views of what
        the file stores and are read when asked for.

    Raises:
        LoadError: the file is missing, damaged, of another format, asks for too much work, names
            data outside its folder, or describes a graph that no runtime could run.
    """
    read = read_model(path)
    try:
        with collector_paused(stays=True):
            return _load(path, read, shared)
    except LoadError as error:
        text = str(error)
        named = text if text.startswith(shown(path)) else f"{shown(path)}: {text}"
        raise LoadError(named) from None
    except _DAMAGE as error:
        reason = shown(str(error) or type(error).__name__)
        raise LoadError(f"{shown(path)}: the graph is damaged or unusual: {reason}") from None


def _load(path: str, read: Read, shared: Sequence[tuple[str, ...]]) -> Model:
    proto = read.model
    # Held, because protobuf makes the parts of a message anew for each pass over them otherwise.
    nodes, initializers = list(proto.graph.node), list(proto.graph.initializer)
    stored = [initializer.name for initializer in initializers]
    expanded_nodes(proto)
    torch = from_torch(proto.producer_name, stored, nodes)
    reader = TensorReader(path, own=read)
    builder = Builder(torch, _stated_shapes(proto.graph))
    walk = Walk(proto, reader, builder)
    walk.run()
    split_packed(builder.drafts)
    drafts = restore_norms(builder.drafts)
    mark_pixels(drafts)
    modules = Modules(stored, scopes_of(nodes), shared)
    finished = Finish(modules, torch).run(drafts)
    graph = _fused(LayerGraph(finished.layers, finished.edges), builder)
    return Model(
        target=path,
        kind=Kind.ONNX,
        graph=graph,
        loose=tuple(_loose(fixed) for fixed in walk.unused if fixed.floating and fixed.size > 1),
        runnable=replace(
            _runnable(path, read, reader, graph, finished, stored),
            folded_norms=folded_values(drafts),
        ),
        notices=tuple(builder.notices),
        producer=" ".join(text for text in (proto.producer_name, proto.producer_version) if text),
        metadata={
            "ir_version": proto.ir_version,
            "opsets": opsets(proto.opset_import),
            "graph": proto.graph.name,
            "sequence_length": sequence_length(graph),
        },
    )


def _fused(graph: LayerGraph, builder: Builder) -> LayerGraph:
    """The graph with decomposed layers put together; a graph too odd for that stays as it is."""
    from initlint.model.patterns import fuse

    try:
        return fuse(graph)
    except _DAMAGE as error:
        reason = shown(str(error) or type(error).__name__)
        builder.notices.append(f"decomposed layers were left in their parts: {reason}")
        return graph


def _stated_shapes(graph: Any) -> dict[str, Shape]:
    """Shapes that the file states for values."""
    found: dict[str, Shape] = {}
    for protos in (graph.value_info, graph.output):
        for proto in protos:
            shape = stated_shape(proto)
            if shape is not None:
                found[proto.name] = shape
    return found


def _loose(fixed: Fixed) -> Param:
    name = best_stored_name(fixed.names) or fixed.names[0]
    return Param(
        Role.OTHER, name, fixed.shape, fixed.tensor.dtype, fixed.tensor, stored_name=fixed.names[0]
    )


def _runnable(
    path: str,
    read: Read,
    reader: TensorReader,
    graph: LayerGraph,
    finished: Finished,
    dense: Iterable[str],
) -> OnnxRunnable:
    proto, file = read.model, read.file
    stored = {*dense, *(sparse.values.name for sparse in proto.graph.sparse_initializer)}
    return OnnxRunnable(
        path=path,
        inputs=tuple(_input(value) for value in proto.graph.input if value.name not in stored),
        outputs=tuple(value.name for value in proto.graph.output),
        layer_outputs={layer.id: finished.output(layer) for layer in graph},
        initializers=frozenset(stored),
        external=reader.external,
        opsets=opsets(proto.opset_import),
        model=proto,
        read_external=reader.raw if reader.external else None,
        left_out=None if file is None else LeftOut(read.places, file.read_at, file.is_same),
    )


def _input(proto: Any) -> GraphInput:
    kind = proto.type
    optional = kind.HasField("optional_type")
    if optional:
        kind = kind.optional_type.elem_type
    dims: tuple[int | str | None, ...] | None = None
    if kind.HasField("tensor_type") and kind.tensor_type.HasField("shape"):
        dims = tuple(_side(side) for side in kind.tensor_type.shape.dim)
    return GraphInput(proto.name, stated_dtype(proto), dims, optional)


def _side(side: Any) -> int | str | None:
    if side.dim_value > 0:
        return int(side.dim_value)
    symbol = side.dim_param
    return None if symbol in ("", "?") or symbol.startswith("unk__") else str(symbol)
