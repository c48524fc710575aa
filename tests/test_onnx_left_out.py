"""Large raw data stays in the model's file: what is parsed, read, run and repaired is the same."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from initlint.load.onnx import load_onnx
from initlint.load.onnx.wire import LARGE, without_raw
from initlint.model import LoadError
from initlint.probe import child, request
from initlint.probe.onnx_weights import taken_apart
from initlint.probe.result import ProbeStatus

SIDE = 1500
"""A matrix of 9 MB: the file is one that the probe's child maps."""


def network(weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A chain of products and ReLUs."""
    nodes, value = [], "x"
    for name in weights:
        nodes.append(helper.make_node("MatMul", [value, name], [f"{name} product"]))
        nodes.append(helper.make_node("Relu", [f"{name} product"], [f"{name} active"]))
        value = f"{name} active"
    side = next(iter(weights.values())).shape[0]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", side])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def drawn(side: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((side, side), dtype=np.float32)
    return values * np.float32((2 / side) ** 0.5)


def light(data: bytes) -> tuple[bytes, dict[str, tuple[int, int]]] | None:
    found = without_raw(lambda start, length: data[start : start + length], len(data))
    return None if found is None else (found[0], dict(found[1]))


@given(
    st.lists(st.sampled_from([4, LARGE // 4 - 1, LARGE // 4, LARGE]), min_size=1, max_size=5),
    st.booleans(),
    st.integers(0, 200),
)
def test_a_lightened_model_is_the_model_without_the_large_data(
    sizes: list[int], typed: bool, name_length: int
) -> None:
    model = onnx.ModelProto(ir_version=8, producer_name="é" * name_length)
    for number, size in enumerate(sizes):
        array = np.arange(size, dtype=np.float32)
        tensor = numpy_helper.from_array(array, f"w{number}" + "x" * name_length)
        if typed and number == 0:
            tensor.ClearField("raw_data")
            tensor.float_data.extend(array)
        model.graph.initializer.append(tensor)
        model.graph.node.append(helper.make_node("Relu", ["a"], ["b"], name="n" * name_length))
    model.metadata_props.add(key="k", value="v")
    data = model.SerializeToString()
    found = light(data)
    left = {
        tensor.name: tensor.raw_data
        for tensor in model.graph.initializer
        if len(tensor.raw_data) >= LARGE
    }
    if not left:
        assert found is None
        return
    assert found is not None
    kept, places = found
    assert {name: data[at : at + length] for name, (at, length) in places.items()} == left
    parsed = onnx.ModelProto.FromString(kept)
    for tensor in parsed.graph.initializer:
        if tensor.name in places:
            assert tensor.HasField("raw_data")
            tensor.raw_data = left[tensor.name]
    assert parsed == model


def test_what_is_odd_is_parsed_whole() -> None:
    model = network({"a": drawn(300)})
    data = model.SerializeToString()
    assert light(data) is not None
    assert light(data + data) is None  # a graph in two pieces, which parsing puts together
    assert light(data[:-1]) is None
    twice = network({"a": drawn(300)})
    twice.graph.initializer.append(twice.graph.initializer[0])
    assert light(twice.SerializeToString()) is None
    many = network({"a": drawn(300)})
    for _ in range(1000):
        many.graph.node.append(helper.make_node("Relu", ["x"], ["y"]))
    assert light(many.SerializeToString()) is None


def test_a_subgraph_does_not_read_what_the_main_graph_left_out(tmp_path: Path) -> None:
    model = network({"a": drawn(300)})
    inner = helper.make_graph(
        [helper.make_node("Relu", ["a"], ["r"])],
        "inner",
        [],
        [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)],
        [TensorProto(name="a", data_type=1, dims=[300, 300], raw_data=b"")],
    )
    condition = numpy_helper.from_array(np.array(True), "yes")
    model.graph.initializer.append(condition)
    model.graph.node.append(
        helper.make_node("If", ["yes"], ["z"], then_branch=inner, else_branch=inner)
    )
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    with pytest.raises(LoadError, match="truncated"):
        load_onnx(str(path))


def test_a_shape_that_claims_more_than_is_there_is_refused(tmp_path: Path) -> None:
    model = network({"a": drawn(300)})
    model.graph.initializer[0].dims[:] = [300, 301]
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    with pytest.raises(LoadError, match=r"'a'.*needs 361200 bytes but holds 360000"):
        load_onnx(str(path))


def test_a_file_that_changes_is_told(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(network({"a": drawn(300)}), path)
    tensor = next(param.tensor for layer in load_onnx(str(path)).graph for param in layer.params)
    assert tensor is not None
    assert np.array_equal(tensor.read(), drawn(300).T) or np.array_equal(tensor.read(), drawn(300))
    os.truncate(path, 1000)
    with pytest.raises(LoadError, match="changed while it was read"):
        tensor.read()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "m.onnx"
    onnx.save(network({"a": drawn(SIDE), "b": drawn(SIDE, 1)}), path)
    return path


def sent(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each request sent its weights."""
    told: list[bool] = []
    pieces = request.Request.pieces

    def noted(self: request.Request, file: int | None = None) -> object:
        data = [bytes(piece) for piece in pieces(self, file)]
        told.append(sum(map(len, data)) > SIDE * SIDE * 4)
        return iter(data)

    monkeypatch.setattr(request.Request, "pieces", noted)
    return told


def test_mapped_weights_give_what_sent_ones_give(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = sent(monkeypatch)
    model = load_onnx(str(file))
    mapped = child.run_in_child(model)
    monkeypatch.setattr(child, "MAPPED", 1 << 40)
    whole = child.run_in_child(model)
    assert told == [False, True]
    assert mapped.status is whole.status is ProbeStatus.OK
    assert repr(mapped.outputs) == repr(whole.outputs)


def test_another_file_of_that_name_is_not_mapped(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    shutil.copy(file, path)
    model = load_onnx(str(path))
    before = child.run_in_child(model)
    told = sent(monkeypatch)
    other = tmp_path / "other.onnx"
    onnx.save(network({"a": 0 * drawn(SIDE), "b": drawn(SIDE)}), other)
    os.replace(other, path)  # the loader still has the old one open
    after = child.run_in_child(model)
    assert told == [True]
    assert repr(after.outputs) == repr(before.outputs)


def test_a_weight_that_a_repair_changed_is_sent(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from initlint.fix.changes import applied

    model = load_onnx(str(file))
    told = sent(monkeypatch)
    with applied(model, {"a": drawn(SIDE) * 3}) as changed:
        found = child.run_in_child(changed)
    plain = child.run_in_child(model)
    assert told == [True, False]
    ratio = [
        found.outputs[layer].rms / stats.rms
        for layer, stats in plain.outputs.items()
        if stats.rms > 0 and layer in found.outputs and "x" not in layer
    ]
    assert max(ratio) == pytest.approx(3, rel=1e-3)


def test_types_that_no_runtime_takes_from_memory_go_back_into_the_message(tmp_path: Path) -> None:
    model = network({"a": drawn(300)})
    packed = TensorProto(
        name="q", data_type=TensorProto.INT4, dims=[2 * LARGE], raw_data=bytes(LARGE)
    )
    model.graph.initializer.append(packed)
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    loaded = load_onnx(str(path))
    proto, left_out = loaded.runnable.model, loaded.runnable.left_out
    assert set(left_out.places) == {"a", "q"}
    copy, weights = taken_apart(proto, left_out)
    assert [weight.name for weight in weights] == ["a"]
    assert weights[0].read() == drawn(300).tobytes()
    assert {tensor.name: len(tensor.raw_data) for tensor in copy.graph.initializer} == {
        "a": 0,
        "q": LARGE,
    }


def test_a_file_that_is_written_to_during_the_lint_is_not_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as before, with other weights: nothing but the time of the change tells."""
    from initlint import worker
    from initlint.load import files

    path = tmp_path / "m.onnx"
    onnx.save(network({"a": drawn(300)}), path)
    monkeypatch.setattr(files, "_opened", type(files._opened)())
    told: list[str] = []

    def emit(record: dict[str, object]) -> None:
        told.append(str(record.get("message", record["type"])))
        if record["type"] == "static":
            data = path.read_bytes()
            path.write_bytes(data[:-1000] + bytes(1000))
            os.utime(path, ns=(1, 1))

    job = {"task": "lint", "target": str(path), "settings": {"probe": False}}
    worker.serve(job, emit)
    assert "static" in told
    assert told[-1] == f"{path}: changed while it was read; run again"
