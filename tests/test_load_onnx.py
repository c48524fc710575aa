"""ONNX graphs as other exporters than PyTorch write them, made by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from initlint.load.onnx import load_onnx
from initlint.model import Kind, LoadError, Op, Role

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def node(op, inputs, outputs, name="", domain="", **attrs):
    outputs = [outputs] if isinstance(outputs, str) else outputs
    return helper.make_node(op, inputs, outputs, name=name or None, domain=domain, **attrs)


def built(
    nodes,
    weights=(),
    x=("N", 4),
    outputs=("y",),
    opset=17,
    dtype=TensorProto.FLOAT,
    inputs=(),
    **model,
):
    weights = dict(weights)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, list(x)), *inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [
            value if isinstance(value, TensorProto) else numpy_helper.from_array(value, name)
            for name, value in weights.items()
        ],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10, **model)


@pytest.fixture
def load(tmp_path):
    def run(proto):
        path = tmp_path / "model.onnx"
        path.write_bytes(proto.SerializeToString())
        return load_onnx(str(path))

    return run


def layers(model, op):
    return [layer for layer in model.graph if layer.op is op]


def only(model, op):
    (found,) = layers(model, op)
    return found


def test_model_and_runnable(load):
    model = load(built([node("MatMul", ["x", "w"], "y", "fc")], {"w": normal(4, 3)}))
    assert model.kind is Kind.ONNX
    runnable = model.runnable
    assert [(i.name, i.dtype, i.dims) for i in runnable.inputs] == [("x", "float32", ("N", 4))]
    assert runnable.outputs == ("y",)
    assert runnable.initializers == {"w"}
    assert runnable.layer_outputs["fc"] == "y"
    assert not runnable.external
    assert model.graph["fc"].output_shape == (None, 3)


def test_matmul_weight_is_transposed_and_takes_its_bias(load):
    w, b = normal(4, 3), normal(3)
    model = load(
        built(
            [node("MatMul", ["x", "w"], "h", "fc"), node("Add", ["b", "h"], "y", "plus")],
            {"w": w, "b": b},
        )
    )
    layer = only(model, Op.LINEAR)
    np.testing.assert_array_equal(layer.weight.tensor.read(), w.T)
    np.testing.assert_array_equal(layer.bias.tensor.read(), b)
    assert not layers(model, Op.ADD)
    assert model.runnable.layer_outputs[layer.id] == "y"


def test_bias_behind_a_reshape(load):
    model = load(
        built(
            [
                node("MatMul", ["x", "w"], "h"),
                node("Reshape", ["h", "s"], "r"),
                node("Add", ["r", "b"], "y"),
            ],
            {"w": normal(4, 3), "b": normal(3), "s": np.array([-1, 1, 3])},
        )
    )
    assert only(model, Op.LINEAR).bias is not None


def test_an_output_read_twice_keeps_its_addition(load):
    model = load(
        built(
            [node("MatMul", ["x", "w"], "h"), node("Add", ["h", "b"], "y")],
            {"w": normal(4, 3), "b": normal(3)},
            outputs=("y", "h"),
        )
    )
    assert only(model, Op.LINEAR).bias is None
    assert only(model, Op.ADD).with_role(Role.SHIFT)


def test_gemm_settings_are_folded_into_the_weight(load):
    w, b = normal(4, 3), normal(1, 3)
    model = load(
        built([node("Gemm", ["x", "w", "b"], "y", alpha=0.5, beta=2.0)], {"w": w, "b": b}, x=(2, 4))
    )
    layer = only(model, Op.LINEAR)
    np.testing.assert_allclose(layer.weight.tensor.read(), 0.5 * w.T)
    np.testing.assert_allclose(layer.bias.tensor.read(), 2 * b[0])


def test_weight_on_the_left(load):
    w = normal(3, 4)
    model = load(built([node("MatMul", ["w", "x"], "y")], {"w": w}, x=(4, 5)))
    layer = only(model, Op.LINEAR)
    np.testing.assert_array_equal(layer.weight.tensor.read(), w)
    assert layer.channel_axis == -2


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolution_orientation(load, groups):
    torch = pytest.importorskip("torch")
    w = normal(4, 3, 2, 2)
    model = load(
        built(
            [node("ConvTranspose", ["x", "w"], "y", group=groups, strides=[2, 2])],
            {"w": w},
            x=(1, 4, 5, 5),
        )
    )
    layer = only(model, Op.CONV_TRANSPOSE)
    found = layer.weight.tensor.read()
    assert found.shape == (3 * groups, 4 // groups, 2, 2)
    x = torch.zeros(1, 4, 1, 1)
    for channel in range(4):
        x.zero_()
        x[0, channel] = 1
        y = torch.nn.functional.conv_transpose2d(x, torch.from_numpy(w), stride=2, groups=groups)
        group, inner = divmod(channel, 4 // groups)
        expected = np.zeros((3 * groups, 2, 2), np.float32)
        expected[group * 3 : group * 3 + 3] = found[group * 3 : group * 3 + 3, inner]
        np.testing.assert_allclose(y[0].numpy(), expected, rtol=1e-6)
    assert layer.attrs["stride"] == (2, 2)
    assert layer.output_shape == (1, 3 * groups, 10, 10)


CHAINS = {
    "identity": ([node("Identity", ["a"], "w")], lambda a: a, (4, 3)),
    "cast": ([node("Cast", ["a"], "w", to=TensorProto.FLOAT)], lambda a: a, (4, 3)),
    "transpose": ([node("Transpose", ["a"], "w", perm=[1, 0])], lambda a: a.T, (3, 4)),
    "reshape": (
        [node("Reshape", ["a", "s43"], "w")],
        lambda a: a.reshape(4, 3),
        (2, 6),
    ),
    "slice": (
        [node("Slice", ["a", "one", "five", "zero"], "w")],
        lambda a: a[1:5],
        (6, 3),
    ),
    "split": (
        [node("Split", ["a"], ["v", "w"], axis=0)],
        lambda a: a[4:],
        (8, 3),
    ),
    "gather": (
        [node("Gather", ["a", "scalar_one"], "w", axis=0)],
        lambda a: a[1],
        (2, 4, 3),
    ),
    "squeeze": ([node("Squeeze", ["a", "zero"], "w")], lambda a: a[0], (1, 4, 3)),
    "mul": ([node("Mul", ["a", "half"], "w")], lambda a: a / 2, (4, 3)),
    "div": ([node("Div", ["a", "half"], "w")], lambda a: a * 2, (4, 3)),
    "add": ([node("Add", ["half", "a"], "w")], lambda a: a + 0.5, (4, 3)),
    "concat": (
        [node("Concat", ["a", "a"], "w", axis=0)],
        lambda a: np.concatenate([a, a]),
        (2, 3),
    ),
    "mask": ([node("Mul", ["a", "a"], "w")], lambda a: a * a, (4, 3)),
    "weight norm": (
        [
            node("ReduceL2", ["a"], "n", axes=[0], keepdims=1),
            node("Div", ["a", "n"], "w"),
        ],
        lambda a: a / np.sqrt((a * a).sum(0, keepdims=True)),
        (4, 3),
    ),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("stored", [np.float32, np.float16])
def test_weights_are_resolved_through_operators(load, name, stored):
    nodes, expected, shape = CHAINS[name]
    a = normal(*shape).astype(stored)
    model = load(
        built(
            [*nodes, node("MatMul", ["x", "w"], "y")],
            {
                "a": a,
                "s43": np.array([4, 3]),
                "zero": np.array([0]),
                "one": np.array([1]),
                "five": np.array([5]),
                "scalar_one": np.array(1),
                "half": np.array(0.5, stored),
            },
        )
    )
    weight = only(model, Op.LINEAR).weight
    np.testing.assert_allclose(
        weight.tensor.read(), expected(a.astype(np.float32)).T, rtol=1e-5, atol=1e-7
    )
    assert weight.dtype == np.dtype(stored).name
    assert weight.stored_name == "a"
    assert not weight.quantised


@pytest.mark.parametrize(
    ("scale_shape", "attrs"),
    [((), {}), ((3,), {"axis": 1}), ((4,), {"axis": 0}), ((2, 3), {"axis": 0, "block_size": 2})],
)
def test_dequantised_weights(load, scale_shape, attrs):
    q = RNG.integers(-100, 100, (4, 3)).astype(np.int8)
    scale = np.abs(normal(*scale_shape)) if scale_shape else np.float32(0.1)
    zero = RNG.integers(-5, 5, scale_shape).astype(np.int8)
    spread = np.asarray(scale), np.asarray(zero).astype(np.float32)
    if attrs.get("block_size"):
        spread = tuple(np.repeat(part, 2, axis=0) for part in spread)
    elif scale_shape:
        spread = tuple(part[:, None] if attrs["axis"] == 0 else part for part in spread)
    model = load(
        built(
            [
                node("DequantizeLinear", ["q", "s", "z"], "w", **attrs),
                node("MatMul", ["x", "w"], "y"),
            ],
            {"q": q, "s": np.asarray(scale), "z": np.asarray(zero)},
            opset=21,
        )
    )
    weight = only(model, Op.LINEAR).weight
    np.testing.assert_allclose(
        weight.tensor.read(), ((q - spread[1]) * spread[0]).T, rtol=1e-5, atol=1e-6
    )
    assert weight.quantised
    assert weight.dtype == "int8"


def test_matmul_integer_gets_the_scale_that_follows(load):
    q = RNG.integers(-100, 100, (4, 3)).astype(np.int8)
    scale = np.abs(normal(3))
    model = load(
        built(
            [
                node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
                node("MatMulInteger", ["xq", "q", "xz", "z"], "i"),
                node("Cast", ["i"], "f", to=TensorProto.FLOAT),
                node("Mul", ["xs", "s"], "xss"),
                node("Mul", ["f", "xss"], "h"),
                node("Add", ["h", "b"], "y"),
            ],
            {"q": q, "z": np.array(2, np.int8), "s": scale, "b": normal(3)},
        )
    )
    layer = only(model, Op.LINEAR)
    np.testing.assert_allclose(layer.weight.tensor.read(), (q - 2.0).T * scale[:, None], rtol=1e-5)
    assert layer.weight.quantised
    assert layer.bias is not None
    assert model.graph.inputs(layer.id)[0].source == "x"


def test_float_formats_decode(load):
    for dtype, width in (
        (TensorProto.BFLOAT16, 2),
        (TensorProto.FLOAT8E4M3FN, 1),
        (TensorProto.FLOAT8E5M2, 1),
        (TensorProto.DOUBLE, 8),
    ):
        w = TensorProto(name="w", data_type=dtype, dims=[4, 3], raw_data=bytes(12 * width))
        nodes = [node("Cast", ["w"], "v", to=1), node("MatMul", ["x", "v"], "y")]
        weight = only(load(built(nodes, {"w": w}, opset=21)), Op.LINEAR).weight
        assert weight.tensor.read().shape == (3, 4)
        assert not weight.quantised


def test_int4_table_behind_a_scale(load):
    w = TensorProto(name="w", data_type=TensorProto.INT4, dims=[4, 2], raw_data=b"\x21\x43\xf0\x87")
    nodes = [node("DequantizeLinear", ["w", "s"], "v"), node("MatMul", ["x", "v"], "y")]
    weight = only(load(built(nodes, {"w": w, "s": np.float32(2)}, opset=21)), Op.LINEAR).weight
    expected = np.array([[1, 2], [3, 4], [0, -1], [7, -8]], np.float32) * 2
    np.testing.assert_array_equal(weight.tensor.read(), expected.T)


@pytest.mark.parametrize("field", ["float_data", "int32_data"])
def test_typed_fields(load, field):
    values = normal(12)
    if field == "float_data":
        w = TensorProto(name="w", data_type=1, dims=[4, 3], float_data=values.tolist())
    else:
        half = values.astype(np.float16)
        values = half.astype(np.float32)
        w = TensorProto(
            name="w", data_type=10, dims=[4, 3], int32_data=half.view(np.uint16).tolist()
        )
    weight = only(load(built([node("MatMul", ["x", "w"], "y")], {"w": w})), Op.LINEAR).weight
    np.testing.assert_allclose(weight.tensor.read(), values.reshape(4, 3).T)


def test_sparse_initializer(load):
    proto = built([node("MatMul", ["x", "w"], "y")])
    entry = proto.graph.sparse_initializer.add()
    entry.dims.extend([4, 3])
    entry.values.CopyFrom(numpy_helper.from_array(np.array([1.5, -2], np.float32), "w"))
    entry.indices.CopyFrom(numpy_helper.from_array(np.array([[0, 1], [3, 2]]), "i"))
    expected = np.zeros((4, 3), np.float32)
    expected[0, 1], expected[3, 2] = 1.5, -2
    weight = only(load(proto), Op.LINEAR).weight
    np.testing.assert_array_equal(weight.tensor.read(), expected.T)


def test_constant_of_shape_as_weight(load):
    fill = numpy_helper.from_array(np.array([0.25], np.float32))
    model = load(
        built(
            [node("ConstantOfShape", ["s"], "w", value=fill), node("MatMul", ["x", "w"], "y")],
            {"s": np.array([4, 3])},
        )
    )
    assert (only(model, Op.LINEAR).weight.tensor.read() == 0.25).all()


@pytest.mark.parametrize("sizes", [(6, 6, 6), (8, 4, 4)])
def test_packed_projection_cut_by_split(load, sizes):
    width = sum(sizes)
    w, b = normal(4, width), normal(width)
    nodes = [
        node("MatMul", ["x", "w"], "h"),
        node("Add", ["h", "b"], "p"),
        node("Split", ["p", "sizes"], ["q", "k", "v"], axis=-1),
        node("Transpose", ["k"], "kt", perm=[0, 2, 1]),
        node("Expand", ["kt", "wide"], "ke"),
        node("MatMul", ["q", "ke"], "logits"),
        node("Softmax", ["logits"], "a", axis=-1),
        node("MatMul", ["a", "v"], "y"),
    ]
    weights = {"w": w, "b": b, "sizes": np.array(sizes), "wide": np.array([1, sizes[0], 1])}
    layer = only(load(built(nodes, weights, x=(2, 5, 4))), Op.LINEAR)
    blocks = layer.with_role(Role.WEIGHT)
    assert [(p.gate, p.packed, p.shape) for p in blocks] == [
        (gate, 3, (size, 4)) for gate, size in zip(("query", "key", "value"), sizes, strict=True)
    ]
    np.testing.assert_array_equal(np.concatenate([p.tensor.read() for p in blocks]), w.T)
    np.testing.assert_array_equal(
        np.concatenate([p.tensor.read() for p in layer.with_role(Role.BIAS)]), b
    )


def packed_by_axis(shape, perm, axis):
    """A projection to 3·2·4 whose parts are taken along one axis after a reshape."""
    nodes = [
        node("MatMul", ["x", "w"], "h"),
        node("Reshape", ["h", "shape"], "r"),
        node("Transpose", ["r"], "t", perm=perm),
    ]
    for index, part in enumerate("qkv"):
        nodes.append(node("Gather", ["t", f"i{index}"], part, axis=axis))
    nodes += [
        node("Transpose", ["k"], "kt", perm=[0, 1, 3, 2]),
        node("MatMul", ["q", "kt"], "logits"),
        node("Softmax", ["logits"], "a", axis=-1),
        node("MatMul", ["a", "v"], "y"),
    ]
    constants = {f"i{index}": np.array(index) for index in range(3)}
    return nodes, {"shape": np.array(shape), **constants}


def test_packed_projection_with_the_parts_outermost(load):
    nodes, constants = packed_by_axis((0, 0, 3, 2, 4), [2, 0, 3, 1, 4], 0)
    w = normal(5, 24)
    layer = only(load(built(nodes, {"w": w, **constants}, x=("N", "T", 5))), Op.LINEAR)
    parts = {p.gate: p.tensor.read() for p in layer.with_role(Role.WEIGHT)}
    np.testing.assert_array_equal(parts["key"], w.T[8:16])


def test_packed_projection_with_the_heads_outermost(load):
    nodes, constants = packed_by_axis((0, 0, 2, 3, 4), [3, 0, 2, 1, 4], 0)
    w = normal(5, 24)
    layer = only(load(built(nodes, {"w": w, **constants}, x=("N", "T", 5))), Op.LINEAR)
    parts = {p.gate: p.tensor.read() for p in layer.with_role(Role.WEIGHT)}
    expected = w.T.reshape(2, 3, 4, 5)[:, 1].reshape(8, 5)
    np.testing.assert_array_equal(parts["key"], expected)


def test_gates_of_an_unrolled_cell_are_not_a_packed_projection(load):
    nodes = [
        node("MatMul", ["x", "w"], "h"),
        node("Split", ["h"], ["r", "z", "n"], axis=-1),
        node("Sigmoid", ["r"], "rs"),
        node("Sigmoid", ["z"], "zs"),
        node("Tanh", ["n"], "ns"),
        node("Mul", ["rs", "zs"], "rz"),
        node("Mul", ["rz", "ns"], "y"),
    ]
    layer = only(load(built(nodes, {"w": normal(4, 12)}, x=(2, 4))), Op.LINEAR)
    assert layer.weight.packed == 1


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_recurrent_gates_and_directions(load, kind, direction):
    gates = {
        "LSTM": ["input", "output", "forget", "cell"],
        "GRU": ["update", "reset", "new"],
        "RNN": [None],
    }[kind]
    count, hidden, width = (2 if direction == "bidirectional" else 1), 3, 5
    rows = len(gates) * hidden
    w, r = normal(count, rows, width), normal(count, rows, hidden)
    b, p = normal(count, 2 * rows), normal(count, 9)
    inputs = ["x", "w", "r", "b"] + (["", "", "", "p"] if kind == "LSTM" else [])
    model = load(
        built(
            [node(kind, inputs, "y", "cell", hidden_size=hidden, direction=direction)],
            {"w": w, "r": r, "b": b, "p": p},
            x=(7, 2, width),
        )
    )
    layer = only(model, Op(kind.lower()))
    first = 1 if direction == "reverse" else 0
    for param in layer.params:
        at = param.direction - first
        value = param.tensor.read()
        if param.role is Role.PEEPHOLE:
            start = ["input", "output", "forget"].index(param.gate) * hidden
            np.testing.assert_array_equal(value, p[at, start : start + hidden])
            continue
        start = gates.index(param.gate) * hidden
        expected = {
            Role.WEIGHT: w[at, start : start + hidden],
            Role.RECURRENT_WEIGHT: r[at, start : start + hidden],
            Role.BIAS: b[at, start : start + hidden],
            Role.RECURRENT_BIAS: b[at, rows + start : rows + start + hidden],
        }[param.role]
        np.testing.assert_array_equal(value, expected)
    assert len({param.key for param in layer.params}) == len(layer.params)
    assert layer.output_shape == (7, count, 2, hidden)


@pytest.mark.parametrize(
    ("kind", "attributes", "wanted"),
    [
        ("RNN", {}, {"nonlinearity": "tanh"}),
        ("RNN", {"activations": ["Relu"]}, {"nonlinearity": "relu"}),
        ("GRU", {}, {"reset_after": False}),
        ("GRU", {"linear_before_reset": 1}, {"reset_after": True}),
        ("GRU", {"activations": ["Sigmoid", "Tanh"]}, {"custom_activations": None}),
        ("LSTM", {"activations": ["Sigmoid", "Tanh", "Tanh"]}, {"custom_activations": None}),
        ("LSTM", {"activations": ["Sigmoid", "Relu", "Tanh"]}, {"custom_activations": True}),
    ],
)
def test_what_a_recurrent_cell_computes_is_told_as_by_every_loader(load, kind, attributes, wanted):
    gates, hidden, width = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind], 3, 5
    weights = {"w": normal(1, gates * hidden, width), "r": normal(1, gates * hidden, hidden)}
    cell = node(kind, ["x", "w", "r"], "y", "cell", hidden_size=hidden, **attributes)
    layer = only(load(built([cell], weights, x=(7, 2, width))), Op(kind.lower()))
    assert {key: layer.attrs.get(key) for key in wanted} == wanted


def test_both_branches_of_if_are_walked(load):
    def branch(name):
        return helper.make_graph(
            [
                node("Constant", [], f"w_{name}", value=numpy_helper.from_array(normal(4, 3))),
                node("MatMul", ["x", f"w_{name}"], f"y_{name}", f"fc_{name}"),
            ],
            name,
            [],
            [helper.make_tensor_value_info(f"y_{name}", TensorProto.FLOAT, None)],
        )

    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    model = load(
        built(
            [node("If", ["c"], "y", "if", then_branch=branch("a"), else_branch=branch("b"))],
            inputs=[condition],
        )
    )
    found = layers(model, Op.LINEAR)
    assert len(found) == 2
    assert all(model.runnable.layer_outputs[layer.id] is None for layer in found)
    assert all(model.graph.inputs(layer.id)[0].source == "x" for layer in found)
    choice = only(model, Op.WHERE)
    assert model.runnable.layer_outputs[choice.id] == "y"


def test_loop_body_reads_weights_from_outside(load):
    body = helper.make_graph(
        [
            node("MatMul", ["h", "w"], "z", "step"),
            node("Tanh", ["z"], "h2"),
            node("Identity", ["c"], "c2"),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("c2", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h2", TensorProto.FLOAT, None),
        ],
    )
    model = load(
        built(
            [node("Loop", ["n", "", "x"], "y", "loop", body=body)],
            {"w": normal(4, 4), "n": np.array(3)},
        )
    )
    layer = only(model, Op.LINEAR)
    assert model.graph.inputs(layer.id)[0].source == "x"
    assert only(model, Op.TANH).id in {edge.source for edge in model.graph.inputs("output:y")}


def test_function_is_walked_with_its_arguments_and_attributes(load):
    leaky = helper.make_node("LeakyRelu", ["h"], ["o"])
    leaky.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    body = helper.make_function(
        "com.microsoft",
        "Dense",
        ["a", "weight"],
        ["o"],
        [node("MatMul", ["a", "weight"], "h", "mm"), leaky],
        [helper.make_opsetid("", 17)],
        ["slope"],
    )
    nodes = [
        node("Dense", ["x", "w1"], "h", "one", "com.microsoft", slope=0.3),
        node("Dense", ["h", "w2"], "y", "two", "com.microsoft", slope=0.1),
    ]
    model = load(built(nodes, {"w1": normal(4, 5), "w2": normal(5, 3)}, functions=[body]))
    assert [layer.weight.shape for layer in layers(model, Op.LINEAR)] == [(5, 4), (3, 5)]
    slopes = [layer.attrs["negative_slope"] for layer in layers(model, Op.LEAKY_RELU)]
    assert slopes == pytest.approx([0.3, 0.1])


def test_unsorted_nodes_and_duplicate_opset_imports(load):
    proto = built(
        [node("Relu", ["h"], "y", "act"), node("MatMul", ["x", "w"], "h", "fc")],
        {"w": normal(4, 3)},
    )
    proto.opset_import.add(domain="", version=17)
    model = load(proto)
    assert [layer.id for layer in model.graph.order] == ["x", "fc", "act", "output:y"]


def test_initializers_listed_as_inputs(load):
    proto = built([node("MatMul", ["x", "w"], "y")], {"w": normal(4, 3)})
    proto.graph.input.add().CopyFrom(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3]))
    proto.ir_version = 3
    model = load(proto)
    assert [entry.name for entry in model.runnable.inputs] == ["x"]
    assert len(layers(model, Op.INPUT)) == 1


def test_unknown_operator_is_other(load):
    model = load(built([node("Wobble", ["x"], "y", "w", "my.domain")]))
    assert only(model, Op.OTHER).attrs["operator"] == "my.domain.Wobble"


def test_empty_graph(load):
    model = load(built([], outputs=()))
    assert [layer.op for layer in model.graph] == [Op.INPUT]


def test_strings_and_zero_sides(load):
    names = helper.make_tensor("names", TensorProto.STRING, [2], [b"a", b"b"])
    nodes = [
        node("Gather", ["names", "i"], "s"),
        node("MatMul", ["x", "w"], "y"),
    ]
    model = load(built(nodes, {"names": names, "i": np.array([0]), "w": normal(4, 0)}))
    assert only(model, Op.LINEAR).weight.shape == (0, 4)


def test_tied_table_and_head(load):
    table = normal(40, 8)
    nodes = [
        node("Gather", ["wte", "x"], "e", "wte"),
        node("Transpose", ["wte"], "h", perm=[1, 0]),
        node("MatMul", ["e", "h"], "y", "head"),
    ]
    model = load(built(nodes, {"wte": table}, dtype=TensorProto.INT64))
    assert only(model, Op.EMBEDDING).weight.tied_to is None
    assert only(model, Op.LINEAR).weight.tied_to == only(model, Op.EMBEDDING).weight.key


def test_head_stored_as_a_second_copy_of_the_table(load):
    table = normal(40, 8)
    nodes = [node("Gather", ["wte", "x"], "e"), node("MatMul", ["e", "head"], "y")]
    model = load(built(nodes, {"wte": table, "head": table.T.copy()}, dtype=TensorProto.INT64))
    assert only(model, Op.LINEAR).weight.tied_to == "wte"


def test_merged_constants_are_not_tied(load):
    nodes = [
        node("Gemm", ["x", "w1", "zero"], "h"),
        node("Gemm", ["h", "w2", "zero"], "y"),
    ]
    model = load(
        built(nodes, {"w1": normal(4, 4), "w2": normal(4, 4), "zero": np.zeros(4, np.float32)})
    )
    assert all(param.tied_to is None for _, param in model.graph.params)


def test_weight_of_unrolled_steps_is_one_parameter(load):
    nodes = [node("MatMul", ["x", "w"], "h1"), node("Tanh", ["h1"], "t1")]
    nodes += [node("MatMul", ["t1", "w"], "h2"), node("Tanh", ["h2"], "y")]
    model = load(built(nodes, {"w": normal(4, 4)}))
    first, second = (layer.weight for layer in layers(model, Op.LINEAR))
    assert (first.tied_to, second.tied_to) == (None, first.key)
    assert first.name == second.name


def test_scalar_parameter_against_scalar_number(load):
    nodes = [
        node("MatMul", ["x", "w"], "h"),
        node("Mul", ["h", "alpha"], "a", "gate"),
        node("Mul", ["a", "half"], "m", "fixed"),
        node("Add", ["x", "m"], "y"),
    ]
    weights = {"w": normal(4, 4), "alpha": np.float32(0), "half": np.float32(0.5)}
    model = load(built(nodes, {k: np.asarray(v) for k, v in weights.items()}))
    gain = model.graph["gate"].with_role(Role.GAIN)
    assert [param.shape for param in gain] == [(1,)]
    assert model.graph["fixed"].attrs["constant"] == 0.5
    assert not model.graph["fixed"].params


def test_constant_operand_of_an_ordered_operator(load):
    nodes = [node("Sub", ["one", "x"], "h", "left"), node("Sub", ["h", "one"], "y", "right")]
    model = load(built(nodes, {"one": np.asarray(np.float32(1))}))
    assert model.graph["left"].attrs == {"constant": 1.0, "constant_first": True}
    assert model.graph["right"].attrs == {"constant": 1.0}


def test_skip_layer_normalisation_is_an_addition_and_a_norm(load):
    nodes = [
        node("MatMul", ["x", "w"], "h"),
        node(
            "SkipLayerNormalization",
            ["h", "x", "g", "b", "c"],
            ["y", "", "", "s"],
            "skip",
            "com.microsoft",
        ),
    ]
    model = load(
        built(
            nodes,
            {"w": normal(4, 4), "g": normal(4), "b": normal(4), "c": normal(4)},
            outputs=("y", "s"),
        )
    )
    norm, add = only(model, Op.LAYER_NORM), only(model, Op.ADD)
    assert [param.role for param in norm.params] == [Role.GAIN, Role.SHIFT]
    assert model.graph.producers(norm.id) == (add,)
    assert only(model, Op.LINEAR).bias is not None
    assert model.runnable.layer_outputs[norm.id] == "y"
    assert model.runnable.layer_outputs[add.id] == "s"


def test_microsoft_attention_is_a_packed_projection_and_attention(load):
    w, b = normal(4, 12), normal(12)
    nodes = [node("Attention", ["x", "w", "b"], "y", "att", "com.microsoft", num_heads=2)]
    model = load(built(nodes, {"w": w, "b": b}, x=("N", "T", 4)))
    projection, attention = only(model, Op.LINEAR), only(model, Op.ATTENTION)
    assert [param.gate for param in projection.with_role(Role.WEIGHT)] == ["query", "key", "value"]
    np.testing.assert_array_equal(projection.params[2].tensor.read(), w.T[8:])
    assert [edge.output for edge in model.graph.inputs(attention.id)] == [0, 1, 2]
    assert attention.attrs["heads"] == 2


@pytest.mark.parametrize(
    ("op", "inputs", "attrs", "ops"),
    [
        ("FusedMatMul", ["x", "wt"], {"transB": 1, "alpha": 0.5}, [Op.LINEAR]),
        ("FusedGemm", ["x", "w", "b"], {"activation": "Relu"}, [Op.LINEAR, Op.RELU]),
        ("BiasGelu", ["x", "c"], {}, [Op.ADD, Op.GELU]),
        ("FastGelu", ["x"], {}, [Op.GELU]),
        ("QuickGelu", ["x"], {"alpha": 1.702}, [Op.QUICK_GELU]),
        ("SimplifiedLayerNormalization", ["x", "c"], {}, [Op.RMS_NORM]),
        ("RotaryEmbedding", ["x"], {}, [Op.IDENTITY]),
    ],
)
def test_microsoft_operators(load, op, inputs, attrs, ops):
    weights = {"w": normal(4, 3), "wt": normal(3, 4), "b": normal(3), "c": normal(4)}
    weights = {name: value for name, value in weights.items() if name in inputs}
    model = load(built([node(op, inputs, "y", "n", "com.microsoft", **attrs)], weights))
    assert [layer.op for layer in model.graph][1:-1] == ops
    last = list(model.graph)[-2]
    assert model.runnable.layer_outputs[last.id] == "y"


def test_einsum_with_a_weight(load):
    w = normal(4, 2, 3)
    model = load(
        built([node("Einsum", ["x", "w"], "y", equation="btd,dhk->bthk")], {"w": w}, x=(1, 5, 4))
    )
    layer = only(model, Op.LINEAR)
    np.testing.assert_array_equal(layer.weight.tensor.read(), w.reshape(4, 6).T)


@pytest.mark.parametrize(
    ("equation", "shape", "weight"),
    [("bi,eio,be->bo", (4, 3, 5), (5, 3, 4)), ("bi,oei,be->bo", (5, 4, 3), (5, 3, 4))],
)
def test_a_weight_between_two_inputs_has_its_sides_in_their_order(load, equation, shape, weight):
    nodes = [node("Einsum", ["x", "w", "g"], "y", equation=equation)]
    gates = helper.make_tensor_value_info("g", TensorProto.FLOAT, [2, 4])
    model = load(built(nodes, {"w": normal(*shape)}, x=(2, 3), inputs=(gates,)))
    assert only(model, Op.BILINEAR).weight.shape == weight


def test_einsum_of_three_is_a_product_and_a_linear_layer(load):
    nodes = [node("Einsum", ["x", "v", "w"], "y", equation="bhij,bhje,hed->bid")]
    values = helper.make_tensor_value_info("v", TensorProto.FLOAT, [1, 2, 5, 3])
    model = load(built(nodes, {"w": normal(2, 3, 4)}, x=(1, 2, 5, 5), inputs=(values,)))
    assert [layer.op for layer in model.graph.order][2:4] == [Op.MATMUL, Op.LINEAR]
    assert only(model, Op.LINEAR).weight.shape == (4, 6)


def test_a_gain_with_zeros_and_huge_values_is_no_mask(load):
    gain = np.array([0.0, -1e20, 1e30, 1.0], np.float32)
    model = load(built([node("Mul", ["x", "gain"], "y")], {"gain": gain}, x=(1, 4)))
    assert [p.role for p in only(model, Op.MUL).params] == [Role.GAIN]


def test_stacked_experts_are_separate_matrices(load):
    w = normal(3, 4, 5)
    model = load(built([node("MatMul", ["x", "w"], "y")], {"w": w}, x=(3, 2, 4)))
    weights = only(model, Op.LINEAR).with_role(Role.WEIGHT)
    assert [param.shape for param in weights] == [(5, 4)] * 3
    np.testing.assert_array_equal(weights[1].tensor.read(), w[1].T)


def test_linear_classifier(load):
    model = load(
        built(
            [
                node(
                    "LinearClassifier",
                    ["x"],
                    ["label", "y"],
                    "lr",
                    "ai.onnx.ml",
                    coefficients=list(range(12)),
                    intercepts=[1.0, 2.0, 3.0],
                    classlabels_ints=[0, 1, 2],
                    post_transform="SOFTMAX",
                )
            ],
            outputs=("label", "y"),
        )
    )
    layer = only(model, Op.LINEAR)
    assert layer.weight.shape == (3, 4)
    assert only(model, Op.SOFTMAX)


def test_positions_are_a_table_and_masks_are_not(load):
    mask = np.triu(np.full((5, 5), -np.inf, np.float32), 1)
    nodes = [
        node("Add", ["x", "pos"], "h", "positions"),
        node("MatMul", ["h", "h2"], "s"),
        node("Add", ["s", "mask"], "m", "masking"),
        node("Softmax", ["m"], "y", axis=-1),
    ]
    nodes.insert(1, node("Transpose", ["h"], "h2", perm=[0, 2, 1]))
    model = load(built(nodes, {"pos": normal(1, 5, 4), "mask": mask}, x=(1, 5, 4)))
    assert [p.role for p in model.graph["positions"].params] == [Role.TABLE]
    assert not any(p.stored_name == "mask" for _, p in model.graph.params)


def test_shape_arithmetic_gives_known_ranks(load):
    nodes = [
        node("Shape", ["x"], "s"),
        node("Gather", ["s", "zero"], "n"),
        node("Unsqueeze", ["n", "axis"], "n1"),
        node("Concat", ["n1", "rest"], "target", axis=0),
        node("Reshape", ["x", "target"], "y", "view"),
    ]
    weights = {"zero": np.array(0), "axis": np.array([0]), "rest": np.array([2, 2])}
    model = load(built(nodes, weights))
    assert model.graph["view"].output_shape == (None, 2, 2)
    assert [layer.op for layer in model.graph] == [Op.INPUT, Op.RESHAPE, Op.OUTPUT]


def test_a_node_that_does_not_fit_is_a_notice_not_a_crash(load):
    nodes = [node("Einsum", ["x", "w"], "h", equation="bd,dk->bk"), node("Conv", ["h", "v"], "y")]
    model = load(built(nodes, {"w": normal(4), "v": np.float32(1).reshape(())}))
    assert len(model.graph) == 4


def test_graph_that_asks_for_too_much_constant_memory_stays_small(load):
    nodes = [node("ConstantOfShape", ["s"], "w"), node("MatMul", ["x", "w"], "y")]
    model = load(built(nodes, {"s": np.array([1 << 40, 4])}))
    assert not list(model.graph.params)


def test_metadata_of_training_is_ignored(load):
    proto = built([node("MatMul", ["x", "w"], "y")], {"w": normal(4, 3)})
    info = proto.training_info.add()
    info.algorithm.node.add(op_type="Explode")
    assert len(load(proto).graph.weighted) == 1


def test_a_learned_scale_survives_its_limits(load):
    scale = np.abs(normal(3, 1))
    nodes = [
        node("CastLike", ["limit", "s"], "top"),
        node("Clip", ["s", "", "top"], "c"),
        node("Exp", ["c"], "e"),
        node("Mul", ["x", "e"], "y"),
    ]
    model = load(built(nodes, {"s": scale, "limit": np.float64(4.5)}))
    (gain,) = only(model, Op.MUL).params
    assert (gain.stored_name, gain.role) == ("s", Role.GAIN)
    np.testing.assert_allclose(gain.tensor.read().reshape(-1), np.exp(scale.reshape(-1)), rtol=1e-6)


def test_softmax_of_learned_shares_is_computed(load):
    nodes = [node("Softmax", ["s"], "p", axis=0), node("Mul", ["x", "p"], "y")]
    model = load(built(nodes, {"s": normal(4)}))
    (shares,) = only(model, Op.MUL).params
    assert shares.tensor.read().sum() == pytest.approx(1.0)


def test_a_bound_made_like_its_signal_is_known(load):
    nodes = [node("CastLike", ["eps", "x"], "low"), node("Clip", ["x", "low"], "y")]
    clip = only(load(built(nodes, {"eps": np.float64(1e-6)})), Op.CLIP)
    assert clip.attrs["min"] == pytest.approx(1e-6)


def test_a_learned_input_of_a_layer_is_what_enters(load):
    nodes = [node("Gemm", ["z", "w"], "h"), node("Add", ["x", "h"], "y")]
    model = load(built(nodes, {"z": normal(2, 4), "w": normal(4, 4)}))
    layer = only(model, Op.LINEAR)
    assert layer.weight.stored_name == "w"
    assert [param.stored_name for param in model.graph.producers(layer.id)[0].params] == ["z"]


def test_one_zero_expanded_is_no_bias(load):
    nodes = [
        node("Expand", ["zero", "shape"], "b"),
        node("Conv", ["x", "w", "b"], "y"),
    ]
    tensors = {"w": normal(4, 3, 1, 1), "zero": np.float32(0), "shape": np.array([4])}
    layer = only(load(built(nodes, tensors)), Op.CONV)
    assert layer.bias is None


def test_many_nodes_in_linear_time(load):
    count = 3000
    nodes = [node("Relu", ["x" if i == 0 else f"v{i}"], f"v{i + 1}") for i in range(count)]
    nodes.append(node("Identity", [f"v{count}"], "y"))
    assert len(layers(load(built(nodes[::-1])), Op.RELU)) == count


def test_error_names_the_file(tmp_path):
    path = tmp_path / "bad.onnx"
    path.write_bytes(built([node("Relu", ["q"], "y", "r")]).SerializeToString())
    with pytest.raises(LoadError, match=r"bad\.onnx: node 'r' reads 'q'"):
        load_onnx(str(path))
