"""Batch normalisation that exporters fold away, put back as a layer and in the probe's run."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import initlint
from initlint.load.onnx import load_onnx
from initlint.model import Op
from initlint.probe.onnx_request import request_for

RNG = np.random.default_rng(0)
DEPTH = 12


def plain(normalised: bool) -> nn.Module:
    """A deep stack at PyTorch's default: fine with normalisation, hopeless without."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    width = 3
    for _ in range(DEPTH):
        layers.append(nn.Conv2d(width, 16, 3, padding=1, bias=not normalised))
        layers.extend([nn.BatchNorm2d(16)] * normalised + [nn.ReLU()])
        width = 16
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 36, 4))


def dense() -> nn.Module:
    torch.manual_seed(0)
    blocks = [m for _ in range(DEPTH) for m in (nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU())]
    return nn.Sequential(*blocks, nn.Linear(32, 4))


def exported(module: nn.Module, x: torch.Tensor, path: str, dynamo: bool) -> str:
    module.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (x,), path, dynamo=dynamo, verbose=False)
    return path


def norms(path: str) -> int:
    return sum(layer.op is Op.BATCH_NORM for layer in load_onnx(path).graph)


def loud(path: str) -> list[str]:
    return [f["name"] for f in initlint.check(path).findings if f["severity"] != "info"]


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
def test_a_fresh_convolutional_net_with_folded_norms_is_fine(tmp_path, dynamo):
    path = exported(plain(True), torch.randn(16, 3, 6, 6), str(tmp_path / "a.onnx"), dynamo)
    assert not any(n.op_type == "BatchNormalization" for n in onnx.load(path).graph.node)
    assert norms(path) == DEPTH
    assert loud(path) == []


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
def test_the_same_net_without_norms_is_found(tmp_path, dynamo):
    path = exported(plain(False), torch.randn(16, 3, 6, 6), str(tmp_path / "a.onnx"), dynamo)
    assert norms(path) == 0
    assert loud(path)


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
def test_a_fresh_dense_net_with_norms_is_fine(tmp_path, dynamo):
    """Dynamo folds them into Gemm; TorchScript keeps them and names equal statistics once."""
    path = exported(dense(), torch.randn(16, 32), str(tmp_path / "a.onnx"), dynamo)
    assert norms(path) == DEPTH
    assert loud(path) == []


def test_a_trained_net_runs_as_it_is_stored(tmp_path):
    module = plain(True)
    with torch.no_grad():
        for layer in module:
            if isinstance(layer, nn.Conv2d):
                layer.weight.mul_(1 + 0.3 * torch.randn_like(layer.weight))
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_var.uniform_(0.5, 2)
                layer.weight.uniform_(0.5, 2)
        module[-1].weight.mul_(1 + 0.3 * torch.randn_like(module[-1].weight))
    path = exported(module, torch.randn(16, 3, 6, 6), str(tmp_path / "a.onnx"), False)
    report = initlint.check(path)
    assert report.stage == "trained"
    assert [f for f in report.findings if f["severity"] != "info"] == []


def tensorflow(tmp_path, name: str) -> str:
    """What tf2onnx leaves of Conv2D + BatchNormalization: weights times 1/sqrt(1 + eps)."""
    nodes, weights, value, width = [], [], "x", 3
    for index in range(DEPTH):
        bound = np.sqrt(6.0 / (9 * (width + 16)))
        weight = RNG.uniform(-bound, bound, (16, width, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight / np.float32(np.sqrt(1.001)), f"w{index}"))
        nodes.append(
            helper.make_node(
                "Conv", [value, f"w{index}"], [f"c{index}"], name.format(index), pads=[1, 1, 1, 1]
            )
        )
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"], f"net/relu_{index}"))
        value, width = f"r{index}", 16
    nodes.append(helper.make_node("GlobalAveragePool", [value], ["y"], "net/pool"))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        weights,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 15)], producer_name="tf2onnx", ir_version=10
    )
    path = str(tmp_path / "tf.onnx")
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    "name", ["net/bn_{}/batchnorm/mul_1", "net/bn_{}/FusedBatchNormV3", "net/bn_{}/FusedBatchNorm"]
)
def test_norms_that_tensorflow_names(tmp_path, name):
    path = tensorflow(tmp_path, name)
    assert {layer.id for layer in load_onnx(path).graph if layer.op is Op.BATCH_NORM} == {
        f"net/bn_{index}" for index in range(DEPTH)
    }
    assert loud(path) == []


def test_convolutions_without_such_a_name_are_judged(tmp_path):
    path = tensorflow(tmp_path, "net/conv_{}/Conv2D")
    assert norms(path) == 0
    assert loud(path)


def test_a_gain_that_is_left_of_a_norm_is_that_norm(tmp_path):
    weight = RNG.standard_normal((3, 8)).astype(np.float32)
    gain = np.full((1, 8), 1 / np.sqrt(1.001), np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["m"], "net/dense/MatMul"),
            helper.make_node("Mul", ["m", "g"], ["n"], "net/bn/batchnorm/mul_1"),
            helper.make_node("Relu", ["n"], ["y"], "net/relu"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(gain, "g")],
    )
    path = str(tmp_path / "a.onnx")
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=10), path
    )
    (norm,) = (layer for layer in load_onnx(path).graph if layer.op is Op.BATCH_NORM)
    assert norm.channel_axis == -1
    assert initlint.check(path).to_dict()["probe"]["status"] == "ok"


def test_the_work_of_layers_with_a_folded_norm_is_counted(tmp_path: Path) -> None:
    path = exported(plain(True).eval(), torch.randn(2, 3, 6, 6), str(tmp_path / "m.onnx"), False)
    request = request_for(load_onnx(path), seed=0, memory_mb=512, inputs_file=None, train_norm=True)
    kernels = 16 * 3 * 9 + (DEPTH - 1) * 16 * 16 * 9
    assert sum(item.weights for item in request.observed) == kernels + 4 * 16 * 36
