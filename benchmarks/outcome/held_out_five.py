"""A fifth set: ordinary networks with ordinary starts, written when others had led to changes.

``python -m benchmarks.outcome held-out --set 5``: trained as the others, judged before any step.
"""

from __future__ import annotations

import math
from functools import partial

from torch import nn
from torch.nn import init

from benchmarks.outcome import faults as f
from benchmarks.outcome import held_out_five_nets as nets
from benchmarks.outcome.models import KNOWN, Architecture, fault, unusual
from benchmarks.outcome.nets import he, lecun

_SQRT2 = math.sqrt(2)

_BODY10 = "fc[1-9]"

HELD_OUT_FIVE: dict[str, Architecture] = {
    "three-layers": Architecture(
        nets.perceptron((64, 96, 96, 10), nn.ReLU, he),
        "digits",
        {
            "default": unusual(("fc*", f.default)),
            "xavier": unusual(("fc*", f.xavier)),
            "normal-0.01": fault(("fc*", f.normal(0.01))),
            "normal-1": fault(("fc*", f.normal(1.0))),
            "zeros": fault(("fc*", f.zeros)),
            "constant": fault(("fc*", f.constant(0.1))),
            "times-10": fault(("fc*", f.scaled(10.0))),
            "tenth": fault(("fc*", f.scaled(0.1))),
            "equal-first": fault(("fc1", f.copied_rows(1))),
        },
    ),
    "ten-relu": Architecture(
        nets.perceptron((64, *[48] * 9, 10), nn.ReLU, he),
        "digits",
        {
            "orthogonal": unusual((_BODY10, f.drawn(lambda w: init.orthogonal_(w, _SQRT2)))),
            "xavier": unusual((_BODY10, f.xavier)),
            "default": fault((_BODY10, f.default)),
            "normal-0.05": fault((_BODY10, f.normal(0.05))),
            "times-3": fault((_BODY10, f.scaled(3.0))),
            "half": fault((_BODY10, f.scaled(0.5))),
            "bias-1": fault((_BODY10, f.bias(1.0))),
            "bias-minus-1": fault((_BODY10, f.bias(-1.0))),
            "layer-4-zero": fault(("fc4", f.zeros)),
            "layer-5-100": fault(("fc5", f.scaled(100.0))),
            "uniform": fault((_BODY10, f.uniform(0.0, 0.1))),
        },
    ),
    "six-tanh": Architecture(
        nets.perceptron((64, *[48] * 6, 10), nn.Tanh, nets.glorot),
        "digits",
        {
            "gain-1.67": unusual(("fc[1-6]", f.drawn(lambda w: init.xavier_normal_(w, 5 / 3)))),
            "he": unusual(("fc[1-6]", f.he)),
            "default": unusual(("fc[1-6]", f.default)),
            "normal-1": fault(("fc[1-6]", f.normal(1.0))),
            "normal-0.01": fault(("fc[1-6]", f.normal(0.01))),
            "bias-5": fault(("fc3", f.bias(5.0))),
            "constant": fault(("fc[1-6]", f.constant(0.05))),
            "two-units": fault(("fc4", f.copied_rows(2))),
        },
    ),
    "twenty-tanh": Architecture(
        nets.perceptron((64, *[40] * 20, 10), nn.Tanh, nets.orthogonal_tanh),
        "digits",
        {
            "xavier": unusual(("fc*", f.xavier)),
            "default": fault(("fc*", f.default)),
            "times-3": fault(("fc*", f.scaled(3.0))),
            "half": fault(("fc*", f.scaled(0.5))),
            "layer-10-tenth": unusual(("fc10", f.scaled(0.1))),
            "biases": fault(("fc*", f.redrawn("bias", 1.0))),
        },
    ),
    "sigmoid-3": Architecture(
        nets.perceptron((64, 48, 48, 48, 10), nn.Sigmoid, partial(nets.glorot, gain=4.0)),
        "digits",
        {
            "xavier": unusual(("fc*", f.xavier)),
            "default": unusual(("fc*", f.default)),
            "normal-5": fault(("fc[123]", f.normal(5.0))),
            "bias-minus-10": fault(("fc2", f.bias(-10.0))),
            "zeros": fault(("fc*", f.zeros)),
        },
    ),
    "layer-norm-mlp": Architecture(
        nets.perceptron((64, *[40] * 10, 10), nn.GELU, lecun, nn.LayerNorm),
        "digits",
        {
            "normal-0.01": unusual(("fc*", f.normal(0.01))),
            "normal-1": unusual(("fc[1-9]", f.normal(1.0)), ("fc10", f.normal(1.0))),
            "default": unusual(("fc*", f.default)),
            "constant": fault(("fc*", f.constant(0.1))),
            "gain-0": fault(("norm5", f.gamma(0.0))),
            "gain-0.01": fault(("norm*", f.gamma(0.01))),
            "shift-5": fault(("norm*", f.filled("bias", 5.0))),
            "head-30": fault(("fc11", f.scaled(30.0))),
        },
    ),
    "batch-norm-mlp": Architecture(
        nets.perceptron((64, *[40] * 6, 10), nn.Tanh, lecun, nn.BatchNorm1d),
        "digits",
        {
            "normal-0.01": unusual(("fc[1-6]", f.normal(0.01))),
            "normal-1": unusual(("fc[1-6]", f.normal(1.0))),
            "zeros": fault(("fc[1-6]", f.zeros)),
            "gain-20": fault(("norm*", f.gamma(20.0))),
            "gain-0": fault(("norm3", f.gamma(0.0))),
            "equal": fault(("fc3", f.copied_rows(1))),
        },
    ),
    "surface-silu": Architecture(
        nets.perceptron((8, 48, 48, 1), nn.SiLU, he),
        "surface",
        {
            "default": unusual(("fc*", f.default)),
            "zero-head": unusual(("fc3", f.zeros)),
            "normal-0.01": fault(("fc*", f.normal(0.01))),
            "normal-1": fault(("fc*", f.normal(1.0))),
            "head-bias-100": fault(("fc3", f.bias(100.0))),
            "dead": fault(("fc2", f.bias(-30.0))),
            "constant": fault(("fc[12]", f.constant(0.3))),
        },
    ),
    "tutorial-cnn": Architecture(
        nets.Tutorial,
        "digit-pictures",
        {
            "default": unusual(("[cf]*", f.default)),
            "xavier": unusual(("[cf]*", f.xavier)),
            "normal-0.01": fault(("[cf]*", f.normal(0.01))),
            "normal-1": fault(("[cf]*", f.normal(1.0))),
            "zeros": fault(("conv?", f.zeros)),
            "constant": fault(("conv?", f.constant(0.1))),
            "fan-out": unusual(("conv?", f.fan_out_zero_bias), ("fc1", f.fan_out_zero_bias)),
            "fc1-times-50": fault(("fc1", f.scaled(50.0))),
            "conv2-dead": fault(("conv2", f.bias(-20.0))),
            "conv1-tenth": unusual(("conv1", f.scaled(0.1))),
        },
    ),
    "all-conv-12": Architecture(
        partial(nets.AllConvolutions, 12, False),
        "pictures-longer",
        {
            "default": fault(("features.conv*", f.default)),
            "xavier": fault(("features.conv*", f.xavier)),
            "orthogonal": unusual(
                ("features.conv*", f.drawn(lambda w: init.orthogonal_(w, _SQRT2)))
            ),
            "times-3": fault(("features.conv*", f.scaled(3.0))),
            "conv6-zero": fault(("features.conv6", f.zeros)),
            "equal-filters": fault(("features.conv2", f.copied_rows(1))),
            "normal-0.05": fault(("features.conv*", f.normal(0.05))),
        },
    ),
    "all-conv-norm": Architecture(
        partial(nets.AllConvolutions, 8, True),
        "digit-pictures",
        {
            "normal-1": unusual(("features.conv*", f.normal(1.0))),
            "normal-0.001": unusual(("features.conv*", f.normal(0.001))),
            "xavier": unusual(("features.conv*", f.xavier)),
            "gain-0": fault(("features.bn4", f.gamma(0.0))),
            "gain-0.01": fault(("features.bn*", f.gamma(0.01))),
            "shift-minus-5": fault(("features.bn4", f.filled("bias", -5.0))),
            "constant": fault(("features.conv*", f.constant(0.05))),
            "head-100": fault(("classifier", f.scaled(100.0))),
        },
    ),
    "preact-resnet": Architecture(
        nets.PreActivationNet,
        "digit-pictures",
        {
            "default": unusual(("blocks.*.conv?", f.default)),
            "zero-last": unusual(("blocks.*.conv2", f.zeros)),
            "normal-1": unusual(("blocks.*.conv?", f.normal(1.0))),
            "gain-0-both": fault(("blocks.*.bn?", f.gamma(0.0))),
            "stem-zero": fault(("stem", f.zeros)),
            "final-gain-0": fault(("bn", f.gamma(0.0))),
            "shift-minus-10": fault(("bn", f.filled("bias", -10.0))),
            "convs-constant": fault(("blocks.*.conv?", f.constant(0.1))),
        },
    ),
    "wave-conv": Architecture(
        nets.WaveConvolutions,
        "waves",
        {
            "default": unusual(("[cf]*", f.default)),
            "normal-0.01": fault(("conv?", f.normal(0.01))),
            "times-10": fault(("conv?", f.scaled(10.0))),
            "dead": fault(("conv3", f.bias(-30.0))),
            "two-filters": fault(("conv1", f.copied_rows(1)), ("conv2", f.copied_rows(1))),
            "zero-head": unusual(("fc", f.zeros)),
        },
    ),
    "phrase-conv": Architecture(
        nets.PhraseConvolutions,
        "ordered",
        {
            "default": unusual(("convs.*", f.default)),
            "words-0.01": unusual(("words", f.normal(0.01))),
            "words-zero": fault(("words", f.zeros)),
            "words-equal": fault(("words", f.constant(1.0))),
            "words-30": fault(("words", f.normal(30.0))),
            "convs-0.001": fault(("convs.*", f.normal(0.001))),
        },
    ),
    "residual-relu": Architecture(
        nets.ResidualNet,
        "digits",
        {
            "default": unusual(("blocks.*.fc?", f.default)),
            "zero-last": unusual(("blocks.*.fc2", f.zeros)),
            "normal-0.01": unusual(("blocks.*.fc?", f.normal(0.01))),
            "zeros": fault(("blocks.*.fc?", f.zeros)),
            "times-5": fault(("blocks.*.fc?", f.scaled(5.0))),
            "enter-zero": fault(("enter", f.zeros)),
            "bias-minus-20": fault(("blocks.2.fc2", f.bias(-20.0))),
        },
    ),
    "class-token": Architecture(
        nets.ClassToken,
        "pictures-longer",
        {
            "normal-0.02": unusual(
                ("blocks.*.attn.*", f.normal(0.02)), ("blocks.*.mlp.*", f.normal(0.02))
            ),
            "default": unusual(("blocks.*.attn.*", f.default), ("blocks.*.mlp.[02]", f.default)),
            "zero-proj": unusual(("blocks.*.attn.proj", f.zeros), ("blocks.*.mlp.2", f.zeros)),
            "normal-1": fault(
                ("blocks.*.attn.*", f.normal(1.0)), ("blocks.*.mlp.[02]", f.normal(1.0))
            ),
            "qkv-zero": fault(("blocks.*.attn.qkv", f.zeros)),
            "qkv-times-20": fault(("blocks.*.attn.qkv", f.scaled(20.0))),
            "patch-zero": fault(("patch", f.zeros)),
            "norm-gain-0": fault(("norm", f.gamma(0.0))),
            "constant": fault(
                ("blocks.*.attn.*", f.constant(0.1)), ("blocks.*.mlp.[02]", f.constant(0.1))
            ),
        },
    ),
    "sinusoidal": Architecture(
        nets.Sinusoidal,
        "ordered",
        {
            "embed-0.02": unusual(("embed", f.normal(0.02))),
            "default": unusual(("layers.*.attn.*", f.default), ("layers.*.mlp.[02]", f.default)),
            "normal-1": fault(
                ("layers.*.attn.*", f.normal(1.0)), ("layers.*.mlp.[02]", f.normal(1.0))
            ),
            "embed-50": fault(("embed", f.normal(50.0))),
            "embed-equal": fault(("embed", f.constant(0.5))),
            "gains-0.01": fault(("layers.*.ln?", f.gamma(0.01))),
            "mlp-dead": fault(("layers.*.mlp.0", f.bias(-50.0))),
        },
    ),
    "small-gpt": Architecture(
        nets.SmallGpt,
        "text",
        {
            "gpt-2": unusual(
                ("h.*.attn.*", f.normal(0.02)),
                ("h.*.mlp.[02]", f.normal(0.02)),
                ("wte", f.normal(0.02)),
                ("wpe", f.normal(0.02)),
                ("lm_head", f.normal(0.02)),
            ),
            "zero-proj": unusual(("h.*.attn.proj", f.zeros), ("h.*.mlp.2", f.zeros)),
            "zero-head": unusual(("lm_head", f.zeros)),
            "normal-2": fault(("h.*.attn.*", f.normal(2.0)), ("h.*.mlp.[02]", f.normal(2.0))),
            "head-times-30": fault(("lm_head", f.scaled(30.0))),
            "wte-zero": fault(("wte", f.zeros)),
            "wpe-100": fault(("wpe", f.normal(100.0))),
            "head-and-norm-0": fault(("lm_head", f.zeros), ("ln_f", f.gamma(0.0))),
        },
    ),
    "rows-lstm": Architecture(
        partial(nets.LastState, "lstm", 8, 32, 10, 1.0),
        "digit-rows",
        {
            "default": unusual(("rnn", f.default)),
            "zero-bias": unusual(("rnn", f.filled("bias_ih_l0", 0.0))),
            "normal-0.01": unusual(("rnn", f.normal(0.01))),
            "normal-1": fault(("rnn", f.normal(1.0))),
            "zeros": fault(("rnn", f.zeros)),
            "constant": fault(("rnn", f.constant(0.1))),
            "forget-minus-5": fault(("rnn", f.gate_filled("bias_ih_l0", 4, 1, -5.0))),
            "times-20": fault(("rnn", f.scaled(20.0))),
        },
    ),
    "waves-gru": Architecture(
        partial(nets.LastState, "gru", 1, 24, 4, 1.0),
        "wave-steps",
        {
            "default": unusual(("rnn", f.default)),
            "update-minus-6": fault(("rnn", f.gate_filled("bias_ih_l0", 3, 1, -6.0))),
            "update-12": fault(("rnn", f.gate_filled("bias_ih_l0", 3, 1, 12.0))),
            "recurrent-zero": fault(("rnn", f.recurrent(init.zeros_))),
            "normal-3": fault(("rnn", f.normal(3.0))),
            "constant": fault(("rnn", f.constant(0.1))),
        },
    ),
    "word-lstm": Architecture(
        nets.WordLstm,
        "text",
        {
            "default": unusual(("lstm", f.default)),
            "uniform-0.1": unusual(("lstm", f.uniform(-0.1, 0.1)), ("embed", f.uniform(-0.1, 0.1))),
            "zeros": fault(("lstm", f.zeros)),
            "normal-0.001": fault(("lstm", f.normal(0.001))),
            "times-30": fault(("lstm", f.scaled(30.0))),
            "embed-equal": fault(("embed", f.constant(0.3))),
            "out-50": fault(("out", f.scaled(50.0))),
        },
    ),
    "first-gru": Architecture(
        nets.WordGru,
        "first-said",
        {
            "default": fault(("gru", f.default)),
            "zero-bias": fault(("gru", f.filled("bias_ih_l0", 0.0))),
            "update-4": unusual(("gru", f.gate_filled("bias_ih_l0", 3, 1, 4.0))),
            "normal-0.01": fault(("gru", f.normal(0.01))),
            "times-20": fault(("gru", f.scaled(20.0))),
            "embed-zero": unusual(("embed", f.zeros)),
        },
    ),
    "word-rnn": Architecture(
        nets.WordRnn,
        "text",
        {
            "default": unusual(("rnn", f.default)),
            "identity": unusual(("rnn", f.recurrent(init.eye_))),
            "normal-1": fault(("rnn", f.normal(1.0))),
            "constant": fault(("rnn", f.constant(0.1))),
            "saturated": fault(("rnn", f.filled("bias_ih_l0", 6.0))),
            "embed-zero-rnn-zero": fault(("embed", f.zeros), ("rnn", f.zeros)),
        },
    ),
    "attended-gru": Architecture(
        nets.Attended,
        "commonest",
        {
            "default": unusual(("gru", f.default), ("score?", f.default)),
            "even": unusual(("score2", f.zeros)),
            "score-100": fault(("score2", f.scaled(100.0))),
            "embed-0.001": fault(("embed", f.normal(0.001))),
            "gru-constant": fault(("gru", f.constant(0.1))),
            "out-zero-gru-zero": fault(("out", f.zeros), ("gru", f.zeros)),
        },
    ),
    "bag": Architecture(
        nets.Bag,
        "commonest",
        {
            "words-0.1": unusual(("words", f.normal(0.1))),
            "default": unusual(("hidden", f.default), ("out", f.default)),
            "words-equal": fault(("words", f.constant(1.0))),
            "words-1e-4": fault(("words", f.normal(1e-4))),
            "hidden-dead": fault(("hidden", f.bias(-10.0))),
            "hidden-constant": fault(("hidden", f.constant(0.2))),
            "words-100": fault(("words", f.normal(100.0))),
        },
    ),
    "picture-autoencoder": Architecture(
        nets.ConvAutoencoder,
        "denoise",
        {
            "default": unusual(("encoder.[024]", f.default), ("decoder.[024]", f.default)),
            "zero-last": unusual(("decoder.4", f.zeros)),
            "normal-0.01": fault(
                ("encoder.[024]", f.normal(0.01)), ("decoder.[024]", f.normal(0.01))
            ),
            "normal-1": fault(("encoder.[024]", f.normal(1.0)), ("decoder.[024]", f.normal(1.0))),
            "code-zero": fault(("encoder.4", f.zeros)),
            "code-dead": fault(("decoder.0", f.bias(-30.0))),
            "constant": fault(
                ("encoder.[024]", f.constant(0.1)), ("decoder.[024]", f.constant(0.1))
            ),
        },
    ),
    "tanh-autoencoder": Architecture(
        nets.tanh_autoencoder,
        "reconstruct",
        {
            "default": fault(("fc*", f.default)),
            "orthogonal": unusual(("fc*", f.orthogonal)),
            "normal-0.02": fault(("fc*", f.normal(0.02))),
            "normal-1": fault(("fc*", f.normal(1.0))),
            "code-equal": fault(("fc4", f.copied_rows(1))),
            "code-saturated": fault(("fc4", f.scaled(50.0))),
            "last-bias-10": fault(("fc8", f.bias(10.0))),
        },
    ),
}

KNOWN.update(HELD_OUT_FIVE)
