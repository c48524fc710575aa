"""The graph that a probe runs: fresh BatchNorm normalises as in training, dropout is off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def serialised(model: Any) -> bytes:
    """The model as bytes.

    Raises:
        ValueError: it has more than the 2 GiB that a protobuf message can hold.
    """
    try:
        data: bytes = model.SerializeToString()
    except Exception as error:  # the class depends on the protobuf implementation
        raise ValueError("the model is larger than the 2 GiB of one protobuf message") from error
    return data


def with_batch_statistics(model: Any, opset: int) -> tuple[Any, int]:
    """A copy in which BatchNormalization nodes that never ran normalise with batch statistics.

    A node never ran when its running mean is all 0 and its running variance all 1, the values it
    was created with; then the first training step uses the batch's own statistics. Each such node
    becomes primitives on ``(N, C, positions)``: mean and biased variance over axes 0 and 2, as
    ``torch.nn.functional.batch_norm(training=True)`` computes the output.

    Returns:
        The copy (the model itself when there is nothing to rewrite) and the number of nodes.
    """
    import onnx

    if opset < 7:  # elementwise operators did not broadcast before
        return model, 0
    values = _statistics(model.graph)
    fresh = [
        index
        for index, node in enumerate(model.graph.node)
        if node.op_type == "BatchNormalization"
        and len(node.input) == 5
        and _never_ran(values, node)
    ]
    if not fresh:
        return model, 0
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    chosen = set(fresh)
    nodes: list[Any] = []
    for index, node in enumerate(model.graph.node):
        if index in chosen:
            width = values[node.input[3]].size
            nodes.extend(_batch_norm(node, f"initlint_batch_norm_{index}", width, opset))
        else:
            nodes.append(node)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy, len(fresh)


def without_dropout(model: Any) -> Any:
    """The model, or a copy, in which no Dropout node is switched to training."""
    import onnx

    switched = [
        index
        for index, node in enumerate(model.graph.node)
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]
    ]
    if not switched:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for index in switched:
        del copy.graph.node[index].input[2:]
    return copy


def _statistics(graph: Any) -> Mapping[str, Any]:
    """Running means and variances that BatchNormalization nodes read, by name."""
    import onnx

    wanted = {
        name
        for node in graph.node
        if node.op_type == "BatchNormalization"
        for name in node.input[3:5]
    }
    tensors = [tensor for tensor in graph.initializer if tensor.name in wanted]
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] in wanted:
            for attribute in node.attribute:
                if attribute.name == "value":
                    tensor = onnx.TensorProto()
                    tensor.CopyFrom(attribute.t)
                    tensor.name = node.output[0]
                    tensors.append(tensor)
    return {
        tensor.name: np.asarray(onnx.numpy_helper.to_array(tensor))
        for tensor in tensors
        if tensor.data_location != onnx.TensorProto.EXTERNAL
    }


def _never_ran(values: Mapping[str, Any], node: Any) -> bool:
    mean, variance = values.get(node.input[3]), values.get(node.input[4])
    if mean is None or variance is None or not mean.size:
        return False
    return bool((mean == 0).all() and (variance == 1).all())


def _batch_norm(node: Any, prefix: str, width: int, opset: int) -> list[Any]:
    from onnx import helper

    epsilon = next((item.f for item in node.attribute if item.name == "epsilon"), 1e-5)
    source, scale, shift = node.input[:3]
    made: list[Any] = []

    def constant(label: str, value: Any) -> str:
        name = f"{prefix}_{label}"
        tensor = helper.make_tensor(
            name,
            1 if isinstance(value, float) else 7,  # float32, int64
            [] if isinstance(value, float) else [len(value)],
            [value] if isinstance(value, float) else value,
        )
        made.append(helper.make_node("Constant", [], [name], value=tensor))
        return name

    def add(op: str, inputs: list[str], label: str, **attributes: Any) -> str:
        name = f"{prefix}_{label}"
        made.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def mean(value: str, label: str) -> str:
        if opset >= 18:
            return add("ReduceMean", [value, constant(f"{label}_axes", [0, 2])], label, keepdims=1)
        return add("ReduceMean", [value], label, axes=[0, 2], keepdims=1)

    column = constant("column", [width, 1])
    flat = add("Reshape", [source, constant("rows", [0, width, -1])], "flat")
    centred = add("Sub", [flat, mean(flat, "mean")], "centred")
    variance = mean(add("Mul", [centred, centred], "squares"), "variance")
    safe = add("Add", [variance, constant("epsilon", float(epsilon))], "safe")
    normalised = add("Div", [centred, add("Sqrt", [safe], "deviation")], "normalised")
    scaled = add("Mul", [normalised, add("Reshape", [scale, column], "gain")], "scaled")
    shifted = add("Add", [scaled, add("Reshape", [shift, column], "offset")], "shifted")
    shape = add("Shape", [source], "shape")
    made.append(
        helper.make_node("Reshape", [shifted, shape], [node.output[0]], name=node.name or prefix)
    )
    return made
