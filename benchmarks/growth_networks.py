"""ONNX networks of any size, freshly drawn, for measurements of growth: one for each way to grow.

Every builder writes about ``count`` nodes to a path; weights are He-normal of side ``width`` (8
at least: smaller matrices show no scheme, and most rules then have nothing to do).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 8


class Network:
    """Nodes and weights of a network that grows from one input."""

    def __init__(self, width: int, shape: Sequence[int] | None = None) -> None:
        self.width = width
        self.shape = list(shape or (1, width))
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.outputs: list[str] = []
        self._rng = np.random.default_rng(0)

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; the name of its output."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def drawn(self, *shape: int, fan_in: int | None = None) -> str:
        """Add a weight drawn from He's normal distribution; its name."""
        std = np.float32((2 / (fan_in or self.width)) ** 0.5)
        values = self._rng.standard_normal(shape, dtype=np.float32) * std
        return self.stored(values, f"layers.{len(self.weights)}.weight")

    def stored(self, values: Any, name: str) -> str:
        """Add a parameter of given values; its name."""
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def linear(self, tensor: str, width: int | None = None) -> str:
        """A linear layer without bias."""
        return self.node("MatMul", tensor, self.drawn(self.width, width or self.width))

    def norm(self, tensor: str) -> str:
        """A layer normalisation of its own."""
        number = len(self.weights)
        gain = self.stored(np.ones(self.width, np.float32), f"norms.{number}.weight")
        shift = self.stored(np.zeros(self.width, np.float32), f"norms.{number}.bias")
        return self.node("LayerNormalization", tensor, gain, shift)

    def save(self, path: Path, *last: str) -> None:
        """Write the graph whose outputs are the given tensors."""
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in last],
            self.weights,
        )
        opset = helper.make_opsetid("", 18)
        onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)


