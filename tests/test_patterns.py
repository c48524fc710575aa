"""Every pattern: the fused graph computes the same numbers with the named layer."""

from __future__ import annotations

from math import pi, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initlint.model import LayerGraph, Op, Role
from initlint.model.patterns import fuse
from initlint.testing import Network, Value, evaluate, normal, ones, zeros

RNG = np.random.default_rng(11)


def outputs(graph: LayerGraph, feeds) -> list[np.ndarray]:
    values = evaluate(graph, feeds)
    return [values[layer.id][0] for layer in graph if layer.op is Op.OUTPUT]


def fused(net: Network, *expected: Op, tolerance: float = 1e-5) -> LayerGraph:
    """Fuse, check that outputs agree and that exactly these operators remain."""
    feeds = net.feeds(batch=6, seed=1)
    result = fuse(net.graph)
    for got, wanted in zip(outputs(result, feeds), outputs(net.graph, feeds), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=tolerance)
    plain = (Op.INPUT, Op.OUTPUT)
    assert [layer.op for layer in result.order if layer.op not in plain] == list(expected)
    return result


def unary(build) -> Network:
    net = Network()
    net.output(build(net, net.input(16)))
    return net


# activations


def gelu_erf(net, x, order):
    if order == "argument as product":
        phi = net.add(net.activation(Op.ERF, net.mul(x, 0.70710678)), 1.0)
        return net.mul(net.div(phi, 2.0), x)
    if order == "sum of halves":
        half = net.mul(x, 0.5)
        return net.add(half, net.mul(half, net.activation(Op.ERF, net.mul(x, sqrt(0.5)))))
    phi = net.add(net.activation(Op.ERF, net.div(x, sqrt(2.0))), 1.0)
    if order == "half first":
        return net.mul(net.mul(x, 0.5), phi)
    if order == "half last":
        return net.mul(net.mul(x, phi), 0.5)
    return net.mul(x, net.mul(phi, 0.5))


GELU_ORDERS = ["half first", "half last", "half on phi", "argument as product", "sum of halves"]


@pytest.mark.parametrize("order", GELU_ORDERS)
def test_gelu(order):
    result = fused(unary(lambda net, x: gelu_erf(net, x, order)), Op.GELU)
    assert next(layer for layer in result if layer.op is Op.GELU).attrs["approximate"] == "none"


@pytest.mark.parametrize("cube", ["pow", "products", "factored"])
def test_gelu_tanh(cube):
    def build(net, x):
        if cube == "pow":
            inner = net.add(x, net.mul(net.pow(x, 3.0), 0.044715))
        elif cube == "products":
            inner = net.add(x, net.mul(net.mul(net.mul(x, x), x), 0.044715))
        else:
            inner = net.mul(x, net.add(net.mul(net.pow(x, 2.0), 0.044715), 1.0))
        tanh = net.tanh(net.mul(inner, sqrt(2.0 / pi)))
        return net.mul(net.mul(x, net.add(tanh, 1.0)), 0.5)

    result = fused(unary(build), Op.GELU)
    assert next(layer for layer in result if layer.op is Op.GELU).attrs["approximate"] == "tanh"


def softplus(net, x):
    return net.activation(Op.LOG, net.add(net.activation(Op.EXP, x), 1.0))


def stable_softplus(net, x):
    small = net.activation(Op.EXP, net.activation(Op.NEG, net.activation(Op.ABS, x)))
    return net.add(net.relu(x), net.activation(Op.LOG, net.add(small, 1.0)))


def logistic(net, x):
    return net.add(net.activation(Op.EXP, net.activation(Op.NEG, x)), 1.0)


def elu(net, x, slope=1.0, alpha=1.0):
    positive = net.layer(Op.COMPARE, x, kind="greater", constant=0.0)
    below = net.mul(net.sub(net.activation(Op.EXP, x), 1.0), slope * alpha)
    return net.layer(Op.WHERE, positive, net.mul(x, slope) if slope != 1.0 else x, below)


def softplus_with_its_line(net, x, beta=1.0):
    scaled = net.mul(x, beta)
    above = net.layer(Op.COMPARE, scaled, kind="greater", constant=20.0)
    below = net.div(net.activation(Op.SOFTPLUS, scaled), beta)
    return net.layer(Op.WHERE, above, x, below)


