"""Named initialisation schemes and the standard deviation each predicts for one parameter.

Sources: PyTorch `torch/nn/init.py`, `torch/nn/modules/{linear,conv,rnn,activation}.py`; Keras
`random_initializers.py`; JAX `nn/initializers.py`; Hugging Face `modeling_utils.py`,
`modeling_t5.py`; nanoGPT `model.py`; Fixup, DeepNorm and LoRA as their repositories have them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import floor, log, log10, prod, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initlint.measure.families import TRUNCATED_STD
from initlint.measure.result import Family, Match
from initlint.model import RECURRENT, Layer, Op, Param, Role, fans

UNIFORM = frozenset({Family.UNIFORM})
NORMAL = frozenset({Family.NORMAL})
TRUNCATED = frozenset({Family.TRUNCATED_NORMAL})
GAUSSIAN = NORMAL | TRUNCATED

GAINS = (
    ("he", "a=0.2", sqrt(2.0 / 1.04)),
    ("xavier", "gain=sqrt(2)", sqrt(2.0)),
    ("xavier", "gain=5/3", 5.0 / 3.0),
    ("xavier", "gain=1/sqrt(2)", sqrt(0.5)),
    ("xavier", "gain=4", 4.0),
    ("he", "tanh", 5.0 / 3.0),
    ("he", "selu", 0.75),
)
"""Gains that `torch.nn.init.calculate_gain`, GAN code (0.2), fairseq (1/√2) and Glorot's sigmoid
(4) put on a scheme."""

ACTIVATION_GAINS = (
    ("gelu", 1.5335),
    ("silu", 1.6765),
    ("mish", 1.4869),
    ("elu", 1.2452),
    ("hard_swish", 1.7367),
    ("tanh exact", 1.5925),
    ("sigmoid exact", 1.8462),
    ("softplus", 1.0419),
    ("relu squared", 0.8165),
    ("nfnet relu", 1.7129),
    ("0.1", 0.1),
    ("0.01", 0.01),
)
"""1/√E[φ(z)²] for a unit normal z, NFNet's ReLU gain, and the two round factors of small heads."""

FIXED_STDS = (0.02, 0.01, 0.05, 1.0, 0.001, 0.1, 0.006)
"""Standard deviations that frameworks and papers fix: BERT and GPT-2 (.02), detection heads and
MobileNet (.01), Keras (.05), embeddings and noise (1), .001, .1, .006 (configurations)."""

FIXED_BOUNDS = (0.05, 0.1, 0.01, 1.0, 0.08, 0.001, 1e-4, 0.02, 0.5, 0.25)
"""Uniform bounds: Keras (.05), word2vec-era models (.1, .08), hash grids (1e-4)."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A scheme that could have made a tensor.

    Attributes:
        match: its name, gain, standard deviation and fan.
        families: the families it draws from.
        tier: 0 common schemes, 1 gains, 2 depth-scaled ones and wrong fans; a tier is looked at
            only when no earlier one explains the tensor.
    """

    match: Match
    families: frozenset[Family]
    tier: int = 0


@dataclass(frozen=True, slots=True)
class Candidates:
    """The candidates of parameters that are used alike.

    Attributes:
        all: the most specific and most common first in each tier.
        log_stds: logarithms of the standard deviations they predict; NaN for zero.
    """

    all: tuple[Candidate, ...]
    log_stds: NDArray[np.float64]

    def near(self, std: float, distance: float) -> list[tuple[Candidate, float]]:
        """Those within ``distance`` of ``std``, and how far each is, in logarithms of its own."""
        if std <= 0.0:
            return []
        distances = np.abs(self.log_stds - log(std))
        inside = np.flatnonzero(distances <= distance)
        pairs = zip(inside.tolist(), distances[inside].tolist(), strict=True)
        return [(self.all[index], away) for index, away in pairs]


KEPT = 512
"""Kinds of use whose candidates are kept: a network repeats a few shapes."""

_kept: dict[Any, Candidates] = {}


def candidates(layer: Layer, param: Param, *, rare: bool = False) -> Candidates:
    """The candidates for a parameter; made once for all parameters that are used alike.

    Args:
        layer: who reads it.
        param: the parameter.
        rare: those of tier 2, which are four in five and seldom asked for, instead of the others.
    """
    attrs, weight = layer.attrs, layer.weight
    stored = param.tensor.stored_shape if param.tensor is not None else ()
    key = (
        layer.op,
        str(attrs.get("groups")),
        str(attrs.get("stride")),
        str(attrs.get("hidden_size")),
        weight.shape if weight is not None else None,
        param.role,
        param.shape,
        param.packed,
        param.module,
        stored if len(stored) == 3 else (),
        rare,
    )
    found = _kept.get(key)
    if found is None:
        made = tuple((_rare if rare else _common)(layer, param))
        stds = np.array([candidate.match.std for candidate in made])
        found = Candidates(made, np.log(np.where(stds > 0.0, stds, np.nan)))
        if len(_kept) >= KEPT:
            _kept.clear()
        _kept[key] = found
    return found


