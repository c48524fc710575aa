"""A third set of networks of other kinds, written when two had led to changes of the rules.

``python -m benchmarks.outcome held-out --set 3``: trained as the others, judged before any step.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import init

from benchmarks.outcome import faults as f
from benchmarks.outcome import held_out_three_nets as nets
from benchmarks.outcome.models import KNOWN, Architecture, Variant


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
            "fan-out": _unusual((_HID, f.fan_out_zero_bias)),
            "orthogonal": _unusual((_HID, f.drawn(lambda w: init.orthogonal_(w, _SQRT2)))),
            "glorot": _fault((_HID, f.drawn(init.xavier_uniform_))),
            "normal-0.02": _fault((_HID, f.normal(0.02))),
            "means": _fault((_HID, f.drawn(_mean_rows))),
            "dead-middle": _fault(("hidden.20", f.bias(-25.0))),
            "random-bias": _fault((_HID, _drawn("bias", 1.0))),
        },
    ),
    "elu-20": Architecture(
        nets.DeepElu,
        "digits",
        {
            "he": _unusual(("fc.*", f.he)),
            "lecun": _unusual(("fc.*", f.lecun)),
            "default": _fault(("fc.*", f.default)),
            "floor": _fault(("fc.[567]", f.bias(-9.0))),
            "two-units": _fault(("fc.*", f.copied_rows(2))),
            "times-3": _fault(("fc.*", f.scaled(3.0))),
            "cloned": _unusual(("", f.cloned("fc"))),
        },
    ),
    "hyper": Architecture(
        nets.Hyper,
        "digits",
        {
            "default": _fault(("writer?", f.default)),
            "codes-0.01": _fault(("", _drawn("codes", 0.01)), blamed=("codes",)),
            "writer-20": _fault(("writer2", f.scaled(20.0))),
            "writer-0": _fault(("writer2", f.zeros)),
            "head-zero": _unusual(("out", f.zeros)),
            "codes-equal": _unusual(("", f.own("codes", _equal_rows))),
        },
    ),
    "dueling": Architecture(
        nets.Dueling,
        "played",
        {
            "default": _unusual(
                ("torso.[02]", f.default), ("value.[02]", f.default), ("advantage.[02]", f.default)
            ),
            "advantage-zero": _unusual(("advantage.2", f.zeros)),
            "advantage-80": _fault(("advantage.2", f.scaled(80.0))),
            "torso-constant": _fault(("torso.[02]", f.constant(0.05))),
            "tiny": _fault(
                ("torso.[02]", f.normal(1e-3)),
                ("value.[02]", f.normal(1e-3)),
                ("advantage.[02]", f.normal(1e-3)),
            ),
            "torso-dead": _fault(("torso.2", f.bias(-30.0))),
            "value-bias-50": _fault(("value.2", f.bias(50.0))),
        },
    ),
    "mixture-density": Architecture(
        nets.MixtureDensity,
        "ambiguous",
        {
            "default": _unusual(("body.[02]", f.default), ("centres", f.default)),
            "shares-zero": _unusual(("shares", f.zeros)),
            "spreads-minus-6": _fault(("spreads", f.bias(-6.0))),
            "components-equal": _fault(
                ("centres", f.constant(0.1)), ("shares", f.zeros), ("spreads", f.zeros)
            ),
            "centres-200": _fault(("centres", f.scaled(200.0))),
            "saturated": _fault(("body.2", f.bias(9.0))),
        },
    ),
    "flow": Architecture(
        nets.Flow,
        "moons",
        {
            "last-zero": _unusual(("couplings.*.net.4", f.zeros)),
            "default": _unusual(("couplings.*.net.[024]", f.default)),
            "last-60": _fault(("couplings.*.net.4", f.scaled(60.0))),
            "middle-and-last-zero": _fault(
                ("couplings.*.net.2", f.zeros), ("couplings.*.net.4", f.zeros)
            ),
            "dead": _fault(("couplings.*.net.2", f.bias(-20.0))),
            "constant": _fault(("couplings.*.net.[02]", f.constant(0.2))),
        },
    ),
    "tied-autoencoder": Architecture(
        nets.TiedAutoencoder,
        "reconstruct",
        {
            "orthogonal": _unusual(
                ("", f.own("outer", init.orthogonal_)), ("", f.own("inner", init.orthogonal_))
            ),
            "normal-0.001": _fault(
                ("", _drawn("outer", 1e-3)), ("", _drawn("inner", 1e-3)), blamed=("outer", "inner")
            ),
            "times-10": _fault(
                ("", _grown("outer", 10.0)), ("", _grown("inner", 10.0)), blamed=("outer", "inner")
            ),
            "inner-zero": _fault(("", _filled("inner", 0.0)), blamed=("inner",)),
            "inner-equal": _fault(("", f.own("inner", _equal_rows)), blamed=("inner",)),
            "code-bias-20": _fault(("", _filled("b3", 20.0)), blamed=("b3", "inner")),
        },
    ),
    "flowing": Architecture(
        nets.Flowing,
        "digits",
        {
            "second-zero": _unusual(("second", f.zeros)),
            "default": _unusual(("enter", f.default), ("first", f.default), ("second", f.default)),
            "times-20": _fault(("first", f.scaled(20.0)), ("second", f.scaled(20.0))),
            "enter-zero": _fault(("enter", f.zeros)),
            "saturated": _fault(("first", f.bias(12.0))),
            "enter-equal": _fault(("enter", f.copied_rows(1))),
        },
    ),
    "radiance": Architecture(
        nets.Radiance,
        "picture",
        {
            "default": _unusual(("pts.*", f.default)),
            "uniform-0-1": _fault(("pts.*", f.uniform(0.0, 1.0))),
            "normal-0.01": _fault(("pts.*", f.normal(0.01))),
            "before-skip-tiny": _unusual(("pts.2", f.scaled(1e-4))),
            "last-dead": _fault(("pts.5", f.bias(-30.0))),
            "head-100": _fault(("grey", f.scaled(100.0))),
            "copied": _fault(("pts.*", f.copied_rows(4))),
        },
    ),
    "discriminator": Architecture(
        nets.Discriminator,
        "digit-pictures",
        {
            "default": _unusual(("main.[02468]", f.default)),
            "head-zero": _unusual(("main.11", f.zeros)),
            "dcgan": _fault(("main.[02468]", f.normal(0.02))),
            "uniform-0-1": _fault(("main.[02468]", f.uniform(0.0, 1.0))),
            "third-100": _fault(("main.4", f.scaled(100.0))),
            "two-zeros": _fault(("main.4", f.zeros), ("main.6", f.zeros)),
            "two-filters": _fault(("main.[02468]", f.copied_rows(2))),
        },
    ),
    "signal-net": Architecture(
        nets.SignalNet,
        "signal",
        {
            "default": _unusual(("conv?", f.default)),
            "normal-1": _unusual(("conv?", f.normal(1.0))),
            "gamma-0.01": _unusual(("bn?", f.gamma(0.01))),
            "beta-minus-6": _fault(("bn[23]", f.bias(1.0)), ("bn2", _filled("bias", -6.0))),
            "gamma-and-beta-0": _fault(("bn3", f.gamma(0.0))),
            "constant": _fault(("conv?", f.constant(0.1))),
            "head-80": _fault(("fc", f.scaled(80.0))),
        },
    ),
    "bottleneck": Architecture(
        nets.BottleneckNet,
        "digit-pictures",
        {
            "zero-gamma": _unusual(("layers.*.norm3", f.gamma(0.0))),
            "default": _unusual(("stem", f.default), ("layers.*.conv?", f.default)),
            "gamma-30": _fault(("layers.*.norm3", f.gamma(30.0))),
            "beta-minus-20": _fault(("layers.1.norm3", _filled("bias", -60.0))),
            "gammas-0": _fault(("layers.*.norm3", f.gamma(0.0)), ("layers.*.norm2", f.gamma(0.0))),
            "stem-equal": _fault(("stem", f.copied_rows(1))),
            "head-1e-5": _unusual(("fc", f.normal(1e-5))),
        },
    ),
    "squeeze": Architecture(
        nets.SqueezeNet,
        "digit-pictures",
        {
            "open": _unusual(("blocks.*.excite", f.bias(3.0))),
            "excite-zero": _unusual(("blocks.*.excite", f.zeros)),
            "shut": _fault(("blocks.*.excite", f.bias(-14.0))),
            "excite-200": _fault(("blocks.*.excite", f.scaled(200.0))),
            "times-5": _fault(("blocks.*.conv?", f.scaled(5.0))),
            "stem-tiny": _fault(("stem", f.scaled(1e-4)), ("blocks.*.conv?", f.scaled(0.01))),
            "conv2-zero": _unusual(("blocks.*.conv2", f.zeros)),
        },
    ),
    "conv-mixer": Architecture(
        nets.ConvMixer,
        "digit-pictures",
        {
            "spatial-he": _unusual(("mix.*.spatial", f.he), ("mix.*.pointwise", f.he)),
            "times-100": _unusual(("mix.*.spatial", f.scaled(100.0))),
            "bn1-zero": _unusual(("mix.*.bn1", f.gamma(0.0))),
            "patch-tiny": _fault(("patch", f.drawn(lambda w: init.normal_(w, std=1e-7)))),
            "pointwise-equal": _fault(("mix.*.pointwise", f.copied_rows(1))),
            "pointwise-dead": _fault(("mix.2.pointwise", f.bias(-40.0))),
            "bn2-zero": _fault(("mix.1.bn2", f.gamma(0.0))),
        },
    ),
    "style-generator": Architecture(
        nets.StyleGenerator,
        "generate",
        {
            "grey-zero": _unusual(("grey", f.zeros)),
            "start-ones": _unusual(("", _filled("start", 1.0))),
            "mapping-tiny": _fault(("mapping.*", f.normal(1e-3))),
            "mapping-30": _fault(("mapping.*", f.scaled(30.0))),
            "styles-zero": _fault(("block?.style", f.zeros)),
            "grey-100": _fault(("grey", f.scaled(100.0))),
            "convs-constant": _fault(("block?.conv", f.constant(0.1))),
        },
    ),
    "translator": Architecture(
        nets.Translator,
        "reversed",
        {
            "normal-0.02": _unusual(
                ("[ed]*coder.*.*.[qkvo]", f.normal(0.02)),
                ("[ed]*coder.*.feed.[02]", f.normal(0.02)),
            ),
            "zero-out": _unusual(("[ed]*coder.*.*.o", f.zeros), ("[ed]*coder.*.feed.2", f.zeros)),
            "read-80": _fault(("decoder.*.read.q", f.scaled(80.0))),
            "source-zero": _fault(("source", f.zeros)),
            "encoder-gain-0": _fault(("encoder.1.norm2", f.gamma(0.0))),
            "generator-60": _fault(("generator", f.scaled(60.0))),
            "feed-equal": _fault(
                ("[ed]*coder.*.feed.0", f.constant(0.05)), ("[ed]*coder.*.feed.2", f.constant(0.05))
            ),
        },
    ),
    "parallel-decoder": Architecture(
        nets.ParallelDecoder,
        "text",
        {
            "normal-0.02": _unusual(
                ("blocks.*.*", f.drawn(lambda w: init.normal_(w, std=0.02))),
                ("blocks.*.norm", f.gamma(1.0)),
                ("embed", f.normal(0.02)),
            ),
            "query-zero": _unusual(("blocks.*.query", f.zeros)),
            "branches-200": _fault(
                ("blocks.*.proj", f.scaled(200.0)), ("blocks.*.leave", f.scaled(200.0))
            ),
            "embed-0": _fault(("embed", f.zeros)),
            "heads-equal": _fault(("blocks.*.query", f.own("weight", _same_heads))),
            "gain-0": _fault(("norm", f.gamma(0.0))),
            "query-40": _fault(
                ("blocks.*.query", f.scaled(40.0)), ("blocks.*.key_value", f.scaled(4.0))
            ),
        },
    ),
    "written-gru": Architecture(
        nets.WrittenGru,
        "recall-18",
        {
            "default": _fault(
                ("update", f.default), ("reset", f.default), ("candidate", f.default)
            ),
            "zero-head": _unusual(("classify", f.zeros)),
            "update-shut": _fault(("update", f.bias(-14.0))),
            "update-open": _fault(("update", f.bias(5.0))),
            "times-25": _fault(
                ("update", f.scaled(25.0)), ("reset", f.scaled(25.0)), ("candidate", f.scaled(25.0))
            ),
            "candidate-equal": _fault(("candidate", f.constant(0.1))),
            "candidate-saturated": _fault(("candidate", f.bias(8.0))),
        },
    ),
    "tied-lstm": Architecture(
        nets.TiedLstm,
        "text",
        {
            "default": _unusual(("rnn", f.default)),
            "forget-3": _unusual(("rnn", _part("bias_ih_l0", 4, 1, 3.0))),
            "embedding-8": _fault(("encoder", f.normal(8.0)), blamed=("encoder", "decoder")),
            "embedding-1e-4": _fault(("encoder", f.normal(1e-4)), blamed=("encoder", "decoder")),
            "rnn-zeros": _fault(("rnn", f.zeros)),
            "shut": _fault(("rnn", _part("bias_ih_l0", 4, 0, -12.0))),
            "times-40": _fault(("rnn", f.scaled(40.0))),
        },
    ),
    "wavenet": Architecture(
        nets.WaveNet,
        "text",
        {
            "default": _unusual(("layers.*.*", f.default), ("end?", f.default)),
            "residual-zero": _unusual(("layers.*.residual", f.zeros)),
            "gates-shut": _fault(("layers.*.gate", f.bias(-12.0))),
            "filters-40": _fault(("layers.*.filter", f.scaled(40.0))),
            "skip-zero": _fault(("layers.*.skip", f.zeros)),
            "tiny": _fault(("layers.*.*", f.normal(1e-3)), ("end?", f.normal(1e-3))),
            "end-dead": _fault(("end1", f.bias(-20.0))),
        },
    ),
    "state-space": Architecture(
        nets.StateSpaceNet,
        "sum-16",
        {
            "c-zero": _unusual(("blocks.*", _filled("c", 0.0))),
            "slow": _unusual(("blocks.*", _filled("log_rate", -5.0))),
            "forgetful": _fault(
                ("blocks.*", _filled("log_rate", 3.5)), blamed=("blocks.*.log_rate",)
            ),
            "both-zero": _fault(
                ("blocks.*", _filled("b", 0.0)),
                ("blocks.*", _filled("c", 0.0)),
                blamed=("blocks.*.b", "blocks.*.c"),
            ),
            "c-100": _fault(("blocks.*", _grown("c", 100.0)), blamed=("blocks.*",)),
            "mix-zero": _unusual(("blocks.*.mix", f.zeros)),
            "encode-1e-6": _fault(("encode", f.normal(1e-6))),
        },
    ),
}

KNOWN.update(HELD_OUT_THREE)
