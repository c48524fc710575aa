"""ONNX graphs that ask for endless work or memory, crash the runtime, or contradict themselves."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.hostile.case import Cases, End

BOMBS = Cases("onnx bombs", ".onnx")
GRAPHS = Cases("onnx inconsistent graphs", ".onnx")

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def constant(name: str, value: Any, dtype: Any = np.int64) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, dtype), name)


def build(
    nodes: Sequence[onnx.NodeProto],
    initializers: Sequence[onnx.TensorProto] = (),
    *,
    shape: Sequence[Any] = ("N", 4),
    output: tuple[int, Sequence[Any] | None] = (FLOAT, None),
    functions: Sequence[onnx.FunctionProto] = (),
    opset: int = 17,
) -> onnx.ModelProto:
    """A model from float input ``x`` to ``y``, with the zero weight ``w`` of shape (4, 3)."""
    weight = numpy_helper.from_array(np.zeros((4, 3), np.float32), "w")
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", output[0], output[1])],
        [weight, *initializers],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=10)


FC = helper.make_node("MatMul", ["x", "w"], ["h"], "fc")


def save(model: onnx.ModelProto, folder: Path) -> None:
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def loop(trips: int | None, body: onnx.GraphProto, carried: str) -> list[onnx.NodeProto]:
    names = ["trips" if trips is not None else "", "go", carried]
    return [FC, helper.make_node("Loop", names, ["y"], "loop", body=body)]


def loop_body(nodes: Sequence[onnx.NodeProto], kind: int, shape: Any = None) -> onnx.GraphProto:
    """A body that carries ``a`` to ``b`` and always goes on."""
    return helper.make_graph(
        [*nodes, helper.make_node("Identity", ["c"], ["d"])],
        "body",
        [
            helper.make_tensor_value_info("i", INT64, []),
            helper.make_tensor_value_info("c", BOOL, []),
            helper.make_tensor_value_info("a", kind, shape),
        ],
        [
            helper.make_tensor_value_info("d", BOOL, []),
            helper.make_tensor_value_info("b", kind, shape),
        ],
    )


GO = constant("go", True, np.bool_)


@BOMBS.add("mod_overflow", End.LINTED)
def _mod(folder: Path) -> None:
    nodes = [
        FC,
        helper.make_node("Mod", ["low", "minus"], ["m"], "mod"),
        helper.make_node("Cast", ["m"], ["f"], to=FLOAT),
        helper.make_node("Add", ["h", "f"], ["y"], "add"),
    ]
    save(build(nodes, [constant("low", [-(2**63)]), constant("minus", [-1])]), folder)


def _loop(folder: Path, trips: int | None, op: str) -> None:
    step = {
        "add": helper.make_node("Add", ["a", "a"], ["b"]),
        "concat": helper.make_node("Concat", ["a", "a"], ["b"], axis=0),
    }[op]
    initializers = [GO] + ([constant("trips", trips)] if trips is not None else [])
    save(build(loop(trips, loop_body([step], FLOAT), "h"), initializers), folder)


BOMBS.add("loop_2_to_62", End.LINTED)(partial(_loop, trips=2**62, op="add"))
BOMBS.add("loop_without_limit", End.LINTED)(partial(_loop, trips=None, op="add"))
BOMBS.add("loop_concat_doubles", End.LINTED)(partial(_loop, trips=2**40, op="concat"))


@BOMBS.add("loop_scan_output_grows", End.LINTED)
def _scan_output(folder: Path) -> None:
    body = loop_body([helper.make_node("Identity", ["a"], ["b"])], FLOAT)
    body.output.append(helper.make_tensor_value_info("s", FLOAT, None))
    body.node.append(helper.make_node("Expand", ["a", "big"], ["s"]))
    node = helper.make_node("Loop", ["trips", "go", "h"], ["last", "y"], "loop", body=body)
    save(build([FC, node], [GO, constant("trips", 2**40), constant("big", [1000, 1, 1])]), folder)


@BOMBS.add("strings_double", End.LINTED)
def _strings(folder: Path) -> None:
    body = loop_body([helper.make_node("StringConcat", ["a", "a"], ["b"])], TensorProto.STRING)
    text = helper.make_tensor("text", TensorProto.STRING, [1], [b"x" * 1000])
    nodes = [
        FC,
        helper.make_node("Loop", ["trips", "go", "text"], ["s"], "loop", body=body),
        helper.make_node("Identity", ["h"], ["y"]),
    ]
    save(build(nodes, [GO, constant("trips", 60), text], opset=20), folder)


def _chain(folder: Path, count: int, side: int) -> None:
    weight = numpy_helper.from_array(np.eye(side, dtype=np.float32)[:1], "row")
    nodes = [helper.make_node("Expand", ["row", "square"], ["m0"])]
    nodes += [
        helper.make_node("MatMul", [f"m{i}", f"m{i}"], [f"m{i + 1}"], f"mm{i}")
        for i in range(count)
    ]
    nodes += [FC, helper.make_node("Identity", [f"m{count}"], ["y"])]
    save(build(nodes, [weight, constant("square", [side, side])]), folder)


BOMBS.add("matmul_chain", End.LINTED)(partial(_chain, count=3000, side=2000))


def _huge(folder: Path, op: str) -> None:
    size = constant("size", [2**20, 2**20, 2**20])
    zero, one, limit = (constant(n, v) for n, v in (("zero", 0), ("one", 1), ("limit", 2**62)))
    made: dict[str, list[onnx.NodeProto]] = {
        "range": [helper.make_node("Range", ["zero", "limit", "one"], ["big"])],
        "expand": [helper.make_node("Expand", ["h", "size"], ["big"])],
        "constant_of_shape": [helper.make_node("ConstantOfShape", ["size"], ["big"])],
        "tile": [helper.make_node("Tile", ["h", "twice"], ["big"])],
        "one_hot": [helper.make_node("OneHot", ["zero", "limit", "values"], ["big"])],
        "pad": [helper.make_node("Pad", ["h", "pads"], ["big"])],
        "random_normal": [helper.make_node("RandomNormal", [], ["big"], shape=[2**31, 2**31])],
        "resize": [helper.make_node("Resize", ["h", "", "scales"], ["big"])],
        "eye_like": [
            helper.make_node("ConstantOfShape", ["plane"], ["p"]),
            helper.make_node("EyeLike", ["p"], ["big"]),
        ],
        "top_k": [helper.make_node("TopK", ["h", "limits"], ["big", "where"])],
        "pool": [helper.make_node("MaxPool", ["h"], ["big"], kernel_shape=[2**31])],
    }
    nodes = [
        FC,
        *made[op],
        helper.make_node("Cast", ["big"], ["f"], to=FLOAT),
        helper.make_node("ReduceSum", ["f"], ["s"], keepdims=0),
        helper.make_node("Add", ["h", "s"], ["y"]),
    ]
    extra = [
        *(size, zero, one, limit),
        constant("twice", [2**40, 2**40]),
        constant("values", [0, 1]),
        constant("pads", [2**40, 2**40, 2**40, 2**40]),
        constant("scales", [1e9, 1e9], np.float32),
        constant("plane", [2**17, 2**17]),
        constant("limits", [2**62]),
    ]
    save(build(nodes, extra), folder)


for _op in (
    *("range", "expand", "constant_of_shape", "tile", "one_hot", "pad"),
    *("random_normal", "resize", "eye_like", "top_k", "pool"),
):
    BOMBS.add(f"huge_{_op}", End.ANY)(partial(_huge, op=_op))


def function(name: str, calls: Sequence[str]) -> onnx.FunctionProto:
    names = ["a", *(f"t{i}" for i in range(len(calls) - 1)), "b"]
    nodes = [
        helper.make_node(op, [names[i]], [names[i + 1]], domain="" if op == "Relu" else "local")
        for i, op in enumerate(calls)
    ]
    return helper.make_function("local", name, ["a"], ["b"], nodes, [helper.make_opsetid("", 17)])


def _functions(folder: Path, functions: list[onnx.FunctionProto]) -> None:
    nodes = [FC, helper.make_node("f0", ["h"], ["y"], "call", domain="local")]
    save(build(nodes, functions=functions), folder)


def doubling(depth: int) -> list[onnx.FunctionProto]:
    inner = [function(f"f{i}", [f"f{i + 1}"] * 2) for i in range(depth)]
    return [*inner, function(f"f{depth}", ["Relu"])]


def chained(depth: int) -> list[onnx.FunctionProto]:
    inner = [function(f"f{i}", [f"f{i + 1}"]) for i in range(depth)]
    return [*inner, function(f"f{depth}", ["Relu"])]


BOMBS.add("functions_double_40", End.REFUSED)(lambda f: _functions(f, doubling(40)))
BOMBS.add("functions_double_18", End.ANY)(lambda f: _functions(f, doubling(18)))
BOMBS.add("functions_chain_5000", End.ANY)(lambda f: _functions(f, chained(5000)))
BOMBS.add("functions_chain_120", End.ANY)(lambda f: _functions(f, chained(120)))
BOMBS.add("functions_circle", End.REFUSED)(
    lambda f: _functions(f, [function("f0", ["f1"]), function("f1", ["f0"])])
)


@BOMBS.add("fan_out_100000", End.LINTED)
def _fan_out(folder: Path) -> None:
    nodes = [FC] + [helper.make_node("Relu", ["h"], [f"r{i}"]) for i in range(100_000)]
    save(build([*nodes, helper.make_node("Identity", ["h"], ["y"])]), folder)


@BOMBS.add("nodes_250000", End.ANY)
def _nodes(folder: Path) -> None:
    names = ["h", *(f"r{i}" for i in range(250_000)), "y"]
    nodes = [helper.make_node("Relu", [a], [b]) for a, b in pairwise(names)]
    save(build([FC, *nodes]), folder)


@BOMBS.add("concat_of_20000", End.ANY)
def _wide(folder: Path) -> None:
    nodes = [FC] + [helper.make_node("Relu", ["h"], [f"r{i}"]) for i in range(5000)]
    names = [f"r{i % 5000}" for i in range(20_000)]
    save(build([*nodes, helper.make_node("Concat", names, ["y"], axis=0)]), folder)


@BOMBS.add("residual_ladder", End.ANY)
def _ladder(folder: Path) -> None:
    names = ["h", *(f"r{i}" for i in range(3000))]
    nodes = [helper.make_node("Add", [a, a], [b]) for a, b in pairwise(names)]
    save(build([FC, *nodes, helper.make_node("Identity", [names[-1]], ["y"])]), folder)


def nested(depth: int) -> onnx.GraphProto:
    nodes = [helper.make_node("Identity", ["h"], ["o"])]
    for level in range(depth):
        inner = helper.make_graph(
            nodes, f"g{level}", [], [helper.make_tensor_value_info("o", FLOAT, None)]
        )
        nodes = [helper.make_node("If", ["go"], ["o"], then_branch=inner, else_branch=inner)]
        if level > 8:  # one branch nests on, or the file doubles at every level
            del nodes[0].attribute[1].g.node[:]
            nodes[0].attribute[1].g.node.append(helper.make_node("Identity", ["h"], ["o"]))
    return helper.make_graph(nodes, "top", [], [helper.make_tensor_value_info("o", FLOAT, None)])


def _nested(folder: Path, depth: int) -> None:
    nodes = [FC, *nested(depth).node, helper.make_node("Identity", ["o"], ["y"])]
    save(build(nodes, [GO]), folder)


BOMBS.add("subgraphs_nested_25", End.ANY)(partial(_nested, depth=25))


@BOMBS.add("subgraphs_nested_10000", End.REFUSED, "protobuf cannot parse")
def _too_nested(folder: Path) -> None:
    data = b""
    for _ in range(3000):  # GraphProto.node > NodeProto.attribute > AttributeProto.g
        for number in (6, 5, 1):
            data = bytes([number << 3 | 2]) + _varint(len(data)) + data
    (folder / "model.onnx").write_bytes(b"\x08\x0a\x3a" + _varint(len(data)) + data)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _shape(folder: Path, shape: Sequence[Any]) -> None:
    save(build([FC, helper.make_node("Identity", ["h"], ["y"])], shape=shape), folder)


BOMBS.add("input_of_2_to_60", End.LINTED)(partial(_shape, shape=[2**30, 2**28, 4]))
BOMBS.add("input_of_rank_500", End.ANY)(partial(_shape, shape=[1] * 499 + [4]))
BOMBS.add("inputs_20000", End.ANY)(
    lambda folder: save(_with_inputs(20_000), folder),
)


def _with_inputs(count: int) -> onnx.ModelProto:
    model = build([FC, helper.make_node("Identity", ["h"], ["y"])])
    model.graph.input.extend(
        helper.make_tensor_value_info(f"i{n}", FLOAT, [1]) for n in range(count)
    )
    return model


@BOMBS.add("initializers_100000", End.ANY)
def _initializers(folder: Path) -> None:
    many = [helper.make_tensor(f"k{n}", FLOAT, [1], [0.0]) for n in range(100_000)]
    save(build([FC, helper.make_node("Identity", ["h"], ["y"])], many), folder)


@BOMBS.add("value_infos_and_metadata_100000", End.ANY)
def _infos(folder: Path) -> None:
    model = build([FC, helper.make_node("Identity", ["h"], ["y"])])
    for n in range(100_000):
        model.graph.value_info.append(helper.make_tensor_value_info(f"v{n}", FLOAT, [n]))
        model.metadata_props.add(key=f"k{n}", value="v")
    save(model, folder)


@BOMBS.add("names_of_a_megabyte", End.ANY)
def _names(folder: Path) -> None:
    model = build([FC, helper.make_node("Relu", ["h"], ["y"], "n" * (1 << 20))])
    model.graph.node[0].name = "a.b." * (1 << 18)
    model.graph.name = model.producer_name = "p" * (1 << 20)
    save(model, folder)


@BOMBS.add("name_segments_10000", End.ANY)
def _segments(folder: Path) -> None:
    nodes, value = [], "x"
    for n in range(300):
        nodes.append(helper.make_node("MatMul", [value, "sq"], [f"v{n}"], "/a" * 3000 + f"/{n}"))
        value = f"v{n}"
    square = numpy_helper.from_array(np.zeros((4, 4), np.float32), "sq")
    save(build([*nodes, helper.make_node("Identity", [value], ["y"])], [square]), folder)


def _odd_node(folder: Path, op: str, inputs: Sequence[str], **attributes: Any) -> None:
    outputs = ["y", "o1", "o2"][: 3 if op in ("LSTM",) else 1]
    tensors = [
        constant("i5", [5, -7]),
        constant("i0", [0]),
        constant("big", [2**62]),
        constant("k", np.ones((2, 3, 0)), np.float32),
        constant("conv", np.zeros((2, 4, 3, 3)), np.float32),
        constant("three", [1, 2, 3]),
        constant("scalar", 1.0, np.float32),
        constant("gates", np.zeros((1, 12, 4)), np.float32),
        constant("recur", np.zeros((1, 12, 3)), np.float32),
        constant("bytes", np.zeros((4, 3)), np.uint8),
    ]
    save(
        build([FC, helper.make_node(op, list(inputs), outputs, "odd", **attributes)], tensors),
        folder,
    )


_ODD: dict[str, tuple[str, Sequence[str], dict[str, Any]]] = {
    "gather_outside": ("Gather", ["w", "i5"], {}),
    "gather_axis": ("Gather", ["h", "i0"], {"axis": 99}),
    "reshape_wrong": ("Reshape", ["h", "three"], {}),
    "reshape_negative": ("Reshape", ["h", "i5"], {}),
    "transpose_perm": ("Transpose", ["h"], {"perm": [5, 5]}),
    "transpose_negative": ("Transpose", ["h"], {"perm": [-1, -2]}),
    "slice_step_zero": ("Slice", ["h", "i0", "big", "i0", "i0"], {}),
    "split_negative": ("Split", ["h", "i5"], {"axis": 0}),
    "unsqueeze_axis": ("Unsqueeze", ["h", "big"], {}),
    "squeeze_axis": ("Squeeze", ["h", "big"], {}),
    "concat_axis": ("Concat", ["h", "h"], {"axis": 2**62}),
    "softmax_axis": ("Softmax", ["h"], {"axis": -99}),
    "conv_group_zero": ("Conv", ["x", "conv"], {"group": 0}),
    "conv_group_negative": ("Conv", ["x", "conv"], {"group": -2}),
    "conv_stride_zero": ("Conv", ["x", "conv"], {"strides": [0, 0]}),
    "conv_dilation_huge": ("Conv", ["x", "conv"], {"dilations": [2**62, 2**62]}),
    "conv_kernel_mismatch": ("Conv", ["x", "conv"], {"kernel_shape": [7, 7, 7]}),
    "conv_empty_weight": ("Conv", ["x", "k"], {}),
    "conv_pads_short": ("Conv", ["x", "conv"], {"pads": [1]}),
    "conv_transpose_pads": ("ConvTranspose", ["x", "conv"], {"output_padding": [2**40]}),
    "gemm_scalar": ("Gemm", ["x", "scalar"], {"alpha": float("nan")}),
    "matmul_scalar": ("MatMul", ["x", "scalar"], {}),
    "matmul_no_input": ("MatMul", [], {}),
    "matmul_one_input": ("MatMul", ["w"], {}),
    "batch_norm_mismatch": ("BatchNormalization", ["h", "three", "i0", "k", "w"], {}),
    "layer_norm_axis": ("LayerNormalization", ["h", "scalar"], {"axis": 77}),
    "lstm_hidden_huge": ("LSTM", ["x", "gates", "recur"], {"hidden_size": 2**62}),
    "lstm_hidden_negative": ("LSTM", ["x", "gates", "recur"], {"hidden_size": -3}),
    "lstm_wrong_type": ("LSTM", ["x", "gates", "recur"], {"hidden_size": "three"}),
    "einsum_nonsense": ("Einsum", ["x", "w"], {"equation": "a" * 100_000 + "->b"}),
    "einsum_letters": ("Einsum", ["x", "w"], {"equation": "...ij,jk->...ik" * 50}),
    "dequantise_axis": ("DequantizeLinear", ["bytes", "scalar"], {"axis": 2**40}),
    "cast_type": ("Cast", ["h"], {"to": 999}),
    "pool_kernel_zero": ("MaxPool", ["x"], {"kernel_shape": [0, 0]}),
    "pool_kernel_missing": ("AveragePool", ["x"], {}),
    "integer_division_by_zero": ("Div", ["i5", "i0"], {}),
    "cumsum_axis": ("CumSum", ["h", "big"], {}),
    "flatten_axis": ("Flatten", ["h"], {"axis": -(2**62)}),
    "attention_heads": ("MultiHeadAttention", ["x", "x", "x"], {"domain": "com.microsoft"}),
    "unknown_domain": ("Anything", ["h", "w"], {"domain": "evil.example"}),
    "no_operator": ("", ["h"], {}),
    "if_without_branches": ("If", ["scalar"], {}),
    "loop_without_body": ("Loop", ["", "", "h"], {}),
    "scan_without_body": ("Scan", ["h"], {"num_scan_inputs": 2**40}),
    "constant_without_value": ("Constant", [], {}),
    "constant_of_shape_negative": ("ConstantOfShape", ["i5"], {}),
    "resize_nothing": ("Resize", ["h"], {}),
    "clip_text": ("Clip", ["h", "bytes"], {}),
}
_WRONG_ONLY_WHEN_RUN = {
    *("gather_outside", "reshape_wrong", "slice_step_zero", "split_negative", "cumsum_axis"),
    *("einsum_letters", "dequantise_axis", "unknown_domain", "concat_axis", "flatten_axis"),
}
"""Legal as far as a file can tell: values decide, or operators that another runtime may have."""

for _name, (_op, _inputs, _attributes) in _ODD.items():
    GRAPHS.add(_name, End.ANY if _name in _WRONG_ONLY_WHEN_RUN else End.NOT_CLEAN)(
        partial(_odd_node, op=_op, inputs=_inputs, **_attributes)
    )