def _is_weight(param: Param) -> bool:
    roles = (Role.WEIGHT, Role.RECURRENT_WEIGHT, Role.PROJECTION)
    return param.role in roles and len(param.shape) > 1


def _rare(layer: Layer, param: Param) -> Iterator[Candidate]:
    if not _is_weight(param) or (layer.op is Op.EMBEDDING and param.role is Role.WEIGHT):
        return
    fan_in, fan_out = _true_fans(layer, param)
    if param.shape[0] > 1 and layer.op is Op.LINEAR:
        yield from _transformer(param)
    yield from _deep(fan_in, (fan_in + fan_out) / 2.0)
    yield from _wrong_fans(layer, param, fan_in, fan_out)


def _true_fans(layer: Layer, param: Param) -> tuple[float, float]:
    """The fans that count what is summed; those of the framework where they are not known."""
    true = fans(layer, param)
    return (true.fan_in, true.fan_out) if true else framework_fans(layer, param)


def _common(layer: Layer, param: Param) -> Iterator[Candidate]:
    if _is_weight(param):
        yield from _weights(layer, param)
    elif param.role in (Role.BIAS, Role.RECURRENT_BIAS):
        yield from _biases(layer, param)
    elif param.role is Role.TABLE and param.shape:
        yield _normal("embedding_normal", param.shape[-1] ** -0.5, "width")
    yield from _fixed()


def framework_fans(layer: Layer, param: Param) -> tuple[float, float]:
    """fan_in and fan_out as `torch.nn.init` computes them from the stored shape.

    A grouped convolution gets the ungrouped fan_out; a transposed convolution gets its two fans
    exchanged, because the kernel is stored input channels first.
    """
    shape = param.shape
    kernel = prod(shape[2:])
    if layer.op is Op.CONV_TRANSPOSE:
        groups = int(layer.attrs.get("groups", 1)) or 1
        return shape[0] // groups * kernel, shape[1] * groups * kernel
    return shape[1] * kernel, shape[0] * kernel


def stack_fans(param: Param) -> tuple[float, float] | None:
    """fan_in and fan_out that `torch.nn.init` computes for a stack ``(count, …, …)`` of matrices.

    It takes the last axis for a kernel: fan_in = size(1) size(2), fan_out = size(0) size(2). None
    for a matrix that is stored alone.
    """
    stored = param.tensor.stored_shape if param.tensor is not None else ()
    if len(stored) != 3 or len(param.shape) != 2:
        return None
    return float(stored[1] * stored[2]), float(stored[0] * stored[2])


def _normal(name: str, std: float, fan: str = "", tier: int = 0, gain: float = 1.0) -> Candidate:
    return Candidate(Match(name, gain, std, fan), GAUSSIAN, tier)


def _scaled(
    name: str,
    gain: float,
    fan_size: float,
    fan: str,
    tier: int,
    true_fan: bool = True,
    corrected_only: bool = False,
) -> Iterator[Candidate]:
    """The uniform, normal and cut-normal members of a scheme with variance gain²/fan."""
    if fan_size <= 0:
        return
    std = gain / sqrt(fan_size)
    base, _, argument = name.partition("(")
    suffix = f"({argument}" if argument else ""
    gain_shown = gain
    yield Candidate(Match(f"{base}_uniform{suffix}", gain_shown, std, fan, true_fan), UNIFORM, tier)
    yield Candidate(Match(f"{base}_normal{suffix}", gain_shown, std, fan, true_fan), GAUSSIAN, tier)
    if corrected_only:
        return
    uncorrected = f"{base}_normal({argument[:-1] + ', ' if argument else ''}uncorrected)"
    yield Candidate(
        Match(uncorrected, gain_shown, std * TRUNCATED_STD, fan, true_fan), TRUNCATED, tier
    )


