"""What the structure of hand-made and of real architectures is said to be."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from initlint.model import Op
from initlint.model.structure import (
    blocks,
    dominators,
    gates,
    glu_products,
    heads,
    main_depth,
    normaliser_between,
    post_dominators,
    residual_branches,
)
from initlint.testing import Network, he_normal, normal, ones


def dense(net, x, out, name, **fields):
    return net.linear(x, he_normal(net.rng, out, x.shape[-1]), name=name, **fields)


def mlp_block(net, x, name, *, norm="pre", gate=None):
    h = net.layer_norm(x, name=f"{name}.norm") if norm == "pre" else x
    h = net.relu(dense(net, h, 32, f"{name}.fc1"), name=f"{name}.act")
    h = dense(net, h, x.shape[-1], f"{name}.fc2")
    if norm == "end":
        h = net.layer_norm(h, name=f"{name}.norm")
    if gate == "scale":
        h = net.layer_scale(h, ones(x.shape[-1]), name=f"{name}.gamma")
    if gate == "constant":
        h = net.mul(h, 0.1, name=f"{name}.alpha")
    h = net.add(net.dropout(h), x, name=f"{name}.add")
    return net.layer_norm(h, name=f"{name}.norm") if norm == "post" else h


def stack(depth=3, **settings):
    net = Network()
    x = dense(net, net.input(16), 16, "stem")
    for index in range(depth):
        x = mlp_block(net, x, f"blocks.{index}", **settings)
    net.output(dense(net, x, 10, "head"))
    return net.graph


def test_pre_norm_blocks():
    first, second, _ = residual_branches(stack())
    assert (first.add, first.trunk) == ("blocks.0.add", "stem")
    assert second.trunk == "blocks.0.add"
    assert first.skip == ()
    assert first.layers == ("blocks.0.fc1", "blocks.0.fc2")
    assert (first.last, first.writers) == ("blocks.0.fc2", ("blocks.0.fc2",))
    assert (first.entry_norm, first.closing_norm, first.post_norm) == ("blocks.0.norm", None, None)
    assert first.normalised
    assert first.gate is None


def test_post_norm_and_closing_norm_and_no_norm():
    post = residual_branches(stack(norm="post"))
    assert [item.post_norm for item in post] == [f"blocks.{i}.norm" for i in range(3)]
    assert all(item.entry_norm is None and item.normalised for item in post)
    closing = residual_branches(stack(norm="end"))[0]
    assert (closing.closing_norm, closing.entry_norm) == ("blocks.0.norm", None)
    assert not residual_branches(stack(norm="none"))[0].normalised


@pytest.mark.parametrize(("gate", "name"), [("scale", "gamma"), ("constant", "alpha")])
def test_closing_gates(gate, name):
    assert residual_branches(stack(gate=gate))[1].gate == f"blocks.1.{name}"


def conv(net, x, out, name, kernel=3, stride=1):
    weight = he_normal(net.rng, out, x.shape[1], kernel, kernel)
    return net.conv(x, weight, padding=kernel // 2, stride=stride, name=name)


def test_projection_shortcut():
    net = Network()
    x = conv(net, net.input(3, 8, 8), 8, "stem")
    h = net.relu(net.batch_norm(conv(net, x, 16, "c1", stride=2), name="b1"))
    h = net.batch_norm(conv(net, h, 16, "c2"), name="b2")
    skip = net.batch_norm(conv(net, x, 16, "down", kernel=1, stride=2), name="bd")
    net.output(net.relu(net.add(skip, h, name="add")))
    (found,) = residual_branches(net.graph)
    assert (found.trunk, found.projection, found.last) == ("stem", "down", "c2")
    assert (found.closing_norm, found.layers) == ("b2", ("c1", "c2"))


def test_squeeze_and_excitation_scales_a_branch_but_does_not_write_it():
    net = Network()
    x = conv(net, net.input(8, 6, 6), 8, "stem")
    h = conv(net, net.relu(conv(net, x, 8, "c1")), 8, "c2")
    squeezed = net.relu(conv(net, net.pool(h, "mean"), 2, "reduce", kernel=1))
    gate = net.sigmoid(conv(net, squeezed, 8, "expand", kernel=1), name="gate")
    net.output(net.add(net.mul(h, gate, name="scaled"), x, name="add"))
    (found,) = residual_branches(net.graph)
    assert found.writers == ("c2",)
    (gated,) = gates(net.graph)
    assert (gated.product, gated.activation, gated.source) == ("scaled", "gate", "expand")
    assert gated.value == "c2"


def test_parallel_branches_have_two_writers():
    net = Network()
    x = dense(net, net.input(16), 16, "stem")
    normed = net.layer_norm(x)
    first = dense(net, net.relu(dense(net, normed, 32, "a1")), 16, "a2")
    second = dense(net, net.gelu(dense(net, normed, 32, "b1")), 16, "b2")
    net.output(net.add(net.add(first, second, name="inner"), x, name="outer"))
    (found,) = residual_branches(net.graph)
    assert found.add == "outer"
    assert set(found.writers) == {"a2", "b2"}


def test_low_rank_adapter_is_not_residual():
    net = Network()
    x = net.input(16)
    low = dense(net, dense(net, x, 2, "a"), 16, "b")
    net.output(net.add(dense(net, x, 16, "base"), low))
    assert residual_branches(net.graph) == ()


def test_additions_of_unrelated_tensors_are_not_residual():
    net = Network()
    a, b = net.input(8, name="a"), net.input(8, name="b")
    net.output(net.add(dense(net, a, 8, "f"), dense(net, b, 8, "g")))
    assert residual_branches(net.graph) == ()


def test_concatenated_skips_are_not_residual():
    net = Network()
    x = net.input(4, 6, 6)
    for index in range(3):
        x = net.concat(x, conv(net, x, 4, f"c{index}"))
    net.output(x)
    assert residual_branches(net.graph) == ()


def test_side_inputs_do_not_hide_a_skip():
    net = Network()
    time = dense(net, net.input(4, name="time"), 16, "time_fc")
    x = dense(net, net.input(16, name="x"), 16, "stem")
    h = net.add(dense(net, x, 16, "f1"), time, name="condition")
    h = dense(net, net.silu(h), 16, "f2")
    net.output(net.add(x, h, name="add"))
    (found,) = residual_branches(net.graph)
    assert (found.add, found.layers) == ("add", ("f1", "f2"))
    assert "time_fc" not in found.branch


def test_attention_branch_is_written_by_its_output_projection():
    net = Network()
    x = dense(net, net.input(5, 16), 16, "stem")
    q, k, v = (dense(net, x, 16, name) for name in "qkv")
    mixed = net.attention(q, k, v, heads=4)
    net.output(net.add(x, dense(net, mixed, 16, "o"), name="add"))
    (found,) = residual_branches(net.graph)
    assert (found.last, set(found.layers)) == ("o", {"q", "k", "v", "o"})


def test_scaled_skip():
    net = Network()
    x = dense(net, net.input(16), 16, "stem")
    h = dense(net, net.relu(dense(net, x, 16, "f1")), 16, "f2")
    net.output(net.layer_norm(net.add(net.mul(x, 2.2, name="alpha"), h), name="norm"))
    (found,) = residual_branches(net.graph)
    assert (found.skip_scale, found.post_norm) == ("alpha", "norm")


@pytest.mark.parametrize("activation", [Op.SILU, Op.GELU, Op.SIGMOID, None])
def test_glu(activation):
    net = Network()
    x = net.input(16)
    gate, up = dense(net, x, 32, "gate"), dense(net, x, 32, "up")
    if activation is not None:
        gate = net.activation(activation, gate, name="act")
    net.output(dense(net, net.mul(gate, up, name="product"), 16, "down"))
    (found,) = glu_products(net.graph)
    assert (found.product, found.up) == ("product", "up")
    assert (found.gate, found.activation) == ("gate", "act" if activation else None)


def test_glu_from_one_packed_layer():
    net = Network()
    first, second = net.split(dense(net, net.input(16), 64, "fc"), 2)
    net.output(net.mul(net.silu(first), second))
    (found,) = glu_products(net.graph)
    assert (found.gate, found.up) == ("fc", "fc")


def test_a_square_and_a_self_gate_are_no_glu():
    net = Network()
    h = dense(net, net.input(16), 16, "fc")
    net.output(net.mul(net.mul(h, h), net.sigmoid(h)))
    assert glu_products(net.graph) == ()


def test_gate_prefers_the_sigmoid_over_the_candidate():
    net = Network()
    x = net.input(8)
    candidate = net.tanh(dense(net, x, 8, "c"), name="candidate")
    gate = net.sigmoid(dense(net, x, 8, "g"), name="gate")
    net.output(net.mul(candidate, gate))
    (found,) = gates(net.graph)
    assert (found.activation, found.value) == ("gate", "candidate")


def test_gate_behind_fixed_addend():
    net = Network()
    x, y = net.input(8, name="x"), net.input(8, name="y")
    opened = net.add(net.tanh(dense(net, y, 8, "g"), name="t"), 1.0)
    net.output(net.mul(x, opened))
    (found,) = gates(net.graph)
    assert (found.activation, found.source, found.value) == ("t", "g", "x")


def test_heads():
    net = Network()
    x = dense(net, net.input(16), 16, "trunk")
    net.output(net.softmax(dense(net, x, 4, "policy")), "pi")
    net.output(dense(net, net.tanh(dense(net, x, 8, "hidden")), 1, "value"), "v")
    dense(net, x, 3, "unused")
    assert [layer.id for layer in heads(net.graph)] == ["policy", "value"]


def test_normaliser_between():
    net = Network()
    x = dense(net, net.input(16), 16, "a")
    y = dense(net, net.layer_norm(x), 16, "b")
    z = dense(net, net.add(y, x), 16, "c")
    net.output(z)
    assert normaliser_between(net.graph, "a", "b")
    assert not normaliser_between(net.graph, "a", "c")
    assert not normaliser_between(net.graph, "b", "c")
    assert not normaliser_between(net.graph, "c", "a")


def test_depth_and_blocks():
    graph = stack(4)
    assert main_depth(graph) == 10
    (found,) = blocks(graph)
    assert (found.container, found.indices) == ("blocks", (0, 1, 2, 3))
    assert found.blocks[2] == ("blocks.2.fc1", "blocks.2.fc2", "blocks.2.norm")


def test_blocks_with_other_shapes_are_not_a_repetition():
    net = Network()
    x = net.input(8)
    for index, width in enumerate((8, 8, 4)):
        x = dense(net, x, width, f"layers.{index}")
    net.output(x)
    (found,) = blocks(net.graph)
    assert found.indices == (0, 1)


def test_dominators_are_stem_sums_and_head():
    graph = stack(2)
    found = dominators(graph)
    assert [key for key in found if graph[key].op in (Op.LINEAR, Op.ADD)] == [
        "stem",
        "blocks.0.add",
        "blocks.1.add",
        "head",
    ]


def test_masks_and_auxiliary_outputs_do_not_open_a_way_around():
    net = Network()
    mask = net.input(1, 5, 5, name="mask")
    x = dense(net, net.input(5, 16), 16, "stem")
    net.output(x, "cache")
    heads_in = net.reshape(x, 1, 5, 16)
    mixed = net.layer(
        Op.ATTENTION, heads_in, heads_in, heads_in, mask, name="mix", scale=0.25, heads=1
    )
    net.output(dense(net, mixed, 4, "head"))
    assert {"stem", "mix", "head"} <= set(dominators(net.graph))


def test_two_towers_share_only_what_follows_them():
    net = Network()
    a = dense(net, dense(net, net.input(8, name="x"), 8, "a1"), 8, "a2")
    b = dense(net, net.input(8, name="y"), 8, "b1")
    net.output(dense(net, net.concat(a, b, axis=-1, name="join"), 2, "head"))
    assert dominators(net.graph) == ("join", "head")


@pytest.mark.parametrize("depth", [50, 400])
def test_cost_grows_with_the_graph_alone(depth, monkeypatch):
    """Edges are asked for a bounded number of times per layer, at any depth."""
    graph = stack(depth)
    assert len(graph.position) == len(graph)
    asked = 0
    plain = type(graph).inputs

    def counted(self, layer_id):
        nonlocal asked
        asked += 1
        return plain(self, layer_id)

    monkeypatch.setattr(type(graph), "inputs", counted)
    assert len(residual_branches(graph)) == depth
    gates(graph), glu_products(graph), heads(graph), dominators(graph), blocks(graph)
    assert asked < 30 * len(graph)


def test_empty_graph():
    graph = Network().graph
    assert residual_branches(graph) == gates(graph) == heads(graph) == dominators(graph) == ()
    assert (main_depth(graph), blocks(graph)) == (0, ())


def test_random_networks_do_not_break_it():
    rng = np.random.default_rng(3)
    for _ in range(20):
        net = Network()
        values = [net.input(8)]
        for _ in range(12):
            a, b = (values[i] for i in rng.integers(0, len(values), 2))
            kind = rng.integers(0, 4)
            if kind == 0:
                values.append(net.linear(a, normal(rng, 8, 8)))
            elif kind == 1:
                values.append(net.add(a, b))
            elif kind == 2:
                values.append(net.mul(net.sigmoid(a), b))
            else:
                values.append(net.layer_norm(a))
        net.output(values[-1])
        for residual in residual_branches(net.graph):
            assert residual.last is None or residual.last in residual.branch
            assert residual.trunk not in residual.branch


def test_an_input_read_again_is_a_way_around() -> None:
    net = Network()
    x = net.input(16)
    inner = net.relu(net.linear(x, normal(net.rng, 16, 16), name="inner"))
    last = net.linear(inner, np.zeros((16, 16), np.float32), name="last")
    net.output(net.linear(net.add(x, last), normal(net.rng, 4, 16), name="head"))
    crossed = dominators(net.model().graph)
    assert "head" in crossed
    assert "last" not in crossed


@given(st.lists(st.integers(0, 1 << 30), min_size=1, max_size=12))
def test_post_dominators_are_those_of_the_reversed_graph(seeds):
    net = Network()
    values = [net.input(4)]
    for seed in seeds:
        first, second = values[seed % len(values)], values[(seed >> 8) % len(values)]
        values.append(net.add(first, second) if seed & 128 else net.relu(first))
    net.output(values[-1])
    net.output(values[seeds[0] % len(values)])
    graph = nx.DiGraph()
    for layer in net.graph.order:
        following = [edge.target for edge in net.graph.outputs(layer.id)] or ["end"]
        graph.add_edges_from((target, layer.id) for target in following)
    expected = nx.immediate_dominators(graph, "end")
    found = post_dominators(net.graph)
    for layer in net.graph.order:
        assert found[layer.id] == (None if expected[layer.id] == "end" else expected[layer.id])


def test_a_parameter_that_another_layer_reads_is_shared():
    net = Network()
    table = normal(net.rng, 40, 16)
    x = net.embedding(net.tokens(8, 40), table, name="table")
    x = net.linear(x, he_normal(net.rng, 16, 16), name="own")
    net.output(net.linear(x, table, tied_to="table.weight", name="head"))
    graph = net.model().graph
    shared = {layer.id: graph.is_shared(layer.weight) for layer in graph.weighted}
    assert shared == {"table": True, "own": False, "head": True}
