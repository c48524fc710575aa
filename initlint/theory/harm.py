"""How much harm a number predicts: the severity tables, each with where its limits come from.

The levels are those of findings (`Harm.INFO.rank == Severity.INFO.rank`), kept apart because
theory knows nothing of rules. Every function returns None where nothing is worth saying.
Limits are calibrated on trained networks (MLPs of width 64, depth 4 to 32, five classes,
400 steps; *progress* is the loss gained, relative to the right gain) or derived where they stand.
"""

from __future__ import annotations

import math
from enum import IntEnum

from initlint.theory.result import Sink


class Harm(IntEnum):
    """Predicted harm; the value is the rank of the severity of the same name."""

    INFO = 0
    WARNING = 1
    ERROR = 2


VANISHING = (-0.7, -1.5, -4.0)
"""Decades of rms below the intended one. Down to -1.05 a network keeps 91 % of its progress or
more; at -2.1 to -2.7 SGD loses up to half of it; from -4.2 SGD learns nothing at any of three
learning rates."""

EXPLODING = (0.3, 0.7, 1.5)
"""Decades of rms above it, into logits or through half-linear units. +0.45 to +1.05 costs 1 to
21 %; +1.8 destroys training (progress -2.0 and 0)."""

EXCESS_LOSS = (0.5, 1.0, 3.0)
"""Nats above the loss of an uninformed guess: s²/2 for logits of standard deviation s (Gaussian
logits, E[log Σ exp] = ln V + s²/2); one nat is s = 1.4."""

CORRELATION = (1e-2, 1e-3)
"""1 - c between different samples. A ReLU network of depth L has 1 - c near 9π²/2L²: 1e-2 is
reached at 50 layers, 1e-3 at 200."""

ROUNDING = {"float16": 1.2e-7, "bfloat16": 7.6e-6, "float32": 7.1e-15}
"""1 - c at which two samples differ by less than half a unit of rounding u, sqrt(2(1-c)) < u:
u = 2⁻¹¹, 2⁻⁸, 2⁻²³."""

BLOCKED_SHARE = 0.05
"""Share of all parameters that may stay blocked before the network as a whole suffers: about
one block in twenty, an engineering choice."""

RECURRENT_VANISHING = (-4.0, -7.2)
"""Decades of gradient over the sequence: SGD learns nothing beyond 4; at 7.2 the contribution
falls below one unit of float32 rounding (2⁻²⁴)."""

RECURRENT_EXPLODING = (1.5, 3.0)
"""Decades above: 1.5 as for any signal; at 3 one step in a thousand's direction decides."""


def _below(value: float, limits: tuple[float, ...]) -> Harm | None:
    reached = sum(value <= limit for limit in limits)
    return Harm(reached - 1 + 3 - len(limits)) if reached else None


def _above(value: float, limits: tuple[float, ...]) -> Harm | None:
    reached = sum(value >= limit for limit in limits)
    return Harm(reached - 1 + 3 - len(limits)) if reached else None


def _graded(drift: float, band: float) -> Harm | None:
    spread = max(band, 0.0)
    if math.isinf(spread):
        return None
    grade, limits = (_below, VANISHING) if drift < 0 else (_above, EXPLODING)
    sure = math.copysign(max(abs(drift) - spread, 0.0), drift)
    if grade(sure, limits) is None:
        return None
    return grade(drift - math.copysign(0.5 * spread, drift), limits)


def drift_harm(drift: float, band: float = 0.0, sink: Sink = Sink.OUTPUT) -> Harm | None:
    """Harm of a forward drift in decades of rms.

    The band (two standard deviations over draws of the weights) decides whether there is something
    to say; the level is that of the drift less one standard deviation, because the calibration is
    by the drift itself and most draws lie nearer to it. A saturating end forgives growth (tanh nets
    trained at every gain up to +4.5 decades; their harm shows in the gradient and in saturation),
    and a normaliser restores any scale that its ε lets through.

    Args:
        drift: log10(predicted rms / intended rms).
        band: half-width of the uncertainty, in decades.
        sink: where the signal arrives.
    """
    if math.isnan(drift) or math.isnan(band) or sink is Sink.UNKNOWN:
        return None
    if drift > 0 and sink in (Sink.SATURATION, Sink.NORMALISER):
        return None
    return _graded(drift, band)


def backward_harm(drift: float, band: float = 0.0) -> Harm | None:
    """Harm of a gradient that changes by ``drift`` decades of rms from the last layer to the first.

    The same table and the same use of the band: the experiment varies the gain of all layers, so
    forward and backward drift are equal there.
    """
    if math.isnan(drift) or math.isnan(band):
        return None
    return _graded(drift, band)


def excess_loss(logit_std: float, classes: int) -> float:
    """Expected cross-entropy above ln(classes) for Gaussian logits of this standard deviation.

    s²/2 while the softmax averages over many classes; beyond s* = sqrt(2 ln V) one class decides
    and E[log Σ exp] follows the largest logit, s·sqrt(2 ln V) (random-energy model), which leaves
    s s* - ln V.
    """
    if classes < 2 or logit_std <= 0:
        return 0.0
    frozen = math.sqrt(2 * math.log(classes))
    if logit_std < frozen:
        return 0.5 * logit_std * logit_std
    return logit_std * frozen - math.log(classes)


def excess_loss_harm(excess: float, logit_std: float = 0.0, classes: int = 0) -> Harm | None:
    """Harm of an initial loss this many nats above an uninformed guess.

    Also an error once the logits are frozen, s >= sqrt(2 ln V): one class decides every sample.
    """
    if math.isnan(excess):
        return None
    if classes > 1 and logit_std >= math.sqrt(2 * math.log(classes)):
        return Harm.ERROR
    return _above(excess, EXCESS_LOSS)


def correlation_harm(distance: float, dtype: str = "float32") -> Harm | None:
    """Harm of samples that have become nearly alike.

    Args:
        distance: 1 - c between different samples.
        dtype: what the network computes in; below its rounding floor samples are equal.
    """
    if math.isnan(distance):
        return None
    if distance < ROUNDING.get(dtype, ROUNDING["float32"]):
        return Harm.ERROR
    info, warning = CORRELATION
    if distance < warning:
        return Harm.WARNING
    return Harm.INFO if distance < info else None


def recurrent_harm(decades: float) -> Harm | None:
    """Harm of a gradient that changes by this many decades of rms over the sequence."""
    if math.isnan(decades):
        return None
    if decades < 0:
        return _below(decades, RECURRENT_VANISHING)
    return _above(decades, RECURRENT_EXPLODING)


def blocked_harm(share: float, *, trunk: bool, unlocks: bool) -> Harm | None:
    """Harm of parameters that receive no gradient at the first step.

    Args:
        share: their share of all parameters.
        trunk: True when every path to the loss crosses one of them.
        unlocks: True when they receive a gradient after some later step.
    """
    if share <= 0:
        return None
    if unlocks:
        return Harm.INFO
    return Harm.ERROR if trunk or share > BLOCKED_SHARE else Harm.WARNING


SATURATED = (0.3, 0.7)
"""Shares of units with a slope below 6 % of its peak, for a warning and an error: at 70 % the mean
squared slope, and with it the gradient, falls to 0.3 of what it could be per layer. A tanh of
N(0, q) has 30 % of |z| > 2.09 at sqrt(q) = 2.0 and 70 % at 5.4."""


def saturation_harm(share: float) -> Harm | None:
    """Harm of this share of units that are flat; see `SATURATED`."""
    return None if math.isnan(share) else _above(share, SATURATED)
