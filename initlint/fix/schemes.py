"""The registry of initialisation schemes for one tensor.

A scheme fills one `Slot` from a seeded generator. Schemes that weigh several layers against each
other (Fixup, DeepNorm, LSUV…) are recipes: see `initlint.fix.recipes`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import exp, log, sqrt
from typing import Any

import numpy as np

from initlint.fix import draws
from initlint.fix.draws import Array
from initlint.fix.slot import Slot
from initlint.model import RELU_FAMILY, Op, Role

Arguments = Mapping[str, Any]
Draw = Callable[[Slot, np.random.Generator, Arguments], Array]


class UnknownSchemeError(ValueError):
    """A scheme name that does not exist; the message names the nearest that does."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """A named way to fill one tensor.

    Attributes:
        name: the field's name, in snake case.
        draw: fills a slot.
        summary: distribution or values, as a formula.
        source: where it comes from.
        arguments: names of the numbers it takes, with their defaults.
    """

    name: str
    draw: Draw
    summary: str
    source: str
    arguments: Mapping[str, Any]


SCHEMES: dict[str, Scheme] = {}
"""Every scheme by name."""


def scheme(
    name: str, summary: str, source: str, **defaults: Any
) -> Callable[[Callable[..., Array]], Callable[..., Array]]:
    """Register ``draw(slot, rng, **arguments)`` under a name."""

    def register(function: Callable[..., Array]) -> Callable[..., Array]:
        def draw(slot: Slot, rng: np.random.Generator, given: Arguments) -> Array:
            unknown = sorted(set(given) - set(defaults))
            if unknown:
                known = ", ".join(defaults) or "none"
                raise ValueError(f"{name} takes no {unknown[0]!r}; its arguments: {known}")
            return function(slot, rng, **{**defaults, **given})

        SCHEMES[name] = Scheme(name, draw, summary, source, defaults)
        return function

    return register


def find(name: str, among: Collection[str] = ()) -> Scheme:
    """A scheme by name; hyphens are taken for underscores.

    Args:
        name: as a user writes it.
        among: the names that may have been meant; all tensor schemes when empty.

    Raises:
        UnknownSchemeError: there is none.
    """
    key = name.replace("-", "_")
    key = ALIASES.get(key, key)
    if key not in SCHEMES:
        near = difflib.get_close_matches(key, among or SCHEMES, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UnknownSchemeError(f"unknown scheme {name!r}{hint}")
    return SCHEMES[key]


ALIASES = {
    "he": "he_normal",
    "kaiming": "he_normal",
    "kaiming_normal": "he_normal",
    "kaiming_uniform": "he_uniform",
    "xavier": "xavier_uniform",
    "glorot": "xavier_uniform",
    "glorot_uniform": "xavier_uniform",
    "glorot_normal": "xavier_normal",
    "lecun": "lecun_normal",
    "eye": "identity",
}
"""Other names of the same schemes."""


def fill(name: str, slot: Slot, rng: np.random.Generator, **arguments: Any) -> Array:
    """A slot filled by a scheme, in float64.

    Raises:
        UnknownSchemeError: there is no such scheme.
        ValueError: an argument the scheme does not take, or a shape it cannot fill.
    """
    values = find(name).draw(slot, rng, arguments)
    assert values.shape == slot.shape
    return values


@scheme("zeros", "0", "")
def _zeros(slot: Slot, rng: np.random.Generator) -> Array:
    return np.zeros(slot.shape)


@scheme("ones", "1", "")
def _ones(slot: Slot, rng: np.random.Generator) -> Array:
    return np.ones(slot.shape)


@scheme("constant", "value", "", value=0.0)
def _constant(slot: Slot, rng: np.random.Generator, value: float) -> Array:
    return np.full(slot.shape, float(value))


@scheme("normal", "N(mean, std²)", "", std=0.02, mean=0.0)
def _normal(slot: Slot, rng: np.random.Generator, std: float, mean: float) -> Array:
    return draws.normal(slot.shape, std, rng, mean)


@scheme("uniform", "U(±bound)", "", bound=0.05)
def _uniform(slot: Slot, rng: np.random.Generator, bound: float) -> Array:
    return draws.uniform(slot.shape, bound, rng)


@scheme("truncated_normal", "N(0, ·) cut at ±cut, with standard deviation std", "", std=0.02, cut=2)
def _truncated(slot: Slot, rng: np.random.Generator, std: float, cut: float) -> Array:
    return draws.truncated_normal(slot.shape, std, rng, cut)


def _variance_scaling(
    slot: Slot, rng: np.random.Generator, gain: float, fan: str, law: str
) -> Array:
    """Variance gain²/fan under a law (`variance_scaling` of Keras and JAX)."""
    std = gain / sqrt(slot.fan(fan))
    if law == "uniform":
        return draws.uniform(slot.shape, sqrt(3) * std, rng)
    if law == "truncated":
        return draws.truncated_normal(slot.shape, std, rng)
    return draws.normal(slot.shape, std, rng)


_GLOROT = "Glorot, Bengio 2010"
_HE = "He, Zhang, Ren, Sun 2015"
_LECUN = "LeCun, Bottou, Orr, Müller 1998"


@scheme("xavier_normal", "N(0, 2 gain²/(fan_in + fan_out))", _GLOROT, gain=1.0, fan="fan_avg")
def _xavier_normal(slot: Slot, rng: np.random.Generator, gain: float, fan: str) -> Array:
    return _variance_scaling(slot, rng, gain, fan, "normal")


@scheme("xavier_uniform", "U(±gain √(6/(fan_in + fan_out)))", _GLOROT, gain=1.0, fan="fan_avg")
def _xavier_uniform(slot: Slot, rng: np.random.Generator, gain: float, fan: str) -> Array:
    return _variance_scaling(slot, rng, gain, fan, "uniform")


@scheme("he_normal", "N(0, gain²/fan_in)", _HE, gain=sqrt(2), fan="fan_in")
def _he_normal(slot: Slot, rng: np.random.Generator, gain: float, fan: str) -> Array:
    return _variance_scaling(slot, rng, gain, fan, "normal")


@scheme("he_uniform", "U(±gain √(3/fan_in))", _HE, gain=sqrt(2), fan="fan_in")
def _he_uniform(slot: Slot, rng: np.random.Generator, gain: float, fan: str) -> Array:
    return _variance_scaling(slot, rng, gain, fan, "uniform")


@scheme("lecun_normal", "N(0, gain²/fan_in)", _LECUN, gain=1.0, fan="fan_in")
def _lecun_normal(slot: Slot, rng: np.random.Generator, gain: float, fan: str) -> Array:
    return _variance_scaling(slot, rng, gain, fan, "normal")


@scheme("lecun_uniform", "U(±gain √(3/fan_in))", _LECUN, gain=1.0, fan="fan_in")
def _lecun_uniform(slot: Slot, rng: np.random.Generator, gain: float, fan: str) -> Array:
    return _variance_scaling(slot, rng, gain, fan, "uniform")


@scheme("selu", "N(0, 1/fan_in)", "Klambauer, Unterthiner, Mayr, Hochreiter 2017")
def _selu(slot: Slot, rng: np.random.Generator) -> Array:
    return _variance_scaling(slot, rng, 1.0, "fan_in", "normal")


@scheme("torch_default", "U(±1/√fan_in)", "torch/nn/modules/linear.py: kaiming_uniform_(a=√5)")
def _torch_default(slot: Slot, rng: np.random.Generator) -> Array:
    if slot.op is Op.EMBEDDING:
        return draws.normal(slot.shape, 1.0, rng)
    fan = slot.fan_out if slot.op is Op.CONV_TRANSPOSE else slot.fan_in
    if slot.role is Role.RECURRENT_WEIGHT or slot.op in (Op.RNN, Op.LSTM, Op.GRU):
        fan = slot.shape[0]
    return draws.uniform(slot.shape, 1 / sqrt(fan), rng)


@scheme("scale_preserving", "N(0, gain²/fan_in), gain = 1/√E[φ²] of the activation", _HE, gain=None)
def _scale_preserving(slot: Slot, rng: np.random.Generator, gain: float | None) -> Array:
    return draws.normal(slot.shape, preserving_std(slot, gain), rng)


def preserving_std(slot: Slot, gain: float | None = None) -> float:
    """The standard deviation with which a layer hands its input's second moment on.

    gain/√fan_in, with the gain of the activation behind the layer: E[z²] = Var(W) fan_in E[x²], and
    E[φ(z)²] = E[x²] = 1 when Var(W) = 1/(fan_in E[φ²]). An embedding is read by a one-hot input:
    fan_in is 1, and std 1/√width gives rows of unit length, small beside what follows.
    """
    if slot.op is Op.EMBEDDING:
        return 1 / sqrt(slot.fan_out)
    return (slot.gain if gain is None else gain) / sqrt(slot.fan_in)


def law_std(slot: Slot, name: str, arguments: Arguments) -> float:
    """Standard deviation that a law of gain and fan, or `scale_preserving`, asks for."""
    gain = arguments.get("gain", SCHEMES[name].arguments.get("gain"))
    if name == "scale_preserving":
        return preserving_std(slot, gain)
    fan = str(arguments.get("fan", SCHEMES[name].arguments["fan"]))
    return float(gain) / sqrt(slot.fan(fan))


@scheme(
    "orthogonal", "gain × Haar orthogonal, per gate and per group", "Saxe et al. 2014", gain=1.0
)
def _orthogonal(slot: Slot, rng: np.random.Generator, gain: float) -> Array:
    return draws.orthogonal(slot.shape, gain, rng, slot.groups)


@scheme("delta_orthogonal", "orthogonal at the kernel's centre, else 0", "Xiao et al. 2018", gain=1)
def _delta_orthogonal(slot: Slot, rng: np.random.Generator, gain: float) -> Array:
    return draws.delta_orthogonal(slot.shape, gain, rng, slot.groups)


@scheme("identity", "gain on the diagonal", "", gain=1.0)
def _identity(slot: Slot, rng: np.random.Generator, gain: float) -> Array:
    if len(slot.shape) != 2:
        raise ValueError("identity needs a matrix; a kernel takes dirac")
    return draws.identity(slot.shape, gain)


@scheme("dirac", "gain at the kernel's centre: channels pass unchanged", "Zagoruyko 2017", gain=1.0)
def _dirac(slot: Slot, rng: np.random.Generator, gain: float) -> Array:
    if len(slot.shape) < 3:
        raise ValueError("dirac needs a kernel; a matrix takes identity")
    return draws.identity(slot.shape, gain, slot.groups)


@scheme("irnn", "recurrent weights the identity, input weights N(0, std²)", "Le 2015", std=0.001)
def _irnn(slot: Slot, rng: np.random.Generator, std: float) -> Array:
    if slot.role is Role.RECURRENT_WEIGHT:
        return draws.identity(slot.shape)
    return draws.normal(slot.shape, std, rng)


@scheme(
    "sparse", "N(0, std²), ⌈sparsity·rows⌉ zeros a column", "Martens 2010", sparsity=0.9, std=0.01
)
def _sparse(slot: Slot, rng: np.random.Generator, sparsity: float, std: float) -> Array:
    return draws.sparse(slot.shape, sparsity, std, rng)


@scheme("random_walk", "N(0, g²/fan_in), E[ln gradient norm] constant", "Sussillo, Abbott 2014")
def _random_walk(slot: Slot, rng: np.random.Generator) -> Array:
    gain = random_walk_gain(slot.fan_in, relu=slot.activation in RELU_FAMILY)
    return draws.normal(slot.shape, gain / sqrt(slot.fan_in), rng)


def random_walk_gain(width: float, *, relu: bool) -> float:
    """The g with which the log of the gradient's norm is a random walk without drift.

    exp(1/(2N)) for linear units, √2 exp(1.2/(max(N, 6) - 2.4)) for ReLU (Sussillo, Abbott 2014).
    """
    if relu:
        return sqrt(2) * exp(1.2 / (max(width, 6) - 2.4))
    return exp(1 / (2 * width))


_SIREN = "Sitzmann et al. 2020"


@scheme("siren_first", "U(±1/fan_in)", _SIREN)
def _siren_first(slot: Slot, rng: np.random.Generator) -> Array:
    return draws.uniform(slot.shape, 1 / slot.fan_in, rng)


@scheme("siren", "U(±√(6/fan_in)/ω₀) for sin(ω₀ z)", _SIREN, omega=30.0)
def _siren(slot: Slot, rng: np.random.Generator, omega: float) -> Array:
    return draws.uniform(slot.shape, sqrt(6 / slot.fan_in) / omega, rng)


@scheme("embedding_scaled", "N(0, scale²/width): rows of length scale", "Vaswani 2017", scale=1.0)
def _embedding_scaled(slot: Slot, rng: np.random.Generator, scale: float) -> Array:
    return draws.normal(slot.shape, scale / sqrt(slot.shape[-1]), rng)


@scheme("lora_a", "U(±1/√fan_in), the factor that reads the input", "Hu et al. 2021, loralib")
def _lora_a(slot: Slot, rng: np.random.Generator) -> Array:
    return draws.uniform(slot.shape, 1 / sqrt(slot.fan_in), rng)


@scheme("lora_b", "0, the factor that writes the output", "Hu et al. 2021")
def _lora_b(slot: Slot, rng: np.random.Generator) -> Array:
    return np.zeros(slot.shape)


@scheme("zero_gamma", "0: the last norm of a residual branch", "Goyal et al. 2017")
def _zero_gamma(slot: Slot, rng: np.random.Generator) -> Array:
    return np.zeros(slot.shape)


@scheme(
    "rezero", "0: the scalar of a residual branch (SkipInit)", "Bachlechner 2020; De, Smith 2020"
)
def _rezero(slot: Slot, rng: np.random.Generator) -> Array:
    return np.zeros(slot.shape)


@scheme("layer_scale", "value, smaller the deeper", "Touvron et al. 2021 (CaiT)", value=1e-4)
def _layer_scale(slot: Slot, rng: np.random.Generator, value: float) -> Array:
    return np.full(slot.shape, float(value))


def layer_scale_value(depth: int) -> float:
    """CaiT's choice: 0.1 up to 18 blocks, 1e-5 up to 24, 1e-6 beyond (Touvron 2021, 2.2)."""
    return 0.1 if depth <= 18 else 1e-5 if depth <= 24 else 1e-6


