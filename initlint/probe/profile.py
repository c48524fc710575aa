"""Measured counterparts of predicted drifts: how the rms runs along a stretch of layers."""

from __future__ import annotations

from math import isfinite, log10

from initlint.model import LayerGraph, Op
from initlint.probe.result import Activations
from initlint.theory.result import Segment

_FLOOR = 1e-300
"""Stands for an rms of zero: a signal that is gone is 300 decades down, not undefined."""


def hidden_layers(segment: Segment, graph: LayerGraph) -> tuple[str, ...]:
    """Weighted layers of a segment that pass a signal on: no lookup tables, no last layer.

    A small last layer is a choice (a zero or 0.01 head), and a table has no input to compare with.
    """
    return tuple(
        key
        for key in segment.layers
        if key in graph and graph[key].op is not Op.EMBEDDING and not graph.is_head(key)
    )


def measured_drift(segment: Segment, graph: LayerGraph, probe: Activations) -> float | None:
    """Decades of rms from the first to the last hidden pre-activation of a segment.

    With the right gain every hidden pre-activation has the same rms (He et al. 2015, equation 9),
    so the intended value is 0.

    Returns:
        None when fewer than two hidden layers were measured, or one was not finite.
    """
    measured = [
        probe.outputs[key].rms for key in hidden_layers(segment, graph) if key in probe.outputs
    ]
    if len(measured) < 2 or not all(isfinite(rms) for rms in measured) or measured[0] <= 0:
        return None
    return log10(max(measured[-1], _FLOOR)) - log10(measured[0])
