"""From a loaded ONNX model to what the probe's child process is told."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from initlint.model import ACTIVATIONS, Layer, LayerGraph, LoadError, Model, Op, Role
from initlint.probe.inputs import MAX_ELEMENTS, RANDOM, Array, Content, InputSpec, attempts
from initlint.probe.onnx_augment import serialised, with_batch_statistics, without_dropout
from initlint.probe.onnx_hints import constants, reached_values
from initlint.probe.onnx_inputs import input_specs
from initlint.probe.onnx_weights import taken_apart
from initlint.probe.prechecks import refusal
from initlint.probe.request import HANDED_OVER, External, Observed, Request
from initlint.probe.result import ATTENTION_WEIGHTS, ProbeStatus

ACTIVATION_SHARE = 4
"""Share of the child's memory that the outputs of one run may take: the run itself needs as much
again for values in flight, and the statistics work on float64 copies of single outputs."""


class Refusal(Exception):  # noqa: N818 - a decision, not an error
    """Why a model is not run.

    Attributes:
        status: `ProbeStatus.SKIPPED` for a decision, `ProbeStatus.FAILED` for unusable inputs.
    """

    def __init__(self, reason: str, status: ProbeStatus = ProbeStatus.SKIPPED) -> None:
        super().__init__(reason)
        self.status = status


def request_for(
    model: Model,
    *,
    seed: int,
    memory_mb: int,
    inputs_file: str | None,
    train_norm: bool,
) -> Request:
    """The request that runs a model.

    Raises:
        Refusal: the model should not or cannot be run, or the given inputs do not fit it.
    """
    runnable = model.runnable
    proto = getattr(runnable, "model", None)
    if proto is None:
        raise Refusal("there is nothing to run: no graph")
    reason = refusal(proto)
    if reason is not None:
        raise Refusal(reason)
    given = read_inputs(inputs_file, runnable.inputs) if inputs_file is not None else {}
    specs = () if given else _specs(model, proto)
    random = [spec.name for spec in specs if spec.content in RANDOM]
    observed = _observed(model, frozenset(given or random))
    if not observed:
        raise Refusal("no layer's output is visible from outside")
    proto = without_dropout(proto)
    rewritten = 0
    if train_norm:
        opset = runnable.opsets.get("", 1)
        proto, rewritten = with_batch_statistics(proto, opset, runnable.folded_norms)
    try:
        external = _external(runnable, proto)
        proto, large = taken_apart(proto, runnable.left_out)
        data = serialised(proto)
    except (LoadError, ValueError) as error:
        raise Refusal(str(error), ProbeStatus.FAILED) from None
    return Request(
        model=data,
        inputs=specs,
        observed=observed,
        external=(*external, *large),
        given=given,
        seed=seed,
        activation_bytes=memory_mb * (1 << 20) // ACTIVATION_SHARE,
        batch_norms=rewritten,
        opset=runnable.opsets.get("", 0),
    )


def _observed(model: Model, random: frozenset[str]) -> tuple[Observed, ...]:
    """Layers whose output is a value of the main graph that the run computes."""
    runnable = model.runnable
    graph = runnable.model.graph
    names = [item.name for item in runnable.inputs]
    reached = reached_values(graph, names) if names else constants(graph)
    varying = reached_values(graph, random)
    batched = reached_values(graph, random, without=frozenset({"Shape", "Size"}))
    axes = _channel_axes(model.graph)
    found = []
    makers = {name: node for node in graph.node for name in node.output}
    for layer in model.graph:
        value = runnable.layer_outputs.get(layer.id)
        if value not in reached or layer.op is Op.OUTPUT:
            continue
        found.append(
            Observed(
                layer=layer.id,
                value=value,
                op=layer.op.value,
                channel_axis=axes[layer.id],
                bounds=_bounds(layer),
                weights=_weights(layer) + _folded_weights(layer, model.graph, runnable),
                varies=value in varying,
                batched=value in batched,
            )
        )
        weights = _softmax_behind(makers, value) if layer.op is Op.ATTENTION else None
        if weights is not None and weights in reached:
            name = layer.id + ATTENTION_WEIGHTS
            found.append(Observed(name, weights, Op.SOFTMAX.value, -1, (), 0, weights in varying))
    return tuple(found)


_MASKING = frozenset({"Dropout", "Cast", "Identity", "Reshape", "Where", "Mul"})
"""Nodes that may stand between a softmax and the product that mixes values by it."""


def _softmax_behind(makers: Mapping[str, Any], value: str) -> str | None:
    """The output of the softmax that an attention written in parts mixes its values by."""
    product = makers.get(value)
    if product is None or product.op_type not in ("MatMul", "Einsum"):
        return None
    for name in product.input:
        waiting = [name]
        for _ in range(len(_MASKING)):
            node = makers.get(waiting.pop()) if waiting else None
            if node is None:
                continue
            if node.op_type == "Softmax":
                return str(node.output[0])
            if node.op_type in _MASKING:
                waiting.extend(node.input)
    return None


_KEEPS_AXES = ACTIVATIONS | {Op.ADD, Op.SUB, Op.MUL, Op.DIV, Op.CONCAT, Op.DROPOUT, Op.CLIP}
_KEEPS_AXES |= {Op.IDENTITY, Op.CAST, Op.POOL, Op.MAXIMUM, Op.MINIMUM, Op.PAD, Op.RESIZE}


def _channel_axes(graph: LayerGraph) -> dict[str, int]:
    """Axis of the units per layer; elementwise layers take over that of what they read."""
    found: dict[str, int] = {}
    for layer in graph.order:
        axis = layer.channel_axis
        if axis == -1 and layer.op in _KEEPS_AXES:
            read = (found.get(edge.source, -1) for edge in graph.inputs(layer.id))
            axis = next((other for other in read if other != -1), -1)
        found[layer.id] = axis
    return found


def _bounds(layer: Layer) -> tuple[float, ...]:
    if layer.op is not Op.HARD_TANH:
        return ()
    return float(layer.attrs.get("min", -1.0)), float(layer.attrs.get("max", 1.0))


def _weights(layer: Layer) -> int:
    if layer.op is Op.EMBEDDING:
        return 0
    return sum(param.size for param in layer.with_role(Role.WEIGHT, Role.RECURRENT_WEIGHT))


def _folded_weights(layer: Layer, graph: LayerGraph, runnable: Any) -> int:
    """Weights of the layers whose outputs are no values: a normaliser was folded into them."""
    outputs = runnable.layer_outputs
    makers = (graph[edge.source] for edge in graph.inputs(layer.id))
    return sum(_weights(maker) for maker in makers if outputs.get(maker.id) is None)


_DTYPES = frozenset(
    {"float16", "float32", "float64", "bool", "string"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)
"""Element types that NumPy can make by itself."""


def _specs(model: Model, proto: Any) -> tuple[InputSpec, ...]:
    inputs = [item for item in model.runnable.inputs if not item.optional]
    pixels = {layer.id for layer in model.graph if layer.attrs.get("pixels")}
    specs = tuple(
        replace(spec, content=Content.PIXELS) if spec.name in pixels else spec
        for spec in input_specs(inputs, proto.graph)
    )
    for spec in specs:
        if spec.dtype not in _DTYPES:
            raise Refusal(f"no input of type {spec.dtype} can be made for {spec.name}")
    if not attempts(specs):
        raise Refusal(f"its inputs hold more than {MAX_ELEMENTS} elements")
    return specs


def _external(runnable: Any, proto: Any) -> tuple[External, ...]:
    """Weights beside the model, read by the loader, which confines them to the model's folder."""
    if not runnable.external:
        return ()
    if runnable.read_external is None:
        raise Refusal("its weights are in other files")
    tensors = [item for item in proto.graph.initializer if item.data_location == 1]
    for item in tensors:
        if item.data_type not in HANDED_OVER:
            raise Refusal(f"weight {item.name} in another file has a type that cannot be passed on")
    return tuple(
        External.of(item.name, item.data_type, item.dims, runnable.read_external(item))
        for item in tensors
    )