def clip(net, x, low, high):
    return net.activation(Op.CLIP, x, min=low, max=high)


ACTIVATIONS = {
    "quick gelu": (lambda n, x: n.mul(x, n.sigmoid(n.mul(x, 1.702))), Op.QUICK_GELU),
    "silu": (lambda n, x: n.mul(n.sigmoid(x), x), Op.SILU),
    "silu as quotient": (lambda n, x: n.div(x, logistic(n, x)), Op.SILU),
    "silu of quotient": (
        lambda n, x: n.mul(x, n.div(logistic(n, x), 1.0, constant_first=True)),
        Op.SILU,
    ),
    "sigmoid by reciprocal": (
        lambda n, x: n.activation(Op.RECIPROCAL, logistic(n, x)),
        Op.SIGMOID,
    ),
    "softplus": (softplus, Op.SOFTPLUS),
    "stable softplus": (stable_softplus, Op.SOFTPLUS),
    "mish": (lambda n, x: n.mul(x, n.tanh(n.activation(Op.SOFTPLUS, x))), Op.MISH),
    "mish written out": (lambda n, x: n.mul(x, n.tanh(softplus(n, x))), Op.MISH),
    "hard swish by clip": (
        lambda n, x: n.div(n.mul(x, clip(n, n.add(x, 3.0), 0.0, 6.0)), 6.0),
        Op.HARD_SWISH,
    ),
    "hard swish by relu6": (
        lambda n, x: n.mul(x, n.div(n.activation(Op.RELU6, n.add(x, 3.0)), 6.0)),
        Op.HARD_SWISH,
    ),
    "hard swish by hard sigmoid": (
        lambda n, x: n.mul(x, n.activation(Op.HARD_SIGMOID, x, alpha=1 / 6, beta=0.5)),
        Op.HARD_SWISH,
    ),
    "hard sigmoid": (
        lambda n, x: n.mul(clip(n, n.add(x, 3.0), 0.0, 6.0), 1 / 6),
        Op.HARD_SIGMOID,
    ),
    "hard sigmoid of Keras": (
        lambda n, x: clip(n, n.add(n.mul(x, 0.2), 0.5), 0.0, 1.0),
        Op.HARD_SIGMOID,
    ),
    "relu by clip": (lambda n, x: clip(n, x, 0.0, None), Op.RELU),
    "relu by maximum": (lambda n, x: n.layer(Op.MAXIMUM, x, constant=0.0), Op.RELU),
    "relu6 by clip": (lambda n, x: clip(n, x, 0.0, 6.0), Op.RELU6),
    "relu6 as torch has it": (
        lambda n, x: n.activation(Op.HARD_TANH, x, min=0.0, max=6.0),
        Op.RELU6,
    ),
    "hard swish by torch's relu6": (
        lambda n, x: n.mul(
            x, n.div(n.activation(Op.HARD_TANH, n.add(x, 3.0), min=0.0, max=6.0), 6.0)
        ),
        Op.HARD_SWISH,
    ),
    "clip as a hard tanh": (lambda n, x: n.activation(Op.HARD_TANH, x, min=0.0, max=1.0), Op.CLIP),
    "relu6 by minimum": (lambda n, x: n.layer(Op.MINIMUM, n.relu(x), constant=6.0), Op.RELU6),
    "hard tanh by extremes": (
        lambda n, x: n.layer(Op.MAXIMUM, n.layer(Op.MINIMUM, x, constant=1.0), constant=-1.0),
        Op.HARD_TANH,
    ),
    "leaky relu": (lambda n, x: n.layer(Op.MAXIMUM, n.mul(x, 0.2), x), Op.LEAKY_RELU),
    "squared relu": (lambda n, x: n.pow(n.relu(x), 2.0), Op.SQUARED_RELU),
    "squared relu by product": (lambda n, x: n.mul(r := n.relu(x), r), Op.SQUARED_RELU),
    "softplus that ends in a line": (softplus_with_its_line, Op.SOFTPLUS),
    "sharp softplus": (lambda n, x: softplus_with_its_line(n, x, 2.5), Op.SOFTPLUS),
    "elu": (elu, Op.ELU),
    "selu": (lambda n, x: elu(n, x, 1.0507009873554805, 1.6732632423543772), Op.SELU),
    "selu of elu": (
        lambda n, x: n.mul(n.activation(Op.ELU, x, alpha=1.6732632), 1.0507009),
        Op.SELU,
    ),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name):
    build, op = ACTIVATIONS[name]
    fused(unary(build), op)


