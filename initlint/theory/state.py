"""What mean-field theory carries along an edge: forward a `State`, backward a `Gradient`."""

from __future__ import annotations

import math
from dataclasses import replace

from initlint.model.record import record

Roots = tuple[tuple[str, float], ...]

MAX_ROOTS = 8
"""Independent sources kept per tensor: enough for nested long skips; the rest counts as new."""

MIN_ROOT = 0.05
"""Sources below 5 % of the rms change a sum of squares by less than 0.3 %: dropped."""


@record(frozen=True, slots=True)
class State:
    """Second-order statistics of one tensor at initialisation.

    With z_i(a, t) unit i of sample a at position t (a pixel, a token), all shares are relative to
    q = E[z²]:

    Attributes:
        log_q: ln q; -inf for a tensor of zeros.
        mean: E[z]/sqrt(q), signed: what units, samples and positions have in common.
        samples: E[z_i(a,t) z_i(b,t)]/q, the cosine between two samples.
        positions: E[z_i(a,t) z_i(a,s)]/q, the cosine between two positions of one sample.
        units: E[z_i(a,t) z_j(a,t)]/q, the cosine between two units.
        log_variance: variance of ln q over draws of the weights.
        roots: ids of the independent random tensors it is made of, with their centred
            correlations: sums of tensors that share a root are not independent.
        keys: for attention logits, the cosine between two keys; None elsewhere.
        peak: for the output of a softmax over T entries, E[Σ a²] (1/T when uniform).
        blocks: ln q of equal parts along the units (packed query, key, value); empty when alike.
        unit_axis: axis of the units, counted from the front; None where the last one is meant.
        side: True for indices, masks and shapes: tensors that carry no signal.
    """

    log_q: float
    mean: float = 0.0
    samples: float = 0.0
    positions: float = 0.0
    units: float = 0.0
    log_variance: float = 0.0
    roots: Roots = ()
    keys: float | None = None
    peak: float | None = None
    blocks: tuple[float, ...] = ()
    unit_axis: int | None = None
    side: bool = False

    def scaled(self, log_factor: float) -> State:
        """This tensor times a constant whose square has this logarithm."""
        blocks = tuple(block + log_factor for block in self.blocks) if self.blocks else ()
        return replace(self, log_q=self.log_q + log_factor, blocks=blocks, peak=None)

    def facing(self, axis: int | None) -> State:
        """The same tensor with another axis taken as that of the units.

        What was unit becomes position, and the other way round.
        """
        if axis is None or self.unit_axis is None or axis == self.unit_axis:
            return self
        return replace(self, unit_axis=axis, units=self.positions, positions=self.units)

    def moved(self, root: str) -> State:
        """The same values at other places: no longer aligned with what it was made of."""
        return replace(self, roots=((root, 1.0),))


@record(frozen=True, slots=True)
class Gradient:
    """Second-order statistics of a gradient at one tensor.

    Attributes:
        log_g: ln E[δ²]; -inf where none arrives.
        positions: cosine between the gradients at two positions of one sample.
        units: cosine between the gradients of two units.
        keys: for attention logits and weights, the cosine along the keys.
        positive: behind a maximum over rectified values, the share of the chosen values that are
            positive; None elsewhere.
        zero_sum: True when gradients along the keys of a softmax sum to zero.
    """

    log_g: float
    positions: float = 0.0
    units: float = 0.0
    keys: float = 0.0
    zero_sum: bool = False
    positive: float | None = None

    def scaled(self, log_factor: float) -> Gradient:
        """This gradient times a constant whose square has this logarithm."""
        return Gradient(
            self.log_g + log_factor,
            self.positions,
            self.units,
            self.keys,
            self.zero_sum,
            self.positive,
        )


SIDE = State(-math.inf, side=True)
"""The state of indices, masks and shapes."""

ABSENT = Gradient(-math.inf)
"""The gradient that never arrives."""


def log(x: float) -> float:
    """Natural logarithm with ln 0 = -inf."""
    return math.log(x) if x > 0 else -math.inf


def unit(x: float) -> float:
    """A share clipped to [0, 1]."""
    return 0.0 if x < 0.0 else 1.0 if x > 1.0 else x


def fixed(second: float, mean: float, *, by_position: bool = False) -> State:
    """The state of a parameter that is added: a bias, or a table that differs by position.

    Args:
        second: mean square of its elements.
        mean: mean of its elements.
        by_position: True for a table of positions.
    """
    if second <= 0:
        return State(-math.inf, samples=1.0, positions=1.0)
    ratio = max(min(mean / math.sqrt(second), 1.0), -1.0)
    share = ratio * ratio
    return State(math.log(second), ratio, 1.0, share if by_position else 1.0, share)


def _shared(a: Roots, b: Roots) -> float:
    if not a or not b:
        return 0.0
    other = dict(b)
    return sum(weight * other.get(root, 0.0) for root, weight in a)


