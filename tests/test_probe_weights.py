"""Large weights travel beside the graph, where their bytes are what their shape says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from initlint.load.onnx import load_onnx
from initlint.probe.child import run_in_child
from initlint.probe.onnx_weights import LARGE, taken_apart
from initlint.probe.result import ProbeStatus

SIDE = 200
VALUES = np.random.default_rng(0).standard_normal((SIDE, SIDE)).astype(np.float32)


def matmul(weight: onnx.TensorProto) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weight, numpy_helper.from_array(np.zeros(4, np.float32), "small")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def raw() -> onnx.TensorProto:
    return numpy_helper.from_array(VALUES, "w")


def listed() -> onnx.TensorProto:
    return helper.make_tensor("w", TensorProto.FLOAT, [SIDE, SIDE], VALUES.reshape(-1).tolist())


def test_raw_weights_are_taken_and_everything_else_stays() -> None:
    model = matmul(raw())
    graph, weights = taken_apart(model)
    assert [(item.name, item.dims, item.size) for item in weights] == [
        ("w", (SIDE, SIDE), VALUES.nbytes)
    ]
    assert weights[0].read() == VALUES.tobytes()
    assert len(graph.SerializeToString()) < 1000
    assert [item.name for item in graph.graph.initializer] == ["w", "small"]
    graph.graph.initializer[0].CopyFrom(model.graph.initializer[0])
    assert graph == model


def test_lists_of_numbers_stay_where_they_are() -> None:
    """As long as the raw bytes would be, to the byte."""
    assert listed().ByteSize() == raw().ByteSize()
    model = matmul(listed())
    assert taken_apart(model) == (model, ())


@pytest.mark.parametrize("change", ["small", "type", "twice", "short", "shape"])
def test_other_weights_stay_where_they_are(change: str) -> None:
    weight = raw()
    if change == "small":
        weight = numpy_helper.from_array(VALUES.reshape(-1)[: LARGE // 4 - 1], "w")
    if change == "type":
        weight.data_type = TensorProto.COMPLEX64
    if change == "short":
        weight.raw_data = weight.raw_data[:-4]
    if change == "shape":
        weight.dims[:] = [-SIDE, -SIDE]
    model = matmul(weight)
    if change == "twice":
        model.graph.initializer.append(weight)
    assert taken_apart(model) == (model, ())


def test_both_ways_of_storing_give_the_same_run(tmp_path: Path) -> None:
    found = []
    for number, weight in enumerate((raw(), listed())):
        path = tmp_path / f"{number}.onnx"
        onnx.save(matmul(weight), path)
        found.append(run_in_child(load_onnx(str(path))))
        assert found[-1].status is ProbeStatus.OK
    assert repr(found[0].outputs) == repr(found[1].outputs)


def test_a_forged_size_ends_the_probe_at_once(tmp_path: Path) -> None:
    """Four bytes too few, made up for by a field that nobody knows."""
    weight = raw()
    weight.raw_data = weight.raw_data[:-4]
    forged = onnx.TensorProto.FromString(weight.SerializeToString() + b"\xf8\x7f\x80\x01")
    assert forged.ByteSize() == raw().ByteSize()
    path = tmp_path / "forged.onnx"
    onnx.save(matmul(raw()), path)
    loaded = load_onnx(str(path))
    loaded.runnable.model.graph.initializer[0].CopyFrom(forged)
    found = run_in_child(loaded)
    assert found.status is ProbeStatus.FAILED
    assert found.seconds < 20