def test_relu_keeps_its_name_when_maximum_is_replaced():
    net = Network()
    net.output(net.layer(Op.MAXIMUM, net.input(4), constant=0.0, name="max"))
    assert fuse(net.graph)["max"].op is Op.RELU


@pytest.mark.parametrize("factor", [0.3, 1.0, 2.0])
def test_a_gate_of_another_tensor_is_no_activation(factor):
    net = Network()
    x, y = net.input(8, name="x"), net.input(8, name="y")
    net.output(net.mul(net.sigmoid(net.mul(y, factor)), x))
    fused(net, Op.MUL, Op.SIGMOID, Op.MUL)


def test_an_activation_inside_that_is_read_elsewhere_stays():
    net = Network()
    x = net.input(8)
    gate = net.sigmoid(x)
    net.output(net.mul(x, gate), "product")
    net.output(gate, "gate")
    fused(net, Op.SIGMOID, Op.MUL)


@pytest.mark.parametrize("beta", [0.7, 1.702])
def test_sharpness_of_a_sigmoid_gate(beta):
    result = fused(unary(lambda n, x: n.mul(x, n.sigmoid(n.mul(x, beta)))), Op.QUICK_GELU)
    assert find(result, Op.QUICK_GELU).attrs["alpha"] == pytest.approx(beta)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("shift", [False, True])
def test_softmax(log, shift):
    def build(net, x):
        if shift:
            x = net.sub(x, net.reduce(x, "max", keepdims=True))
        exp = net.activation(Op.EXP, x)
        total = net.reduce(exp, "sum", keepdims=True)
        return net.sub(x, net.activation(Op.LOG, total)) if log else net.div(exp, total)

    fused(unary(build), Op.LOG_SOFTMAX if log else Op.SOFTMAX)


# normalisers


def square(net, x, spelling):
    if spelling == "pow":
        return net.pow(x, 2.0)
    return net.mul(x, x) if spelling == "mul" else net.activation(Op.SQUARE, x)


def divided(net, x, variance, spelling):
    guarded = net.add(variance, 1e-5)
    if spelling == "sqrt":
        return net.div(x, net.activation(Op.SQRT, guarded))
    if spelling == "power":
        return net.div(x, net.pow(guarded, 0.5))
    if spelling == "inverse power":
        return net.mul(x, net.pow(guarded, -0.5))
    if spelling == "rsqrt":
        return net.mul(net.activation(Op.RECIPROCAL_SQRT, guarded), x)
    root = net.activation(Op.SQRT, guarded)
    if spelling == "reciprocal":
        return net.mul(x, net.activation(Op.RECIPROCAL, root))
    return net.mul(x, net.div(root, 1.0, constant_first=True))


SQUARES = ["pow", "mul", "square"]
DIVISIONS = ["sqrt", "power", "inverse power", "rsqrt", "reciprocal", "quotient"]


def layer_norm(net, x, squares="pow", division="sqrt", axis=-1, cast=False):
    mean = net.reduce(x, "mean", axis, keepdims=True)
    centred = net.sub(x, mean)
    inner = net.layer(Op.CAST, centred) if cast else centred
    variance = net.reduce(square(net, inner, squares), "mean", axis, keepdims=True)
    result = divided(net, centred, variance, division)
    return net.layer(Op.CAST, result) if cast else result


@pytest.mark.parametrize("squares", SQUARES)
@pytest.mark.parametrize("division", DIVISIONS)
def test_layer_norm(squares, division):
    def build(net, x):
        normal_ = layer_norm(net, x, squares, division)
        return net.shift(net.gain(normal_, normal(net.rng, 16), name="g"), normal(net.rng, 16))

    result = fused(unary(build), Op.LAYER_NORM)
    norm = next(layer for layer in result if layer.op is Op.LAYER_NORM)
    assert [param.role for param in norm.params] == [Role.GAIN, Role.SHIFT]
    assert norm.attrs["eps"] == pytest.approx(1e-5)


