"""Layers inferred from names and shapes."""

import collections
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initlint.load.inferred import infer_layers
from initlint.load.naming import in_reading_order, shared_prefix, split_name, words
from initlint.load.stored import Contents, Stored
from initlint.model import LayerGraph, Op, Role, Tensor, from_array


def stored(value, dtype="float32", name=""):
    array = np.zeros(value, np.float32) if isinstance(value, tuple) else np.asarray(value)
    return Stored(from_array(name, array, dtype))


def infer(shapes, heads=None, ordered=True):
    tensors = {
        name: value if isinstance(value, Stored) else stored(value, name=name)
        for name, value in shapes.items()
    }
    return infer_layers(Contents(tensors, ordered=ordered), heads)


def layers(shapes, **options):
    return {layer.id: layer for layer in infer(shapes, **options).layers}


def roles(layer):
    return {param.name.rpartition(".")[2]: param.role for param in layer.params}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.b.weight", ("a.b", "weight")),
        ("weight", ("", "weight")),
        ("a.dw_weight", ("a.dw", "weight")),
        ("a.in_proj_weight", ("a", "in_proj_weight")),
        ("a.weight_ih_l0", ("a", "weight_ih_l0")),
        ("a.parametrizations.weight.original0", ("a", "weight_g")),
        ("a.parametrizations.weight.original1", ("a", "weight_v")),
        ("parametrizations.weight.original", ("", "weight")),
        ("a.weight.absmax", ("a", "weight.absmax")),
    ],
)
def test_names_split_into_module_and_member(name, expected):
    assert split_name(name) == expected


def test_words():
    assert {"layer", "norm", "layernorm", "2"} <= words("LayerNorm_2")
    assert {"tok", "embeddings"} <= words("tok_embeddings")


def test_reading_order_is_natural_with_tables_first_and_heads_last():
    names = ["lm_head.w", "h.10.w", "h.2.w", "wte.w", "norm.w"]
    assert in_reading_order(names) == ["wte.w", "h.2.w", "h.10.w", "norm.w", "lm_head.w"]


def test_wrapper_prefixes():
    assert shared_prefix(["module._orig_mod.a", "module._orig_mod.b"]) == "module._orig_mod."
    assert shared_prefix(["module.a", "b"]) == ""
    assert shared_prefix([]) == ""


@pytest.mark.parametrize(
    ("shapes", "op"),
    [
        ({"x.weight": (3, 2), "x.bias": (3,)}, Op.LINEAR),
        ({"fc.weight": (3, 2)}, Op.LINEAR),
        ({"embed_tokens.weight": (30, 2)}, Op.EMBEDDING),
        ({"wte.weight": (30, 2)}, Op.EMBEDDING),
        ({"embed_out.weight": (30, 2)}, Op.LINEAR),
        ({"patch_embed.weight": (3, 2), "patch_embed.bias": (3,)}, Op.LINEAR),
        ({"x.weight": (4, 3, 5)}, Op.CONV),
        ({"x.weight": (4, 3, 5, 5), "x.bias": (4,)}, Op.CONV),
        ({"x.weight": (4, 3, 5, 5), "x.bias": (3,)}, Op.CONV_TRANSPOSE),
        ({"x.weight": (4, 3, 5, 5, 5), "x.bias": (4,)}, Op.CONV),
        ({"bilinear.weight": (4, 3, 5)}, Op.BILINEAR),
        ({"ln.weight": (4,), "ln.bias": (4,)}, Op.LAYER_NORM),
        ({"input_layernorm.weight": (4,)}, Op.RMS_NORM),
        ({"LayerNorm.gamma": (4,), "LayerNorm.beta": (4,)}, Op.LAYER_NORM),
        ({"group_norm.weight": (4,), "group_norm.bias": (4,)}, Op.GROUP_NORM),
        ({"x.weight": (4,), "x.running_mean": (4,), "x.running_var": (4,)}, Op.BATCH_NORM),
        ({"prelu.weight": (4,)}, Op.PRELU),
        ({"x.weight": (1,)}, Op.PRELU),
        ({"ls1.gamma": (4,)}, Op.MUL),
        ({"x.bias": (4,)}, Op.ADD),
        ({"x.strange": (4, 4)}, Op.OTHER),
        ({"x.weight": (2, 2, 2, 2, 2, 2)}, Op.OTHER),
        ({"x.weight": ()}, Op.OTHER),
    ],
)
def test_operators_by_shape_and_name(shapes, op):
    found = infer(shapes).layers
    assert [layer.op for layer in found] == [op]