@scheme("forget_gate_bias", "value on the forget gate", "Gers 2000; Jozefowicz 2015", value=1.0)
def _forget_gate(slot: Slot, rng: np.random.Generator, value: float) -> Array:
    wanted = slot.gate == "forget" and slot.role is Role.BIAS
    return np.full(slot.shape, float(value) if wanted else 0.0)


@scheme(
    "chrono",
    "ln U(1, T-1) on the forget or update gate, its negative on the input gate",
    "Tallec, Ollivier 2018",
    steps=50,
    opening=0,
    shortest=1,
)
def _chrono(
    slot: Slot, rng: np.random.Generator, steps: float, opening: float, shortest: float
) -> Array:
    if slot.role is not Role.BIAS:
        return np.zeros(slot.shape)
    drawn = np.log(rng.uniform(shortest, max(steps - 1, shortest + 1), slot.shape))
    sign = {"forget": 1.0, "update": 1.0, "input": -1.0}.get(slot.gate or "", 0.0)
    return drawn * (opening or sign)


@scheme(
    "two_scales",
    "0 on half of the units, ln(T-1) on the others",
    "Tallec, Ollivier 2018, for gates that shut the input as they keep the state",
    steps=50,
    opening=1,
)
def _two_scales(slot: Slot, rng: np.random.Generator, steps: float, opening: float) -> Array:
    found = np.zeros(slot.shape)
    found[slot.shape[0] // 2 :] = opening * log(max(steps - 1, 1))
    return found


@scheme("focal_prior", "bias -ln((1 - π)/π)", "Lin et al. 2017 (RetinaNet)", prior=0.01)
def _focal_prior(slot: Slot, rng: np.random.Generator, prior: float) -> Array:
    if not 0 < prior < 1:
        raise ValueError("a prior lies between 0 and 1")
    return np.full(slot.shape, -log((1 - prior) / prior))


@scheme("class_prior", "bias ln p of each class", "Karpathy 2019; chance loss at step 0", priors=())
def _class_prior(slot: Slot, rng: np.random.Generator, priors: Any) -> Array:
    counts = np.asarray(priors, dtype=np.float64)
    if counts.shape != slot.shape or not (counts > 0).all():
        raise ValueError(f"class_prior needs {slot.shape} positive frequencies")
    shares: Array = np.log(counts / counts.sum())
    return shares


def default_value(role: Role) -> float:
    """What a parameter that is not drawn starts at: 1 for multipliers, 0.25 for PReLU, else 0."""
    if role in (Role.GAIN, Role.RUNNING_VAR):
        return 1.0
    return 0.25 if role is Role.SLOPE else 0.0
