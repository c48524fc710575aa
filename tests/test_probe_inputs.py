from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from initlint.load.onnx_runnable import GraphInput
from initlint.probe.inputs import (
    Content,
    Extent,
    InputSpec,
    Sizes,
    attempts,
    describe,
    fixed_batch,
    synthesise,
)
from initlint.probe.onnx_inputs import input_specs

SIZES = Sizes(batch=8, spatial=32, length=16)


def weight(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.zeros(shape, np.float32), name)


def graph(nodes: Sequence[onnx.NodeProto], *weights: onnx.TensorProto) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "g", [], [], list(weights))


def specs(
    inputs: Sequence[GraphInput], nodes: Sequence[onnx.NodeProto] = (), *weights: onnx.TensorProto
) -> dict[str, InputSpec]:
    return {spec.name: spec for spec in input_specs(inputs, graph(nodes, *weights))}


def floats(name: str, *dims: int | str | None) -> GraphInput:
    return GraphInput(name, "float32", dims)


def integers(name: str, *dims: int | str | None) -> GraphInput:
    return GraphInput(name, "int64", dims)


def test_images_get_a_batch_and_a_side() -> None:
    found = specs([floats("x", "N", 3, None, None)])
    assert SIZES.shape(found["x"]) == (8, 3, 32, 32)


def test_channel_last_images() -> None:
    assert SIZES.shape(specs([floats("x", None, None, None, 3)])["x"]) == (8, 32, 32, 3)


def test_token_ids_stay_below_the_table_they_index() -> None:
    nodes = [
        helper.make_node("Unsqueeze", ["ids", "axes"], ["u"]),
        helper.make_node("Cast", ["u"], ["c"], to=TensorProto.INT32),
        helper.make_node("Reshape", ["c", "shape"], ["r"]),
        helper.make_node("Gather", ["table", "r"], ["y"]),
    ]
    spec = specs([integers("ids", "batch", "seq")], nodes, weight("table", 50, 4))["ids"]
    assert (spec.content, spec.bound) == (Content.TOKENS, 50)
    array = synthesise([spec], SIZES, seed=0)["ids"]
    assert array.shape == (8, 16)
    assert array.dtype == np.int64
    assert array.max() < 50
    assert len(np.unique(array, axis=0)) == 8


@pytest.mark.parametrize("restore", ["dequantise", "cast_and_scale"])
def test_quantised_tables_bound_their_indices(restore: str) -> None:
    table = numpy_helper.from_array(np.zeros((30, 4), np.int8), "q")
    scale = numpy_helper.from_array(np.float32(0.1), "s")
    nodes = (
        [helper.make_node("DequantizeLinear", ["q", "s"], ["table"])]
        if restore == "dequantise"
        else [
            helper.make_node("Cast", ["q"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["f", "s"], ["table"]),
        ]
    )
    nodes.append(helper.make_node("Gather", ["table", "ids"], ["y"]))
    assert specs([integers("ids", "b", "t")], nodes, table, scale)["ids"].bound == 30


def test_the_smallest_of_several_tables_counts() -> None:
    nodes = [
        helper.make_node("Gather", ["big", "ids"], ["a"]),
        helper.make_node("Gather", ["small", "ids"], ["b"]),
    ]
    found = specs([integers("ids", "n", 4)], nodes, weight("big", 90, 2), weight("small", 7, 2))
    assert found["ids"].bound == 7


def test_a_gather_inside_an_if_branch_is_seen() -> None:
    branch = graph([helper.make_node("Gather", ["table", "ids"], ["y"])], weight("table", 9, 2))
    node = helper.make_node("If", ["flag"], ["z"], then_branch=branch, else_branch=branch)
    assert specs([integers("ids", "n", 4)], [node])["ids"].bound == 9


def test_masks_types_positions_lengths_rates_and_text() -> None:
    found = specs(
        [
            integers("attention_mask", "batch", "seq"),
            integers("token_type_ids", "batch", "seq"),
            integers("position_ids", "batch", "seq"),
            integers("lengths", "batch"),
            integers("sr"),
            GraphInput("flag", "bool", ("batch",)),
            GraphInput("words", "string", ("batch",)),
            integers("input_ids", "batch", "seq"),
        ]
    )
    made = synthesise(tuple(found.values()), SIZES, seed=0)
    assert (made["attention_mask"] == 1).all()
    assert (made["token_type_ids"] == 0).all()
    assert (made["position_ids"] == np.arange(16)).all()
    assert (made["lengths"] == 16).all()
    assert made["sr"] == 16000
    assert made["sr"].shape == ()
    assert made["flag"].all()
    assert made["words"].tolist() == ["a"] * 8


def test_recurrent_states_are_zero_by_use_and_by_name() -> None:
    nodes = [helper.make_node("LSTM", ["x", "w", "r", "", "", "start", ""], ["y"])]
    found = specs(
        [floats("x", None, "n", 6), floats("start", 1, "n", 5), floats("state", 2, None, 128)],
        nodes,
        weight("w", 1, 20, 6),
        weight("r", 1, 20, 5),
    )
    made = synthesise(tuple(found.values()), SIZES, seed=0)
    assert made["x"].shape == (16, 8, 6)
    assert made["start"].shape == (1, 8, 5)
    assert made["state"].shape == (2, 8, 128)
    assert not made["start"].any()
    assert not made["state"].any()
    assert made["x"].any()


def test_key_value_caches_start_empty() -> None:
    found = specs(
        [
            floats("past_key_values.0.key", "batch", 4, "past_sequence_length", 16),
            integers("attention_mask", "batch", "past_sequence_length + sequence_length"),
        ]
    )
    assert SIZES.shape(found["past_key_values.0.key"]) == (8, 4, 0, 16)
    assert SIZES.shape(found["attention_mask"]) == (8, 16)


def test_batch_axes_agree_under_different_symbols() -> None:
    found = specs([floats("a", "unk_1", 7), floats("b", "DynamicDimension.2", 3), integers("n", 8)])
    assert SIZES.shape(found["a"])[0] == SIZES.shape(found["b"])[0] == 8


def test_one_symbol_has_one_size() -> None:
    found = specs([floats("a", "items", 4), floats("b", 2, "items")])
    assert SIZES.shape(found["a"])[0] == SIZES.shape(found["b"])[1]


@pytest.mark.parametrize(
    ("node", "shape", "dims", "expected"),
    [
        (helper.make_node("MatMul", ["x", "w"], ["y"]), (24, 5), ("n", "t", None), (8, 16, 24)),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), (5, 24), ("n", None), (8, 24)),
        (
            helper.make_node("Conv", ["x", "w"], ["y"], group=2),
            (6, 3, 3),
            ("n", None, 9),
            (8, 6, 9),
        ),
    ],
)
def test_an_open_feature_axis_is_read_off_the_first_weight(
    node: onnx.NodeProto, shape: tuple[int, ...], dims: tuple[object, ...], expected: object
) -> None:
    found = specs([floats("x", *dims)], [node], weight("w", *shape))  # type: ignore[arg-type]
    assert SIZES.shape(found["x"]) == expected