def _weights(layer: Layer, param: Param) -> Iterator[Candidate]:
    helper_in, helper_out = framework_fans(layer, param)
    fan_in, fan_out = _true_fans(layer, param)
    if layer.op in RECURRENT or param.role is not Role.WEIGHT:
        yield from _recurrent(layer, param)
    elif layer.op is Op.EMBEDDING:
        yield _normal("normal(1.0)", 1.0)
        yield _normal("embedding_normal", param.shape[-1] ** -0.5, "width")
        bound = 1.0 / param.shape[0]
        yield Candidate(Match("codebook_uniform", 1.0, bound / sqrt(3.0), "rows"), UNIFORM)
        fan_in, fan_out = float(param.shape[0]), float(param.shape[1])
        yield from _scaled("xavier", 1.0, (fan_in + fan_out) / 2.0, "fan_avg", 0)
        return
    elif layer.op is Op.BILINEAR:
        std = 1.0 / sqrt(3.0 * param.shape[1])
        yield Candidate(Match("torch_default", 1.0 / sqrt(3.0), std, "in1", False), UNIFORM)
    else:
        exchanged = layer.op is Op.CONV_TRANSPOSE and helper_in != fan_in
        std = 1.0 / sqrt(3.0 * helper_in) if helper_in else 0.0
        fan = "conv_transpose" if exchanged else "fan_in"
        default = Match("torch_default", 1.0 / sqrt(3.0), std, fan, not exchanged)
        if not (param.module or "").endswith("MultiheadAttention") or param.packed < 2:
            yield Candidate(default, UNIFORM)
    if (param.module or "").endswith("MultiheadAttention") and param.packed > 1:
        packed_avg = (helper_in + param.packed * helper_out) / 2.0
        yield Candidate(
            Match("torch_default", 1.0, 1.0 / sqrt(packed_avg), "packed", False), UNIFORM
        )
    fan_avg = (fan_in + fan_out) / 2.0
    yield from _scaled("xavier", 1.0, fan_avg, "fan_avg", 0)
    yield from _scaled("he", sqrt(2.0), fan_in, "fan_in", 0)
    yield from _scaled("lecun", 1.0, fan_in, "fan_in", 0)
    leaky = Match("he_uniform(a=sqrt(5))", 1.0 / sqrt(3.0), 1.0 / sqrt(3.0 * fan_in), "fan_in")
    yield Candidate(leaky, UNIFORM)
    if fan_out != fan_in:
        yield from _scaled("he", sqrt(2.0), fan_out, "fan_out", 0)
    if _packed(param):
        block = param.packed
        yield from _scaled(
            "xavier", 1.0, (fan_in + block * fan_out) / 2.0, "packed", 0, true_fan=False
        )
    for name, argument, gain in GAINS:
        size, fan = (fan_avg, "fan_avg") if name == "xavier" else (fan_in, "fan_in")
        yield from _scaled(f"{name}({argument})", gain, size, fan, 1)
    for argument, gain in ACTIVATION_GAINS:
        yield from _scaled(f"he({argument})", gain, fan_in, "fan_in", 1)
    if fan_in != fan_out:
        yield from _scaled("variance_scaling(geometric)", 1.0, sqrt(fan_in * fan_out), "fan_geo", 1)
        yield from _scaled("lecun", 1.0, fan_out, "fan_out", 1)
    siren = Match("siren_uniform", sqrt(2.0) / 30.0, sqrt(2.0 / fan_in) / 30.0, "fan_in")
    yield Candidate(siren, UNIFORM, 1)


def _packed(param: Param) -> bool:
    return param.packed > 1 and param.role is not Role.BIAS


def _recurrent(layer: Layer, param: Param) -> Iterator[Candidate]:
    hidden = int(layer.attrs.get("hidden_size", 0)) or param.shape[0]
    std = 1.0 / sqrt(3.0 * hidden)
    yield Candidate(Match("torch_default", 1.0 / sqrt(3.0), std, "hidden"), UNIFORM)
    if param.role is Role.RECURRENT_WEIGHT and param.packed > 1:
        # Keras draws one orthogonal matrix for all gates; a gate's block is then a slice of it.
        std = 1.0 / sqrt(param.packed * hidden)
        yield Candidate(Match("orthogonal(packed)", 1.0, std, "packed", False), NORMAL)


def _transformer(param: Param) -> Iterator[Candidate]:
    width = param.shape[1]
    for head in (32, 64, 80, 96, 128):
        yield _normal(f"t5_query(d_kv={head})", (width * head) ** -0.5, "fan_in", 2)
    for blocks in range(1, 201):
        yield _normal(f"gpt2_residual(L={blocks})", 0.02 / sqrt(2.0 * blocks), "depth", 2)


def _deep(fan_in: float, fan_avg: float) -> Iterator[Candidate]:
    """Scales that shrink with depth: Fixup's He/√L, DeepNorm's Xavier/(8N)^¼."""
    for blocks in range(2, 65):
        yield from _scaled(
            f"he(fixup L={blocks})", sqrt(2.0 / blocks), fan_in, "depth", 2, corrected_only=True
        )
        yield from _scaled(
            f"xavier(deepnorm N={blocks})",
            (8.0 * blocks) ** -0.25,
            fan_avg,
            "depth",
            2,
            corrected_only=True,
        )


