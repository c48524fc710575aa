"""What tf2onnx writes of Keras models, node by node: pixels, pooling as a mean, layer norms."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import initlint
from initlint.load.onnx import load_onnx
from initlint.model import Op

RNG = np.random.default_rng(0)


def saved(tmp_path, nodes, weights, x, dtype=TensorProto.FLOAT) -> str:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=10, producer_name="tf2onnx"
    )
    path = str(tmp_path / "model.onnx")
    onnx.save(model, path)
    return path


def node(op, inputs, output, **attrs):
    return helper.make_node(op, inputs, [output], output, **attrs)


def classifier(scaling, layout=("x",)):
    """A small network behind the given first nodes, He for its ReLU."""
    first = RNG.standard_normal((32, 48)).astype(np.float32) * np.float32((2 / 48) ** 0.5)
    last = RNG.standard_normal((32, 4)).astype(np.float32) * np.float32(32**-0.5)
    nodes = [
        *scaling,
        node("Flatten", ["scaled"], "flat"),
        node("Gemm", ["flat", "first"], "hidden", transB=1),
        node("Relu", ["hidden"], "active"),
        node("MatMul", ["active", "last"], "y"),
    ]
    return nodes, {"first": first, "last": last}


SCALINGS = {
    "times 1/255": ([node("Mul", ["x", "c"], "scaled")], 1 / 255),
    "by 127.5": ([node("Div", ["x", "c"], "scaled")], 127.5),
    "behind a transposition": (
        [node("Transpose", ["x"], "t", perm=[0, 3, 1, 2]), node("Div", ["t", "c"], "scaled")],
        255.0,
    ),
}


@pytest.mark.parametrize("case", SCALINGS)
def test_an_input_divided_like_bytes_is_fed_bytes(tmp_path, case):
    scaling, constant = SCALINGS[case]
    nodes, weights = classifier(scaling)
    weights["c"] = np.float32(constant).reshape(())
    path = saved(tmp_path, nodes, weights, ["N", 4, 4, 3])
    (source,) = (layer for layer in load_onnx(path).graph if layer.op is Op.INPUT)
    assert source.attrs["pixels"]
    report = initlint.check(path)
    assert report.to_dict()["probe"]["status"] == "ok"
    assert report.risk is not None
    assert report.risk < 0.2
    assert [f["name"] for f in report.findings if f["severity"] != "info"] == []


def test_an_ordinary_division_says_nothing_about_the_input(tmp_path):
    nodes, weights = classifier([node("Div", ["x", "c"], "scaled")])
    weights["c"] = np.float32(3.0).reshape(())
    path = saved(tmp_path, nodes, weights, ["N", 4, 4, 3])
    assert not any(layer.attrs.get("pixels") for layer in load_onnx(path).graph)


def keras_layer_norm(x: str, out: str) -> list[onnx.NodeProto]:
    """x a + (beta - mean a) with a = gamma / sqrt(var + eps), means as global pooling."""
    return [
        node("GlobalAveragePool", [x], f"{out}/mean"),
        node("Sub", [x, f"{out}/mean"], f"{out}/centred"),
        node("Mul", [f"{out}/centred", f"{out}/centred"], f"{out}/square"),
        node("GlobalAveragePool", [f"{out}/square"], f"{out}/variance"),
        node("Add", [f"{out}/variance", "eps"], f"{out}/safe"),
        node("Sqrt", [f"{out}/safe"], f"{out}/sqrt"),
        node("Reciprocal", [f"{out}/sqrt"], f"{out}/rsqrt"),
        node("Mul", [f"{out}/rsqrt", "gamma"], f"{out}/a"),
        node("Mul", [x, f"{out}/a"], f"{out}/scaled"),
        node("Neg", [f"{out}/mean"], f"{out}/neg"),
        node("Mul", [f"{out}/neg", f"{out}/a"], f"{out}/shift"),
        node("Add", [f"{out}/shift", "beta"], f"{out}/offset"),
        node("Add", [f"{out}/scaled", f"{out}/offset"], out),
    ]


def test_layer_norm_of_keras(tmp_path):
    weights = {
        "gamma": np.ones((1, 1, 8), np.float32),
        "beta": np.zeros((1, 1, 8), np.float32),
        "eps": np.float32(1e-3).reshape(()),
    }
    path = saved(tmp_path, keras_layer_norm("x", "y"), weights, ["N", 6, 8])
    (norm,) = (layer for layer in load_onnx(path).graph if layer.op not in (Op.INPUT, Op.OUTPUT))
    assert norm.op is Op.LAYER_NORM
    assert norm.attrs["eps"] == pytest.approx(1e-3)
    assert [param.name for param in norm.params] == ["gamma", "beta"]