def test_a_feature_axis_is_followed_through_a_transpose() -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        helper.make_node("Conv", ["t", "w"], ["y"]),
    ]
    found = specs([floats("x", "n", "time", "features")], nodes, weight("w", 4, 80, 3))
    assert SIZES.shape(found["x"]) == (8, 16, 80)


def test_unknown_rank_is_taken_from_the_reader() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    found = specs([GraphInput("x", "float32", None)], nodes, weight("w", 4, 3, 3, 3))
    assert SIZES.shape(found["x"]) == (8, 3, 32, 32)


def test_samples_differ_and_seeds_repeat() -> None:
    spec = [InputSpec("x", "float32", specs([floats("x", "n", 50)])["x"].axes)]
    first = synthesise(spec, SIZES, seed=3)["x"]
    assert len(np.unique(first, axis=0)) == 8
    assert np.array_equal(first, synthesise(spec, SIZES, seed=3)["x"])
    assert not np.array_equal(first, synthesise(spec, SIZES, seed=4)["x"])
    assert not np.array_equal(first, synthesise(spec, SIZES, seed=3, run=1)["x"])


def test_attempts_grow_where_something_is_open() -> None:
    open_length = tuple(specs([floats("wave", "batch", "samples")]).values())
    assert [sizes.length for sizes in attempts(open_length)] == [16, 64, 128, 512, 256, 16000]
    closed = tuple(specs([floats("x", 1, 10)]).values())
    assert len(attempts(closed)) == 1


def test_inputs_that_are_too_large_are_not_attempted() -> None:
    assert attempts(tuple(specs([floats("x", 1 << 40, 1 << 40)]).values())) == ()


def test_a_fixed_batch_is_the_common_first_side() -> None:
    assert fixed_batch(tuple(specs([floats("a", 4, 9), floats("b", 4, 3)]).values())) == 4
    assert fixed_batch(tuple(specs([floats("a", 4, 9), floats("b", 5, 3)]).values())) == 1


def test_specs_survive_the_pipe() -> None:
    for spec in specs([floats("x", "n", 3, None, None), integers("ids", "n", "t")]).values():
        assert InputSpec.from_json(spec.to_json()) == spec


def test_description_says_type_shape_and_content() -> None:
    spec = specs([floats("x", "n", 3)])["x"]
    assert spec.axes[0].extent is Extent.BATCH
    array = synthesise([spec], SIZES, seed=0)["x"]
    assert describe(spec, array) == "float32[8,3] N(0,1)"


def test_what_a_policy_sees_is_no_recurrent_state() -> None:
    alone = specs([floats("state", "n", 6)], [])
    critic = specs([floats("state", "n", 6), floats("action", "n", 2)], [])
    hidden = specs([floats("hidden", "n", 6)], [])
    for found in (alone, critic, hidden):
        made = synthesise(tuple(found.values()), SIZES, seed=0)
        assert all(values.any() for values in made.values())
    step = synthesise(
        tuple(specs([floats("x", "n", 6), floats("hidden", "n", 6)], []).values()), SIZES, seed=0
    )
    assert step["x"].any()
    assert not step["hidden"].any()