def test_layer_norm_without_affine_part_and_with_casts():
    fused(unary(lambda net, x: layer_norm(net, x, cast=True)), Op.LAYER_NORM, Op.CAST)


def test_layer_norm_with_eps_outside_the_root():
    def build(net, x):
        centred = net.sub(x, net.reduce(x, "mean", keepdims=True))
        return net.div(centred, net.add(net.reduce(x, "std", keepdims=True), 1e-6))

    fused(unary(build), Op.LAYER_NORM)


def test_layer_norm_from_moments():
    def build(net, x):
        mean = net.reduce(x, "mean", keepdims=True)
        whole = net.reduce(net.mul(x, x), "mean", keepdims=True)
        variance = net.layer(Op.MAXIMUM, net.sub(whole, net.mul(mean, mean)), constant=0.0)
        return divided(net, net.sub(x, mean), variance, "rsqrt")

    fused(unary(build), Op.LAYER_NORM)


def test_layer_norm_of_tensorflow():
    def build(net, x):
        mean = net.reduce(x, "mean", keepdims=True)
        centred = net.sub(x, mean)
        variance = net.reduce(net.mul(centred, centred), "mean", keepdims=True)
        inverse = net.activation(Op.RECIPROCAL_SQRT, net.add(variance, 1e-3))
        factor = net.gain(inverse, normal(net.rng, 16), name="gamma")
        shift = net.param(Role.SHIFT, "beta", normal(net.rng, 16))
        rest = net.layer(
            Op.SUB, net.mul(mean, factor), params=[shift], constant_first=True, name="rest"
        )
        return net.add(net.mul(x, factor), rest)

    result = fused(unary(build), Op.LAYER_NORM)
    norm = next(layer for layer in result if layer.op is Op.LAYER_NORM)
    assert [param.name for param in norm.params] == ["gamma", "beta"]


def test_layer_norm_of_jax():
    """Sums times 1/n, statistics without their axis, the gain on the inverse root."""

    def mean(net, x):
        return net.mul(net.reduce(x, "sum"), 1 / 16)

    def build(net, x):
        centre, whole = mean(net, x), mean(net, net.mul(x, x))
        variance = net.layer(Op.MAXIMUM, net.sub(whole, net.mul(centre, centre)), constant=0.0)
        wide = net.layer(Op.EXPAND, net.reshape(variance, 1))
        root = net.activation(Op.SQRT, net.add(wide, 1e-6))
        factor = net.gain(net.activation(Op.RECIPROCAL, root), normal(net.rng, 16), name="g")
        centred = net.sub(x, net.reshape(centre, 1))
        return net.shift(net.mul(centred, factor), normal(net.rng, 16), name="b")

    result = fused(unary(build), Op.LAYER_NORM)
    assert [param.name for param in find(result, Op.LAYER_NORM).params] == ["g", "b"]


def test_a_sum_times_another_number_is_no_mean():
    def build(net, x):
        return net.sub(x, net.reshape(net.mul(net.reduce(x, "sum"), 1 / 15), 1))

    fused(unary(build), Op.REDUCE, Op.MUL, Op.RESHAPE, Op.SUB)


@pytest.mark.parametrize("division", DIVISIONS)
@pytest.mark.parametrize("offset", [None, 1.0])
def test_rms_norm(division, offset):
    stored = normal(np.random.default_rng(5), 16)

    def build(net, x):
        mean = net.reduce(square(net, x, "pow"), "mean", keepdims=True)
        result = divided(net, x, mean, division)
        if offset is None:
            return net.gain(result, stored)
        return net.mul(result, net.add(net.parameter(stored, name="w"), offset))

    result = fused(unary(build), Op.RMS_NORM)
    gain = next(layer for layer in result if layer.op is Op.RMS_NORM).params[0]
    assert gain.role is Role.GAIN
    np.testing.assert_allclose(gain.tensor.read(), stored + (offset or 0.0), rtol=1e-6)


def test_rms_norm_of_a_relu_is_no_squared_relu():
    def build(net, x):
        x = net.relu(x)
        return divided(net, x, net.reduce(net.pow(x, 2.0), "mean", keepdims=True), "rsqrt")

    fused(unary(build), Op.RELU, Op.RMS_NORM)