def test_a_transposed_convolution_is_turned_and_told_by_the_norm_after_it():
    found = layers(
        {
            "main.0.weight": (100, 512, 4, 4),
            "main.1.weight": (512,), "main.1.bias": (512,),
            "main.1.running_mean": (512,), "main.1.running_var": (512,),
            "main.3.weight": (512, 3, 4, 4),
        }
    )  # fmt: skip
    assert found["main.0"].op is Op.CONV_TRANSPOSE
    assert found["main.0"].weight.shape == (512, 100, 4, 4)
    assert found["main.1"].params[0].module == "torch.nn.BatchNorm2d"
    assert roles(found["main.1"]) == {
        "weight": Role.GAIN, "bias": Role.SHIFT,
        "running_mean": Role.RUNNING_MEAN, "running_var": Role.RUNNING_VAR,
    }  # fmt: skip


def test_depthwise_convolutions_have_groups_and_first_layers_do_not():
    found = layers({"a.weight": (8, 1, 3, 3), "b.weight": (8, 1, 3, 3)})
    assert "groups" not in found["a"].attrs
    assert found["b"].attrs["groups"] == 8


@pytest.mark.parametrize(
    ("rows", "op", "gates"),
    [
        (20, Op.LSTM, ["input", "forget", "cell", "output"]),
        (15, Op.GRU, ["reset", "update", "new"]),
        (5, Op.RNN, [None]),
    ],
)
def test_recurrent_layers_are_split_by_gate(rows, op, gates):
    whole = np.arange(rows * 5, dtype=np.float32).reshape(rows, 5)
    shapes = {
        "rnn.weight_ih_l0": (rows, 3), "rnn.weight_hh_l0": stored(whole),
        "rnn.bias_ih_l0": (rows,), "rnn.bias_hh_l0": (rows,),
        "rnn.weight_ih_l0_reverse": (rows, 3), "rnn.weight_hh_l0_reverse": (rows, 5),
        "rnn.weight_ih_l1": (rows, 10), "rnn.weight_hh_l1": (rows, 5),
    }  # fmt: skip
    layer = layers(shapes)["rnn"]
    assert layer.op is op
    assert layer.attrs == {"hidden_size": 5, "num_layers": 2}
    hidden = [
        param
        for param in layer.params
        if param.name == "rnn.weight_hh_l0" and param.role is Role.RECURRENT_WEIGHT
    ]
    assert [param.gate for param in hidden] == gates
    assert all(param.shape == (5, 5) and param.packed == len(gates) for param in hidden)
    np.testing.assert_array_equal(np.concatenate([p.tensor.read() for p in hidden]), whole)
    assert {param.direction for param in layer.params} == {0, 1}
    keys = [param.key for param in layer.params]
    assert len(keys) == len(set(keys))


def test_recurrent_weights_of_no_known_ratio_are_not_guessed():
    found = infer({"x.weight_ih_l0": (10, 3), "x.weight_hh_l0": (10, 5)}).layers
    assert all(layer.op is Op.OTHER for layer in found)


def test_a_projected_lstm():
    shapes = {
        "x.weight_ih_l0": (20, 3), "x.weight_hh_l0": (20, 2), "x.weight_hr_l0": (2, 5),
    }  # fmt: skip
    layer = layers(shapes)["x"]
    assert layer.op is Op.LSTM
    assert {param.role: param.shape for param in layer.params} == {
        Role.WEIGHT: (5, 3), Role.RECURRENT_WEIGHT: (5, 2), Role.PROJECTION: (2, 5),
    }  # fmt: skip


def packed(rows, columns):
    return stored(np.arange(rows * columns, dtype=np.float32).reshape(rows, columns))


@pytest.mark.parametrize("name", ["attn.qkv", "attn.to_qkv", "attn.c_attn", "attn.Wqkv"])
def test_packed_attention_is_split(name):
    layer = layers({f"{name}.weight": packed(12, 4), f"{name}.bias": (12,)})[name]
    weights = layer.with_role(Role.WEIGHT)
    assert [param.gate for param in weights] == ["query", "key", "value"]
    assert all(param.shape == (4, 4) and param.packed == 3 for param in weights)
    assert weights[1].tensor.read()[0, 0] == 16


def test_grouped_queries_are_not_split_into_thirds():
    layer = layers({"attn.qkv_proj.weight": (24, 16)})["attn.qkv_proj"]
    assert [param.gate for param in layer.params] == [None]


def test_packed_by_head_needs_the_head_count():
    shapes = {"a.query_key_value.weight": (12, 4), "a.query_key_value.bias": (12,)}
    assert len(layers(shapes)["a.query_key_value"].params) == 2
    assert len(layers(shapes, heads=2)["a.query_key_value"].params) == 6


