"""The zoo: every architecture with its healthy start, unusual but legitimate ones, and faults.

from benchmarks.outcome.models import ZOO
for entry in ZOO:
    model, inputs = entry.build(seed=0), entry.inputs(seed=0)
    entry.twin          # the healthy entry of the same architecture
    entry.task          # a key of tasks.TASKS
    entry.faulty()      # names of the modules whose initialisation was changed
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional, init

from benchmarks.outcome import faults as f
from benchmarks.outcome import nets
from benchmarks.outcome.tasks import TASKS

HEALTHY, UNUSUAL, FAULT = "healthy", "unusual", "fault"


@dataclass(frozen=True)
class Variant:
    """One way to start an architecture.

    Attributes:
        kind: `HEALTHY`, `UNUSUAL` (legitimate by its paper), or `FAULT`. What it does to training
            is for training to say.
        changes: what is done to modules whose name matches a pattern; the empty pattern is the
            model as a whole.
        blamed: patterns of the modules at fault; empty: those that were changed.
    """

    kind: str
    changes: tuple[tuple[str, f.Change], ...]
    blamed: tuple[str, ...] = ()


def fault(*changes: tuple[str, f.Change], blamed: tuple[str, ...] = ()) -> Variant:
    """A start that a paper or the arithmetic calls wrong."""
    return Variant(FAULT, changes, blamed)


def unusual(*changes: tuple[str, f.Change]) -> Variant:
    """A start that is legitimate by its paper."""
    return Variant(UNUSUAL, changes)


@dataclass(frozen=True)
class Architecture:
    """A network with a task and its variants."""

    make: Callable[[], nn.Module]
    task: str
    variants: dict[str, Variant]


@dataclass(frozen=True)
class Entry:
    """One model of the zoo."""

    architecture: str
    variant: str

    @property
    def name(self) -> str:
        """Architecture and variant."""
        return f"{self.architecture}/{self.variant}"

    @property
    def _variant(self) -> Variant:
        if self.variant == HEALTHY:
            return Variant(HEALTHY, ())
        return KNOWN[self.architecture].variants[self.variant]

    @property
    def kind(self) -> str:
        """`HEALTHY`, `UNUSUAL` or `FAULT`."""
        return self._variant.kind

    @property
    def task(self) -> str:
        """A key of `tasks.TASKS`."""
        return KNOWN[self.architecture].task

    @property
    def twin(self) -> Entry:
        """The healthy model of the same architecture."""
        return Entry(self.architecture, HEALTHY)

    def build(self, seed: int) -> nn.Module:
        """The model as it starts, in training mode."""
        torch.manual_seed(seed)
        model = KNOWN[self.architecture].make()
        for pattern, change in self._variant.changes:
            for name, module in model.named_modules():
                if _matches(name, pattern):
                    with torch.no_grad():
                        change(module)
        return model

    def inputs(self, seed: int = 0, size: int = 16) -> tuple[Tensor, ...]:
        """Example inputs: a batch of the task."""
        return (TASKS[self.task].draw(size, torch.Generator().manual_seed(seed))[0],)

    def faulty(self) -> tuple[str, ...]:
        """Names of the modules and parameters that were changed, or that are to blame for it.

        Also of an unusual start: what it does to training is for training to say.
        """
        patterns = self._variant.blamed or tuple(pattern for pattern, _ in self._variant.changes)
        model = self.build(0)
        every = (model.named_modules(), model.named_parameters(), model.named_buffers())
        names = list(dict.fromkeys(name for named in every for name, _ in named))
        found = [name for name in names if name and any(_matches(name, p) for p in patterns)]
        inside = tuple(f"{name}." for name in found)
        return tuple(name for name in names if name in found or name.startswith(inside))


def _matches(name: str, pattern: str) -> bool:
    """Part by part: a star stays between two dots."""
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


_L = "layers.*"


def _delta_orthogonal(weight: Tensor, gain: float) -> None:
    """Orthogonal at the middle of the kernel, zero elsewhere (Xiao et al. 2018)."""
    init.zeros_(weight)
    middle = [side // 2 for side in weight.shape[2:]]
    weight[(..., *middle)] = init.orthogonal_(torch.empty(weight.shape[:2]), gain)


def _gated(kind: str, steps: int) -> nn.Module:
    """A gated recurrent net with chrono biases for memories of so many steps."""
    net = nets.Recurrent(kind, 8, 32, 4)
    f.gate_bias(1, f"chrono:{steps}")(net.cell)
    if kind == "lstm":
        gates = net.cell.bias_ih_l0.data.chunk(4)
        gates[0].copy_(-gates[1])
    return net


def _irnn() -> nn.Module:
    """A recurrent net of ReLUs that starts as a sum over time (Le et al. 2015)."""
    net = nets.Recurrent("rnn", 8, 48, 4, "relu")
    init.eye_(net.cell.weight_hh_l0)
    init.normal_(net.cell.weight_ih_l0, std=0.05)
    return net


ARCHITECTURES: dict[str, Architecture] = {
    "mlp-relu-6": Architecture(
        partial(nets.Plain, 6, 48, torch.relu, nets.he),
        "digits",
        {
            "zero-head": unusual(("head", f.zeros)),
            "orthogonal": unusual((_L, f.drawn(lambda w: init.orthogonal_(w, math.sqrt(2))))),
            "xavier": unusual((_L, f.xavier)),
            "default": fault((_L, f.default)),
            "small-bias": unusual((_L, f.bias(0.01))),
            "constant": fault((_L, f.constant(0.05))),
            "zeros": fault((_L, f.zeros)),
            "uniform-0-1": fault((_L, f.uniform(0.0, 1.0))),
            "normal-1": fault((_L, f.normal(1.0))),
            "normal-0.001": fault((_L, f.normal(0.001))),
            "dead-bias": fault(("layers.3", f.bias(-20.0))),
            "huge-head": fault(("head", f.scaled(60.0))),
            "three-units": fault((_L, f.copied_rows(3))),
        },
    ),
    "mlp-relu-30": Architecture(
        partial(nets.Plain, 30, 32, torch.relu, nets.he),
        "digits",
        {
            "orthogonal": unusual((_L, f.drawn(lambda w: init.orthogonal_(w, math.sqrt(2))))),
            "fan-in-uniform": unusual(
                (_L, f.drawn(lambda w: init.kaiming_uniform_(w, nonlinearity="relu")))
            ),
            "xavier": fault((_L, f.xavier)),
            "default": fault((_L, f.default)),
            "doubled": fault((_L, f.scaled(1.5))),
        },
    ),
    "mlp-tanh-8": Architecture(
        partial(nets.Plain, 8, 48, torch.tanh, partial(nets.orthogonal, gain=1.1)),
        "digits",
        {
            "zero-head": unusual(("head", f.zeros)),
            "xavier": unusual((_L, f.xavier)),
            "xavier-5/3": unusual((_L, f.drawn(lambda w: init.xavier_normal_(w, 5 / 3)))),
            "he": unusual((_L, f.he)),
            "default": fault((_L, f.default)),
            "normal-1": fault((_L, f.normal(1.0))),
            "normal-0.01": fault((_L, f.normal(0.01))),
            "saturating-bias": fault(("layers.[2-5]", f.bias(6.0))),
        },
    ),
    "mlp-tanh-30": Architecture(
        partial(nets.Plain, 30, 32, torch.tanh, partial(nets.orthogonal, gain=1.05)),
        "digits",
        {
            "orthogonal-1": unusual((_L, f.orthogonal)),
            "half": fault((_L, f.scaled(0.6))),
            "default": fault((_L, f.default)),
            "tripled": fault((_L, f.scaled(3.0))),
        },
    ),
    "mlp-gelu-12": Architecture(
        partial(nets.Plain, 12, 48, functional.gelu, partial(nets.orthogonal, gain=1.5)),
        "digits",
        {
            "he": unusual((_L, f.he)),
            "default": fault((_L, f.default)),
            "normal-0.02": fault((_L, f.normal(0.02))),
            "xavier": fault((_L, f.xavier)),
            "times-3": fault((_L, f.scaled(3.0))),
        },
    ),
    "mlp-selu-24": Architecture(
        partial(nets.Plain, 24, 32, torch.selu, nets.lecun),
        "digits",
        {
            "orthogonal": unusual((_L, f.orthogonal)),
            "he": fault((_L, f.he)),
            "default": fault((_L, f.default)),
            "normal-0.05": fault((_L, f.normal(0.05))),
        },
    ),
    "mlp-sigmoid-4": Architecture(
        partial(nets.Plain, 4, 48, torch.sigmoid, f.drawn(lambda w: init.xavier_normal_(w, 4.0))),
        "digits",
        {
            "xavier": fault((_L, f.xavier)),
            "times-10": fault((_L, f.scaled(10.0))),
            "bias-10": fault((_L, f.bias(10.0))),
        },
    ),
    "mlp-parity": Architecture(
        partial(nets.Plain, 2, 64, torch.relu, nets.he, 16, 2),
        "parity",
        {
            "zero-head": unusual(("head", f.zeros)),
            "default": unusual((_L, f.default)),
            "constant": fault(("layers.0", f.constant(0.1)), ("head", f.constant(0.1))),
            "times-0.01": fault((_L, f.scaled(0.01))),
        },
    ),
    "cnn-plain": Architecture(
        partial(nets.PlainConv, 8, 8, False),
        "digit-pictures",
        {
            "zero-head": unusual(("head", f.zeros)),
            "delta-orthogonal": unusual(
                (
                    "convs.[1-7]",
                    f.drawn(lambda w: _delta_orthogonal(w, math.sqrt(2))),
                )
            ),
            "default": fault(("convs.*", f.default)),
            "all-sides": fault(("convs.*", f.fan_from_all_sides)),
            "all-weights": fault(("convs.*", f.fan_from_everything)),
            "normal-0.01": fault(("convs.*", f.normal(0.01))),
            "times-4": fault(("convs.*", f.scaled(4.0))),
            "constant": fault(("convs.*", f.constant(0.02))),
        },
    ),
    "cnn-norm": Architecture(
        partial(nets.PlainConv, 5, 8, True),
        "digit-pictures",
        {
            "zero-head": unusual(("head", f.zeros)),
            "normal-0.01": unusual(("convs.*", f.normal(0.01))),
            "times-10": unusual(("convs.*", f.scaled(10.0))),
            "default": unusual(("convs.*", f.default)),
            "dead-beta": fault(("norms.3", f.bias(-8.0))),
            "gamma-zero": fault(("norms.3", f.gamma(0.0))),
            "constant": fault(("convs.*", f.constant(0.1))),
        },
    ),
    "resnet-norm": Architecture(
        partial(nets.ResidualConv, 4, 8, True),
        "digit-pictures",
        {
            "zero-gamma": unusual(("blocks.*.norm2", f.gamma(0.0))),
            "default": unusual(("blocks.*.conv*", f.default)),
            "fan-out": unusual(("blocks.*.conv*", f.fan_out_zero_bias)),
            "gamma-8": fault(("blocks.*.norm2", f.gamma(8.0))),
            "dead-beta": fault(("blocks.*.norm1", f.bias(-8.0)), ("blocks.*.norm2", f.bias(-30.0))),
        },
    ),
    "resnet-plain": Architecture(
        partial(nets.ResidualConv, 6, 8, False, 0.25),
        "digit-pictures",
        {
            "rezero": unusual(("blocks.*", f.own("scale", init.zeros_))),
            "fixup": unusual(
                ("blocks.*", f.own("scale", init.ones_)),
                ("blocks.*.conv1", f.scaled(6**-0.5)),
                ("blocks.*.conv2", f.zeros),
            ),
            "unscaled": fault(("blocks.*", f.own("scale", init.ones_)), blamed=("blocks.*",)),
            "scale-5": fault(
                ("blocks.*", f.own("scale", lambda t: t.fill_(3.0))), blamed=("blocks.*",)
            ),
            "zero-times-zero": fault(
                ("blocks.*", f.own("scale", init.zeros_)),
                ("blocks.*.conv2", f.zeros),
                blamed=("blocks.*",),
            ),
            "tiny-stem": fault(("stem", f.normal(1e-4)), ("head", f.normal(1e-3))),
        },
    ),
    "residual-mlp": Architecture(
        partial(nets.ResidualMlp, 16, 48, 0.25),
        "digits",
        {
            "zero-second": unusual(("second.*", f.zeros)),
            "unscaled": fault(("second.*", f.scaled(4.0)), blamed=("second.*", "first.*")),
            "times-8": fault(("second.*", f.scaled(8.0)), blamed=("second.*", "first.*")),
            "normal-0.02": unusual(("first.*", f.normal(0.02)), ("second.*", f.normal(0.02))),
        },
    ),
    "encoder-pre-norm": Architecture(
        partial(nets.Encoder, 3, 24),
        "digit-patches",
        {
            "zero-head": unusual(("head", f.zeros)),
            "zero-out": unusual(("blocks.*.attention.out", f.zeros), ("blocks.*.fc2", f.zeros)),
            "xavier": unusual(("blocks.*.fc?", f.xavier), ("blocks.*.attention.*", f.xavier)),
            "normal-0.02": unusual(
                ("blocks.*.fc?", f.normal(0.02)), ("blocks.*.attention.*", f.normal(0.02))
            ),
            "cloned": fault(("", f.cloned("blocks")), blamed=("blocks.*",)),
            "peaked": fault(("blocks.*.attention.query", f.scaled(30.0))),
            "peaked-both": fault(
                ("blocks.*.attention.query", f.scaled(12.0)),
                ("blocks.*.attention.key", f.scaled(12.0)),
            ),
            "branches-10": fault(
                ("blocks.*.fc2", f.scaled(40.0)), ("blocks.*.attention.out", f.scaled(40.0))
            ),
        },
    ),
    "encoder-layer-scale": Architecture(
        partial(nets.Encoder, 3, 24, True, 0.1),
        "digit-patches",
        {
            "scale-1e-4": unusual(
                ("blocks.*", f.own("gamma1", lambda t: t.fill_(1e-4))),
                ("blocks.*", f.own("gamma2", lambda t: t.fill_(1e-4))),
            ),
            "uniform-0-1": fault(
                ("blocks.*.fc?", f.uniform(0, 1)), ("blocks.*.attention.*", f.uniform(0, 1))
            ),
            "gamma-30": fault(
                ("blocks.*", f.own("gamma1", lambda t: t.fill_(30.0))),
                ("blocks.*", f.own("gamma2", lambda t: t.fill_(30.0))),
                blamed=("blocks.*",),
            ),
        },
    ),
    "encoder-post-norm": Architecture(
        partial(nets.Encoder, 3, 24, False),
        "digit-patches",
        {
            "default": unusual(("blocks.*.fc?", f.default), ("blocks.*.attention.*", f.default)),
            "branches-30": fault(
                ("blocks.*.fc2", f.scaled(60.0)), ("blocks.*.attention.out", f.scaled(60.0))
            ),
            "uniform-0-1": fault(
                ("blocks.*.fc?", f.uniform(0, 1)), ("blocks.*.attention.*", f.uniform(0, 1))
            ),
            "gamma-0.01": fault(("blocks.*.norm?", f.gamma(0.01))),
        },
    ),
    "gpt": Architecture(
        partial(nets.Gpt, 2, 32, 32, False),
        "text",
        {
            "zero-head": unusual(("head", f.zeros)),
            "unscaled": unusual(
                ("blocks.*.fc2", f.scaled(4**0.5)), ("blocks.*.attention.out", f.scaled(4**0.5))
            ),
            "normal-0.02": unusual(
                ("blocks.*.fc?", f.normal(0.02)),
                ("blocks.*.attention.*", f.normal(0.02)),
                ("tokens", f.normal(0.02)),
                ("positions", f.normal(0.02)),
            ),
            "normal-1": fault(
                ("blocks.*.fc?", f.normal(1.0)),
                ("blocks.*.attention.*", f.normal(1.0)),
                ("head", f.normal(1.0)),
            ),
            "head-40": fault(("head", f.scaled(40.0))),
            "tokens-constant": fault(("tokens", f.constant(0.1))),
            "positions-30": fault(("positions", f.normal(30.0))),
        },
    ),
    "gpt-tied": Architecture(
        partial(nets.Gpt, 2, 32, 32, True),
        "text",
        {
            "embedding-5": fault(("tokens", f.normal(5.0)), blamed=("tokens", "head")),
            "embedding-1": fault(("tokens", f.normal(1.0)), blamed=("tokens", "head")),
            "norm-zero": fault(("norm", f.gamma(0.0))),
        },
    ),
    "rnn-rows": Architecture(
        partial(nets.Recurrent, "rnn", 8, 48, 10),
        "digit-rows",
        {
            "irnn": unusual(("cell", f.recurrent(init.eye_))),
            "default": unusual(("cell", f.default)),
            "zero-head": unusual(("head", f.zeros)),
            "uniform-0-1": fault(("cell", f.recurrent(lambda w: w.uniform_(0, 1)))),
            "zeros": fault(("cell", f.zeros)),
            "times-20": fault(("cell", f.scaled(20.0))),
        },
    ),
    "rnn-relu-memory": Architecture(
        _irnn,
        "memory-30",
        {
            "orthogonal": fault(("cell", f.recurrent(init.orthogonal_))),
            "default": fault(("cell", f.default)),
            "half": fault(("cell", f.recurrent(lambda w: init.orthogonal_(w, 0.5)))),
            "growing": fault(("cell", f.recurrent(lambda w: init.normal_(w, 0, 0.5)))),
            "zero-head": unusual(("head", f.zeros)),
        },
    ),
    "rnn-sum": Architecture(
        partial(nets.Recurrent, "rnn", 4, 32, 1),
        "sum-16",
        {
            "default": unusual(("cell", f.default)),
            "swapped": fault(("cell", f.swapped)),
            "saturated": fault(("cell", f.own("bias_ih_l0", lambda b: b.fill_(8.0)))),
            "growing": fault(("cell", f.recurrent(lambda w: init.normal_(w, 0, 1.0)))),
        },
    ),
    "lstm-memory": Architecture(
        partial(_gated, "lstm", 30),
        "memory-30",
        {
            "forget-3": unusual(("cell", f.own("bias_ih_l0", lambda b: b.chunk(4)[1].fill_(4.0)))),
            "no-forget-bias": fault(
                ("cell", f.own("bias_ih_l0", init.zeros_)),
            ),
            "closed": fault(("cell", f.own("bias_ih_l0", lambda b: b.chunk(4)[1].fill_(-2.0)))),
            "default": fault(("cell", f.default)),
        },
    ),
    "gru-memory": Architecture(
        partial(_gated, "gru", 30),
        "memory-30",
        {
            "update-2": unusual(("cell", f.own("bias_ih_l0", lambda b: b.chunk(3)[1].fill_(2.5)))),
            "no-update-bias": fault(("cell", f.own("bias_ih_l0", init.zeros_))),
            "closed": fault(("cell", f.own("bias_ih_l0", lambda b: b.chunk(3)[1].fill_(-2.0)))),
        },
    ),
    "gru-rows": Architecture(
        partial(nets.Recurrent, "gru", 8, 32, 10),
        "digit-rows",
        {
            "default": unusual(("cell", f.default)),
            "zeros": fault(("cell", f.zeros)),
            "times-30": fault(("cell", f.scaled(30.0))),
        },
    ),
    "autoencoder": Architecture(
        nets.Autoencoder,
        "reconstruct",
        {
            "xavier": unusual(("*coder.*", f.xavier)),
            "zero-last": unusual(("decoder.3", f.zeros)),
            "default": fault(("*coder.*", f.default)),
            "normal-0.01": fault(("*coder.*", f.normal(0.01))),
            "code-zero": fault(("encoder.3", f.zeros), ("decoder.0", f.zeros)),
            "normal-1": fault(("*coder.*", f.normal(1.0))),
            "constant": fault(("*coder.*", f.constant(0.02))),
        },
    ),
    "unet": Architecture(
        nets.UNet,
        "denoise",
        {
            "zero-leave": unusual(("leave", f.zeros)),
            "default": unusual(("*[0-9]", f.default), ("middle", f.default)),
            "normal-1": fault(("[dmu]*", f.normal(1.0))),
            "zeros": fault(("[edmu]*", f.zeros)),
            "normal-0.001": fault(("[edmu]*", f.normal(0.001))),
            "times-0.1-after-norm": fault(("leave", f.normal(1e-6)), ("merge1", f.normal(1e-4))),
        },
    ),
    "generator": Architecture(
        partial(nets.Generator, False),
        "generate",
        {
            "zero-leave": unusual(("leave", f.zeros)),
            "transposed-fan": fault(("up?", f.he)),
            "normal-0.001": fault(("*", f.normal(0.001)), blamed=("enter", "up?", "mix", "leave")),
            "normal-1": fault(("up?", f.normal(1.0)), ("mix", f.normal(1.0))),
        },
    ),
    "generator-norm": Architecture(
        partial(nets.Generator, True),
        "generate",
        {
            "dcgan": unusual(("up?", f.normal(0.02)), ("mix", f.normal(0.02))),
            "constant": fault(
                ("enter", f.constant(0.1)), ("up?", f.constant(0.1)), ("mix", f.constant(0.1))
            ),
            "zero-gamma": fault(("norm?", f.gamma(0.0))),
        },
    ),
    "mixer": Architecture(
        nets.Mixer,
        "digit-patches",
        {
            "default": unusual(("blocks.*.*", f.default)),
            "zero-second": unusual(("blocks.*.token2", f.zeros), ("blocks.*.channel2", f.zeros)),
            "normal-1": fault(
                ("blocks.*.token?", f.normal(2.0)), ("blocks.*.channel?", f.normal(2.0))
            ),
            "cloned": fault(("", f.cloned("blocks")), blamed=("blocks.*",)),
            "embed-zero": fault(("embed", f.zeros)),
        },
    ),
    "siren": Architecture(
        nets.Siren,
        "picture",
        {
            "default": fault((_L, f.default)),
            "xavier": fault((_L, f.xavier)),
            "small": fault((_L, f.normal(0.002))),
            "times-5": fault((_L, f.scaled(6.0))),
        },
    ),
    "adapter": Architecture(
        nets.Adapted,
        "digits",
        {
            "both-zero": fault(("layers.*.lora_A", f.zeros), ("layers.*.lora_B", f.zeros)),
            "both-random": fault(
                ("layers.*.lora_B", f.normal(5.0)),
            ),
            "a-zero": unusual(("layers.*.lora_A", f.zeros), ("layers.*.lora_B", f.default)),
            "a-tiny": fault(("layers.*.lora_A", f.normal(1e-5))),
        },
    ),
    "cosine": Architecture(
        nets.Cosine,
        "digits",
        {
            "times-10": unusual(("body.2", f.scaled(10.0))),
            "temperature-0.001": fault(
                ("", f.own("temperature", lambda t: t.fill_(0.001))), blamed=("temperature",)
            ),
            "body-tiny": fault(("body.*", f.normal(1e-3))),
            "classes-equal": fault(("", f.own("classes", init.ones_)), blamed=("classes",)),
        },
    ),
    "adaln": Architecture(
        nets.Modulated,
        "digits",
        {
            "not-zero": unusual(("modulations.*", f.normal(0.05))),
            "zero-times-zero": fault(("modulations.*", f.zeros), ("fc2.*", f.zeros)),
            "modulation-5": fault(("modulations.*", f.normal(3.0))),
        },
    ),
}


KNOWN: dict[str, Architecture] = dict(ARCHITECTURES)
"""All architectures, those of `benchmarks.outcome.held_out` among them once that is imported."""


def entries(architectures: Mapping[str, Architecture]) -> tuple[Entry, ...]:
    """Every start of some architectures, the healthy one first."""
    return tuple(
        Entry(name, variant)
        for name, made in architectures.items()
        for variant in (HEALTHY, *made.variants)
    )


ZOO = entries(ARCHITECTURES)