def test_instance_norm_over_space():
    net = Network()
    x = net.input(4, 5, 5)
    y = layer_norm(net, x, axis=(2, 3))
    net.output(net.shift(net.gain(y, normal(net.rng, 4, 1, 1)), normal(net.rng, 4, 1, 1)))
    result = fused(net, Op.INSTANCE_NORM)
    norm = next(layer for layer in result if layer.op is Op.INSTANCE_NORM)
    assert [param.shape for param in norm.params] == [(4,), (4,)]


def test_batch_statistics():
    net = Network()
    net.output(layer_norm(net, net.input(4, 5, 5), axis=(0, 2, 3)))
    fused(net, Op.BATCH_NORM)


def test_layer_norm_over_channels():
    net = Network()
    x = net.input(4, 5, 5)
    net.output(net.gain(layer_norm(net, x, axis=1), normal(net.rng, 4, 1, 1)))
    result = fused(net, Op.LAYER_NORM)
    norm = next(layer for layer in result if layer.op is Op.LAYER_NORM)
    assert (norm.attrs["axis"], norm.channel_axis, norm.params[0].shape) == (1, 1, (4,))


def group_norm(net, x, gain):
    inner = net.reshape(x, 2, -1)
    normed = net.instance_norm(inner, gain=gain, shift=zeros(2))
    return net.reshape(normed, 4, 5, 5)


def test_group_norm():
    net = Network()
    y = group_norm(net, net.input(4, 5, 5), ones(2))
    net.output(net.shift(net.gain(y, normal(net.rng, 4, 1, 1)), normal(net.rng, 1, 4, 1, 1)))
    result = fused(net, Op.GROUP_NORM)
    norm = next(layer for layer in result if layer.op is Op.GROUP_NORM)
    assert norm.attrs["groups"] == 2
    assert [param.shape for param in norm.params] == [(4,), (4,)]


def test_group_norm_with_gains_per_group_stays():
    net = Network()
    net.output(group_norm(net, net.input(4, 5, 5), normal(net.rng, 2)))
    fused(net, Op.RESHAPE, Op.INSTANCE_NORM, Op.RESHAPE)


@pytest.mark.parametrize("spelling", ["l2", "root", "clip"])
def test_euclidean_norm(spelling):
    def build(net, x):
        if spelling == "root":
            total = net.reduce(net.pow(x, 2.0), "sum", keepdims=True)
            return net.div(x, net.activation(Op.SQRT, total))
        norm = net.reduce(x, "l2", keepdims=True)
        return net.div(x, clip(net, norm, 1e-12, None) if spelling == "clip" else norm)

    fused(unary(build), Op.LP_NORM)


def test_weight_standardisation_is_no_normaliser():
    net = Network()
    weight = net.parameter(normal(net.rng, 8, 16), name="w")
    net.output(net.matmul(net.input(16), net.transpose(layer_norm(net, weight), 1, 0)))
    assert not [layer for layer in fuse(net.graph) if layer.op is Op.LAYER_NORM]


def test_a_second_gain_is_not_part_of_the_norm():
    net = Network()
    x = net.layer_norm(net.input(8), name="norm")
    net.output(net.layer_scale(x, normal(net.rng, 8), name="gamma"))
    fused(net, Op.LAYER_NORM, Op.MUL)


# biases


def test_bias_of_a_linear_layer():
    net = Network()
    x = net.linear(net.input(6, 4), normal(net.rng, 3, 4), name="fc.MatMul")
    net.output(net.shift(x, normal(net.rng, 3), name="fc.Add"))
    result = fused(net, Op.LINEAR)
    assert result["fc"].bias.name == "fc.Add"


def test_bias_behind_a_reshape():
    net = Network()
    x = net.linear(net.reshape(net.input(6, 4), 6, 4), normal(net.rng, 3, 4), name="matmul")
    net.output(net.shift(net.reshape(x, 2, 3, 3), normal(net.rng, 3)))
    result = fused(net, Op.RESHAPE, Op.LINEAR, Op.RESHAPE)
    assert result["matmul"].bias is not None


@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 3, 1, 1)])
def test_bias_of_a_convolution(shape):
    net = Network()
    x = net.conv(net.input(2, 5, 5), normal(net.rng, 3, 2, 3, 3), name="conv")
    net.output(net.shift(x, normal(net.rng, *shape)))
    assert fused(net, Op.CONV)["conv"].bias.shape == (3,)


