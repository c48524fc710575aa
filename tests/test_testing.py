"""The hand-made network computes what torch computes, layer by layer."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

from initlint.lint.finding import Finding, Severity
from initlint.lint.rule import Need, Option, Rule
from initlint.measure.result import Stage
from initlint.model import Op, Role
from initlint.testing import (
    Network,
    as_model,
    assert_fires,
    assert_silent,
    evaluate,
    he_normal,
    he_uniform,
    lecun_normal,
    normal,
    orthogonal,
    run_rule,
    torch_default,
    xavier_normal,
    xavier_uniform,
)

torch = pytest.importorskip("torch")
functional = torch.nn.functional


def last(net: Network, value, feeds) -> np.ndarray:
    return evaluate(net.graph, feeds)[value.layer][value.output]


def check(net: Network, value, module, *feeds) -> None:
    names = [layer.id for layer in net.graph if layer.op is Op.INPUT]
    got = last(net, value, dict(zip(names, feeds, strict=True)))
    with torch.no_grad():
        wanted = module(*(torch.as_tensor(feed) for feed in feeds))
    np.testing.assert_allclose(got, np.asarray(wanted), rtol=1e-4, atol=1e-5)
    assert value.shape == (None, *got.shape[1:])


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_linear(rng):
    net = Network()
    weight, bias = normal(rng, 5, 3), normal(rng, 5)
    value = net.linear(net.input(3), weight, bias)
    x = normal(rng, 4, 3)
    wanted = lambda x: functional.linear(x, torch.tensor(weight), torch.tensor(bias))  # noqa: E731
    check(net, value, wanted, x)


@pytest.mark.parametrize(
    "settings",
    [{}, {"stride": 2, "padding": 1}, {"groups": 2}, {"dilation": 2, "padding": 2}],
)
def test_conv(rng, settings):
    net = Network()
    weight, bias = normal(rng, 6, 4 // settings.get("groups", 1), 3, 3), normal(rng, 6)
    value = net.conv(net.input(4, 9, 8), weight, bias, **settings)
    check(
        net,
        value,
        lambda x: functional.conv2d(x, torch.tensor(weight), torch.tensor(bias), **settings),
        normal(rng, 2, 4, 9, 8),
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"stride": 2, "padding": 1},
        {"stride": 2, "padding": 1, "output_padding": 1},
        {"stride": 3, "dilation": 2},
        {"padding": 3},
    ],
)
def test_conv_transpose(rng, settings):
    net = Network()
    weight = normal(rng, 6, 4, 3, 3)
    value = net.conv_transpose(net.input(4, 5, 6), weight, **settings)
    stored = torch.tensor(weight).transpose(0, 1)
    check(
        net,
        value,
        lambda x: functional.conv_transpose2d(x, stored, **settings),
        normal(rng, 2, 4, 5, 6),
    )


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_recurrent(rng, kind):
    module = getattr(torch.nn, kind.upper())(3, 4, batch_first=True, bidirectional=True)
    arrays = {key: value.detach().numpy() for key, value in module.named_parameters()}
    stems = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    net = Network()
    value = getattr(net, kind)(
        net.input(5, 3),
        *(arrays[stem] for stem in stems),
        reverse=[arrays[f"{stem}_reverse"] for stem in stems],
    )
    check(net, value, lambda x: module(x)[0], normal(rng, 2, 5, 3))


def test_recurrent_gates_are_blocks_of_the_packed_tensor(rng):
    net = Network()
    packed = normal(rng, 16, 3)
    net.lstm(net.input(5, 3), packed, normal(rng, 16, 4), name="lstm")
    forget = next(
        param for param in net.graph["lstm"].params if param.key == "lstm.weight_ih_l0/forget"
    )
    assert forget.role is Role.WEIGHT
    assert forget.packed == 4
    np.testing.assert_array_equal(forget.tensor.read(), packed[4:8])


@pytest.mark.parametrize(
    ("method", "module", "shape"),
    [
        ("layer_norm", torch.nn.LayerNorm(6), (4, 6)),
        ("rms_norm", torch.nn.RMSNorm(6, eps=1e-5), (4, 6)),
        ("batch_norm", torch.nn.BatchNorm2d(6), (6, 3, 3)),
        ("batch_norm", torch.nn.BatchNorm1d(6), (6,)),
        ("instance_norm", torch.nn.InstanceNorm2d(6), (6, 3, 3)),
    ],
)
def test_norms(rng, method, module, shape):
    net = Network()
    check(net, getattr(net, method)(net.input(*shape)), module, normal(rng, 8, *shape) * 3 + 1)


def test_group_norm(rng):
    net = Network()
    value = net.group_norm(net.input(6, 3, 3), 2)
    check(net, value, torch.nn.GroupNorm(2, 6), normal(rng, 4, 6, 3, 3))


@pytest.mark.parametrize(
    ("op", "function"),
    [
        (Op.RELU, functional.relu),
        (Op.LEAKY_RELU, functional.leaky_relu),
        (Op.RELU6, functional.relu6),
        (Op.ELU, functional.elu),
        (Op.CELU, functional.celu),
        (Op.SELU, functional.selu),
        (Op.GELU, functional.gelu),
        (Op.SILU, functional.silu),
        (Op.MISH, functional.mish),
        (Op.HARD_SWISH, functional.hardswish),
        (Op.SOFTPLUS, functional.softplus),
        (Op.SIGMOID, torch.sigmoid),
        (Op.HARD_SIGMOID, functional.hardsigmoid),
        (Op.LOG_SIGMOID, functional.logsigmoid),
        (Op.TANH, torch.tanh),
        (Op.HARD_TANH, functional.hardtanh),
        (Op.SOFTSIGN, functional.softsign),
        (Op.SOFTSHRINK, functional.softshrink),
        (Op.HARDSHRINK, functional.hardshrink),
        (Op.ERF, torch.erf),
        (Op.GLU, functional.glu),
        (Op.SOFTMAX, lambda x: functional.softmax(x, -1)),
        (Op.LOG_SOFTMAX, lambda x: functional.log_softmax(x, -1)),
        (Op.LP_NORM, lambda x: functional.normalize(x, dim=-1)),
    ],
)
def test_functions_of_one_input(rng, op, function):
    net = Network()
    check(net, net.activation(op, net.input(6)), function, normal(rng, 5, 6) * 3)


def test_attention_splits_heads(rng):
    net = Network()
    q, k, v = (net.input(5, 8, name=name) for name in "qkv")
    value = net.attention(q, k, v, heads=2, causal=True)

    def wanted(*tensors):
        split = [t.view(3, 5, 2, 4).transpose(1, 2) for t in tensors]
        mixed = functional.scaled_dot_product_attention(*split, is_causal=True)
        return mixed.transpose(1, 2).reshape(3, 5, 8)

    check(net, value, wanted, *(normal(rng, 3, 5, 8) for _ in range(3)))


def test_pooling_and_shapes(rng):
    net = Network()
    x = net.input(4, 8, 8)
    pooled = net.pool(x, "max", 3, stride=2, padding=1)
    value = net.flatten(net.pool(pooled, "mean"))
    check(
        net,
        value,
        lambda x: functional.adaptive_avg_pool2d(functional.max_pool2d(x, 3, 2, 1), 1).flatten(1),
        normal(rng, 2, 4, 8, 8),
    )
    assert value.shape == (None, 4)


def test_fixed_and_trainable_operands(rng):
    net = Network()
    x = net.input(3)
    gamma = normal(rng, 3)
    value = net.sub(net.gain(net.div(x, 2.0), gamma), 1.0, constant_first=True)
    check(net, value, lambda x: 1.0 - x / 2.0 * torch.tensor(gamma), normal(rng, 2, 3))
    assert [(layer.op, dict(layer.attrs)) for layer in net.graph][1:] == [
        (Op.DIV, {"constant": 2.0}),
        (Op.MUL, {}),
        (Op.SUB, {"constant": 1.0, "constant_first": True}),
    ]


def test_split_and_concat_keep_the_output_index(rng):
    net = Network()
    first, second = net.split(net.input(6), 2)
    value = net.concat(second, first, axis=-1)
    check(net, value, lambda x: torch.cat([x[:, 3:], x[:, :3]], -1), normal(rng, 2, 6))


def test_model_names_scopes_and_shapes():
    net = Network()
    tokens = net.tokens(7, 11)
    x = net.embedding(tokens, normal(net.rng, 11, 4), name="body.embed")
    net.output(net.linear(x, normal(net.rng, 2, 4), name="head"))
    model = net.model(fresh_hint=True)
    layer = model.graph["body.embed"]
    assert (layer.scope, layer.output_shape) == ("body", (None, 7, 4))
    assert layer.weight.name == "body.embed.weight"
    assert model.graph["head"].op is Op.LINEAR
    assert model.graph["output"].op is Op.OUTPUT
    assert model.fresh_hint is True


def test_a_wrong_shape_is_refused_where_it_is_built():
    net = Network()
    with pytest.raises(ValueError, match="mismatch"):
        net.linear(net.input(3), normal(net.rng, 2, 4))
    with pytest.raises(ValueError, match="two layers"):
        net.input(3)


def test_run_summarises_every_layer():
    net = Network()
    x = net.linear(net.input(64), he_normal(net.rng, 256, 64), name="fc")
    net.output(net.relu(x, name="relu"))
    seen = net.run(batch=128)
    assert seen.samples == 128
    assert set(seen.outputs) == {"input", "fc", "relu"}
    assert seen.outputs["fc"].units == 256
    # He's gain makes up for the half that ReLU cuts: the second moment stays that of the input.
    assert seen.outputs["relu"].rms == pytest.approx(1.0, rel=0.1)
    assert 0.45 < seen.outputs["relu"].zero_share < 0.55


def test_runs_repeat():
    net = Network()
    net.output(net.linear(net.input(4), normal(net.rng, 3, 4)))
    assert repr(net.run(8)) == repr(net.run(8))


@pytest.mark.parametrize(
    ("draw", "std"),
    [
        (he_normal, (2 / 400) ** 0.5),
        (he_uniform, (2 / 400) ** 0.5),
        (lecun_normal, (1 / 400) ** 0.5),
        (xavier_normal, (2 / 1000) ** 0.5),
        (xavier_uniform, (2 / 1000) ** 0.5),
        (torch_default, (1 / 1200) ** 0.5),
    ],
)
def test_initialisers_have_the_std_of_their_formula(rng, draw, std):
    assert draw(rng, 600, 400).std() == pytest.approx(std, rel=0.01)


@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (8, 2, 2, 2)])
def test_orthogonal(rng, shape):
    matrix = orthogonal(rng, *shape).reshape(shape[0], -1).astype(float)
    small = matrix.T @ matrix if matrix.shape[0] > matrix.shape[1] else matrix @ matrix.T
    np.testing.assert_allclose(small, np.eye(len(small)), atol=1e-6)


def test_inputs_do_not_repeat_the_weights():
    net = Network(seed=3)
    x = net.input(4)
    weight = normal(net.rng, 5, 4)
    net.output(net.linear(x, weight))
    assert not np.intersect1d(net.feeds(5, seed=3)["input"].astype(np.float32), weight).size


class Loud(Rule):
    """Reports layers whose output is larger than a limit."""

    code = "TST001"
    name = "loud"
    needs = frozenset({Need.WEIGHTS, Need.PROBE})
    stages = frozenset({Stage.FRESH})
    options: ClassVar = {"limit": Option(2.0, "a test")}

    def check(self, context):
        limit = context.options["limit"]
        for key, seen in context.probe.outputs.items():
            if seen.rms > limit and context.model.graph[key].weight is not None:
                severity = Severity.ERROR if seen.rms > 10 * limit else Severity.WARNING
                yield Finding(severity, key, f"rms {seen.rms:.1f}")


def loud(gain: float) -> Network:
    net = Network()
    net.output(net.linear(net.input(64), normal(net.rng, 32, 64, std=gain / 8), name="fc"))
    return net


def test_run_rule_gives_the_evidence_and_completes_findings():
    (finding,) = run_rule(Loud, loud(5.0))
    assert (finding.code, finding.name, finding.layers) == ("TST001", "loud", ("fc",))
    assert run_rule(Loud, loud(5.0), options={"limit": 10.0}) == []
    assert run_rule(Loud, loud(5.0), stage="trained") == []


def test_assertions_about_rules():
    assert_fires(Loud, loud(5.0), severity="warning", layers=("fc",))
    assert_silent(Loud, loud(1.0))
    with pytest.raises(AssertionError, match="found nothing"):
        assert_fires(Loud, loud(1.0))
    with pytest.raises(AssertionError, match="expected error"):
        assert_fires(Loud, loud(5.0), severity="error")
    with pytest.raises(AssertionError, match="expected"):
        assert_fires(Loud, loud(5.0), layers=("other",))
    with pytest.raises(AssertionError, match="reported fc"):
        assert_silent(Loud, loud(5.0))


def test_as_model_takes_networks_graphs_and_models():
    net = loud(1.0)
    model = net.model()
    assert as_model(model) is model
    assert as_model(net).fresh_hint is True
    assert len(as_model(net.graph).graph) == 3