def test_multihead_attention_of_torch():
    found = layers(
        {"attn.in_proj_weight": (12, 4), "attn.in_proj_bias": (12,), "attn.out_proj.weight": (4, 4)}
    )
    assert [param.gate for param in found["attn"].with_role(Role.WEIGHT)] == [
        "query", "key", "value",
    ]  # fmt: skip
    assert found["attn.out_proj"].op is Op.LINEAR


def test_conv1d_of_gpt2_is_turned_and_the_same_names_of_nanogpt_are_not():
    gpt2 = {
        "h.0.attn.c_attn.weight": (4, 12), "h.0.attn.c_attn.bias": (12,),
        "h.0.attn.c_proj.weight": stored(np.arange(16, dtype=np.float32).reshape(4, 4)),
        "h.0.mlp.c_fc.weight": (4, 16), "h.0.mlp.c_fc.bias": (16,),
        "h.0.mlp.c_proj.weight": (16, 4),
    }  # fmt: skip
    found = layers(gpt2)
    assert [param.shape for param in found["h.0.attn.c_attn"].with_role(Role.WEIGHT)] == [
        (4, 4)
    ] * 3
    assert found["h.0.attn.c_proj"].weight.tensor.read()[0].tolist() == [0, 4, 8, 12]
    assert found["h.0.mlp.c_fc"].weight.shape == (16, 4)
    assert found["h.0.mlp.c_proj"].weight.shape == (4, 16)
    nano = {"h.0.attn.c_attn.weight": (12, 4), "h.0.attn.c_proj.weight": (4, 4),
            "h.0.mlp.c_fc.weight": (16, 4), "h.0.mlp.c_proj.weight": (4, 16)}  # fmt: skip
    found = layers(nano)
    assert found["h.0.mlp.c_fc"].weight.shape == (16, 4)
    assert found["h.0.attn.c_attn"].weight.shape == (4, 4)


def test_kernels_of_flax_are_turned():
    found = layers({"d.kernel": (2, 3), "d.bias": (3,), "c.kernel": (5, 5, 2, 3)})
    assert found["d"].weight.shape == (3, 2)
    assert found["c"].weight.shape == (3, 2, 5, 5)


@pytest.mark.parametrize("turned", [False, True])
def test_experts_become_one_layer_each(turned):
    up, down = (12, 4), (4, 6)
    shapes = {
        "moe.experts.gate_up_proj": (3, *(up[::-1] if turned else up)),
        "moe.experts.down_proj": (3, *(down[::-1] if turned else down)),
    }
    found = infer(shapes).layers
    assert [layer.weight.shape for layer in found] == [up] * 3 + [down] * 3
    assert all(layer.op is Op.LINEAR for layer in found)


def test_weight_norm_reads_as_the_effective_weight():
    direction = np.array([[3.0, 4.0], [0.0, 2.0]], np.float32)
    stored_as = "parametrizations.weight.original"
    for names in (("weight_g", "weight_v"), (f"{stored_as}0", f"{stored_as}1")):
        shapes = {
            f"x.{names[0]}": stored(np.array([[10.0], [1.0]], np.float32)),
            f"x.{names[1]}": stored(direction),
        }
        weight = layers(shapes)["x"].weight
        assert weight.name == "x.weight"
        np.testing.assert_allclose(weight.tensor.read(), [[6, 8], [0, 1]])
        pieces = np.concatenate(list(weight.tensor.chunks(3)))
        np.testing.assert_allclose(pieces, [6, 8, 0, 1])


def test_weight_norm_over_another_axis():
    direction = np.array([[[3.0, 0.0], [4.0, 2.0]]], np.float32)
    shapes = {
        "x.weight_g": stored(np.array([[[10.0, 1.0]]], np.float32)),
        "x.weight_v": stored(direction),
    }
    weight = layers(shapes)["x"].weight
    np.testing.assert_allclose(weight.tensor.read(), [[[6, 0], [8, 1]]])


def test_quantised_weights_are_marked_and_not_read_as_numbers():
    found = layers(
        {
            "q.qweight": stored((2, 8), "int32"), "q.scales": (1, 8), "q.bias": (8,),
            "b.weight": stored((8, 4), "int8"), "b.SCB": (8,),
            "n.weight": stored((16, 1), "uint8"), "n.weight.absmax": (1,),
            "f.weight": stored((4, 4), "float8_e4m3fn"), "f.weight_scale": (1,),
        }
    )  # fmt: skip
    for key in "qbnf":
        assert found[key].op is Op.LINEAR
        assert found[key].weight.quantised
        assert not found[key].weight.trainable
    assert found["q"].weight.tensor is None
    assert found["f"].weight.tensor is not None
    assert found["q"].bias.shape == (8,)


