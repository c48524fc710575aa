"""The graph that a probe runs: fresh BatchNorm normalises as in training, dropout is off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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


def with_batch_statistics(model: Any, opset: int, folded: Sequence[Any] = ()) -> tuple[Any, int]:
    """A copy in which batch normalisations that never ran normalise with batch statistics.

    A node never ran when its running mean is all 0 and its running variance all 1, the values it
    was created with; then the first training step uses the batch's own statistics. Each such node
    becomes primitives: mean and biased variance over all axes but the channels', as
    ``torch.nn.functional.batch_norm(training=True)`` computes the output. Those that the exporter
    folded into the layer before them are put behind it again.

    Args:
        model: the ``onnx.ModelProto``.
        opset: its version of the ai.onnx operators.
        folded: the `FoldedNorm` values of the graph.

    Returns:
        The copy (the model itself when there is nothing to rewrite) and the number of nodes.
    """
    if opset < 7:  # elementwise operators did not broadcast before
        return model, 0
    norms = any(node.op_type == "BatchNormalization" for node in model.graph.node)
    values = _statistics(model.graph) if norms else {}
    fresh = {
        index
        for index, node in enumerate(model.graph.node)
        if node.op_type == "BatchNormalization"
        and len(node.input) == 5
        and _never_ran(values, node)
    }
    lost = {norm.value: norm for norm in folded}
    if not fresh and not lost:
        return model, 0
    copy = type(model)()
    copy.CopyFrom(model)
    nodes: list[Any] = []
    for index, node in enumerate(copy.graph.node):
        prefix = f"initlint_batch_norm_{index}"
        if index in fresh:
            width = values[node.input[3]].size
            eps = next((item.f for item in node.attribute if item.name == "epsilon"), 1e-5)
            dtype = str(values[node.input[3]].dtype)
            norm = _Norm(prefix, opset, width, dtype, float(eps))
            nodes.extend(norm.nodes(node.input[0], node.output[0], node.input[1], node.input[2]))
            continue
        nodes.append(node)
        for place, name in enumerate(node.output):
            if name in lost:
                found = lost[name]
                node.output[place] = f"{prefix}_input"
                norm = _Norm(prefix, opset, found.width, found.dtype, axis=found.channel_axis)
                nodes.extend(norm.nodes(f"{prefix}_input", name))
    renewed = type(copy.graph)(node=nodes)
    del copy.graph.node[:]
    copy.graph.node.extend(renewed.node)
    return copy, len(fresh) + len(lost)


def without_dropout(model: Any) -> Any:
    """The model, or a copy, in which no Dropout node is switched to training."""
    switched = [
        index
        for index, node in enumerate(model.graph.node)
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]
    ]
    if not switched:
        return model
    copy = type(model)()
    copy.CopyFrom(model)
    for index in switched:
        del copy.graph.node[index].input[2:]
    return copy


def _statistics(graph: Any) -> Mapping[str, Any]:
    """Running means and variances that BatchNormalization nodes read, by name.

    Exporters keep equal values once and name the others by Identity nodes.
    """
    import onnx

    alias = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Identity" and node.input
    }
    stored: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "BatchNormalization":
            for name in node.input[3:5]:
                root = name
                for _ in alias:
                    if root not in alias:
                        break
                    root = alias[root]
                stored[name] = root
    wanted = set(stored.values())
    found = {tensor.name: tensor for tensor in graph.initializer if tensor.name in wanted}
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] in wanted:
            for attribute in node.attribute:
                if attribute.name == "value":
                    found[node.output[0]] = attribute.t
    arrays = {
        name: np.asarray(onnx.numpy_helper.to_array(tensor))
        for name, tensor in found.items()
        if tensor.data_location != onnx.TensorProto.EXTERNAL
        and (len(tensor.raw_data) or not tensor.HasField("raw_data"))  # else it stayed in the file
    }
    return {name: arrays[root] for name, root in stored.items() if root in arrays}


def _never_ran(values: Mapping[str, Any], node: Any) -> bool:
    mean, variance = values.get(node.input[3]), values.get(node.input[4])
    if mean is None or variance is None or not mean.size:
        return False
    return bool((mean == 0).all() and (variance == 1).all())


_ELEMENT = {"float32": 1, "float16": 10, "float64": 11, "bfloat16": 16}
"""Numbers of element types in onnx.proto3."""


@dataclass
class _Norm:
    """The primitives of one normalisation with the statistics of the batch.

    Attributes:
        prefix: what all names begin with.
        opset: version of the ai.onnx operators.
        width: number of channels.
        dtype: element type.
        eps: what is added to the variance.
        axis: axis of the channels, 1 or -1.
    """

    prefix: str
    opset: int
    width: int
    dtype: str
    eps: float = 1e-5
    axis: int = 1
    made: list[Any] = field(default_factory=list)

    def nodes(self, source: str, target: str, gain: str = "", shift: str = "") -> list[Any]:
        """Nodes from the value ``source`` to the value ``target``."""
        from onnx import helper

        rows, sides = ([0, self.width, -1], [0, 2]) if self.axis == 1 else ([-1, self.width], [0])
        flat = self._add("Reshape", [source, self._integers("rows", rows)], "flat")
        centred = self._add("Sub", [flat, self._mean(flat, sides, "mean")], "centred")
        squares = self._add("Mul", [centred, centred], "squares")
        safe = self._add("Add", [self._mean(squares, sides, "variance"), self._guard()], "safe")
        deviation = self._add("Sqrt", [safe], "deviation")
        value = self._add("Div", [centred, deviation], "normalised")
        column = [self.width, 1] if self.axis == 1 else [self.width]
        for op, operand, label in (("Mul", gain, "gain"), ("Add", shift, "shift")):
            if operand:
                shape = self._integers(f"{label}_column", column)
                seen = self._add("Reshape", [operand, shape], label)
                value = self._add(op, [value, seen], f"{label}_applied")
        shape = self._add("Shape", [source], "shape")
        self.made.append(helper.make_node("Reshape", [value, shape], [target], name=self.prefix))
        return self.made

    def _add(self, op: str, inputs: list[str], label: str, **attributes: Any) -> str:
        from onnx import helper

        name = f"{self.prefix}_{label}"
        self.made.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def _mean(self, value: str, sides: list[int], label: str) -> str:
        if self.opset >= 18:
            axes = self._integers(f"{label}_axes", sides)
            return self._add("ReduceMean", [value, axes], label, keepdims=1)
        return self._add("ReduceMean", [value], label, axes=sides, keepdims=1)

    def _integers(self, label: str, values: list[int]) -> str:
        from onnx import helper

        name = f"{self.prefix}_{label}"
        tensor = helper.make_tensor(name, 7, [len(values)], values)
        return self._add("Constant", [], label, value=tensor)

    def _guard(self) -> str:
        from onnx import helper

        element = _ELEMENT.get(self.dtype, 1)
        tensor = helper.make_tensor(f"{self.prefix}_epsilon", element, [], [self.eps])
        return self._add("Constant", [], "epsilon", value=tensor)
