"""From predicted or measured effect to severity: the tables that all scale rules share.

The bounds were measured: MLPs of width 64 and depth 4 to 32 on a five-class task, 400 steps, Adam
at 1e-3 and SGD with momentum at the best of three learning rates; progress is relative to the same
net at the right gain, D is the drift of the rms in decades:

======================== =========== ===========
D (ReLU)                 Adam        SGD
======================== =========== ===========
-28 … -18.7              0           0
-13.6 … -6.3             0.47–0.63   0
-4.7 … -4.2              0.60–0.75   0
-2.7 … -2.1              0.87–1.0    0.50–0.97
-1.05 … 0                1.0         0.95–1.02
+0.45 … +1.05            0.79–0.94   0.91–0.99
+1.8 … +2.3              -2.0–0.38   0–0.43
+2.7 and more            diverged    diverged
======================== =========== ===========

They are orders of magnitude, which is all that a severity needs.
"""

from __future__ import annotations

from math import log, sqrt

from initlint.lint.finding import Severity
from initlint.theory.result import Sink

VANISHING = ((-4.0, Severity.ERROR), (-1.5, Severity.WARNING), (-0.7, Severity.INFO))
EXPLODING = ((1.5, Severity.ERROR), (0.7, Severity.WARNING), (0.3, Severity.INFO))
EXCESS_LOSS = ((3.0, Severity.ERROR), (1.0, Severity.WARNING), (0.5, Severity.INFO))
"""Nats above the loss of an uninformed guess: the steps spent on unlearning the head."""


def _vanishing(decades: float) -> Severity | None:
    return next((level for bound, level in VANISHING if decades <= bound), None)


def _exploding(decades: float) -> Severity | None:
    return next((level for bound, level in EXPLODING if decades >= bound), None)


def drift_severity(decades: float, band: float, sink: Sink) -> Severity | None:
    """Severity of a forward drift of the rms.

    Args:
        decades: log10(rms / intended rms) at the sink.
        band: half-width of its uncertainty; the drift must reach the lowest bound by more than
            that before anything is said.
        sink: a normaliser absorbs any drift; a saturating unit absorbs growth.
    """
    if sink is Sink.NORMALISER:
        return None
    if decades < 0:
        return _vanishing(decades) if decades + band <= VANISHING[-1][0] else None
    if sink is Sink.SATURATION:
        return None
    return _exploding(decades) if decades - band >= EXPLODING[-1][0] else None


def backward_severity(decades: float) -> Severity | None:
    """Severity of a gradient that is 10^decades at the first layer relative to the last.

    Growth is judged like forward growth, with the same measured bounds shifted by one decade: a
    gradient too large by ten is what gradient clipping and Adam absorb.
    """
    return _vanishing(decades) if decades < 0 else _exploding(decades - 1.0)


def excess_loss_severity(nats: float, logit_std: float, classes: int) -> Severity | None:
    """Severity of an initial loss above that of an uninformed guess.

    E[CE] = ln C + s^2/2 for logits N(0, s^2) until s reaches sqrt(2 ln C), where one class takes
    all the mass of the softmax (the freezing point of the random-energy model): an error whatever
    the loss.
    """
    if classes > 1 and logit_std >= sqrt(2 * log(classes)):
        return Severity.ERROR
    return next((level for bound, level in EXCESS_LOSS if nats >= bound), None)


def correlation_severity(contrast: float, rounding: float = 2.0**-11) -> Severity | None:
    """Severity of inputs that become indistinguishable.

    Args:
        contrast: 1 - c, with c the cosine between the features of two different inputs.
        rounding: relative rounding of the compute dtype; the distance sqrt(2 (1 - c)) between two
            features must exceed it to be seen at all.
    """
    if sqrt(2 * max(contrast, 0.0)) < rounding:
        return Severity.ERROR
    if contrast < 1e-3:
        return Severity.WARNING
    return Severity.INFO if contrast < 1e-2 else None