def test_an_addend_along_another_axis_is_no_bias():
    net = Network()
    x = net.conv(net.input(2, 5, 5), normal(net.rng, 3, 2, 3, 3), name="conv")
    net.output(net.shift(x, normal(net.rng, 3)))
    fused(net, Op.CONV, Op.ADD)


# attention


def heads(net, x, count):
    width = x.shape[-1] // count
    return net.transpose(net.reshape(x, x.shape[1], count, width), 0, 2, 1, 3)


def attention(net, x, scale="after", mask=None, merged=True, bias=None):
    q, k, v = (net.linear(x, normal(net.rng, 8, 8), name=name) for name in "qkv")
    if scale == "projection":
        q = net.mul(q, 0.5)
    q, v = heads(net, q, 2), heads(net, v, 2)
    if merged:
        k = net.transpose(net.reshape(k, 5, 2, 4), 0, 2, 3, 1)
    else:
        k = net.transpose(heads(net, k, 2), 0, 1, 3, 2)
    if scale == "both":
        q, k = net.mul(q, sqrt(0.5)), net.mul(k, sqrt(0.5))
    logits = net.matmul(q, k)
    if scale == "after":
        logits = net.div(logits, 2.0)
    if mask is not None:
        logits = net.add(logits, mask)
    if bias is not None:
        logits = net.table(logits, bias)
    return net.matmul(net.dropout(net.softmax(logits)), v)


def test_softmax_of_jax():
    def build(net, x):
        peak = net.layer(Op.MAXIMUM, net.reduce(x, "max"), constant=-np.inf)
        exp = net.activation(Op.EXP, net.sub(x, net.reshape(peak, 1)))
        return net.div(exp, net.layer(Op.EXPAND, net.reshape(net.reduce(exp, "sum"), 1)))

    fused(unary(build), Op.SOFTMAX)


def find(graph: LayerGraph, op: Op):
    return next(layer for layer in graph if layer.op is op)


@pytest.mark.parametrize("scale", ["after", "projection", "both"])
@pytest.mark.parametrize("merged", [True, False])
def test_attention(scale, merged):
    net = Network()
    net.output(attention(net, net.input(5, 8), scale, merged=merged))
    feeds = net.feeds(4)
    result = fuse(net.graph)
    np.testing.assert_allclose(outputs(result, feeds)[0], outputs(net.graph, feeds)[0], rtol=1e-6)
    layer = find(result, Op.ATTENTION)
    assert layer.attrs["scale"] == pytest.approx(0.5)
    assert (layer.attrs["heads"], layer.attrs["head_dim"]) == (2, 4)
    assert layer.attrs["causal"] is False
    assert not {Op.SOFTMAX, Op.MATMUL, Op.MUL, Op.DIV} & {item.op for item in result}
    sources = [result.effective_producers(layer.id)[i].id for i in range(3)]
    assert sources == ["q", "k", "v"]


def test_attention_as_torch_exports_it():
    """Keys are swapped with batch and heads merged; weights that are not a number become zero."""
    net = Network()
    x = net.input(5, 8)
    q, k, v = (heads(net, net.linear(x, normal(net.rng, 8, 8), name=name), 1) for name in "qkv")
    swapped = net.reshape(net.transpose(net.reshape(k, 5, 8), 0, 2, 1), 1, 8, 5)
    weights = net.softmax(net.matmul(net.mul(q, sqrt(0.5)), net.mul(swapped, sqrt(0.5))))
    test = net.layer(Op.COMPARE, weights, kind="IsNaN")
    safe = net.layer(Op.WHERE, test, weights, constant=0.0, constant_position=1)
    net.output(net.matmul(safe, v))
    result = fuse(net.graph)
    layer = find(result, Op.ATTENTION)
    assert layer.attrs["scale"] == pytest.approx(0.5)
    assert "key_transposed" not in layer.attrs
    assert [source.id for source in result.effective_producers(layer.id)] == ["q", "k", "v"]
    assert not {Op.SOFTMAX, Op.COMPARE, Op.WHERE, Op.MATMUL} & {item.op for item in result}
    feeds = net.feeds(4)
    np.testing.assert_allclose(outputs(result, feeds)[0], outputs(net.graph, feeds)[0], rtol=1e-6)


