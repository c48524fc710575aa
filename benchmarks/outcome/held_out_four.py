"""A fourth set of networks: ordinary ones, half of them as the framework starts them.

``python -m benchmarks.outcome held-out --set 4``: trained as the others, judged before any step.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor
from torch.nn import init

from benchmarks.outcome import faults as f
from benchmarks.outcome import held_out_four_nets as nets
from benchmarks.outcome.models import KNOWN, Architecture, fault, unusual


def _equal_rows(weight: Tensor) -> None:
    weight.copy_(weight[:1].clone().expand_as(weight))


_EVEN = "*[02468]"

HELD_OUT_FOUR: dict[str, Architecture] = {
    "tanh-tower": Architecture(
        nets.TanhTower,
        "digits",
        {
            "orthogonal-1.1": unusual((_EVEN, f.drawn(lambda w: init.orthogonal_(w, 1.1)))),
            "default": fault((_EVEN, f.default)),
            "xavier": fault((_EVEN, f.xavier)),
            "normal-1": fault((_EVEN, f.normal(1.0))),
            "one-bias-6": fault(("24", f.bias(6.0))),
            "half-zeros": fault(("2?", f.zeros)),
        },
    ),
    "mish": Architecture(
        nets.MishNet,
        "digits",
        {
            "he": unusual((_EVEN, f.he)),
            "default": fault((_EVEN, f.default)),
            "normal-0.02": fault((_EVEN, f.normal(0.02))),
            "times-4": fault((_EVEN, f.scaled(4.0))),
        },
    ),
    "normed-mlp": Architecture(
        nets.NormedMlp,
        "digits",
        {
            "normal-0.02": unusual(("[0369]", f.normal(0.02)), ("12", f.normal(0.02))),
            "gamma-0.01": fault(("[147]", f.gamma(0.01)), ("1[03]", f.gamma(0.01))),
            "shift-minus-6": fault(("7", f.filled("bias", -6.0))),
            "gamma-0": fault(("4", f.gamma(0.0))),
            "ones": fault(("[0369]", f.constant(1.0)), ("12", f.constant(1.0))),
        },
    ),
    "controller": Architecture(
        nets.Controller,
        "steered",
        {
            "he": unusual(("fc?", f.he)),
            "action-300": fault(("action", f.uniform(-2.0, 2.0))),
            "action-bias-5": fault(("action", f.bias(5.0))),
            "tiny": fault(("fc?", f.normal(1e-3))),
        },
    ),
    "implicit": Architecture(
        nets.Implicit,
        "picture",
        {
            "head-default": unusual(("3", f.default)),
            "default": fault(("*.linear", f.default)),
            "xavier": fault(("*.linear", f.xavier)),
            "normal-0.001": fault(("*.linear", f.normal(1e-3))),
        },
    ),
    "points": Architecture(
        nets.Points,
        "sets",
        {
            "he": unusual(("phi.*", f.he), ("rho.*", f.he)),
            "phi-dead": fault(("phi.2", f.bias(-20.0))),
            "rho-100": fault(("rho.2", f.scaled(100.0))),
            "copied": fault(("phi.*", f.copied_rows(1)), ("rho.0", f.copied_rows(1))),
            "phi-1e-4": fault(("phi.*", f.normal(1e-4)), ("rho.0", f.normal(1e-4))),
        },
    ),
    "classic": Architecture(
        nets.Classic,
        "digit-pictures",
        {
            "xavier": unusual((_EVEN, f.xavier), ("[59]", f.xavier), ("11", f.xavier)),
            "he": unusual(("[025]", f.he), ("9", f.he)),
            "normal-0.01": fault(("[025]", f.normal(0.01)), ("9", f.normal(0.01))),
            "uniform-0-1": fault(("[0259]", f.uniform(0.0, 1.0))),
            "fc-dead": fault(("9", f.bias(-30.0))),
            "normal-1": fault(("[0259]", f.normal(1.0)), ("11", f.normal(1.0))),
            "conv-zero": fault(("2", f.zeros)),
        },
    ),
    "leaky-tower": Architecture(
        nets.LeakyTower,
        "digit-pictures",
        {
            "orthogonal": unusual(("convs.*", f.drawn(lambda w: init.orthogonal_(w, 1.39)))),
            "default": fault(("convs.*", f.default)),
            "fan-everything": fault(("convs.*", f.fan_from_everything)),
            "times-3": fault(("convs.*", f.scaled(3.0))),
            "two-filters": fault(("convs.*", f.copied_rows(2))),
        },
    ),
    "resnet": Architecture(
        nets.ResNet,
        "digit-pictures",
        {
            "zero-gamma": unusual(("blocks.*.bn2", f.gamma(0.0))),
            "gamma-0.1": unusual(("blocks.*.bn2", f.gamma(0.1))),
            "default": unusual(("blocks.*.conv?", f.default), ("conv1", f.default)),
            "both-gammas-0": fault(("blocks.*.bn1", f.gamma(0.0)), ("blocks.*.bn2", f.gamma(0.0))),
            "stem-gamma-0": fault(("bn1", f.gamma(0.0))),
            "shift-minus-8": fault(("blocks.3.bn2", f.filled("bias", -8.0))),
            "fc-100": fault(("fc", f.scaled(100.0))),
        },
    ),
    "skip-net": Architecture(
        nets.SkipNet,
        "digit-pictures",
        {
            "alpha-0.1": unusual(("blocks.*", f.filled("alpha", 0.1))),
            "alpha-3": fault(("blocks.*", f.filled("alpha", 3.0)), blamed=("blocks.*.*",)),
            "conv2-zero": fault(("blocks.*.conv2", f.zeros)),
            "stem-dead": fault(("stem", f.constant(0.0))),
        },
    ),
    "conv-autoencoder": Architecture(
        nets.ConvAutoencoder,
        "reconstruct",
        {
            "xavier": unusual(("*coder.*", f.xavier), ("code", f.xavier), ("expand", f.xavier)),
            "normal-0.001": fault(("*coder.*", f.normal(1e-3)), ("code", f.normal(1e-3))),
            "code-zero": fault(("code", f.zeros), ("expand", f.zeros)),
            "expand-dead": fault(("expand", f.bias(-15.0))),
            "decoder-30": fault(("decoder.*", f.scaled(30.0))),
        },
    ),
    "vae": Architecture(
        nets.Vae,
        "coded",
        {
            "logvar-zero": unusual(("logvar", f.zeros)),
            "mu-small": unusual(("mu", f.scaled(0.1))),
            "logvar-bias-8": fault(("logvar", f.bias(8.0))),
            "logvar-40": fault(("logvar", f.scaled(40.0))),
            "decoder-200": fault(("dec2", f.scaled(200.0))),
            "enc-equal": fault(("enc", f.own("weight", _equal_rows)), ("enc", f.bias(0.0))),
        },
    ),
    "upsampler": Architecture(
        nets.Upsampler,
        "generate",
        {
            "dcgan": unusual(("conv?", f.normal(0.02)), ("project", f.normal(0.02))),
            "out-100": fault(("conv3", f.scaled(100.0))),
            "gammas-0": fault(("bn?", f.gamma(0.0))),
            "project-equal": fault(("project", f.copied_rows(1))),
        },
    ),
    "link-net": Architecture(
        nets.LinkNet,
        "denoise",
        {
            "out-zero": unusual(("out", f.zeros)),
            "out-80": fault(("out", f.scaled(80.0))),
            "shift-minus-5": fault(("*.1", f.filled("bias", -5.0))),
            "constant": fault(("*.0", f.constant(0.1))),
        },
    ),
    "detector": Architecture(
        nets.Detector,
        "ink",
        {
            "head-0.01": unusual(
                ("classes.2", f.own("weight", lambda w: init.normal_(w, std=0.01)))
            ),
            "no-prior": unusual(("classes.2", f.bias(0.0))),
            "prior-wrong": fault(("classes.2", f.bias(9.0))),
            "towers-50": fault(("classes.?", f.scaled(50.0)), ("values.?", f.scaled(50.0))),
            "towers-dead": fault(("classes.0", f.bias(-20.0)), ("values.0", f.bias(-20.0))),
        },
    ),
    "vit": Architecture(
        nets.Vit,
        "digit-patches",
        {
            "normal-0.02": unusual(
                ("blocks.*.attn.*", f.normal(0.02)), ("blocks.*.mlp.*", f.normal(0.02))
            ),
            "head-zero": unusual(("head", f.zeros)),
            "qkv-20": fault(("blocks.*.attn.qkv", f.scaled(20.0))),
            "positions-30": fault(("", f.redrawn("pos", 30.0)), blamed=("pos",)),
            "patch-zero": fault(("patch", f.zeros)),
            "norm-0": fault(("norm", f.gamma(0.0))),
            "mlp-100": fault(("blocks.*.mlp.2", f.scaled(100.0))),
        },
    ),
    "llama": Architecture(
        nets.Llama,
        "text",
        {
            "normal-0.02": unusual(("embed", f.own("weight", lambda w: init.normal_(w, std=0.02)))),
            "proj-zero": unusual(("blocks.*.attn.proj", f.zeros), ("blocks.*.down", f.zeros)),
            "embed-1": fault(("embed", f.normal(1.0)), blamed=("embed", "head")),
            "embed-equal": fault(("embed", f.own("weight", _equal_rows)), blamed=("embed", "head")),
            "down-100": fault(("blocks.*.down", f.scaled(100.0))),
            "gate-up-zero": fault(("blocks.*.gate", f.zeros), ("blocks.*.up", f.zeros)),
            "norm-20": fault(("norm", f.gamma(20.0))),
        },
    ),
    "window": Architecture(
        nets.Window,
        "text",
        {
            "uniform": unusual(("table", f.uniform(-0.1, 0.1))),
            "table-6": fault(("table", f.normal(6.0)), blamed=("table",)),
            "table-1e-5": fault(("table", f.normal(1e-5)), blamed=("table",)),
            "mix-saturated": fault(("mix", f.bias(8.0))),
        },
    ),
    "lstm-recall": Architecture(
        partial(nets.Memory, "lstm", 8, 4, 40),
        "recall-40",
        {
            "forget-3": unusual(
                ("rnn", f.own("bias_ih_l0", init.zeros_)),
                ("rnn", f.gate_filled("bias_ih_l0", 4, 1, 3.0)),
            ),
            "default": fault(("rnn", f.default)),
            "forget-minus-3": fault(("rnn", f.gate_filled("bias_ih_l0", 4, 1, -3.0))),
            "output-shut": fault(("rnn", f.gate_filled("bias_ih_l0", 4, 3, -15.0))),
            "times-20": fault(("rnn", f.scaled(20.0))),
        },
    ),
    "gru-adding": Architecture(
        partial(nets.Memory, "gru", 2, 1, 24),
        "adding-24",
        {
            "update-2": unusual(
                ("rnn", f.own("bias_ih_l0", init.zeros_)),
                ("rnn", f.gate_filled("bias_ih_l0", 3, 1, 2.0)),
            ),
            "default": fault(("rnn", f.default)),
            "update-minus-5": fault(("rnn", f.gate_filled("bias_ih_l0", 3, 1, -5.0))),
            "update-14": fault(("rnn", f.gate_filled("bias_ih_l0", 3, 1, 14.0))),
            "equal": fault(("rnn", f.constant(0.1))),
        },
    ),
    "stacked-lstm": Architecture(
        nets.Stacked,
        "text",
        {
            "forget-1": unusual(("lstm", f.gate_filled("bias_ih_l0", 4, 1, 1.0))),
            "tiny": fault(("lstm", f.normal(1e-4))),
            "embedding-0": fault(("embedding", f.zeros)),
            "decoder-60": fault(("decoder", f.scaled(60.0))),
            "input-shut": fault(("lstm", f.gate_filled("bias_ih_l1", 4, 0, -13.0))),
        },
    ),
    "looped": Architecture(
        nets.Looped,
        "sum-16",
        {
            "identity": unusual(("h2h", f.own("weight", init.eye_))),
            "default": fault(("h2h", f.default)),
            "h2h-4": fault(("h2h", f.scaled(4.0))),
            "normal-0.01": fault(("h2h", f.normal(0.01))),
            "i2h-60": fault(("i2h", f.scaled(60.0))),
        },
    ),
    "rows": Architecture(
        nets.Rows,
        "digit-rows",
        {
            "default": unusual(("rnn", f.default)),
            "saturated": fault(("rnn", f.filled("bias_ih_l0", 7.0))),
            "times-15": fault(("rnn", f.scaled(15.0))),
            "constant": fault(("rnn", f.constant(0.2))),
        },
    ),
    "isomorphism": Architecture(
        nets.Isomorphism,
        "molecules",
        {
            "he": unusual(("first.*", f.he), ("second.*", f.he)),
            "norm-0": fault(("norms.2", f.gamma(0.0))),
            "shift-minus-7": fault(("norms.3", f.filled("bias", -7.0))),
            "zeros": fault(("second.1", f.zeros)),
            "read-100": fault(("read", f.scaled(100.0))),
        },
    ),
    "mixture": Architecture(
        nets.Mixture,
        "digits",
        {
            "routers-zero": unusual(("routers.*", f.zeros)),
            "experts-zero": unusual(("experts.*.*.2", f.zeros)),
            "routers-300": fault(("routers.*", f.scaled(300.0))),
            "experts-100": fault(("experts.*.*.2", f.scaled(100.0))),
            "experts-both-zero": fault(("experts.*.*.*", f.zeros), ("stem", f.zeros)),
        },
    ),
    "bottleneck-adapter": Architecture(
        nets.AdaptedBody,
        "digits",
        {
            "up-0.001": unusual(("adapters.*.up", f.normal(1e-3))),
            "both-zero": fault(("adapters.*.*", f.zeros)),
            "up-100": fault(("adapters.*.up", f.normal(30.0))),
            "head-200": fault(("head", f.scaled(200.0))),
        },
    ),
}

KNOWN.update(HELD_OUT_FOUR)
