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
from benchmarks.outcome.models import KNOWN, Architecture, Variant
from benchmarks.outcome.nets import Plain, he, orthogonal


def _fault(*changes: tuple[str, f.Change], blamed: tuple[str, ...] = ()) -> Variant:
    return Variant("fault", changes, blamed)


def _unusual(*changes: tuple[str, f.Change]) -> Variant:
    return Variant("unusual", changes)


def _filled(name: str, value: float) -> f.Change:
    return f.own(name, lambda tensor: tensor.fill_(value))


def _drawn(name: str, std: float) -> f.Change:
    return f.own(name, lambda tensor: tensor.normal_(0.0, std))


def _grown(name: str, factor: float) -> f.Change:
    return f.own(name, lambda tensor: tensor.mul_(factor))


def _part(name: str, gates: int, gate: int, value: float) -> f.Change:
    """One gate's bias, or one half of a packed one."""
    return f.own(name, lambda tensor: tensor.chunk(gates)[gate].fill_(value))


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
            "he": _unusual((_LIN, f.he)),
            "xavier": _fault((_LIN, f.xavier)),
            "default": _fault((_LIN, f.default)),
            "times-4": _fault((_LIN, f.scaled(4.0))),
            "silent-bias": _fault(("layers.4", f.bias(-25.0))),
            "normal-0.02": _fault((_LIN, f.normal(0.02))),
        },
    ),
    "mlp-leaky": Architecture(
        partial(Plain, 14, 40, _leaky, he),
        "digits",
        {
            "orthogonal": _unusual((_LIN, f.drawn(lambda w: init.orthogonal_(w, _SQRT2)))),
            "near-identity": _unusual((_LIN, f.drawn(_near_identity))),
            "default": _fault((_LIN, f.default)),
            "two-units": _fault((_LIN, f.copied_rows(2))),
            "one-layer-tiny": _fault(("layers.7", f.scaled(1e-3))),
            "one-layer-huge": _fault(("layers.7", f.scaled(1e3))),
        },
    ),
    "mlp-batchnorm": Architecture(
        nets.Normalised,
        "digits",
        {
            "default": _unusual(("[0369]", f.default), ("1[25]", f.default)),
            "bias-5": _unusual(("3", f.bias(5.0)), ("6", f.bias(5.0))),
            "gamma-0": _fault(("7", f.gamma(0.0))),
            "beta-dead": _fault(("10", _filled("bias", -12.0))),
            "one-unit": _fault(("3", f.copied_rows(1))),
            "head-50": _fault(("18", f.scaled(50.0))),
        },
    ),
    "lenet": Architecture(
        nets.LeNet,
        "digit-pictures",
        {
            "default": _unusual(("features.[03]", f.default), ("classifier.[024]", f.default)),
            "zero-head": _unusual(("classifier.4", f.zeros)),
            "normal-0.001": _fault(
                ("features.[03]", f.normal(0.001)), ("classifier.[024]", f.normal(0.001))
            ),
            "normal-2": _fault(
                ("features.[03]", f.normal(2.0)), ("classifier.[02]", f.normal(2.0))
            ),
            "constant": _fault(("classifier.[02]", f.constant(0.1))),
        },
    ),
    "vgg-gelu": Architecture(
        nets.Vgg,
        "digit-pictures",
        {
            "fan-out": _unusual(("convs.*", f.fan_out_zero_bias)),
            "small-bias": _unusual(("convs.*", f.bias(0.1))),
            "default": _fault(("convs.*", f.default), ("fc1", f.default)),
            "normal-0.02": _fault(("convs.*", f.normal(0.02)), ("fc1", f.normal(0.02))),
            "all-weights": _fault(("convs.*", f.fan_from_everything)),
            "positive": _fault(("convs.*", f.uniform(0.0, 0.3))),
        },
    ),
    "convnext": Architecture(
        nets.ConvNext,
        "digit-pictures",
        {
            "scale-1e-6": _unusual(("blocks.*", _filled("gamma", 1e-6))),
            "normal-0.02": _unusual(
                ("stem", f.normal(0.02)),
                ("blocks.*.depthwise", f.normal(0.02)),
                ("blocks.*.*", f.drawn(lambda w: init.trunc_normal_(w, std=0.02))),
                ("blocks.*.norm", f.gamma(1.0)),
                ("blocks.*", _filled("gamma", 0.1)),
            ),
            "stem-100": _unusual(("stem", f.scaled(100.0))),
            "scale-60": _fault(("blocks.*", _filled("gamma", 60.0)), blamed=("blocks.*",)),
            "enter-equal": _fault(("blocks.*.enter", f.copied_rows(1))),
            "last-gain-0": _fault(("last", f.gamma(0.0))),
        },
    ),
    "mobilenet": Architecture(
        nets.MobileNet,
        "digit-pictures",
        {
            "default": _unusual(("blocks.*.conv.[036]", f.default), ("head", f.default)),
            "normal-0.001": _unusual(("blocks.*.conv.[036]", f.normal(0.001))),
            "zero-gain": _unusual(("blocks.*.conv.7", f.gamma(0.0))),
            "saturated": _fault(("stem.1", _filled("bias", 30.0))),
            "stem-equal": _fault(("stem.0", f.copied_rows(1))),
            "head-100": _fault(("head", f.scaled(100.0))),
        },
    ),
    "segmenter": Architecture(
        nets.Segmenter,
        "mask",
        {
            "default": _unusual(
                ("down?.0", f.default), ("bottom.0", f.default), ("up?.0", f.default)
            ),
            "prior-bias": _unusual(("head", f.bias(-2.0))),
            "times-30": _unusual(("up?.0", f.scaled(30.0)), ("bottom.0", f.scaled(30.0))),
            "last-gain-0": _fault(("up1.1", f.gamma(0.0))),
            "constant": _fault(("down?.0", f.constant(0.1)), ("up?.0", f.constant(0.1))),
            "head-100": _fault(("head", f.scaled(100.0))),
        },
    ),
    "pointnet": Architecture(
        nets.PointNet,
        "points",
        {
            "default": _unusual(("shared.*", f.default), ("hidden", f.default)),
            "orthogonal": _unusual(("shared.*", f.drawn(lambda w: init.orthogonal_(w, _SQRT2)))),
            "dead": _fault(("shared.2", f.bias(-40.0))),
            "tiny": _fault(("shared.*", f.normal(0.002)), ("hidden", f.normal(0.002))),
            "times-12": _fault(("shared.*", f.scaled(12.0))),
            "zero-pair": _fault(("hidden", f.zeros), ("head", f.zeros)),
        },
    ),
    "graph-attention": Architecture(
        nets.GraphNet,
        "digit-rows",
        {
            "even": _unusual((_LIN, _filled("source", 0.0)), (_LIN, _filled("target", 0.0))),
            "zero-head": _unusual(("head", f.zeros)),
            "tiny": _fault((_LIN, _drawn("weight", 0.001))),
            "huge": _fault((_LIN, _drawn("weight", 6.0))),
            "constant": _fault((_LIN, _filled("weight", 0.05))),
        },
    ),
    "deep-operator": Architecture(
        nets.DeepOperator,
        "integral",
        {
            "default": _unusual(("branch.[02]", f.default), ("trunk.[02]", f.default)),
            "branch-zero": _unusual(("branch.2", f.zeros)),
            "both-zero": _fault(("branch.2", f.zeros), ("trunk.2", f.zeros)),
            "trunk-saturated": _fault(("trunk.[02]", f.bias(9.0))),
            "branch-40": _fault(("branch.[02]", f.scaled(8.0))),
            "equal": _fault(("branch.[02]", f.constant(0.1)), ("trunk.[02]", f.constant(0.1))),
        },
    ),
    "tabular": Architecture(
        nets.Tabular,
        "clicks",
        {
            "tables-1": _unusual(("tables.*", f.normal(1.0))),
            "tables-0.01": _unusual(("tables.*", f.normal(0.01))),
            "cross-zero": _unusual(("cross.*.linear", f.zeros)),
            "tables-0": _fault(("tables.*", f.zeros)),
            "tables-40": _fault(("tables.*", f.normal(40.0))),
            "cross-30": _fault(("cross.*.linear", f.scaled(30.0))),
        },
    ),
    "actor-critic": Architecture(
        nets.ActorCritic,
        "policy",
        {
            "default": _unusual(("body.[02]", f.default), ("policy", f.default)),
            "policy-1": _unusual(("policy", f.orthogonal)),
            "value-zero": _unusual(("value", f.zeros)),
            "policy-60": _fault(("policy", f.drawn(lambda w: init.orthogonal_(w, 60.0)))),
            "body-tiny": _fault(("body.[02]", f.normal(1e-4))),
            "saturated": _fault(("body.2", f.bias(8.0))),
        },
    ),
    "towers": Architecture(
        nets.Towers,
        "views",
        {
            "default": _unusual(("left.[02]", f.default), ("right.[02]", f.default)),
            "scale-14": _unusual(("", _filled("logit_scale", math.log(1 / 0.07)))),
            "scale-5000": _fault(("", _filled("logit_scale", 8.5)), blamed=("logit_scale",)),
            "left-dead": _fault(("left.0", f.bias(-60.0))),
            "right-equal": _fault(("right.0", f.copied_rows(1))),
            "out-tiny": _unusual(("left.2", f.scaled(0.01)), ("right.2", f.scaled(0.01))),
        },
    ),
    "denoiser": Architecture(
        nets.Denoiser,
        "noised",
        {
            "zero-out": _unusual(("leave", f.zeros)),
            "zero-second": _unusual(("second.*", f.zeros), ("film.*", f.zeros)),
            "default": _unusual(("first.*", f.default), ("second.*", f.default)),
            "second-100": _fault(("second.*", f.scaled(100.0))),
            "enter-zero": _fault(("enter", f.zeros)),
            "both-zero": _fault(("enter", f.zeros), ("leave", f.zeros)),
        },
    ),
    "rotary": Architecture(
        nets.Rotary,
        "text",
        {
            "normal-0.02": _unusual(
                ("blocks.*.w*", f.normal(0.02)),
                ("embedding", f.normal(0.02)),
                ("unembed", f.normal(0.02)),
            ),
            "zero-out": _unusual(("blocks.*.wo", f.zeros), ("blocks.*.w2", f.zeros)),
            "embedding-1": _unusual(("embedding", f.normal(1.0))),
            "query-gain-40": _fault(("blocks.*.q_norm", _filled("gain", 40.0))),
            "branches-300": _fault(
                ("blocks.*.wo", f.scaled(300.0)), ("blocks.*.w2", f.scaled(300.0))
            ),
            "embedding-constant": _fault(("embedding", f.constant(0.5))),
            "unembed-80": _fault(("unembed", f.scaled(80.0))),
        },
    ),
    "torch-encoder": Architecture(
        nets.TorchEncoder,
        "digit-patches",
        {
            "torch": _unusual(("layers.*.linear?", f.default), ("layers.*.norm?", f.gamma(1.0))),
            "cloned": _fault(("", f.cloned("layers")), blamed=("layers.*",)),
            "peaked": _fault(("layers.*.self_attn", _grown("in_proj_weight", 25.0))),
            "feed-300": _fault(("layers.*.linear2", f.scaled(300.0))),
            "dead-feed": _fault(("layers.*.linear1", f.bias(-60.0))),
            "gains-0.001": _fault(("layers.*.norm?", f.gamma(0.001))),
        },
    ),
    "torch-encoder-pre": Architecture(
        partial(nets.TorchEncoder, 6, 24, True),
        "digit-patches",
        {
            "torch": _unusual(("layers.*.linear?", f.default)),
            "normal-0.02": _unusual(
                ("layers.*.linear?", f.normal(0.02)),
                ("layers.*.self_attn", _drawn("in_proj_weight", 0.02)),
                ("layers.*.self_attn.out_proj", f.normal(0.02)),
            ),
            "zero-feed": _unusual(("layers.*.linear2", f.zeros)),
            "feed-200": _fault(("layers.*.linear2", f.scaled(200.0))),
            "gains-0": _fault(("layers.*.norm?", f.gamma(0.0))),
            "places-200": _fault(("", _grown("places", 400.0)), blamed=("places",)),
        },
    ),
    "perceiver": Architecture(
        nets.Perceiver,
        "digit-patches",
        {
            "latents-0.02": _unusual(("", _drawn("latents", 0.02))),
            "default": _unusual(("*.to_*", f.default), ("*.feed.[02]", f.default)),
            "query-zero": _unusual(("*.to_q", f.zeros)),
            "query-60": _fault(("*.to_q", f.scaled(60.0))),
            "read-zero": _fault(("reader.to_kv", f.zeros), ("reader.to_out", f.zeros)),
            "feed-equal": _fault(("*.feed.0", f.constant(0.05)), ("*.feed.2", f.constant(0.05))),
        },
    ),
    "temporal": Architecture(
        partial(nets.Temporal, 4, 1),
        "sum-16",
        {
            "normal-0.01": _unusual(("blocks.*.conv?", f.normal(0.01))),
            "conv2-zero": _unusual(("blocks.*.conv2", f.zeros)),
            "default": _unusual(("blocks.*.conv?", f.default)),
            "times-8": _fault(("blocks.*.conv?", f.scaled(8.0))),
            "dead": _fault(("blocks.0.skip", f.bias(-30.0)), ("blocks.0.conv2", f.bias(-30.0))),
            "skip-zero": _fault(("blocks.0.skip", f.zeros), ("blocks.0.conv1", f.zeros)),
        },
    ),
    "both-ways": Architecture(
        nets.BothWays,
        "digit-rows",
        {
            "default": _unusual(("lstm", f.default)),
            "forget-3": _unusual(
                ("lstm", _part("bias_ih_l0", 4, 1, 3.0)),
                ("lstm", _part("bias_ih_l1", 4, 1, 3.0)),
            ),
            "zeros": _fault(("lstm", f.zeros)),
            "times-30": _fault(("lstm", f.scaled(30.0))),
            "constant": _fault(("lstm", f.constant(0.1))),
            "outputs-shut": _fault(
                ("lstm", _part("bias_ih_l1", 4, 3, -12.0)),
                ("lstm", _part("bias_ih_l1_reverse", 4, 3, -12.0)),
            ),
        },
    ),
    "copier": Architecture(
        nets.Copier,
        "copied",
        {
            "default": _unusual(("gru", f.default)),
            "embedding-0.01": _unusual(("embedding", f.normal(0.01))),
            "zero-head": _unusual(("head", f.zeros)),
            "frozen": _fault(("gru", _part("bias_ih_l0", 3, 1, 14.0))),
            "forgetful": _fault(("gru", _part("bias_ih_l0", 3, 1, -8.0))),
            "times-25": _fault(("gru", f.scaled(25.0))),
            "embedding-zero": _fault(("embedding", f.zeros)),
        },
    ),
    "gated-convolution": Architecture(
        nets.GatedConvolution,
        "text",
        {
            "default": _unusual(("convs.*", f.default)),
            "gates-open": _unusual(("convs.*", _part("bias", 2, 1, 3.0))),
            "zeros": _unusual(("convs.*", f.zeros)),
            "times-15": _fault(("convs.*", f.scaled(15.0))),
            "head-60": _fault(("head", f.scaled(60.0))),
            "embedding-zero": _fault(("embedding", f.zeros)),
        },
    ),
}

KNOWN.update(HELD_OUT_TWO)
