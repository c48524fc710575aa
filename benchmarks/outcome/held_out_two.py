"""A second set of networks of other kinds, written when the first had led to changes of the rules.

``python -m benchmarks.outcome held-out --set 2``: trained as the others, judged before any step.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional, init

from benchmarks.outcome import faults as f
from benchmarks.outcome import held_out_two_nets as nets
from benchmarks.outcome.models import KNOWN, Architecture, fault, unusual
from benchmarks.outcome.nets import Plain, he, orthogonal


def _leaky(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, 0.1)


def _near_identity(weight: Tensor) -> None:
    init.eye_(weight)
    weight.add_(0.02 * torch.randn_like(weight))


def _ones_kernel(weight: Tensor) -> None:
    init.constant_(weight, 1.0 / weight[0].numel())


_LIN = "layers.*"
_SQRT2 = math.sqrt(2)

HELD_OUT_TWO: dict[str, Architecture] = {
    "mlp-silu": Architecture(
        partial(Plain, 10, 40, functional.silu, partial(orthogonal, gain=1.7)),
        "digits",
        {
            "he": unusual((_LIN, f.he)),
            "xavier": fault((_LIN, f.xavier)),
            "default": fault((_LIN, f.default)),
            "times-4": fault((_LIN, f.scaled(4.0))),
            "silent-bias": fault(("layers.4", f.bias(-25.0))),
            "normal-0.02": fault((_LIN, f.normal(0.02))),
        },
    ),
    "mlp-leaky": Architecture(
        partial(Plain, 14, 40, _leaky, he),
        "digits",
        {
            "orthogonal": unusual((_LIN, f.drawn(lambda w: init.orthogonal_(w, _SQRT2)))),
            "near-identity": unusual((_LIN, f.drawn(_near_identity))),
            "default": fault((_LIN, f.default)),
            "two-units": fault((_LIN, f.copied_rows(2))),
            "one-layer-tiny": fault(("layers.7", f.scaled(1e-3))),
            "one-layer-huge": fault(("layers.7", f.scaled(1e3))),
        },
    ),
    "mlp-batchnorm": Architecture(
        nets.Normalised,
        "digits",
        {
            "default": unusual(("[0369]", f.default), ("1[25]", f.default)),
            "bias-5": unusual(("3", f.bias(5.0)), ("6", f.bias(5.0))),
            "gamma-0": fault(("7", f.gamma(0.0))),
            "beta-dead": fault(("10", f.filled("bias", -12.0))),
            "one-unit": fault(("3", f.copied_rows(1))),
            "head-50": fault(("18", f.scaled(50.0))),
        },
    ),
    "lenet": Architecture(
        nets.LeNet,
        "digit-pictures",
        {
            "default": unusual(("features.[03]", f.default), ("classifier.[024]", f.default)),
            "zero-head": unusual(("classifier.4", f.zeros)),
            "normal-0.001": fault(
                ("features.[03]", f.normal(0.001)), ("classifier.[024]", f.normal(0.001))
            ),
            "normal-2": fault(("features.[03]", f.normal(2.0)), ("classifier.[02]", f.normal(2.0))),
            "constant": fault(("classifier.[02]", f.constant(0.1))),
        },
    ),
    "vgg-gelu": Architecture(
        nets.Vgg,
        "digit-pictures",
        {
            "fan-out": unusual(("convs.*", f.fan_out_zero_bias)),
            "small-bias": unusual(("convs.*", f.bias(0.1))),
            "default": fault(("convs.*", f.default), ("fc1", f.default)),
            "normal-0.02": fault(("convs.*", f.normal(0.02)), ("fc1", f.normal(0.02))),
            "all-weights": fault(("convs.*", f.fan_from_everything)),
            "positive": fault(("convs.*", f.uniform(0.0, 0.3))),
        },
    ),
    "convnext": Architecture(
        nets.ConvNext,
        "digit-pictures",
        {
            "scale-1e-6": unusual(("blocks.*", f.filled("gamma", 1e-6))),
            "normal-0.02": unusual(
                ("stem", f.normal(0.02)),
                ("blocks.*.depthwise", f.normal(0.02)),
                ("blocks.*.*", f.drawn(lambda w: init.trunc_normal_(w, std=0.02))),
                ("blocks.*.norm", f.gamma(1.0)),
                ("blocks.*", f.filled("gamma", 0.1)),
            ),
            "stem-100": unusual(("stem", f.scaled(100.0))),
            "scale-60": fault(("blocks.*", f.filled("gamma", 60.0)), blamed=("blocks.*",)),
            "enter-equal": fault(("blocks.*.enter", f.copied_rows(1))),
            "last-gain-0": fault(("last", f.gamma(0.0))),
        },
    ),
    "mobilenet": Architecture(
        nets.MobileNet,
        "digit-pictures",
        {
            "default": unusual(("blocks.*.conv.[036]", f.default), ("head", f.default)),
            "normal-0.001": unusual(("blocks.*.conv.[036]", f.normal(0.001))),
            "zero-gain": unusual(("blocks.*.conv.7", f.gamma(0.0))),
            "saturated": fault(("stem.1", f.filled("bias", 30.0))),
            "stem-equal": fault(("stem.0", f.copied_rows(1))),
            "head-100": fault(("head", f.scaled(100.0))),
        },
    ),
    "segmenter": Architecture(
        nets.Segmenter,
        "mask",
        {
            "default": unusual(
                ("down?.0", f.default), ("bottom.0", f.default), ("up?.0", f.default)
            ),
            "prior-bias": unusual(("head", f.bias(-2.0))),
            "times-30": unusual(("up?.0", f.scaled(30.0)), ("bottom.0", f.scaled(30.0))),
            "last-gain-0": fault(("up1.1", f.gamma(0.0))),
            "constant": fault(("down?.0", f.constant(0.1)), ("up?.0", f.constant(0.1))),
            "head-100": fault(("head", f.scaled(100.0))),
        },
    ),
    "pointnet": Architecture(
        nets.PointNet,
        "points",
        {
            "default": unusual(("shared.*", f.default), ("hidden", f.default)),
            "orthogonal": unusual(("shared.*", f.drawn(lambda w: init.orthogonal_(w, _SQRT2)))),
            "dead": fault(("shared.2", f.bias(-40.0))),
            "tiny": fault(("shared.*", f.normal(0.002)), ("hidden", f.normal(0.002))),
            "times-12": fault(("shared.*", f.scaled(12.0))),
            "zero-pair": fault(("hidden", f.zeros), ("head", f.zeros)),
        },
    ),
    "graph-attention": Architecture(
        nets.GraphNet,
        "digit-rows",
        {
            "even": unusual((_LIN, f.filled("source", 0.0)), (_LIN, f.filled("target", 0.0))),
            "zero-head": unusual(("head", f.zeros)),
            "tiny": fault((_LIN, f.redrawn("weight", 0.001))),
            "huge": fault((_LIN, f.redrawn("weight", 6.0))),
            "constant": fault((_LIN, f.filled("weight", 0.05))),
        },
    ),
    "deep-operator": Architecture(
        nets.DeepOperator,
        "integral",
        {
            "default": unusual(("branch.[02]", f.default), ("trunk.[02]", f.default)),
            "branch-zero": unusual(("branch.2", f.zeros)),
            "both-zero": fault(("branch.2", f.zeros), ("trunk.2", f.zeros)),
            "trunk-saturated": fault(("trunk.[02]", f.bias(9.0))),
            "branch-40": fault(("branch.[02]", f.scaled(8.0))),
            "equal": fault(("branch.[02]", f.constant(0.1)), ("trunk.[02]", f.constant(0.1))),
        },
    ),
    "tabular": Architecture(
        nets.Tabular,
        "clicks",
        {
            "tables-1": unusual(("tables.*", f.normal(1.0))),
            "tables-0.01": unusual(("tables.*", f.normal(0.01))),
            "cross-zero": unusual(("cross.*.linear", f.zeros)),
            "tables-0": fault(("tables.*", f.zeros)),
            "tables-40": fault(("tables.*", f.normal(40.0))),
            "cross-30": fault(("cross.*.linear", f.scaled(30.0))),
        },
    ),
    "actor-critic": Architecture(
        nets.ActorCritic,
        "policy",
        {
            "default": unusual(("body.[02]", f.default), ("policy", f.default)),
            "policy-1": unusual(("policy", f.orthogonal)),
            "value-zero": unusual(("value", f.zeros)),
            "policy-60": fault(("policy", f.drawn(lambda w: init.orthogonal_(w, 60.0)))),
            "body-tiny": fault(("body.[02]", f.normal(1e-4))),
            "saturated": fault(("body.2", f.bias(8.0))),
        },
    ),
    "towers": Architecture(
        nets.Towers,
        "views",
        {
            "default": unusual(("left.[02]", f.default), ("right.[02]", f.default)),
            "scale-14": unusual(("", f.filled("logit_scale", math.log(1 / 0.07)))),
            "scale-5000": fault(("", f.filled("logit_scale", 8.5)), blamed=("logit_scale",)),
            "left-dead": fault(("left.0", f.bias(-60.0))),
            "right-equal": fault(("right.0", f.copied_rows(1))),
            "out-tiny": unusual(("left.2", f.scaled(0.01)), ("right.2", f.scaled(0.01))),
        },
    ),
    "denoiser": Architecture(
        nets.Denoiser,
        "noised",
        {
            "zero-out": unusual(("leave", f.zeros)),
            "zero-second": unusual(("second.*", f.zeros), ("film.*", f.zeros)),
            "default": unusual(("first.*", f.default), ("second.*", f.default)),
            "second-100": fault(("second.*", f.scaled(100.0))),
            "enter-zero": fault(("enter", f.zeros)),
            "both-zero": fault(("enter", f.zeros), ("leave", f.zeros)),
        },
    ),
    "rotary": Architecture(
        nets.Rotary,
        "text",
        {
            "normal-0.02": unusual(
                ("blocks.*.w*", f.normal(0.02)),
                ("embedding", f.normal(0.02)),
                ("unembed", f.normal(0.02)),
            ),
            "zero-out": unusual(("blocks.*.wo", f.zeros), ("blocks.*.w2", f.zeros)),
            "embedding-1": unusual(("embedding", f.normal(1.0))),
            "query-gain-40": fault(("blocks.*.q_norm", f.filled("gain", 40.0))),
            "branches-300": fault(
                ("blocks.*.wo", f.scaled(300.0)), ("blocks.*.w2", f.scaled(300.0))
            ),
            "embedding-constant": fault(("embedding", f.constant(0.5))),
            "unembed-80": fault(("unembed", f.scaled(80.0))),
        },
    ),
    "torch-encoder": Architecture(
        nets.TorchEncoder,
        "digit-patches",
        {
            "torch": unusual(("layers.*.linear?", f.default), ("layers.*.norm?", f.gamma(1.0))),
            "cloned": fault(("", f.cloned("layers")), blamed=("layers.*",)),
            "peaked": fault(("layers.*.self_attn", f.grown("in_proj_weight", 25.0))),
            "feed-300": fault(("layers.*.linear2", f.scaled(300.0))),
            "dead-feed": fault(("layers.*.linear1", f.bias(-60.0))),
            "gains-0.001": fault(("layers.*.norm?", f.gamma(0.001))),
        },
    ),
    "torch-encoder-pre": Architecture(
        partial(nets.TorchEncoder, 6, 24, True),
        "digit-patches",
        {
            "torch": unusual(("layers.*.linear?", f.default)),
            "normal-0.02": unusual(
                ("layers.*.linear?", f.normal(0.02)),
                ("layers.*.self_attn", f.redrawn("in_proj_weight", 0.02)),
                ("layers.*.self_attn.out_proj", f.normal(0.02)),
            ),
            "zero-feed": unusual(("layers.*.linear2", f.zeros)),
            "feed-200": fault(("layers.*.linear2", f.scaled(200.0))),
            "gains-0": fault(("layers.*.norm?", f.gamma(0.0))),
            "places-200": fault(("", f.grown("places", 400.0)), blamed=("places",)),
        },
    ),
    "perceiver": Architecture(
        nets.Perceiver,
        "digit-patches",
        {
            "latents-0.02": unusual(("", f.redrawn("latents", 0.02))),
            "default": unusual(("*.to_*", f.default), ("*.feed.[02]", f.default)),
            "query-zero": unusual(("*.to_q", f.zeros)),
            "query-60": fault(("*.to_q", f.scaled(60.0))),
            "read-zero": fault(("reader.to_kv", f.zeros), ("reader.to_out", f.zeros)),
            "feed-equal": fault(("*.feed.0", f.constant(0.05)), ("*.feed.2", f.constant(0.05))),
        },
    ),
    "temporal": Architecture(
        partial(nets.Temporal, 4, 1),
        "sum-16",
        {
            "normal-0.01": unusual(("blocks.*.conv?", f.normal(0.01))),
            "conv2-zero": unusual(("blocks.*.conv2", f.zeros)),
            "default": unusual(("blocks.*.conv?", f.default)),
            "times-8": fault(("blocks.*.conv?", f.scaled(8.0))),
            "dead": fault(("blocks.0.skip", f.bias(-30.0)), ("blocks.0.conv2", f.bias(-30.0))),
            "skip-zero": fault(("blocks.0.skip", f.zeros), ("blocks.0.conv1", f.zeros)),
        },
    ),
    "both-ways": Architecture(
        nets.BothWays,
        "digit-rows",
        {
            "default": unusual(("lstm", f.default)),
            "forget-3": unusual(
                ("lstm", f.gate_filled("bias_ih_l0", 4, 1, 3.0)),
                ("lstm", f.gate_filled("bias_ih_l1", 4, 1, 3.0)),
            ),
            "zeros": fault(("lstm", f.zeros)),
            "times-30": fault(("lstm", f.scaled(30.0))),
            "constant": fault(("lstm", f.constant(0.1))),
            "outputs-shut": fault(
                ("lstm", f.gate_filled("bias_ih_l1", 4, 3, -12.0)),
                ("lstm", f.gate_filled("bias_ih_l1_reverse", 4, 3, -12.0)),
            ),
        },
    ),
    "copier": Architecture(
        nets.Copier,
        "copied",
        {
            "default": unusual(("gru", f.default)),
            "embedding-0.01": unusual(("embedding", f.normal(0.01))),
            "zero-head": unusual(("head", f.zeros)),
            "frozen": fault(("gru", f.gate_filled("bias_ih_l0", 3, 1, 14.0))),
            "forgetful": fault(("gru", f.gate_filled("bias_ih_l0", 3, 1, -8.0))),
            "times-25": fault(("gru", f.scaled(25.0))),
            "embedding-zero": fault(("embedding", f.zeros)),
        },
    ),
    "gated-convolution": Architecture(
        nets.GatedConvolution,
        "text",
        {
            "default": unusual(("convs.*", f.default)),
            "gates-open": unusual(("convs.*", f.gate_filled("bias", 2, 1, 3.0))),
            "zeros": unusual(("convs.*", f.zeros)),
            "times-15": fault(("convs.*", f.scaled(15.0))),
            "head-60": fault(("head", f.scaled(60.0))),
            "embedding-zero": fault(("embedding", f.zeros)),
        },
    ),
}

KNOWN.update(HELD_OUT_TWO)