def read_inputs(path: str, inputs: Sequence[Any]) -> Mapping[str, Array]:
    """Arrays from an ``.npz`` file, checked against the graph's inputs.

    Raises:
        Refusal: the file is no ``.npz``, or an array is missing, unknown, of the wrong element
            type or of the wrong shape.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: np.asarray(archive[name]) for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, AttributeError, TypeError) as error:
        line = " ".join(str(error).split())[:120]
        raise Refusal(f"{path}: not a readable .npz file: {line}", ProbeStatus.FAILED) from None
    try:
        return _checked(arrays, inputs)
    except ValueError as error:
        raise Refusal(f"{path}: {error}", ProbeStatus.FAILED) from None


def _checked(arrays: Mapping[str, Array], inputs: Sequence[Any]) -> dict[str, Array]:
    known = {item.name: item for item in inputs}
    names = ", ".join(known)
    for name in arrays:
        if name not in known:
            raise ValueError(f"the model has no input {name!r}; it has {names}")
    found = {}
    for name, item in known.items():
        if name not in arrays:
            if item.optional:
                continue
            raise ValueError(f"input {name!r} is missing; the model needs {names}")
        found[name] = _fitting(name, arrays[name], item)
    if sum(array.size for array in found.values()) > MAX_ELEMENTS:
        raise ValueError(f"the arrays hold more than {MAX_ELEMENTS} elements")
    return found


def _fitting(name: str, array: Array, item: Any) -> Array:
    if item.dtype == "string":
        fits = array.dtype.kind in "US"
    else:
        fits = str(array.dtype) == item.dtype or (
            array.dtype.kind == np.dtype(item.dtype).kind and array.dtype.kind in "fiu"
        )
    if not fits:
        raise ValueError(f"input {name!r} is {array.dtype}, the model wants {item.dtype}")
    wanted = item.dims
    if wanted is not None and (
        len(wanted) != array.ndim
        or any(
            isinstance(w, int) and w != side for w, side in zip(wanted, array.shape, strict=True)
        )
    ):
        shape = ",".join(str(side) if side is not None else "?" for side in wanted)
        raise ValueError(f"input {name!r} has shape {list(array.shape)}, the model wants [{shape}]")
    return array if item.dtype == "string" else array.astype(item.dtype, copy=False)
