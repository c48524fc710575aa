"""A third set of networks of other kinds, written when two had led to changes of the rules.

``python -m benchmarks.outcome held-out --set 3``: trained as the others, judged before any step.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import init

from benchmarks.outcome import faults as f
from benchmarks.outcome import held_out_three_nets as nets
from benchmarks.outcome.models import KNOWN, Architecture, fault, unusual


def _mean_rows(weight: Tensor) -> None:
    init.constant_(weight, 1.0 / weight[0].numel())


def _same_heads(weight: Tensor) -> None:
    """Every head is the first one."""
    heads = weight.view(4, -1, weight.shape[1])
    heads.copy_(heads[:1].clone().expand_as(heads))


def _equal_rows(weight: Tensor) -> None:
    weight.copy_(weight[:1].clone().expand_as(weight))


_SQRT2 = math.sqrt(2)
_HID = "hidden.*[02468]"

HELD_OUT_THREE: dict[str, Architecture] = {
    "tapered": Architecture(
        nets.Tapered,
        "digits",
        {
            "fan-out": unusual((_HID, f.fan_out_zero_bias)),
            "orthogonal": unusual((_HID, f.drawn(lambda w: init.orthogonal_(w, _SQRT2)))),
            "glorot": fault((_HID, f.drawn(init.xavier_uniform_))),
            "normal-0.02": fault((_HID, f.normal(0.02))),
            "means": fault((_HID, f.drawn(_mean_rows))),
            "dead-middle": fault(("hidden.20", f.bias(-25.0))),
            "random-bias": fault((_HID, f.redrawn("bias", 1.0))),
        },
    ),
    "elu-20": Architecture(
        nets.DeepElu,
        "digits",
        {
            "he": unusual(("fc.*", f.he)),
            "lecun": unusual(("fc.*", f.lecun)),
            "default": fault(("fc.*", f.default)),
            "floor": fault(("fc.[567]", f.bias(-9.0))),
            "two-units": fault(("fc.*", f.copied_rows(2))),
            "times-3": fault(("fc.*", f.scaled(3.0))),
            "cloned": unusual(("", f.cloned("fc"))),
        },
    ),
    "hyper": Architecture(
        nets.Hyper,
        "digits",
        {
            "default": fault(("writer?", f.default)),
            "codes-0.01": fault(("", f.redrawn("codes", 0.01)), blamed=("codes",)),
            "writer-20": fault(("writer2", f.scaled(20.0))),
            "writer-0": fault(("writer2", f.zeros)),
            "head-zero": unusual(("out", f.zeros)),
            "codes-equal": unusual(("", f.own("codes", _equal_rows))),
        },
    ),
    "dueling": Architecture(
        nets.Dueling,
        "played",
        {
            "default": unusual(
                ("torso.[02]", f.default), ("value.[02]", f.default), ("advantage.[02]", f.default)
            ),
            "advantage-zero": unusual(("advantage.2", f.zeros)),
            "advantage-80": fault(("advantage.2", f.scaled(80.0))),
            "torso-constant": fault(("torso.[02]", f.constant(0.05))),
            "tiny": fault(
                ("torso.[02]", f.normal(1e-3)),
                ("value.[02]", f.normal(1e-3)),
                ("advantage.[02]", f.normal(1e-3)),
            ),
            "torso-dead": fault(("torso.2", f.bias(-30.0))),
            "value-bias-50": fault(("value.2", f.bias(50.0))),
        },
    ),
    "mixture-density": Architecture(
        nets.MixtureDensity,
        "ambiguous",
        {
            "default": unusual(("body.[02]", f.default), ("centres", f.default)),
            "shares-zero": unusual(("shares", f.zeros)),
            "spreads-minus-6": fault(("spreads", f.bias(-6.0))),
            "components-equal": fault(
                ("centres", f.constant(0.1)), ("shares", f.zeros), ("spreads", f.zeros)
            ),
            "centres-200": fault(("centres", f.scaled(200.0))),
            "saturated": fault(("body.2", f.bias(9.0))),
        },
    ),
    "flow": Architecture(
        nets.Flow,
        "moons",
        {
            "last-zero": unusual(("couplings.*.net.4", f.zeros)),
            "default": unusual(("couplings.*.net.[024]", f.default)),
            "last-60": fault(("couplings.*.net.4", f.scaled(60.0))),
            "middle-and-last-zero": fault(
                ("couplings.*.net.2", f.zeros), ("couplings.*.net.4", f.zeros)
            ),
            "dead": fault(("couplings.*.net.2", f.bias(-20.0))),
            "constant": fault(("couplings.*.net.[02]", f.constant(0.2))),
        },
    ),
    "tied-autoencoder": Architecture(
        nets.TiedAutoencoder,
        "reconstruct",
        {
            "orthogonal": unusual(
                ("", f.own("outer", init.orthogonal_)), ("", f.own("inner", init.orthogonal_))
            ),
            "normal-0.001": fault(
                ("", f.redrawn("outer", 1e-3)),
                ("", f.redrawn("inner", 1e-3)),
                blamed=("outer", "inner"),
            ),
            "times-10": fault(
                ("", f.grown("outer", 10.0)),
                ("", f.grown("inner", 10.0)),
                blamed=("outer", "inner"),
            ),
            "inner-zero": fault(("", f.filled("inner", 0.0)), blamed=("inner",)),
            "inner-equal": fault(("", f.own("inner", _equal_rows)), blamed=("inner",)),
            "code-bias-20": fault(("", f.filled("b3", 20.0)), blamed=("b3", "inner")),
        },
    ),
    "flowing": Architecture(
        nets.Flowing,
        "digits",
        {
            "second-zero": unusual(("second", f.zeros)),
            "default": unusual(("enter", f.default), ("first", f.default), ("second", f.default)),
            "times-20": fault(("first", f.scaled(20.0)), ("second", f.scaled(20.0))),
            "enter-zero": fault(("enter", f.zeros)),
            "saturated": fault(("first", f.bias(12.0))),
            "enter-equal": fault(("enter", f.copied_rows(1))),
        },
    ),
    "radiance": Architecture(
        nets.Radiance,
        "picture",
        {
            "default": unusual(("pts.*", f.default)),
            "uniform-0-1": fault(("pts.*", f.uniform(0.0, 1.0))),
            "normal-0.01": fault(("pts.*", f.normal(0.01))),
            "before-skip-tiny": unusual(("pts.2", f.scaled(1e-4))),
            "last-dead": fault(("pts.5", f.bias(-30.0))),
            "head-100": fault(("grey", f.scaled(100.0))),
            "copied": fault(("pts.*", f.copied_rows(4))),
        },
    ),
    "discriminator": Architecture(
        nets.Discriminator,
        "digit-pictures",
        {
            "default": unusual(("main.[02468]", f.default)),
            "head-zero": unusual(("main.11", f.zeros)),
            "dcgan": fault(("main.[02468]", f.normal(0.02))),
            "uniform-0-1": fault(("main.[02468]", f.uniform(0.0, 1.0))),
            "third-100": fault(("main.4", f.scaled(100.0))),
            "two-zeros": fault(("main.4", f.zeros), ("main.6", f.zeros)),
            "two-filters": fault(("main.[02468]", f.copied_rows(2))),
        },
    ),
    "signal-net": Architecture(
        nets.SignalNet,
        "signal",
        {
            "default": unusual(("conv?", f.default)),
            "normal-1": unusual(("conv?", f.normal(1.0))),
            "gamma-0.01": unusual(("bn?", f.gamma(0.01))),
            "beta-minus-6": fault(("bn[23]", f.bias(1.0)), ("bn2", f.filled("bias", -6.0))),
            "gamma-and-beta-0": fault(("bn3", f.gamma(0.0))),
            "constant": fault(("conv?", f.constant(0.1))),
            "head-80": fault(("fc", f.scaled(80.0))),
        },
    ),
    "bottleneck": Architecture(
        nets.BottleneckNet,
        "digit-pictures",
        {
            "zero-gamma": unusual(("layers.*.norm3", f.gamma(0.0))),
            "default": unusual(("stem", f.default), ("layers.*.conv?", f.default)),
            "gamma-30": fault(("layers.*.norm3", f.gamma(30.0))),
            "beta-minus-20": fault(("layers.1.norm3", f.filled("bias", -60.0))),
            "gammas-0": fault(("layers.*.norm3", f.gamma(0.0)), ("layers.*.norm2", f.gamma(0.0))),
            "stem-equal": fault(("stem", f.copied_rows(1))),
            "head-1e-5": unusual(("fc", f.normal(1e-5))),
        },
    ),
    "squeeze": Architecture(
        nets.SqueezeNet,
        "digit-pictures",
        {
            "open": unusual(("blocks.*.excite", f.bias(3.0))),
            "excite-zero": unusual(("blocks.*.excite", f.zeros)),
            "shut": fault(("blocks.*.excite", f.bias(-14.0))),
            "excite-200": fault(("blocks.*.excite", f.scaled(200.0))),
            "times-5": fault(("blocks.*.conv?", f.scaled(5.0))),
            "stem-tiny": fault(("stem", f.scaled(1e-4)), ("blocks.*.conv?", f.scaled(0.01))),
            "conv2-zero": unusual(("blocks.*.conv2", f.zeros)),
        },
    ),
    "conv-mixer": Architecture(
        nets.ConvMixer,
        "digit-pictures",
        {
            "spatial-he": unusual(("mix.*.spatial", f.he), ("mix.*.pointwise", f.he)),
            "times-100": unusual(("mix.*.spatial", f.scaled(100.0))),
            "bn1-zero": unusual(("mix.*.bn1", f.gamma(0.0))),
            "patch-tiny": fault(("patch", f.drawn(lambda w: init.normal_(w, std=1e-7)))),
            "pointwise-equal": fault(("mix.*.pointwise", f.copied_rows(1))),
            "pointwise-dead": fault(("mix.2.pointwise", f.bias(-40.0))),
            "bn2-zero": fault(("mix.1.bn2", f.gamma(0.0))),
        },
    ),
    "style-generator": Architecture(
        nets.StyleGenerator,
        "generate",
        {
            "grey-zero": unusual(("grey", f.zeros)),
            "start-ones": unusual(("", f.filled("start", 1.0))),
            "mapping-tiny": fault(("mapping.*", f.normal(1e-3))),
            "mapping-30": fault(("mapping.*", f.scaled(30.0))),
            "styles-zero": fault(("block?.style", f.zeros)),
            "grey-100": fault(("grey", f.scaled(100.0))),
            "convs-constant": fault(("block?.conv", f.constant(0.1))),
        },
    ),
    "translator": Architecture(
        nets.Translator,
        "reversed",
        {
            "normal-0.02": unusual(
                ("[ed]*coder.*.*.[qkvo]", f.normal(0.02)),
                ("[ed]*coder.*.feed.[02]", f.normal(0.02)),
            ),
            "zero-out": unusual(("[ed]*coder.*.*.o", f.zeros), ("[ed]*coder.*.feed.2", f.zeros)),
            "read-80": fault(("decoder.*.read.q", f.scaled(80.0))),
            "source-zero": fault(("source", f.zeros)),
            "encoder-gain-0": fault(("encoder.1.norm2", f.gamma(0.0))),
            "generator-60": fault(("generator", f.scaled(60.0))),
            "feed-equal": fault(
                ("[ed]*coder.*.feed.0", f.constant(0.05)), ("[ed]*coder.*.feed.2", f.constant(0.05))
            ),
        },
    ),
    "parallel-decoder": Architecture(
        nets.ParallelDecoder,
        "text",
        {
            "normal-0.02": unusual(
                ("blocks.*.*", f.drawn(lambda w: init.normal_(w, std=0.02))),
                ("blocks.*.norm", f.gamma(1.0)),
                ("embed", f.normal(0.02)),
            ),
            "query-zero": unusual(("blocks.*.query", f.zeros)),
            "branches-200": fault(
                ("blocks.*.proj", f.scaled(200.0)), ("blocks.*.leave", f.scaled(200.0))
            ),
            "embed-0": fault(("embed", f.zeros)),
            "heads-equal": fault(("blocks.*.query", f.own("weight", _same_heads))),
            "gain-0": fault(("norm", f.gamma(0.0))),
            "query-40": fault(
                ("blocks.*.query", f.scaled(40.0)), ("blocks.*.key_value", f.scaled(4.0))
            ),
        },
    ),
    "written-gru": Architecture(
        nets.WrittenGru,
        "recall-18",
        {
            "default": fault(("update", f.default), ("reset", f.default), ("candidate", f.default)),
            "zero-head": unusual(("classify", f.zeros)),
            "update-shut": fault(("update", f.bias(-14.0))),
            "update-open": fault(("update", f.bias(5.0))),
            "times-25": fault(
                ("update", f.scaled(25.0)), ("reset", f.scaled(25.0)), ("candidate", f.scaled(25.0))
            ),
            "candidate-equal": fault(("candidate", f.constant(0.1))),
            "candidate-saturated": fault(("candidate", f.bias(8.0))),
        },
    ),
    "tied-lstm": Architecture(
        nets.TiedLstm,
        "text",
        {
            "default": unusual(("rnn", f.default)),
            "forget-3": unusual(("rnn", f.gate_filled("bias_ih_l0", 4, 1, 3.0))),
            "embedding-8": fault(("encoder", f.normal(8.0)), blamed=("encoder", "decoder")),
            "embedding-1e-4": fault(("encoder", f.normal(1e-4)), blamed=("encoder", "decoder")),
            "rnn-zeros": fault(("rnn", f.zeros)),
            "shut": fault(("rnn", f.gate_filled("bias_ih_l0", 4, 0, -12.0))),
            "times-40": fault(("rnn", f.scaled(40.0))),
        },
    ),
    "wavenet": Architecture(
        nets.WaveNet,
        "text",
        {
            "default": unusual(("layers.*.*", f.default), ("end?", f.default)),
            "residual-zero": unusual(("layers.*.residual", f.zeros)),
            "gates-shut": fault(("layers.*.gate", f.bias(-12.0))),
            "filters-40": fault(("layers.*.filter", f.scaled(40.0))),
            "skip-zero": fault(("layers.*.skip", f.zeros)),
            "tiny": fault(("layers.*.*", f.normal(1e-3)), ("end?", f.normal(1e-3))),
            "end-dead": fault(("end1", f.bias(-20.0))),
        },
    ),
    "state-space": Architecture(
        nets.StateSpaceNet,
        "sum-16",
        {
            "c-zero": unusual(("blocks.*", f.filled("c", 0.0))),
            "slow": unusual(("blocks.*", f.filled("log_rate", -5.0))),
            "forgetful": fault(
                ("blocks.*", f.filled("log_rate", 3.5)), blamed=("blocks.*.log_rate",)
            ),
            "both-zero": fault(
                ("blocks.*", f.filled("b", 0.0)),
                ("blocks.*", f.filled("c", 0.0)),
                blamed=("blocks.*.b", "blocks.*.c"),
            ),
            "c-100": fault(("blocks.*", f.grown("c", 100.0)), blamed=("blocks.*",)),
            "mix-zero": unusual(("blocks.*.mix", f.zeros)),
            "encode-1e-6": fault(("encode", f.normal(1e-6))),
        },
    ),
}

KNOWN.update(HELD_OUT_THREE)