def _merge(a: Roots, scale_a: float, b: Roots, scale_b: float) -> Roots:
    total: dict[str, float] = {root: weight * scale_a for root, weight in a}
    for root, weight in b:
        total[root] = total.get(root, 0.0) + weight * scale_b
    kept = [(root, weight) for root, weight in total.items() if abs(weight) > MIN_ROOT]
    kept.sort(key=lambda item: (-abs(item[1]), item[0]))
    return tuple(kept[:MAX_ROOTS])


def _centred(share: float, mean: float) -> float:
    rest = 1.0 - mean * mean
    return unit((share - mean * mean) / rest) if rest > 1e-12 else 1.0


def _scatter(a: float, share_a: float, b: float, share_b: float) -> float:
    """Var ln q of a sum: what both have they share (a branch inherits the trunk's scatter)."""
    common = min(a, b)
    return common + (a - common) * share_a**2 + (b - common) * share_b**2


def add(a: State, b: State, sign: float = 1.0) -> State:
    """Statistics of a + b, or a - b with ``sign=-1``.

    Independent unless they share roots: Cov = mean·mean + Σ over roots of the product of the
    centred correlations.
    """
    top = max(a.log_q, b.log_q)
    if top == -math.inf:
        return a if not a.side else b
    b = b.facing(a.unit_axis)
    wa, wb = math.exp(a.log_q - top), math.exp(b.log_q - top)
    ma, mb = a.mean * math.sqrt(wa), sign * b.mean * math.sqrt(wb)
    va, vb = max(wa - ma * ma, 0.0), max(wb - mb * mb, 0.0)
    covariance = sign * _shared(a.roots, b.roots) * math.sqrt(va * vb)
    q = wa + wb + 2 * (ma * mb + covariance)
    if q <= 1e-14:
        return State(-math.inf, roots=())

    def pair(left: float, right: float) -> float:
        common = math.sqrt(_centred(left, a.mean) * _centred(right, b.mean))
        return unit((wa * left + wb * right + 2 * (ma * mb + covariance * common)) / q)

    variance = max(q - (ma + mb) ** 2, 1e-300)
    return State(
        top + math.log(q),
        (ma + mb) / math.sqrt(q),
        pair(a.samples, b.samples),
        pair(a.positions, b.positions),
        pair(a.units, b.units),
        _scatter(a.log_variance, wa / q, b.log_variance, wb / q),
        _merge(a.roots, math.sqrt(va / variance), b.roots, sign * math.sqrt(vb / variance)),
        unit_axis=a.unit_axis if a.unit_axis is not None else b.unit_axis,
    )


def multiply(a: State, b: State, root: str) -> State:
    """Statistics of a·b, element by element, for jointly Gaussian factors (Isserlis)."""
    if a.log_q == -math.inf or b.log_q == -math.inf:
        return State(-math.inf)
    va, vb = 1 - a.mean**2, 1 - b.mean**2
    b = b.facing(a.unit_axis)
    covariance = _shared(a.roots, b.roots) * math.sqrt(max(va * vb, 0.0))
    q = 1 + 2 * covariance**2 + 4 * a.mean * b.mean * covariance
    mean = a.mean * b.mean + covariance

    def pair(left: float, right: float) -> float:
        common = math.sqrt(_centred(left, a.mean) * _centred(right, b.mean)) * covariance
        both = left * right + covariance**2 + common**2
        return unit((both + 2 * a.mean * b.mean * (covariance + common)) / q)

    return State(
        a.log_q + b.log_q + math.log(q),
        max(min(mean / math.sqrt(q), 1.0), -1.0),
        pair(a.samples, b.samples),
        pair(a.positions, b.positions),
        pair(a.units, b.units),
        (math.sqrt(a.log_variance) + math.sqrt(b.log_variance)) ** 2,
        ((root, 1.0),),
        unit_axis=a.unit_axis,
    )


def collect(gradients: list[Gradient]) -> Gradient:
    """Sum of the gradients that several consumers send back, taken as independent."""
    if len(gradients) == 1:
        return gradients[0] if gradients[0].log_g > -math.inf else ABSENT
    arriving = [gradient for gradient in gradients if gradient.log_g > -math.inf]
    if not arriving:
        return ABSENT
    if len(arriving) == 1:
        return arriving[0]
    top = max(gradient.log_g for gradient in arriving)
    weights = [math.exp(gradient.log_g - top) for gradient in arriving]
    total = sum(weights)
    return Gradient(
        top + math.log(total),
        sum(w * gradient.positions for w, gradient in zip(weights, arriving, strict=True)) / total,
        sum(w * gradient.units for w, gradient in zip(weights, arriving, strict=True)) / total,
        sum(w * gradient.keys for w, gradient in zip(weights, arriving, strict=True)) / total,
        all(gradient.zero_sum for gradient in arriving),
    )
