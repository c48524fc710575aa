"""Pictures of the rule pages, drawn from the numbers that the rules rest on.

    python docs/pictures.py docs/rules/pictures

Every curve is computed here by initlint's own theory, or by running a small network in NumPy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from math import erf, exp, log, log10, pi, sqrt

import numpy as np
from chart import Chart, Points, write

from initlint.model import Op
from initlint.probe.activations import dead_chance
from initlint.testing import Network, normal
from initlint.theory.harm import excess_loss


def _logistic(x: float) -> float:
    return 1.0 / (1.0 + exp(-x))


def depth_profile(op: Op, gain: float, depth: int = 30, width: int = 256) -> Points:
    """log10 of the rms behind each layer of a plain network, run in NumPy."""
    net = Network()
    x = net.input(width)
    for index in range(depth):
        weight = normal(net.rng, width, width, std=gain / sqrt(width))
        x = net.activation(op, net.linear(x, weight, name=f"fc{index}"))
    net.output(x)
    outputs = net.run(64, 0).outputs
    rms = [outputs[f"fc{index}"].rms for index in range(depth)]
    return [(index + 1, log10(value) - log10(rms[0])) for index, value in enumerate(rms)]


def _relu_after_xavier() -> Chart:
    lines = {
        "Xavier, gain 1": depth_profile(Op.RELU, 1.0),
        "He, gain 1.41": depth_profile(Op.RELU, sqrt(2.0)),
    }
    title = "Signal in a plain ReLU network of width 256"
    return Chart(title, "layer", "log10 of the rms", lines, {"error": -4.0, "warning": -1.5})


def _forward_drift() -> Chart:
    lines = {f"gain {gain:g}": depth_profile(Op.RELU, gain) for gain in (0.6, 1.0, sqrt(2.0), 1.6)}
    lines = {name.replace("1.41421", "1.41"): points for name, points in lines.items()}
    title = "One wrong gain, thirty times"
    return Chart(title, "layer", "log10 of the rms", lines, {"error ": 1.5, "error": -4.0})


def _gain_mismatch() -> Chart:
    ops = {"tanh": Op.TANH, "gelu": Op.GELU, "silu": Op.SILU, "relu": Op.RELU}
    lines = {name: depth_profile(op, sqrt(2.0)) for name, op in ops.items()}
    title = "He's gain in front of other activations"
    return Chart(title, "layer", "log10 of the rms", lines, {})


def _sigmoid_stack() -> Chart:
    def gradient(slope: float) -> Points:
        return [(depth, 0.5 * depth * log10(slope)) for depth in range(13)]

    lines = {"sigmoid": gradient(0.056), "ReLU (He)": gradient(1.0)}
    title = "Gradient behind a stack, per layer E[phi'(z)^2] n Var(W)"
    return Chart(title, "layers", "log10 of the rms", lines, {"error": -4.0, "warning": -1.5})


def _head_excess_loss() -> Chart:
    def curve(classes: int) -> Points:
        return [(s / 10, excess_loss(s / 10, classes)) for s in range(81)]

    lines = {f"{classes:,} classes": curve(classes) for classes in (10, 1000, 50000)}
    title = "First loss above ln V for logits of standard deviation s"
    return Chart(title, "s", "nats", lines, {"error": 3.0, "warning": 1.5})


def _correlation_collapse() -> Chart:
    def curve(start: float) -> Points:
        c, points = start, []
        for layer in range(51):
            points.append((layer, log10(max(1.0 - c, 1e-12))))
            c = (sqrt(max(1.0 - c * c, 0.0)) + c * (pi - np.arccos(min(c, 1.0)))) / pi
        return points

    lines = {"unrelated inputs": curve(0.0), "cosine 0.9": curve(0.9)}
    title = "Distance 1 - c between two inputs in a He-initialised ReLU network"
    return Chart(title, "layer", "log10(1 - c)", lines, {"info": -2.0})


def _dead_relu() -> Chart:
    cosines = [number / 50 for number in range(50)]
    lines = {
        f"{rows} rows": [(c, 100 * dead_chance(c, rows)) for c in cosines] for rows in (16, 64, 256)
    }
    title = "Units that are silent by chance"
    return Chart(title, "cosine between inputs", "% of the units", lines, {})


def _residual_branch_unscaled() -> Chart:
    blocks = range(49)
    lines = {
        "r = 1 (He branch)": [(n, 0.5 * n * log10(2.0)) for n in blocks],
        "r = 1/48": [(n, 0.5 * n * log10(1 + 1 / 48)) for n in blocks],
        "normalised branch": [(n, 0.5 * log10(1 + n)) for n in blocks],
    }
    title = "The residual stream grows by sqrt(1 + r) per block"
    return Chart(title, "blocks", "log10 of the rms", lines, {"error": 1.5, "warning": 0.7})


def _post_norm_deep() -> Chart:
    additions = range(0, 61, 2)
    lines = {
        f"r = {r:g}": [(n, -0.5 * n * log10(1 + r)) for n in additions] for r in (0.05, 0.25, 1.0)
    }
    title = "Gradient that the skip path keeps when every sum is normalised"
    marks = {"error": -4.0, "warning": -1.5}
    return Chart(title, "additions", "log10 of the rms", lines, marks)


def _attention_logit_scale() -> Chart:
    rng = np.random.default_rng(0)

    def curve(keys: int) -> Points:
        logits = rng.standard_normal((4000, keys))
        points = []
        for number in range(25):
            s = number / 4
            weights = np.exp(s * (logits - logits.max(axis=1, keepdims=True)))
            weights /= weights.sum(axis=1, keepdims=True)
            entropy = -(weights * np.log(np.maximum(weights, 1e-300))).sum(axis=1).mean()
            points.append((s, float(entropy) / log(keys)))
        return points

    lines = {f"{keys} keys": curve(keys) for keys in (64, 1024)}
    title = "Entropy of a softmax over Gaussian logits, of its largest"
    return Chart(title, "standard deviation s of the logits", "H / ln T", lines, {"half": 0.5})


def _narrow_deep_scatter() -> Chart:
    ratios = [number / 20 for number in range(81)]
    lines = {
        "ReLU": [(x, 0.5 / log(10) * sqrt(5 * x)) for x in ratios],
        "linear, tanh": [(x, 0.5 / log(10) * sqrt(2 * x)) for x in ratios],
    }
    title = "Scatter of the signal's scale from draw to draw"
    marks = {"error": 1.0, "warning": 0.5, "info": 0.25}
    return Chart(title, "depth / width", "decades", lines, marks)


def _forget_gate_memory() -> Chart:
    steps = range(0, 101, 5)
    lines = {
        f"b = {b:g}": [(t, t * log10(_logistic(b))) for t in steps] for b in (0.0, 1.0, 2.0, 4.6)
    }
    title = "Gradient through an LSTM's cell after T steps"
    return Chart(title, "T", "log10 of sigmoid(b)^T", lines, {"info": -4.2, "warning": -18.0})


def _epsilon_dominates() -> Chart:
    exponents = [number / 5 for number in range(-20, 16)]
    curve = [(x, sqrt(10.0**x / (10.0**x + 1.0))) for x in exponents]
    title = "What a normaliser restores"
    up = "rms behind it"
    return Chart(title, "log10(variance / epsilon)", up, {"sqrt(v/(v+eps))": curve}, {})


def _latent_variance() -> Chart:
    spread = [number / 20 for number in range(51)]
    curve = [(s, 0.5 * (exp(0.5 * s * s) - 1.0)) for s in spread]
    title = "Divergence per latent unit for a log-variance N(0, s^2)"
    marks = {"error": 3.0, "warning": 1.0, "info": 0.5}
    return Chart(title, "s", "nats", {"log-variance": curve}, marks)


def _saturation() -> Chart:
    spread = [0.1 * number for number in range(1, 81)]
    curve = [(s, 100.0 * (1.0 - erf(2.09 / (s * sqrt(2.0))))) for s in spread]
    title = "tanh units with a slope below 6 %"
    marks = {"error": 70.0, "warning": 30.0}
    across = "standard deviation of the pre-activation"
    return Chart(title, across, "% of the units", {"tanh": curve}, marks)


def _recurrent_not_orthogonal() -> Chart:
    steps = range(0, 101, 5)
    lines = {
        "default, U(1/sqrt(h))": [(t, t * log10(1 / sqrt(3.0))) for t in steps],
        "N(0, 1.2/h)": [(t, t * log10(sqrt(1.2))) for t in steps],
        "orthogonal": [(t, 0.0) for t in steps],
    }
    title = "Spectral radius to the power of T: the linear part alone"
    marks = {"error": -7.2, "warning": -4.0}
    return Chart(title, "steps T", "log10 of the gradient", lines, marks)


PICTURES: Mapping[str, Callable[[], Chart]] = {
    "attention-logit-scale": _attention_logit_scale,
    "correlation-collapse": _correlation_collapse,
    "dead-relu": _dead_relu,
    "epsilon-dominates": _epsilon_dominates,
    "forget-gate-memory": _forget_gate_memory,
    "forward-drift": _forward_drift,
    "gain-mismatch": _gain_mismatch,
    "head-excess-loss": _head_excess_loss,
    "latent-variance": _latent_variance,
    "narrow-deep-scatter": _narrow_deep_scatter,
    "post-norm-deep": _post_norm_deep,
    "recurrent-not-orthogonal": _recurrent_not_orthogonal,
    "relu-after-xavier": _relu_after_xavier,
    "residual-branch-unscaled": _residual_branch_unscaled,
    "saturation": _saturation,
    "sigmoid-stack": _sigmoid_stack,
}
"""A picture for each rule whose number is easier seen than read."""


if __name__ == "__main__":
    print(write(PICTURES, sys.argv[1]), "pictures")