def test_attention_with_a_causal_mask():
    net = Network()
    mask = np.where(np.tri(5) > 0, 0.0, -1e9)
    net.output(attention(net, net.input(5, 8), mask=mask))
    assert find(fuse(net.graph), Op.ATTENTION).attrs["causal"] is True


def test_attention_with_an_unknown_mask():
    net = Network()
    mask = net.input(1, 5, 5, name="mask")
    net.output(attention(net, net.input(5, 8), mask=mask))
    result = fuse(net.graph)
    layer = find(result, Op.ATTENTION)
    assert layer.attrs["causal"] is None
    assert [edge.source for edge in result.inputs(layer.id)][3] == "mask"


def test_attention_keeps_its_position_bias():
    net = Network()
    net.output(attention(net, net.input(5, 8), bias=normal(net.rng, 1, 2, 5, 5)))
    result = fuse(net.graph)
    assert find(result, Op.ATTENTION).params[0].role is Role.TABLE
    feeds = net.feeds(4)
    np.testing.assert_allclose(outputs(result, feeds)[0], outputs(net.graph, feeds)[0], rtol=1e-6)


def test_logits_read_elsewhere_are_no_attention():
    net = Network()
    x = net.input(5, 8)
    logits = net.matmul(x, net.transpose(x, 0, 2, 1))
    net.output(logits, "logits")
    net.output(net.matmul(net.softmax(logits), x))
    fused(net, Op.TRANSPOSE, Op.MATMUL, Op.SOFTMAX, Op.MATMUL)


# names and order


def test_a_fused_module_takes_its_path():
    net = Network()
    x = net.input(16)
    prefix = "encoder.norm"
    mean = net.reduce(x, "mean", keepdims=True, name=f"{prefix}.mean")
    centred = net.sub(x, mean, name=f"{prefix}.sub")
    squared = net.pow(centred, 2.0, name=f"{prefix}.pow")
    variance = net.reduce(squared, "mean", keepdims=True, name=f"{prefix}.var")
    guarded = net.add(variance, 1e-5, name=f"{prefix}.eps")
    root = net.activation(Op.SQRT, guarded, name=f"{prefix}.sqrt")
    normed = net.div(centred, root, name=f"{prefix}.div")
    gained = net.gain(normed, ones(16), name=f"{prefix}.weight")
    net.output(net.shift(gained, zeros(16), name=f"{prefix}.bias"))
    result = fused(net, Op.LAYER_NORM)
    assert result.order[1].id == prefix


def test_a_part_of_a_module_keeps_the_id_of_its_last_layer():
    net = Network()
    x = net.linear(net.input(4), normal(net.rng, 4, 4), name="block.fc")
    gate = net.sigmoid(x, name="block.gate")
    net.output(net.mul(x, gate, name="block.product"))
    assert fused(net, Op.LINEAR, Op.SILU)["block.product"].op is Op.SILU


def test_fusing_twice_changes_nothing():
    net = Network()
    x = net.input(5, 8)
    x = net.add(x, net.reshape(net.transpose(attention(net, x), 0, 2, 1, 3), 5, 8))
    net.output(gelu_erf(net, layer_norm(net, x), "half last"))
    once = fuse(net.graph)
    twice = fuse(once)
    assert list(twice) == list(once)
    assert list(twice.nx.edges(data=True)) == list(once.nx.edges(data=True))


def test_the_given_graph_is_untouched():
    net = Network()
    net.output(gelu_erf(net, net.input(4), "half last"))
    graph = net.graph
    before = list(graph)
    fuse(graph)
    assert list(graph) == before


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([*sorted(ACTIVATIONS), "norm", "skip", "gate"]), max_size=6))
def test_any_composition_computes_the_same(names):
    net = Network()
    x: Value = net.input(16)
    for name in names:
        if name == "norm":
            x = net.gain(layer_norm(net, x), normal(net.rng, 16))
        elif name == "skip":
            x = net.add(x, net.tanh(x))
        elif name == "gate":
            x = net.mul(x, net.sigmoid(net.linear(x, normal(net.rng, 16, 16, std=0.25))))
        else:
            x = ACTIVATIONS[name][0](net, x)
    net.output(x)
    feeds = net.feeds(3)
    got, wanted = outputs(fuse(net.graph), feeds)[0], outputs(net.graph, feeds)[0]
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4)
