"""The Boolean fixpoint agrees with automatic differentiation, step by step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from initlint.model import Kind, Model, Op
from initlint.testing import Network, normal, ones, zeros
from initlint.theory import unlock
from initlint.theory.unlock import blocking, unlock_steps, unlocking

torch = pytest.importorskip("torch")
nn = torch.nn
F = torch.nn.functional

STEPS = 6
WIDTH = 8


def is_zero(param) -> bool:
    return param.tensor is not None and not np.any(param.tensor.read())


class Recorder:
    """Builds the same network for the fixpoint and for torch from one description."""

    def __init__(self) -> None:
        self.net = Network(seed=1)
        self.arrays: dict[str, np.ndarray] = {}

    def array(self, name: str, *shape: int, zero: bool = False) -> np.ndarray:
        value = zeros(*shape) if zero else normal(self.net.rng, *shape, std=shape[-1] ** -0.5)
        self.arrays[name] = value
        return value


def measured(arrays, function: Callable, frozen=()) -> dict[str, int | None]:
    """First step at which autograd gives a gradient, under plain gradient descent."""
    torch.manual_seed(0)
    tensors = {
        name: nn.Parameter(
            torch.tensor(array, dtype=torch.float64), requires_grad=name not in frozen
        )
        for name, array in arrays.items()
    }
    trained = {name: tensor for name, tensor in tensors.items() if name not in frozen}
    x = torch.randn(16, WIDTH, dtype=torch.float64)
    optimizer = torch.optim.SGD(trained.values(), lr=0.1)
    first: dict[str, int | None] = dict.fromkeys(trained)
    for step in range(STEPS):
        optimizer.zero_grad()
        output = function(tensors, x)
        ((output - torch.randn(output.shape, dtype=torch.float64)) ** 2).mean().backward()
        for name, tensor in trained.items():
            if first[name] is None and tensor.grad is not None and tensor.grad.abs().max() > 0:
                first[name] = step
        optimizer.step()
    return first


def predicted(net: Network) -> dict[str, int | None]:
    steps = unlock_steps(net.model(), is_zero)
    return {key.removesuffix(".weight"): step for key, step in steps.items()}


def linear(r: Recorder, x, name: str, out: int = WIDTH, zero: bool = False, trainable: bool = True):
    weight = r.array(name, out, x.shape[-1], zero=zero)
    return r.net.linear(x, weight, name=name, trainable=trainable)


def compare(r: Recorder, function: Callable, frozen=()) -> dict[str, int | None]:
    got, wanted = predicted(r.net), measured(r.arrays, function, frozen)
    assert {key: got[key] for key in wanted} == wanted
    return got


def lora(r, a, b):
    x = r.net.input(WIDTH)
    low = linear(r, linear(r, x, "A", 2, a), "B", 4, b)
    r.net.output(r.net.add(linear(r, x, "W", 4, trainable=False), low))
    return (lambda p, x: x @ p["W"].T + x @ p["A"].T @ p["B"].T), ("W",)


@pytest.mark.parametrize(("a", "b"), [(0, 1), (1, 0), (1, 1), (0, 0)])
def test_lora(a, b):
    r = Recorder()
    compare(r, *lora(r, a, b))


@pytest.mark.parametrize(("gate", "last"), [(1, 0), (0, 1), (1, 1)])
def test_rezero(gate, last):
    r = Recorder()
    x = r.net.input(WIDTH)
    h = linear(r, r.net.relu(linear(r, x, "W1")), "W2", zero=last)
    h = r.net.gain(h, r.array("g", 1, zero=gate), name="g")
    r.net.output(linear(r, r.net.add(x, h), "O", 4))
    function = lambda p, x: (x + p["g"] * (F.relu(x @ p["W1"].T) @ p["W2"].T)) @ p["O"].T  # noqa: E731
    compare(r, function)


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "gelu", "silu", "leaky_relu"])
@pytest.mark.parametrize(("first", "last"), [(0, 1), (1, 1), (1, 0)])
def test_mlp(activation, first, last):
    r = Recorder()
    h = linear(r, r.net.input(WIDTH), "W", zero=first)
    h = r.net.shift(h, r.array("b", WIDTH, zero=True), name="b")
    h = r.net.activation(Op(activation), h)
    y = linear(r, h, "O", 4, zero=last)
    r.net.output(r.net.shift(y, r.array("c", 4, zero=True), name="c"))
    phi = getattr(F, activation)
    compare(r, lambda p, x: phi(x @ p["W"].T + p["b"]) @ p["O"].T + p["c"])


def test_zero_hidden_relu_without_output_bias_is_dead():
    r = Recorder()
    h = linear(r, r.net.input(WIDTH), "W", zero=True)
    h = r.net.relu(r.net.shift(h, r.array("b", WIDTH, zero=True), name="b"))
    r.net.output(linear(r, h, "O", 4))
    got = compare(r, lambda p, x: F.relu(x @ p["W"].T + p["b"]) @ p["O"].T)
    assert set(got.values()) == {None}


def test_controlnet_unlocks_in_order():
    r = Recorder()
    x = r.net.input(WIDTH)
    trunk = r.net.tanh(linear(r, x, "W", trainable=False))
    side = r.net.tanh(linear(r, r.net.add(x, linear(r, x, "Zin", zero=True)), "C"))
    total = r.net.add(trunk, linear(r, side, "Zout", zero=True))
    r.net.output(linear(r, total, "O", 4, trainable=False))
    got = compare(
        r,
        lambda p, x: (
            (torch.tanh(x @ p["W"].T) + torch.tanh((x + x @ p["Zin"].T) @ p["C"].T) @ p["Zout"].T)
            @ p["O"].T
        ),
        ("W", "O"),
    )
    assert (got["Zout"], got["C"], got["Zin"]) == (0, 1, 1)


@pytest.mark.parametrize("zero", [(0, 1, 0), (1, 0, 0), (1, 1, 0), (0, 0, 1), (1, 0, 1)])
def test_swiglu(zero):
    r = Recorder()
    x = r.net.input(WIDTH)
    up, gate = linear(r, x, "up", zero=zero[0]), linear(r, x, "gate", zero=zero[1])
    r.net.output(linear(r, r.net.mul(up, r.net.silu(gate)), "down", 4, zero=zero[2]))
    compare(r, lambda p, x: ((x @ p["up"].T) * F.silu(x @ p["gate"].T)) @ p["down"].T)


@pytest.mark.parametrize("zero", [(1, 0, 0), (0, 1, 0), (1, 1, 0), (0, 0, 1), (1, 0, 1)])
@pytest.mark.parametrize("fused", [True, False])
def test_attention(zero, fused):
    r = Recorder()
    net = r.net
    x = net.reshape(net.input(WIDTH), 2, 4)
    q, k, v = (linear(r, x, name, 4, z) for name, z in zip("qkv", zero, strict=True))
    if fused:
        mixed = net.attention(q, k, v)
    else:
        mixed = net.matmul(net.softmax(net.mul(net.matmul(q, net.transpose(k, 0, 2, 1)), 0.5)), v)
    net.output(linear(r, mixed, "o", 4))

    def function(p, x):
        x = x.view(-1, 2, 4)
        weights = ((x @ p["q"].T) @ (x @ p["k"].T).transpose(1, 2) * 0.5).softmax(-1)
        return weights @ (x @ p["v"].T) @ p["o"].T

    compare(r, function)


@pytest.mark.parametrize("gamma", [0, 1])
@pytest.mark.parametrize("last", [0, 1])
def test_zero_conv_and_batch_norm_gain(gamma, last):
    r = Recorder()
    net = r.net
    x = net.input(WIDTH)
    h = linear(r, net.relu(linear(r, x, "W1")), "W2", zero=last)
    gain, shift = r.array("n", WIDTH, zero=gamma), r.array("n.bias", WIDTH, zero=True)
    if not gamma:
        r.arrays["n"] = gain = ones(WIDTH)
    h = net.batch_norm(h, gain=gain, shift=shift, name="n")
    net.output(linear(r, net.add(x, h), "O", 4))

    def function(p, x):
        h = F.relu(x @ p["W1"].T) @ p["W2"].T
        h = F.batch_norm(h, None, None, p["n"], p["n.bias"], training=True)
        return (x + h) @ p["O"].T

    got = compare(r, function)
    assert (got["W2"] is None) is bool(gamma and last)


def test_adaptive_norm_zero():
    r = Recorder()
    net = r.net
    x = net.input(WIDTH)
    condition = net.silu(linear(r, x, "embed"))
    shift, scale, gate = (linear(r, condition, name, zero=True) for name in ("sh", "sc", "ga"))
    normed = net.layer_norm(x, affine=False)
    h = net.add(net.mul(normed, net.add(scale, 1.0)), shift)
    h = linear(r, net.gelu(linear(r, h, "W1")), "W2")
    net.output(linear(r, net.add(x, net.mul(gate, h)), "O", 4))

    def function(p, x):
        c = F.silu(x @ p["embed"].T)
        h = F.layer_norm(x, (WIDTH,)) * (1 + c @ p["sc"].T) + c @ p["sh"].T
        h = F.gelu(h @ p["W1"].T) @ p["W2"].T
        return (x + (c @ p["ga"].T) * h) @ p["O"].T

    got = compare(r, function)
    assert [got[name] for name in ("ga", "W1", "sc", "embed")] == [0, 1, 1, 1]


GATES = {"lstm": ("input", "forget", "cell", "output"), "gru": ("reset", "update", "new")}


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize(
    "dead", ["weights", "recurrent", "candidate", "gates", "all but candidate"]
)
def test_recurrent(kind, dead):
    """Per gate: torch keeps a packed gradient, whose rows are the gates."""
    torch.manual_seed(0)
    gates, hidden = GATES[kind], 4
    module = getattr(nn, kind.upper())(WIDTH, hidden, batch_first=True).double()
    candidate = gates.index("cell" if kind == "lstm" else "new")
    with torch.no_grad():
        module.bias_ih_l0.zero_()
        module.bias_hh_l0.zero_()
        for index in range(len(gates)):
            rows = slice(index * hidden, (index + 1) * hidden)
            inner = index == candidate
            if dead == "weights" or (dead == "candidate" and inner):
                module.weight_ih_l0[rows] = 0
            if dead == "recurrent" or (dead == "candidate" and inner):
                module.weight_hh_l0[rows] = 0
            if (dead == "gates" and index == 0) or (dead == "all but candidate" and not inner):
                module.weight_ih_l0[rows] = 0
                module.weight_hh_l0[rows] = 0
    net = Network()
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    tensors = [getattr(module, name).detach().numpy().copy() for name in names]
    y = getattr(net, kind)(net.input(5, WIDTH), *tensors, name="rnn")
    net.output(y)
    got = unlock_steps(net.model(), is_zero)

    x = torch.randn(16, 5, WIDTH, dtype=torch.float64)
    target = torch.randn(16, 5, hidden, dtype=torch.float64)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    first: dict[str, int | None] = dict.fromkeys(got)
    for step in range(STEPS):
        optimizer.zero_grad()
        ((module(x)[0] - target) ** 2).mean().backward()
        for name in names:
            gradient = getattr(module, name).grad
            for index, gate in enumerate(gates):
                key = f"rnn.{name}/{gate}"
                if first[key] is None and gradient[index * hidden : (index + 1) * hidden].any():
                    first[key] = step
        optimizer.step()
    assert dict(got) == first


def test_zero_embedding_with_learned_head():
    net = Network()
    x = net.embedding(net.tokens(5, 7), zeros(7, WIDTH), name="e")
    net.output(net.linear(net.relu(x), normal(net.rng, 3, WIDTH), name="h"))
    assert dict(unlock_steps(net.model(), is_zero)) == {"e.weight": None, "h.weight": None}
    net = Network()
    x = net.embedding(net.tokens(5, 7), zeros(7, WIDTH), name="e")
    net.output(net.linear(x, normal(net.rng, 3, WIDTH), name="h"))
    assert dict(unlock_steps(net.model(), is_zero)) == {"e.weight": 0, "h.weight": 1}


def test_unknown_operators_are_alive_both_ways():
    net = Network()
    h = net.linear(net.input(8), zeros(8, 8), name="a")
    h = net.linear(net.other(h), normal(net.rng, 8, 8), name="b")
    net.output(net.linear(net.other(h), zeros(4, 8), name="c"))
    assert unlock_steps(net.model(), is_zero)["b.weight"] is not None


def test_frozen_parameters_are_no_targets_and_stay_zero():
    net = Network()
    h = net.linear(net.input(8), zeros(8, 8), name="a", trainable=False)
    net.output(net.linear(h, normal(net.rng, 4, 8), name="b"))
    result = unlocking(net.model(), is_zero)
    assert dict(result.steps) == {"b.weight": None}
    assert result.blocked_by["b.weight"] == ("a.weight",)


def test_tied_parameters_unlock_together():
    net = Network()
    table = zeros(7, 8)
    x = net.embedding(net.tokens(5, 7), table, name="e")
    net.output(net.linear(x, table, name="h", tied_to="e.weight"))
    assert set(unlock_steps(net.model(), is_zero).values()) == {None}
    net = Network()
    x = net.shift(net.embedding(net.tokens(5, 7), table, name="e"), normal(net.rng, 8), name="p")
    net.output(net.linear(x, table, name="h", tied_to="e.weight"))
    steps = unlock_steps(net.model(), is_zero)
    assert (steps["e.weight"], steps["h.weight"], steps["p"]) == (0, 0, 1)


def test_parameters_no_output_depends_on_are_left_out():
    net = Network()
    x = net.input(8)
    net.linear(x, zeros(3, 8), name="unused")
    net.output(net.linear(x, zeros(2, 8), name="used"))
    assert dict(unlock_steps(net.model(), is_zero)) == {"used.weight": 0}


def test_buffers_are_no_targets():
    net = Network()
    net.output(net.batch_norm(net.input(4, 3, 3), name="n"))
    assert set(unlock_steps(net.model(), is_zero)) == {"n.weight", "n.bias"}


def test_a_checkpoint_without_edges_claims_nothing():
    net = Network()
    net.output(net.linear(net.input(8), zeros(2, 8)))
    model = Model("x", Kind.CHECKPOINT, net.graph, connected=False)
    assert unlock_steps(model, is_zero) == {}


@pytest.mark.parametrize(
    ("gate", "last", "chain"),
    [(1, 1, ("W2.weight", "g")), (1, 0, None), (0, 1, None)],
)
def test_the_chain_of_zeros_is_named(gate, last, chain):
    r = Recorder()
    x = r.net.input(WIDTH)
    h = linear(r, r.net.relu(linear(r, x, "W1")), "W2", zero=last)
    h = r.net.gain(h, r.array("g", 1, zero=gate), name="g")
    r.net.output(r.net.add(x, h))
    causes = blocking(r.net.model(), is_zero)
    if chain is None:
        assert causes == {}
    else:
        assert set(causes) == {"W1.weight", "W2.weight", "g"}
        assert causes["W1.weight"] == chain


def test_keys_and_queries_name_each_other():
    r = Recorder()
    x = r.net.input(4, 8)
    q, k, v = (linear(r, x, name, 8, name != "v") for name in "qkv")
    r.net.output(r.net.attention(q, k, v))
    causes = blocking(r.net.model(), is_zero)
    assert causes == {"q.weight": ("q.weight", "k.weight"), "k.weight": ("q.weight", "k.weight")}


def test_a_cycle_is_alive():
    from initlint.model import Edge, LayerGraph

    net = Network()
    x = net.linear(net.input(8), zeros(8, 8), name="a")
    y = net.add(x, x, name="sum")
    net.output(net.linear(y, normal(net.rng, 8, 8), name="b"))
    graph = net.graph
    edges = [edge for layer in graph for edge in graph.outputs(layer.id)]
    looped = LayerGraph(list(graph), [*edges, Edge("b", "sum", 2)])
    model = Model("x", Kind.ONNX, looped)
    assert unlock_steps(model, is_zero)["b.weight"] == 0


def test_many_steps_cost_no_more_than_the_graph(monkeypatch):
    """A sigmoid network of zeros unlocks one layer per step, from the head down."""
    net = Network()
    x = net.input(4)
    for index in range(300):
        x = net.sigmoid(net.linear(x, zeros(4, 4), name=f"l{index:03}"))
    net.output(x)
    asked = 0
    plain = unlock.passes

    def counted(*arguments):
        nonlocal asked
        asked += 1
        return plain(*arguments)

    monkeypatch.setattr(unlock, "passes", counted)
    steps = unlock_steps(net.model(), is_zero)
    assert [steps[f"l{index:03}.weight"] for index in (299, 298, 0)] == [0, 1, 299]
    assert asked < 6 * len(net.graph)


def test_zero_gains_in_series_are_blocked():
    net = Network()
    x = net.input(8, 4, 4)
    for op in (Op.BATCH_NORM, Op.INSTANCE_NORM):
        x = net.norm(op, x, gain=zeros(8), shift=zeros(8), name=op.value)
    x = net.group_norm(x, 2, gain=zeros(8), shift=zeros(8), name="gn")
    net.output(x)
    steps = unlock_steps(net.model(), is_zero)
    assert steps["gn.bias"] == 0
    assert {steps["gn.weight"], steps["batch_norm.weight"]} == {None}
