from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from initlint.load.onnx import load_onnx
from initlint.probe import activations, onnxruntime, sampled
from initlint.probe.inputs import Sizes
from initlint.probe.onnx_request import request_for
from initlint.probe.request import Observed, Request
from initlint.probe.result import Activations, ProbeStatus
from initlint.probe.schedule import Plan

pytest.importorskip("onnxruntime")


def request(
    folder: Path,
    nodes: Sequence[Any],
    dims: Sequence[int | str],
    weights: dict[str, np.ndarray],
    opset: int = 17,
) -> Request:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(dims))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    path = folder / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    loaded = load_onnx(str(path))
    return request_for(loaded, seed=0, memory_mb=2048, inputs_file=None, train_norm=False)


def convolutional(folder: Path, gain: float = 1.0, opset: int = 17) -> Request:
    generator = np.random.default_rng(0)
    weights = {
        "w": gain * generator.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "v": generator.standard_normal((8, 8, 1, 1)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "v"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["y"]),
    ]
    return request(folder, nodes, ["n", 3, 32, 32], weights, opset)


def both(job: Request, monkeypatch: pytest.MonkeyPatch) -> tuple[Activations, Activations, list]:
    """What is measured on whole and on sampled outputs, and the samples that were planned."""
    plans = []
    plan = sampled.plan_samples

    def spy(*arguments: Any) -> Any:
        plans.append(plan(*arguments))
        return plans[-1]

    monkeypatch.setattr(onnxruntime, "plan_samples", spy)
    monkeypatch.setattr(sampled, "WORTH", 1 << 60)
    whole = onnxruntime.observe(job)
    assert not any(plans)
    monkeypatch.setattr(sampled, "WORTH", -(1 << 40))
    return whole, onnxruntime.observe(job), list(plans[-1])


def assert_same(a: Activations, b: Activations) -> None:
    assert a.status is ProbeStatus.OK
    assert list(a.outputs) == list(b.outputs)
    assert repr(a) == repr(b)


@pytest.mark.parametrize("opset", [7, 13, 18, 21])
def test_samples_of_the_graph_are_those_of_the_arrays(
    opset: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, thinned, samples = both(convolutional(tmp_path, opset=opset), monkeypatch)
    assert {sample.item.value for sample in samples} == {"a", "b", "c", "d"}
    assert_same(thinned, whole)


def test_sequences_are_thinned_along_their_positions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {"w": np.random.default_rng(0).standard_normal((32, 48)).astype(np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Tanh", ["h"], ["y"]),
    ]
    job = request(tmp_path, nodes, ["n", 300, 32], weights)
    whole, thinned, samples = both(job, monkeypatch)
    assert [sample.axis for sample in samples] == [1, 1]
    assert_same(thinned, whole)


def test_samples_may_lie_along_any_axis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first, the second, folded with positions, or between positions."""
    weights = {
        "w": np.random.default_rng(0).standard_normal((32, 48)).astype(np.float32),
        "rows": np.array([-1, 48], np.int64),
        "heads": np.array([100, -1, 3, 16], np.int64),
    }
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["t", "w"], ["h"]),
        helper.make_node("Reshape", ["h", "heads"], ["s"]),
        helper.make_node("Transpose", ["h"], ["b"], perm=[1, 0, 2]),
        helper.make_node("Reshape", ["b", "rows"], ["r"]),
        helper.make_node("Tanh", ["r"], ["y"]),
    ]
    job = request(tmp_path, nodes, ["n", 100, 32], weights)
    whole, thinned, samples = both(job, monkeypatch)
    assert {sample.item.value: sample.layout.ahead for sample in samples} == {
        "t": 100,
        "h": 100,
        "s": 100,
        "b": 1,
        "r": 1,
        "y": 1,
    }
    assert_same(thinned, whole)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("unit", [2, 3, 4])
def test_blocks_are_those_of_the_statistics(axis: int, unit: int) -> None:
    """Whatever the order of samples and units, as long as units come later."""
    sides = [3, 5, 7, 11, 13]
    sides[axis] *= 4  # samples, each with some neighbours
    array = np.random.default_rng(0).standard_normal(sides).astype(np.float32)
    pilot = np.take(array, range(sides[axis] // 4), axis)
    item = Observed("layer", "value", "other", unit)
    plan = Plan(Sizes(4, 1, 1), 4, activations.ELEMENTS // 2048)
    sample = sampled._sample(item, pilot, axis, 1, plan, 0, "name")
    if unit <= axis:
        assert sample is None
        return
    assert sample is not None
    assert sample.shape == array.shape
    view, along, places = sample._taken()
    taken = np.take(array.reshape(view), places, along)
    assert taken.size == sample.elements
    expected, _ = activations._block(array, 4, axis, unit, 2048, 0)
    assert np.array_equal(sample.block(taken), expected)


def test_what_is_not_finite_is_counted_on_whole_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, thinned, samples = both(convolutional(tmp_path, gain=1e38), monkeypatch)
    assert samples
    assert any(stats.non_finite for stats in whole.outputs.values())
    assert_same(thinned, whole)


def test_another_shape_than_expected_is_measured_on_whole_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean over the batch looks like one sample, and like the batch in a run on one."""
    monkeypatch.setattr(onnxruntime, "SECOND_PILOT", 1 << 20)
    weights = {"w": np.random.default_rng(0).standard_normal((3, 3)).astype(np.float32)}
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
        helper.make_node("Transpose", ["m"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["t", "w"], ["y"]),
    ]
    job = request(tmp_path, nodes, ["n", 3, 3000], weights)
    whole, thinned, samples = both(job, monkeypatch)
    assert samples
    assert_same(thinned, whole)


def test_names_that_the_model_has_already_do_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = convolutional(tmp_path)
    taken = onnx.ModelProto.FromString(job.model)
    for node in taken.graph.node:
        for names in (node.input, node.output):
            names[:] = ["initlint sample 0" if name == "a" else name for name in names]
    observed = tuple(
        replace(item, value="initlint sample 0") if item.value == "a" else item
        for item in job.observed
    )
    job = replace(job, model=taken.SerializeToString(), observed=observed)
    whole, thinned, samples = both(job, monkeypatch)
    assert samples
    assert_same(thinned, whole)
