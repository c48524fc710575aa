"""Pictures of the page on theory, from the numbers that the linter itself uses.

    python docs/theory_pictures.py docs/pictures

Full lines are networks run in NumPy, dashed lines and everything about gradients are initlint's
theory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from math import log10, sqrt

import numpy as np
from chart import Chart, Points, Strips, write

from initlint.model import Op
from initlint.model.tensor import Array
from initlint.testing import he_normal, orthogonal, xavier_uniform
from initlint.theory.activations import correlation_map, derivative_moment, second_moment
from initlint.theory.harm import EXPLODING, VANISHING, Harm, backward_harm, drift_harm
from initlint.theory.result import Sink

HEALTHY = (VANISHING[0], EXPLODING[0])
DEPTH, WIDTH, ROWS = 50, 256, 64
BLOCKS = 24

Draw = Callable[[np.random.Generator], Array]


def _relu(x: Array) -> Array:
    return np.maximum(x, 0.0)


def _decades(signal: Array) -> float:
    return log10(float(np.sqrt(np.mean(np.square(signal, dtype=np.float64)))))


def _signal(draw: Draw) -> Points:
    """log10 of the rms behind each layer of a plain ReLU network, relative to the first."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((ROWS, WIDTH)).astype(np.float32)
    heights = []
    for _ in range(DEPTH):
        z = x @ draw(rng).T
        heights.append(_decades(z))
        x = _relu(z)
    return [(layer + 1, height - heights[0]) for layer, height in enumerate(heights)]


def _signal_by_depth() -> Chart:
    def predicted(gain: float) -> Points:
        step = 0.5 * log10(gain * gain * second_moment(Op.RELU))
        return [(layer, (layer - 1) * step) for layer in range(1, DEPTH + 1)]

    lines = {
        "Xavier": _signal(lambda rng: xavier_uniform(rng, WIDTH, WIDTH)),
        "He": _signal(lambda rng: he_normal(rng, WIDTH, WIDTH)),
        "orthogonal, \u221a2": _signal(lambda rng: orthogonal(rng, WIDTH, WIDTH, gain=sqrt(2.0))),
        "Xavier, theory": predicted(1.0),
        "He, theory": predicted(sqrt(2.0)),
    }
    title = "Signal in a plain ReLU network, 50 layers of width 256"
    marks = {"warning": VANISHING[1], "error": VANISHING[2]}
    dashed = frozenset({"Xavier, theory", "He, theory"})
    return Chart(title, "layer", "log10 of the rms", lines, marks, HEALTHY, dashed)


def _gradient_by_depth() -> Chart:
    """Var(W) holds E[z²] at 1, so the gradient gains E[φ'²]/E[φ²] a layer."""

    def curve(op: Op) -> Points:
        step = 0.5 * log10(derivative_moment(op) / second_moment(op))
        return [(layer, layer * step) for layer in range(31)]

    ops = {"ReLU": Op.RELU, "tanh": Op.TANH, "GELU": Op.GELU, "sigmoid": Op.SIGMOID}
    lines = {name: curve(op) for name, op in ops.items() if op is not Op.SIGMOID}
    lines["sigmoid"] = curve(Op.SIGMOID)[:13]
    title = "Gradient on its way back where the signal is held at 1"
    marks = {"warning": VANISHING[1], "error": VANISHING[2]}
    return Chart(title, "layers", "log10 of the rms", lines, marks, HEALTHY)


def _correlation_map() -> Chart:
    ops = {"ReLU": Op.RELU, "tanh": Op.TANH, "GELU": Op.GELU}
    cosines = [number / 40 for number in range(41)]
    lines = {
        name: [(c, correlation_map(op, None, c) if c < 1 else 1.0) for c in cosines]
        for name, op in ops.items()
    }
    lines["c' = c"] = [(0.0, 0.0), (1.0, 1.0)]
    title = "Cosine between two inputs, before and after a layer"
    dashed = frozenset({"c' = c"})
    return Chart(title, "c, before", "c', after", lines, dashed=dashed)


def _residual_growth() -> Chart:
    """Blocks x + s W2 relu(W1 x): He's W1; W2 keeps its input's second moment."""

    def measured(scale: float) -> Points:
        rng = np.random.default_rng(1)
        x = rng.standard_normal((ROWS, WIDTH)).astype(np.float32)
        heights = [_decades(x)]
        for _ in range(BLOCKS):
            inner = _relu(x @ he_normal(rng, WIDTH, WIDTH).T)
            x = x + scale * inner @ he_normal(rng, WIDTH, WIDTH, gain=1.0).T
            heights.append(_decades(x))
        return [(block, height - heights[0]) for block, height in enumerate(heights)]

    def predicted(ratio: float) -> Points:
        return [(block, 0.5 * block * log10(1 + ratio)) for block in range(BLOCKS + 1)]

    small = 1 / sqrt(2 * BLOCKS)
    branch = 2.0 * second_moment(Op.RELU)
    lines = {
        "as drawn": measured(1.0),
        "\u00d7 1/\u221a(2L)": measured(small),
        "as drawn, theory": predicted(branch),
        "scaled, theory": predicted(branch * small * small),
    }
    title = f"Residual stream over L = {BLOCKS} un-normalised blocks"
    marks = {"warning": EXPLODING[1], "error": EXPLODING[2]}
    dashed = frozenset({"as drawn, theory", "scaled, theory"})
    return Chart(title, "blocks", "log10 of the rms", lines, marks, HEALTHY, dashed)


def _severity_by_decades() -> Strips:
    grid = [number / 20 for number in range(-110, 51)]
    judges: Mapping[str, Callable[[float], Harm | None]] = {
        "signal into logits": lambda drift: drift_harm(drift, sink=Sink.OUTPUT),
        "signal into tanh": lambda drift: drift_harm(drift, sink=Sink.SATURATION),
        "signal into a norm": lambda drift: drift_harm(drift, sink=Sink.NORMALISER),
        "gradient": backward_harm,
    }
    rows = {
        name: [
            (x, "silent" if harm is None else harm.name.lower())
            for x in grid
            for harm in [judge(x)]
        ]
        for name, judge in judges.items()
    }
    title = "What a drift of the rms is called, by where it arrives"
    return Strips(title, "log10 of the factor from the first layer to the last", rows)


PICTURES: Mapping[str, Callable[[], Chart | Strips]] = {
    "signal-by-depth": _signal_by_depth,
    "gradient-by-depth": _gradient_by_depth,
    "correlation-map": _correlation_map,
    "residual-growth": _residual_growth,
    "severity-by-decades": _severity_by_decades,
}


if __name__ == "__main__":
    print(write(PICTURES, sys.argv[1]), "pictures")