def _wrong_fans(layer: Layer, param: Param, fan_in: float, fan_out: float) -> Iterator[Candidate]:
    """The common schemes with a fan that is a known mistake, most frequent mistakes first."""
    shape = param.shape
    kernel = prod(shape[2:])
    groups = int(layer.attrs.get("groups", 1)) or 1
    helper_in, helper_out = framework_fans(layer, param)
    wrong: list[tuple[str, float, float]] = []
    if layer.op is Op.CONV_TRANSPOSE:
        wrong.append(("conv_transpose", helper_in, helper_out))
    if groups > 1:
        wrong.append(("ungrouped", fan_in * groups, helper_out))
    if fan_in != fan_out:
        wrong.append(("swapped", fan_out, fan_in))
    if kernel > 1:
        wrong.append(("missing_kernel", fan_in / kernel, fan_out / kernel))
        if len(shape) == 5:
            wrong.append(("missing_kernel", fan_in / shape[-1], fan_out / shape[-1]))
    stack = stack_fans(param)
    if stack is not None and layer.op is Op.LINEAR:
        wrong.append(("stacked", *stack))
    if param.packed > 1:
        wrong.append(("packed", fan_in, fan_out * param.packed))
    wrong.append(("squared", fan_in * fan_out, fan_in * fan_out))
    wrong.append(("squared", fan_in * fan_in, fan_in * fan_in))
    if len(shape) == 3 and layer.op not in (Op.CONV, Op.CONV_TRANSPOSE):
        wrong.append(("batch_axis", shape[0] * fan_in, shape[0] * fan_out))
    for fan, bad_in, bad_out in wrong:
        if bad_in != fan_in and bad_in > 0:
            std = 1.0 / sqrt(3.0 * bad_in)
            yield Candidate(Match("torch_default", sqrt(1 / 3), std, fan, False), UNIFORM, 2)
            yield from _scaled("he", sqrt(2.0), bad_in, fan, 2, true_fan=False)
            yield from _scaled("lecun", 1.0, bad_in, fan, 2, true_fan=False)
        if bad_out != fan_out:
            yield from _scaled("he", sqrt(2.0), bad_out, fan, 2, true_fan=False)
        if bad_in + bad_out != fan_in + fan_out:
            yield from _scaled("xavier", 1.0, (bad_in + bad_out) / 2.0, fan, 2, true_fan=False)


def is_common(match: Match) -> bool:
    """True for a scheme that a fit would make one believe in: no rare gain, no wrong fan.

    Fixed scales count when they are those of `FIXED_STDS` and `FIXED_BOUNDS`.
    """
    if "(" not in match.scheme:
        return match.true_fan
    return match.scheme in _fixed_schemes() or match.scheme == "he_uniform(a=sqrt(5))"


@lru_cache(maxsize=1)
def _fixed_schemes() -> frozenset[str]:
    return frozenset(candidate.match.scheme for candidate in _fixed())


def _biases(layer: Layer, param: Param) -> Iterator[Candidate]:
    if layer.op in RECURRENT:
        hidden = int(layer.attrs.get("hidden_size", 0)) or param.shape[0]
        yield Candidate(
            Match("torch_default", 1.0 / sqrt(3.0), 1.0 / sqrt(3.0 * hidden), "hidden"), UNIFORM
        )
    elif layer.weight is not None and len(layer.weight.shape) > 1:
        fan_in, _ = framework_fans(layer, layer.weight)
        if layer.op is Op.BILINEAR:
            fan_in = layer.weight.shape[1]
        if fan_in:
            std = 1.0 / sqrt(3.0 * fan_in)
            yield Candidate(Match("torch_default", 1.0 / sqrt(3.0), std, "fan_in"), UNIFORM)


def _fixed() -> Iterator[Candidate]:
    for std in FIXED_STDS:
        yield Candidate(Match(f"normal({std!r})", 1.0, std), NORMAL)
        yield Candidate(Match(f"truncated_normal({std!r})", 1.0, std * TRUNCATED_STD), TRUNCATED)
    for bound in FIXED_BOUNDS:
        yield Candidate(Match(f"uniform({bound!r})", 1.0, bound / sqrt(3.0)), UNIFORM)


ROUND_MANTISSAS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0)
"""Leading digits that people type. Two per cent around each cover 20 % of a decade: a match says
what the number may have been, not that nothing else could have made it."""


def round_number(value: float, tolerance: float) -> float | None:
    """The round number within a relative tolerance of ``value``, None without one.

    None, too, when the tolerance is so wide that a round number is always near.
    """
    if value <= 0.0 or tolerance > 0.02:
        return None
    exponent = floor(log10(value))
    nearest = min(ROUND_MANTISSAS, key=lambda digit: abs(log(value / 10.0**exponent / digit)))
    rounded = float(f"{nearest}e{exponent}")
    return rounded if abs(log(value / rounded)) <= tolerance else None
