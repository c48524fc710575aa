"""How much of a predicted or measured drift certain layers answer for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from math import copysign

from initlint.lint.finding import Severity
from initlint.lint.harm import backward_severity, drift_severity, makers
from initlint.lint.rule import Context
from initlint.probe.profile import hidden_layers, measured_drift, saturates, stretches
from initlint.theory.result import Segment, Sink


@dataclass(frozen=True, slots=True)
class Share:
    """The part of one stretch's drift that some of its layers cause.

    Attributes:
        severity: harm of that part; None where it is not worth saying.
        decades: the part, in decades of rms: of the signal, or of the gradient.
        backward: True when the gradient suffers more than the signal.
        segment: the stretch; None when the share was measured, or there is none.
        layers: those of the layers that lie on the stretch, in its order, and then those on others
            that the layers harm as much, or enough for a warning.
    """

    severity: Severity | None = None
    decades: float = 0.0
    backward: bool = False
    segment: Segment | None = None
    layers: tuple[str, ...] = ()


NO_SHARE = Share()


ACTIVATIONS_AMPLIFY = 1.5
"""A layer may answer for this multiple of its own error in decades: activations like GELU and SiLU
pass an error on multiplied by up to 1.2 per layer, and the backward pass adds its part."""

ALONE = 3.0
"""The same for one layer by itself: scatter over draws doubles its part, and evens out over several
layers. What contributes more does so for another reason: a bias that saturates it."""


def drift_share(context: Context, keys: Mapping[str, float]) -> Share:
    """The worst share of any stretch's drift, predicted or measured, that layers cause.

    A share counts as far as the stretch as a whole drifts the same way, because what other layers
    make up for does no harm. What the probe measured replaces the prediction where it is milder.
    Layers that a normaliser follows directly have no share.

    Args:
        context: with theory, a probe, or both.
        keys: id of each layer, and the decades by which its own scale is wrong: it answers for no
            more than about that, in the same direction (infinity: for all that grows at it).
    """
    segments = context.theory.segments if context.theory is not None else ()
    shares = [_share(context, segment, keys) for segment in segments]
    shares.extend(_measured_shares(context, keys))
    worst = max(shares, key=_rank, default=NO_SHARE)
    if worst.severity is None:
        return worst
    alike = [
        share.layers
        for share in shares
        if share.severity is not None and share.decades * worst.decades > 0
        if share.severity is worst.severity or share.severity > Severity.INFO
    ]
    return replace(worst, layers=tuple(dict.fromkeys((*worst.layers, *chain(*alike)))))


def _measured_shares(context: Context, keys: Mapping[str, float]) -> Iterator[Share]:
    """Shares of measured drifts: what enters the next layer over what enters each of ``keys``.

    The first layer of a stretch is left out, because its input has the scale of the data.
    """
    if context.probe is None:
        return
    graph = context.model.graph
    for stretch in stretches(graph):
        hidden = hidden_layers(stretch, graph)
        if keys.keys().isdisjoint(hidden):
            continue
        whole = measured_drift(hidden, graph, context.probe)
        if whole is None or (whole > 0 and saturates(hidden, graph)):
            continue
        steps = {
            pair[0]: measured_drift(pair, graph, context.probe) or 0.0 for pair in pairwise(hidden)
        }
        layers = _answering(hidden, keys, steps)
        own = sum(steps.get(key, 0.0) for key in layers)
        part = _within(own, whole, sum(keys[key] for key in layers))
        severity = drift_severity(part, 0.0, Sink.OUTPUT, makers(steps.values(), whole))
        yield Share(severity, part, False, None, layers)


def _rank(share: Share) -> tuple[int, float]:
    return (-1 if share.severity is None else share.severity.rank, abs(share.decades))


def _share(context: Context, segment: Segment, keys: Mapping[str, float]) -> Share:
    layers = _answering(segment.layers, keys, segment.contributions, segment.backward_contributions)
    if segment.normalised or not layers:
        return NO_SHARE
    cause = sum(keys[key] for key in layers)
    forward = _within(
        sum(segment.contributions.get(key, 0.0) for key in layers),
        _confirmed(context, segment),
        cause,
    )
    backward = _within(
        sum(segment.backward_contributions.get(key, 0.0) for key in layers),
        segment.backward_drift,
        cause,
    )
    count = segment_makers(segment)
    severity = drift_severity(forward, segment.band, segment.sink, count)
    signal = Share(severity, forward, False, segment, layers)
    gradient = Share(backward_severity(backward, count), backward, True, segment, layers)
    return max(signal, gradient, key=_rank)


def segment_makers(segment: Segment) -> int:
    """Layers that make up the drift of a stretch: of its signal or gradient, whichever are more.

    What the first layer does to the signal has no counterpart in the gradient at its output.
    """
    return max(
        makers(segment.contributions.values(), segment.drift),
        makers(segment.backward_contributions.values(), segment.backward_drift),
    )


def _confirmed(context: Context, segment: Segment) -> float:
    """The predicted drift, or the measured one where it is milder by more than the band."""
    if context.probe is None:
        return segment.drift
    measured = measured_drift(segment.layers, context.model.graph, context.probe)
    if measured is None:
        return segment.drift
    if measured * segment.drift < 0:
        return 0.0
    return measured if abs(segment.drift) - abs(measured) > segment.band else segment.drift


def _answering(
    layers: Sequence[str], keys: Mapping[str, float], *contributions: Mapping[str, float]
) -> tuple[str, ...]:
    """Those of the layers whose own error can explain what they contribute."""
    return tuple(
        key
        for key in layers
        if key in keys
        and all(abs(found.get(key, 0.0)) <= ALONE * abs(keys[key]) for found in contributions)
    )


def _within(part: float, whole: float, cause: float) -> float:
    """``part`` as far as it goes the way of ``whole`` and the cause can have made it."""
    if part * whole <= 0 or part * cause <= 0:
        return 0.0
    return copysign(min(abs(part), abs(whole), ACTIVATIONS_AMPLIFY * abs(cause)), part)