def chain(path: Path, count: int, width: int = WIDTH) -> None:
    """Linear layers and ReLUs, one after the other."""
    network, tensor = Network(width), "input"
    for _ in range(count // 2):
        tensor = network.node("Relu", network.linear(tensor))
    network.save(path, tensor)


def residual(path: Path, count: int, width: int = WIDTH) -> None:
    """Blocks of normalisation, two linear layers and a skip connection."""
    network, tensor = Network(width), "input"
    for _ in range(count // 5):
        inside = network.node("Relu", network.linear(network.norm(tensor)))
        tensor = network.node("Add", tensor, network.linear(inside))
    network.save(path, tensor)


def dense(path: Path, count: int, width: int = WIDTH) -> None:
    """Each layer reads the input, and a running sum collects them: wide fan-out."""
    network, total = Network(width), "input"
    for _ in range(count // 3):
        total = network.node("Add", total, network.node("Relu", network.linear("input")))
    network.save(path, total)


def nested(path: Path, count: int, width: int = WIDTH) -> None:
    """An encoder and a decoder with a skip connection from each layer to its mirror image."""
    network, tensor = Network(width), "input"
    skips = []
    for _ in range(count // 5):
        tensor = network.node("Relu", network.linear(tensor))
        skips.append(tensor)
    for skip in reversed(skips):
        tensor = network.node("Add", network.node("Relu", network.linear(tensor)), skip)
    network.save(path, tensor)


def attention(path: Path, count: int, width: int = WIDTH) -> None:
    """Blocks of one head of attention, written out, over a residual stream."""
    network, tensor = Network(width, (1, 5, width)), "input"
    scale = network.stored(np.float32(width**-0.5), "scale")
    for _ in range(count // 10):
        inside = network.norm(tensor)
        query, key, value = (network.linear(inside) for _ in range(3))
        turned = network.node("Transpose", key, perm=[0, 2, 1])
        scores = network.node("Mul", network.node("MatMul", query, turned), scale)
        read = network.node("MatMul", network.node("Softmax", scores, axis=-1), value)
        tensor = network.node("Add", tensor, network.linear(read))
    network.save(path, tensor)


def convolutions(path: Path, count: int, width: int = WIDTH) -> None:
    """Convolutions, batch normalisations and ReLUs."""
    network, tensor = Network(width, (1, width, 6, 6)), "input"
    ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
    for index in range(count // 3):
        kernel = network.drawn(width, width, 3, 3, fan_in=9 * width)
        tensor = network.node("Conv", tensor, kernel, pads=[1, 1, 1, 1])
        parts = (("weight", ones), ("bias", zeros), ("running_mean", zeros), ("running_var", ones))
        names = [network.stored(values, f"norms.{index}.{part}") for part, values in parts]
        tensor = network.node("Relu", network.node("BatchNormalization", tensor, *names))
    network.save(path, tensor)


def heads(path: Path, count: int, width: int = WIDTH) -> None:
    """A trunk of one layer and many outputs."""
    network = Network(width)
    trunk = network.node("Relu", network.linear("input"))
    network.save(path, *(network.linear(trunk) for _ in range(count)))


def towers(path: Path, count: int, width: int = WIDTH) -> None:
    """Many short towers over one input, concatenated and read together."""
    network = Network(width)
    ends = [network.node("Relu", network.linear("input")) for _ in range(count // 2)]
    joined = network.node("Concat", *ends, axis=1)
    mixed = network.drawn(width * len(ends), width, fan_in=width * len(ends))
    network.save(path, network.node("MatMul", joined, mixed))


def gated(path: Path, count: int, width: int = WIDTH) -> None:
    """Highway layers: a transform and its gate, multiplied and added to what comes in."""
    network, tensor = Network(width), "input"
    for _ in range(count // 6):
        gate = network.node("Sigmoid", network.linear(tensor))
        inside = network.node("Tanh", network.linear(tensor))
        tensor = network.node("Add", tensor, network.node("Mul", gate, inside))
    network.save(path, tensor)


def recurrent(path: Path, count: int, width: int = WIDTH) -> None:
    """A stack of LSTM layers, a squeeze behind each."""
    network, tensor = Network(width, (5, 1, width)), "input"
    axis = network.stored(np.array([1], np.int64), "axis")
    for _ in range(count // 2):
        into, back = network.drawn(1, 4 * width, width), network.drawn(1, 4 * width, width)
        output = network.node("LSTM", tensor, into, back, hidden_size=width)
        tensor = network.node("Squeeze", output, axis)
    network.save(path, tensor)


def shared(path: Path, count: int, width: int = WIDTH) -> None:
    """One weight applied again and again: a network with tied layers."""
    network, tensor = Network(width), "input"
    weight = network.drawn(width, width)
    for _ in range(count // 2):
        tensor = network.node("Relu", network.node("MatMul", tensor, weight))
    network.save(path, tensor)


def biased(path: Path, count: int, width: int = WIDTH) -> None:
    """Linear layers with small biases, and hyperbolic tangents."""
    network, tensor = Network(width), "input"
    for index in range(count // 2):
        bias = network.stored(np.full(width, 0.1, np.float32), f"biases.{index}.bias")
        tensor = network.node("Gemm", tensor, network.drawn(width, width), bias)
        tensor = network.node("Tanh", tensor)
    network.save(path, tensor)


def silent(path: Path, count: int, width: int = WIDTH) -> None:
    """Residual blocks with small gains, and with biases that no unit gets above."""
    network, tensor = Network(width), "input"
    for index in range(count // 5):
        gain = network.stored(np.full(width, 0.2, np.float32), f"norms.{index}.weight")
        shift = network.stored(np.zeros(width, np.float32), f"norms.{index}.bias")
        inside = network.node("LayerNormalization", tensor, gain, shift)
        bias = network.stored(np.full(width, -30, np.float32), f"biases.{index}.bias")
        inside = network.node("Gemm", inside, network.drawn(width, width), bias)
        tensor = network.node("Add", tensor, network.linear(network.node("Relu", inside)))
    network.save(path, tensor)


def twins(path: Path, count: int, width: int = WIDTH) -> None:
    """Two towers of equal weights side by side, added at their ends."""
    network, left, right = Network(width), "input", "input"
    for index in range(count // 4):
        weight = network.drawn(width, width)
        values = numpy_helper.to_array(network.weights[-1])
        copy = network.stored(values, f"twins.{index}.weight")
        left = network.node("Relu", network.node("MatMul", left, weight))
        right = network.node("Relu", network.node("MatMul", right, copy))
    network.save(path, network.linear(network.node("Add", left, right)))


def depthwise(path: Path, count: int, width: int = WIDTH) -> None:
    """Depthwise convolutions and ReLUs."""
    network, tensor = Network(width, (1, width, 6, 6)), "input"
    for _ in range(count // 2):
        kernel = network.drawn(width, 1, 3, 3, fan_in=9)
        tensor = network.node("Conv", tensor, kernel, pads=[1, 1, 1, 1], group=width)
        tensor = network.node("Relu", tensor)
    network.save(path, tensor)


def tables(path: Path, count: int, width: int = WIDTH) -> None:
    """Many embeddings of one token, each read by a layer, and their sum."""
    network = Network(width, (1,))
    token = network.node("Cast", "input", to=TensorProto.INT64)
    read = [
        network.linear(network.node("Gather", network.drawn(4 * width, width), token))
        for _ in range(count // 2)
    ]
    network.save(path, network.linear(network.node("Sum", *read)))


Fault = Callable[[Any], Any]
"""What becomes of the values of a weight."""


def zero(values: Any) -> Any:
    """Nothing but zeros."""
    return np.zeros_like(values)


def constant(values: Any) -> Any:
    """One number."""
    return np.full_like(values, 0.3)


def shifted(values: Any) -> Any:
    """A mean far from zero."""
    return values + np.float32(3) * values.std()


def non_finite(values: Any) -> Any:
    """One value that is no number."""
    found = values.copy()
    found.flat[0] = np.nan
    return found


def spoil(path: Path, fault: Fault) -> None:
    """Put a fault into every matrix of a file, and a name that no number tells from another."""
    model = onnx.load(path)
    names: dict[str, str] = {}
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim > 1:
            number = f"{len(names):06d}".translate(str.maketrans("0123456789", "abcdefghij"))
            names[tensor.name] = f"{number}.weight"
            tensor.CopyFrom(numpy_helper.from_array(fault(values), names[tensor.name]))
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    onnx.save(model, path)


Builder = Callable[[Path, int, int], None]

BUILDERS: tuple[Builder, ...] = (
    chain,
    residual,
    dense,
    nested,
    attention,
    convolutions,
    heads,
    towers,
    gated,
    recurrent,
    shared,
    silent,
    twins,
)

FAULTY: tuple[tuple[Builder, Fault], ...] = (
    (chain, zero),
    (chain, shifted),
    (chain, non_finite),
    (biased, zero),
    (towers, zero),
    (residual, constant),
    (recurrent, constant),
    (depthwise, constant),
    (tables, constant),
)
"""Networks with a fault in every layer: what is found is about all of them."""
