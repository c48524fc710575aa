"""ONNX files repaired in place: their bytes outside the changed initializers, and what runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fixtures.onnx_models import MODELS
from initlint.engine import lint
from initlint.fix.jobs import fix
from initlint.fix.onnx_bytes import locate, relocated, replaced
from initlint.load.onnx import load_onnx
from initlint.model import LoadError
from initlint.settings import Settings

BAD = sorted(name for name in MODELS if name.startswith("bad_"))
RULES = ("relu-after-xavier", "recurrent-not-orthogonal", "zero-weight", "symmetric-units")
SELECTED = Settings(select=(*RULES, "residual-branch-unscaled"))


def outside(data: bytes, names: set[str]) -> bytes:
    """The file with the elements of these initializers blanked."""
    out = bytearray(data)
    for name in names:
        for item in locate(data)[name].elements:
            out[item.value : item.stop] = bytes(item.stop - item.value)
    return bytes(out)


@pytest.mark.parametrize("name", BAD)
def test_every_bad_fixture_is_cured_runs_and_keeps_its_other_bytes(name, tmp_path):
    import onnxruntime

    source, out = tmp_path / "model.onnx", tmp_path / "fixed.onnx"
    onnx.save(MODELS[name](0), source)
    before = source.read_bytes()
    record = fix(load_onnx(str(source)), SELECTED, {"out": str(out), "seed": 0})
    assert record["before"]["summary"]["error"] == 1
    assert record["verdict"] == {
        "status": "fixed",
        "reasons": [],
        "cured": [record["before"]["findings"][0]["name"]],
    }
    assert record["written"] == [str(out)]
    assert source.read_bytes() == before
    changed = {change["stored"] for change in record["changes"]}
    assert outside(out.read_bytes(), changed) == outside(before, changed)
    assert not lint(load_onnx(str(out)), SELECTED)["findings"]
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    place = session.get_inputs()[0]
    shape = [side if isinstance(side, int) else 2 for side in place.shape]
    data = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    assert all(np.isfinite(value).all() for value in session.run(None, {place.name: data}))


def test_a_healthy_model_is_left_alone(tmp_path):
    source = tmp_path / "model.onnx"
    onnx.save(MODELS["good_mlp_he"](0), source)
    record = fix(load_onnx(str(source)), SELECTED, {"out": str(tmp_path / "out.onnx")})
    assert record["verdict"]["status"] == "nothing"
    assert record["written"] is None
    assert not (tmp_path / "out.onnx").exists()


def small(weight: TensorProto, *others: TensorProto) -> onnx.ModelProto:
    node = helper.make_node("Gemm", ["x", weight.name], ["y"], name="fc", transB=1)
    kind = weight.data_type
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", kind, ["n", weight.dims[1]])],
        [helper.make_tensor_value_info("y", kind, ["n", weight.dims[0]])],
        [weight, *others],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_bytes_of_typed_fields_are_replaced_in_place():
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    weight = helper.make_tensor("w", TensorProto.FLOAT, (2, 3), values.ravel())
    assert not weight.HasField("raw_data")
    data = small(weight).SerializeToString()
    after = replaced(data, {"w": (-values).tobytes()})
    assert len(after) == len(data)
    np.testing.assert_array_equal(
        numpy_helper.to_array(onnx.ModelProto.FromString(after).graph.initializer[0]), -values
    )


def test_half_precision_in_varints_becomes_raw_and_all_else_stays():
    values = np.linspace(-1, 1, 6, dtype=np.float16).reshape(2, 3)
    weight = helper.make_tensor("w", TensorProto.FLOAT16, (2, 3), values.ravel())
    assert weight.int32_data
    other = numpy_helper.from_array(np.arange(300, dtype=np.float32), "other")
    model = small(weight, other)
    after = onnx.ModelProto.FromString(
        replaced(model.SerializeToString(), {"w": (-values).tobytes()})
    )
    np.testing.assert_array_equal(numpy_helper.to_array(after.graph.initializer[0]), -values)
    after.graph.initializer[0].CopyFrom(weight)
    assert after == model


@pytest.mark.parametrize("half", [False, True])
def test_the_tensor_of_a_constant_node_is_replaced_and_nothing_else(half, tmp_path):
    """Half precision in varints changes the lengths of tensor, attribute, node and graph."""
    model = MODELS["bad_mlp_duplicated_units"](0)
    graph = model.graph
    for tensor in graph.initializer:
        if half:
            values = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(helper.make_tensor(tensor.name, 10, values.shape, values.ravel()))
        node = helper.make_node("Constant", [], [tensor.name], name=f"{tensor.name}_held")
        node.attribute.append(helper.make_attribute("value", tensor))
        graph.node.insert(0, node)
    del graph.initializer[:]
    for place in (*graph.input, *graph.output) if half else ():
        place.type.tensor_type.elem_type = TensorProto.FLOAT16
    source, out = tmp_path / "model.onnx", tmp_path / "fixed.onnx"
    onnx.save(model, source)
    record = fix(load_onnx(str(source)), SELECTED, {"out": str(out), "seed": 0})
    assert record["verdict"]["status"] == "fixed"
    changed = {change["stored"] for change in record["changes"]}
    before, after = onnx.load(source), onnx.load(out)
    for one in (before, after):
        for node in one.graph.node:
            if node.op_type == "Constant" and node.output[0] in changed:
                node.attribute[0].t.ClearField("raw_data")
                node.attribute[0].t.ClearField("int32_data")
    assert changed
    assert before == after


def test_unknown_fields_survive():
    weight = numpy_helper.from_array(np.ones((2, 3), np.float32), "w")
    unknown = b"\xfa\x7f\x03abc"  # field 2047, which no version of the format has
    data = small(weight).SerializeToString() + unknown
    after = replaced(data, {"w": np.zeros(6, np.float32).tobytes()})
    assert after.endswith(unknown)
    assert len(after) == len(data)


def test_damaged_protobuf_is_a_sentence():
    weight = numpy_helper.from_array(np.ones((2, 3), np.float32), "w")
    data = small(weight).SerializeToString()
    with pytest.raises(LoadError, match="damaged"):
        locate(data[:-3])
    with pytest.raises(LoadError, match="not stored in the model file"):
        replaced(data, {"nobody": b""})


def external_model(folder: Path) -> Path:
    onnx.save(
        MODELS["bad_deep_relu_xavier"](0),
        folder / "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=1024,
    )
    return folder / "model.onnx"


def test_external_data_is_patched_and_keeps_its_name(tmp_path):
    source = external_model(tmp_path)
    target = tmp_path / "fixed"
    target.mkdir()
    record = fix(load_onnx(str(source)), SELECTED, {"out": str(target / "model.onnx")})
    assert record["verdict"]["status"] == "fixed"
    assert (target / "model.onnx").read_bytes() == source.read_bytes()
    old, new = (folder / "weights.bin" for folder in (tmp_path, target))
    assert old.stat().st_size == new.stat().st_size
    assert old.read_bytes() != new.read_bytes()
    assert not lint(load_onnx(str(target / "model.onnx")), SELECTED)["findings"]


def test_a_second_model_gets_external_data_of_its_own(tmp_path):
    source, out = external_model(tmp_path), tmp_path / "fixed.onnx"
    before, data = source.read_bytes(), (tmp_path / "weights.bin").read_bytes()
    for _ in range(2):  # also over an older version of itself
        record = fix(load_onnx(str(source)), SELECTED, {"out": str(out)})
        assert record["written"] == [str(out), str(tmp_path / "fixed.onnx.data")]
    assert source.read_bytes() == before
    assert (tmp_path / "weights.bin").read_bytes() == data
    names = ["fixed.onnx", "fixed.onnx.data", "model.onnx", "weights.bin"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert not lint(load_onnx(str(out)), SELECTED)["findings"]
    onnx.checker.check_model(str(out), full_check=True)
    assert relocated(out.read_bytes(), {"fixed.onnx.data": "weights.bin"}) == before


def test_data_of_another_model_are_not_replaced_by_those_of_a_second(tmp_path):
    source = external_model(tmp_path)
    (tmp_path / "fixed.onnx.data").write_bytes(b"somebody's")
    with pytest.raises(LoadError, match="belongs to another model"):
        fix(load_onnx(str(source)), SELECTED, {"out": str(tmp_path / "fixed.onnx")})
    assert (tmp_path / "fixed.onnx.data").read_bytes() == b"somebody's"


def test_data_of_another_model_in_the_new_folder_stay(tmp_path):
    """The fixed model may be written again, a second one beside it may not take its data."""
    source = external_model(tmp_path)
    target = tmp_path / "fixed"
    target.mkdir()
    for _ in range(2):
        fix(load_onnx(str(source)), SELECTED, {"out": str(target / "model.onnx")})
    data = (target / "weights.bin").read_bytes()
    with pytest.raises(LoadError, match="belongs to another model"):
        fix(load_onnx(str(source)), SELECTED, {"out": str(target / "other.onnx"), "seed": 1})
    assert (target / "weights.bin").read_bytes() == data
    assert sorted(path.name for path in target.iterdir()) == ["model.onnx", "weights.bin"]


def test_half_precision_keeps_its_type(tmp_path):
    model = MODELS["bad_mlp_duplicated_units"](0)
    for weight in model.graph.initializer:
        half = numpy_helper.to_array(weight).astype(np.float16)
        weight.CopyFrom(numpy_helper.from_array(half, weight.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    source, out = tmp_path / "half.onnx", tmp_path / "out.onnx"
    onnx.save(model, source)
    record = fix(load_onnx(str(source)), SELECTED, {"out": str(out)})
    assert record["verdict"]["status"] == "fixed"
    kinds = {weight.data_type for weight in onnx.load(out).graph.initializer}
    assert kinds == {TensorProto.FLOAT16}
    assert out.stat().st_size == source.stat().st_size


def test_imposing_a_scheme_changes_all_weights_and_only_once_verified(tmp_path):
    source, out = tmp_path / "model.onnx", tmp_path / "lsuv.onnx"
    onnx.save(MODELS["good_conv_he"](0), source)
    record = fix(load_onnx(str(source)), SELECTED, {"out": str(out), "scheme": "lsuv"})
    weights = {change["param"] for change in record["changes"]}
    assert {f"features.{index}.weight" for index in range(4)} <= weights
    for row in record["profile"]:
        if row["layer"].startswith("features"):
            assert row["rms_after"] == pytest.approx(1, abs=0.1)


def test_an_unknown_scheme_is_a_sentence(tmp_path):
    source = tmp_path / "model.onnx"
    onnx.save(MODELS["good_mlp_he"](0), source)
    with pytest.raises(LoadError, match="did you mean"):
        fix(load_onnx(str(source)), SELECTED, {"out": None, "scheme": "ortogonal"})


def test_a_tied_table_that_is_stored_twice_is_changed_in_both_places(tmp_path):
    rng = np.random.default_rng(0)
    table = rng.normal(size=(60, 24)).astype(np.float32)
    hidden = (rng.normal(size=(24, 24)) / 24**0.5).astype(np.float32)
    stored = {"table": table, "turned": np.ascontiguousarray(table.T), "hidden": hidden}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["words"]),
        helper.make_node("MatMul", ["words", "hidden"], ["mixed"]),
        helper.make_node("Tanh", ["mixed"], ["features"]),
        helper.make_node("MatMul", ["features", "turned"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tied",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", 6])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 6, 60])],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    source, out = tmp_path / "m.onnx", tmp_path / "fixed.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, source)
    record = fix(load_onnx(str(source)), Settings(), {"out": str(out)})
    assert record["verdict"]["status"] == "fixed"
    now = {item.name: numpy_helper.to_array(item) for item in onnx.load(out).graph.initializer}
    assert float(now["table"].std()) < 0.3
    np.testing.assert_array_equal(now["table"].T, now["turned"])
    np.testing.assert_array_equal(now["hidden"], hidden)