def test_low_rank_pairs_are_marked_and_their_base_is_frozen():
    found = layers(
        {
            "q.weight": (8, 8),
            "q.lora_A.default.weight": (2, 8),
            "q.lora_B.default.weight": (8, 2),
        }
    )
    assert found["q.lora_A.default"].attrs == {"lora": "down", "base": "q"}
    assert found["q.lora_B.default"].attrs == {"lora": "up", "base": "q"}
    assert found["q.lora_A.default"].weight.trainable
    assert not found["q"].weight.trainable


def test_tied_tensors_name_the_first():
    shared = from_array("w", np.ones((4, 2), np.float32))
    tensors = {
        "wte.weight": Stored(shared, identity=("0", 0)),
        "lm_head.weight": Stored(shared, identity=("0", 0)),
    }
    found = {layer.id: layer for layer in infer_layers(Contents(tensors, ordered=True)).layers}
    assert found["wte"].weight.tied_to is None
    assert found["lm_head"].weight.tied_to == "wte.weight"


def test_fixed_tables_and_counters_are_no_weights():
    inferred = infer(
        {
            "bn.num_batches_tracked": stored(np.array(3), "int64"),
            "position_ids": stored((1, 8), "int64"),
            "rotary_emb.inv_freq": (8,),
            "h.0.attn.bias": (1, 1, 8, 8),
            "stft.weight": (258, 1, 256),
        }
    )
    assert [param.name for param in inferred.loose] == [
        "bn.num_batches_tracked", "position_ids", "rotary_emb.inv_freq", "h.0.attn.bias",
    ]  # fmt: skip
    assert not any(param.trainable for param in inferred.loose)
    assert [layer.id for layer in inferred.layers] == ["stft"]
    assert not inferred.layers[0].weight.trainable


def test_tables_used_directly():
    found = layers({"pos_embed": (1, 9, 4), "cls_token": (1, 1, 4), "bias_table": (4, 4)})
    assert found["pos_embed"].op is Op.ADD
    assert {layer.params[0].role for layer in found.values()} == {Role.TABLE}


def test_a_stated_gradient_freezes_the_rest():
    tensors = {
        "a.weight": Stored(from_array("a", np.ones((2, 2), np.float32)), requires_grad=True),
        "b.weight": Stored(from_array("b", np.ones((2, 2), np.float32)), requires_grad=False),
    }
    found = {layer.id: layer for layer in infer_layers(Contents(tensors, ordered=True)).layers}
    assert found["a"].weight.trainable
    assert not found["b"].weight.trainable


NAMES = st.lists(
    st.sampled_from(
        ["a", "0", "attn", "weight", "bias", "qkv", "lora_A", "experts", "gate_up_proj", "kernel",
         "running_mean", "weight_ih_l0", "weight_hh_l0", "weight_g", "weight_v", "in_proj_weight",
         "in_proj_bias", "weight_hr_l0", "gamma", "scale", "qweight", "embedding", "c_attn", "SCB",
         "parametrizations", "original0", "query_key_value", "bilinear", "", "weight_orig", "norm",
         "weight_scale", "running_var", "bias_ih_l0", "beta"]
    ),
    min_size=1,
    max_size=4,
).map(".".join)  # fmt: skip


@settings(deadline=None, max_examples=500)
@given(
    names=st.lists(NAMES, min_size=1, max_size=8, unique=True),
    data=st.data(),
)
def test_every_set_of_names_and_shapes_gives_a_graph(names, data):
    tensors = {}
    for name in names:
        shape = tuple(data.draw(st.lists(st.sampled_from([0, 1, 2, 3, 4, 6, 12]), max_size=6)))
        dtype = data.draw(st.sampled_from(["float32", "float32", "int8", "float8_e4m3fn"]))
        tensors[name] = stored(shape, dtype, name)
    inferred = infer_layers(Contents(tensors, ordered=data.draw(st.booleans())), heads=2)
    LayerGraph(inferred.layers, ())
    params = [*(p for layer in inferred.layers for p in layer.params), *inferred.loose]
    for param in params:
        if isinstance(param.tensor, Tensor):
            assert param.tensor.shape == param.shape
            assert param.tensor.read().shape == param.shape
    used = {param.stored_name for param in params}
    extra = re.compile(r".*(weight_[gv]|original[01])")
    assert all(name in used or extra.fullmatch(name) for name in tensors)
    assert not [key for key, n in collections.Counter(p.key for p in params).items() if n > 1]
