"""What charts of a model show: the signal by depth, the layer graph, weights and activations.

Plain numbers for the reports, gathered from evidence that is there anyway. Nothing here judges.
Weights are looked at in samples of bounded size, so a profile costs milliseconds per layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, isfinite, log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initlint.measure.measures import Measures
from initlint.measure.result import Family, Identification
from initlint.measure.spectrum import as_matrix, singular_values
from initlint.measure.stage import WEIGHT_ROLES
from initlint.model import ACTIVATIONS, TRANSPARENT, Layer, LayerGraph, Model, Param, Role
from initlint.model.residual import residual_branches
from initlint.probe.result import Activations, OutputStats
from initlint.theory.harm import EXPLODING, VANISHING
from initlint.theory.result import Prediction, Segment

Record = dict[str, Any]
Array = NDArray[Any]

BINS = 31
"""Bins of a weight histogram: odd, so that a centred one has a bin at zero."""

SAMPLE = 1 << 16
"""Weights per histogram: the share in the fullest of 31 bins is then right to 1 % of itself."""

OUTLIERS = 6.0
"""Standard deviations beyond which weights are counted instead of drawn: P(|z| > 6) = 2e-9."""

SPECTRUM_SIDES = (128, 512)
"""Rows and columns of a weight that its spectrum is taken of: 4e7 operations, 2 ms. A sample of an
orthonormal matrix's rows is orthonormal, one of an iid matrix is iid."""

SPECTRUM_POINTS = 32
PICTURE = 24
"""Sides of a weight's picture, in elements evenly spaced over it."""

PICTURE_LEVELS = 8
"""Shades either side of zero; the last is three rms or more."""

MOST_WEIGHTS = 2000
"""Weights that are looked at: more would make a page that no browser scrolls."""

FANNED = 8
"""Producers that an edge is drawn from."""


class Profile:
    """The chart data of one model; weights are looked at once, whatever joins them later.

    Args:
        model: what to draw.
        measures: its measured weights.
    """

    def __init__(self, model: Model, measures: Measures) -> None:
        self._graph = model.graph
        self._rows = _rows(model.graph)
        self._trunk = _trunk(model, self._rows)
        left = MOST_WEIGHTS
        self._weights: list[list[Record]] = []
        for row in self._rows.listed:
            params = [p for p in row.layer.params if p.role in WEIGHT_ROLES | {Role.TABLE}][:left]
            left -= len(params)
            found = (_weight(measures, param) for param in params)
            self._weights.append([weight for weight in found if weight is not None])

    def record(self, theory: Prediction, probe: Activations) -> Record:
        """The JSON form; theory and probe may be empty.

        Returns:
            ``rows``: layers in topological order, activations folded into the layer they follow,
            each with its edges (``from``: indices of rows; ``skip``: those of skip paths),
            predicted and measured signals and weights, and whether it is on the ``trunk`` or on
            a residual branch; ``band``: decades around the intended rms in which a signal is
            healthy. Predicted gradients are scaled to the measured one nearest the loss
            (`_loss_scale`).
        """
        intended = _intended(theory, self._graph, self._trunk)
        scale = _loss_scale(self._rows.listed, theory, probe)
        rows = [
            {
                "id": row.layer.id,
                "op": row.layer.op.value,
                "activation": _activation(row.activation),
                "from": list(row.sources),
                "skip": sorted(self._trunk.skips.get(row.layer.id, ())),
                "trunk": row.layer.id not in self._trunk.beside,
                **_signals(row, theory, probe, intended, scale),
                "weights": weights,
            }
            for row, weights in zip(self._rows.listed, self._weights, strict=True)
        ]
        return {"rows": rows, "band": [VANISHING[0], EXPLODING[0]]}


@dataclass(slots=True)
class _Row:
    layer: Layer
    sources: tuple[int, ...]
    activation: Layer | None = None


@dataclass(frozen=True, slots=True)
class _Rows:
    """The drawn layers, and which of them every layer of the graph belongs to."""

    listed: list[_Row]
    owners: Mapping[str, tuple[int, ...]]


def _rows(graph: LayerGraph) -> _Rows:
    listed: list[_Row] = []
    owners: dict[str, tuple[int, ...]] = {}
    for layer in graph.order:
        before: dict[int, None] = {}
        for edge in graph.inputs(layer.id):
            before.update(dict.fromkeys(owners.get(edge.source, ())))
        sources = tuple(sorted(before))[-FANNED:]
        if layer.op in TRANSPARENT and not layer.params and sources:
            owners[layer.id] = sources
            continue
        if layer.op in ACTIVATIONS and len(sources) == 1:
            row = listed[sources[0]]
            if row.activation is None and graph.activation(row.layer.id) is layer:
                row.activation = layer
                owners[layer.id] = sources
                continue
        owners[layer.id] = (len(listed),)
        listed.append(_Row(layer, sources))
    return _Rows(listed, owners)


@dataclass(frozen=True, slots=True)
class _Trunk:
    """The residual structure as a profile by depth needs it.

    Attributes:
        skips: rows that the skip path of an addition comes from, by id of the addition.
        beside: ids of layers beside the trunk, whose signal is a branch's alone.
        sums: id of the addition that a branch's last layers write to, by id of the layer.
    """

    skips: Mapping[str, set[int]]
    beside: frozenset[str]
    sums: Mapping[str, str]


def _trunk(model: Model, rows: _Rows) -> _Trunk:
    """Branches of residual blocks, against a skip around blocks or around most of the network."""
    found = residual_branches(model.graph) if model.connected else ()
    adds = {residual.add for residual in found}
    most = len(model.graph.weighted) / 2
    skips: dict[str, set[int]] = {}
    beside: set[str] = set()
    sums: dict[str, str] = {}
    for residual in found:
        last = residual.skip[-1] if residual.skip else residual.trunk
        skips[residual.add] = set(rows.owners.get(last, ()))
        if adds.isdisjoint(residual.branch) and len(residual.layers) <= most:
            beside.update(residual.branch, residual.skip)
            sums.update(dict.fromkeys(residual.writers, residual.add))
    return _Trunk(skips, frozenset(beside), sums)


def _signals(
    row: _Row,
    theory: Prediction,
    probe: Activations,
    intended: Mapping[str, tuple[float, float | None]],
    loss_scale: float,
) -> Record:
    key = row.layer.id
    signal = theory.forward.get(key)
    backward = theory.backward.get(key)
    rms = None if signal is None else _root(signal.log_q)
    gradient = None if backward is None else _root(backward + loss_scale)
    drift, back = intended.get(key, (None, None))
    seen = probe.outputs.get(key)
    after = probe.outputs.get(row.activation.id) if row.activation else None
    return {
        "rms": _short(rms),
        "gradient": _short(gradient),
        "intended_rms": _shifted(rms, drift),
        "intended_gradient": _shifted(gradient, back),
        "measured_rms": _short(seen.rms) if seen and seen.count else None,
        "measured_gradient": _short(probe.backward.get(key)),
        "correlation": _short(signal.correlation) if signal else None,
        "output": _output(after or seen),
    }


def _loss_scale(rows: list[_Row], theory: Prediction, probe: Activations) -> float:
    """Log of the mean square of the gradient that the loss sends back.

    Theory starts from a unit gradient at the outputs, a real loss from its own: the difference at
    the last layer where both are known makes the two comparable.
    """
    for row in reversed(rows):
        predicted = theory.backward.get(row.layer.id)
        measured = probe.backward.get(row.layer.id)
        if predicted is None or not measured or not isfinite(predicted) or not isfinite(measured):
            continue
        return 2 * log(measured) - predicted
    return 0.0


def _activation(layer: Layer | None) -> Record | None:
    return {"id": layer.id, "op": layer.op.value} if layer is not None else None


def _root(log_square: float) -> float:
    return exp(min(log_square / 2, 700.0))


def _shifted(value: float | None, decades: float | None) -> float | None:
    """``value`` without the decades that it has drifted by."""
    if value is None or decades is None or not isfinite(decades):
        return None
    return _short(value * 10 ** min(max(-decades, -300.0), 300.0))


def _intended(
    theory: Prediction, graph: LayerGraph, trunk: _Trunk
) -> dict[str, tuple[float, float | None]]:
    """Decades by which signal and gradient have drifted at each weighted layer.

    The drifts of a stretch add up layer by layer, from its first layer forward and from its last
    one backward. Longer stretches first; one beside another, such as a residual branch, is left
    out: its own drift says nothing of the one it inherits from the trunk. What a branch's last
    layer adds to the drift shows at the sum that it writes to.
    """
    drifts: dict[str, tuple[float, float | None]] = {}
    taken: list[tuple[int, int]] = []
    for segment in sorted(theory.segments, key=lambda s: -len(s.layers)):
        places = [graph.position[key] for key in segment.layers if key in graph]
        if not places:
            continue
        first, last = min(places), max(places)
        if all(last < low or first > high for low, high in taken):
            taken.append((first, last))
            for key, pair in _drifts(segment).items():
                drifts[trunk.sums.get(key, key)] = pair
    return drifts


def _drifts(segment: Segment) -> dict[str, tuple[float, float | None]]:
    """Forward and backward drift at each layer; the latter None where theory does not resolve it.

    Theory charges the backward drift of several layers to the first of them and nothing to the
    others, so a layer before one with a share of exactly zero may have drifted by part of its own.
    """
    forward: dict[str, float] = {}
    total = 0.0
    for key in segment.layers:
        total += segment.contributions.get(key, 0.0)
        forward[key] = total
    back: dict[str, float | None] = {}
    total, resolved = 0.0, True
    for key in reversed(segment.layers):
        back[key] = total if resolved else None
        share = segment.backward_contributions.get(key, 0.0)
        total += share
        resolved = share != 0
    return {key: (forward[key], back[key]) for key in segment.layers}


def _output(stats: OutputStats | None) -> Record | None:
    """What the probe saw behind a layer and its activation."""
    if stats is None or not stats.count:
        return None
    return {
        "rms": _short(stats.rms),
        "mean": _short(stats.mean),
        "units": stats.units,
        "dead_units": stats.dead_units,
        "dead_chance": _short(stats.dead_chance),
        "saturated_share": _short(stats.saturated_share),
        "zero_share": _short(stats.zero_share),
        "correlation": _short(stats.correlation),
        "non_finite": stats.non_finite,
        "histogram": {
            "counts": list(stats.histogram),
            "low": _short(stats.histogram_range[0]),
            "high": _short(stats.histogram_range[1]),
        },
    }


def _weight(measures: Measures, param: Param) -> Record | None:
    block = measures.leading(param)
    if block is None or block.size == 0:
        return None
    identification = measures.identify(param)
    flat = np.asarray(block).reshape(-1)
    sample = flat[:: -(-flat.size // SAMPLE)].astype(np.float64)
    finite = sample[np.isfinite(sample)]
    if finite.size == 0:
        return None
    matrix = as_matrix(block) if block.ndim > 1 else None
    return {
        "name": param.name,
        "gate": param.gate,
        "shape": list(param.shape),
        "scheme": identification.scheme,
        "mean": _short(float(finite.mean())),
        "std": _short(float(finite.std())),
        "histogram": _histogram(finite),
        "density": _density(identification),
        "spectrum": None if matrix is None else _spectrum(matrix),
        "picture": None if matrix is None else _picture(matrix),
    }


def _histogram(values: Array) -> Record:
    """Counts between the extremes, or within `OUTLIERS` standard deviations where these are far."""
    mean, spread = float(values.mean()), OUTLIERS * float(values.std())
    low, high = float(values.min()), float(values.max())
    if high - low > 2 * spread:
        low, high = max(low, mean - spread), min(high, mean + spread)
    if not low < high:
        low, high = low - max(abs(low), 1.0) / 2, low + max(abs(low), 1.0) / 2
    inside = values[(values >= low) & (values <= high)]
    counts, _ = np.histogram(inside, bins=BINS, range=(low, high))
    return {
        "counts": [int(count) for count in counts],
        "low": _short(low),
        "high": _short(high),
        "outside": int(values.size - inside.size),
    }


_SHAPES = {
    Family.NORMAL: "normal",
    Family.TRUNCATED_NORMAL: "truncated_normal",
    Family.UNIFORM: "uniform",
    Family.ORTHOGONAL: "normal",
}
"""Shape of the density per family; the entries of a large orthogonal matrix are nearly normal."""


def _density(found: Identification) -> Record | None:
    """The distribution of the likeliest named scheme, else of the family at the measured scale."""
    shape = _SHAPES.get(found.family)
    std = next((match.std for match in found.matches if match.std > 0), found.std)
    if shape is None or not 0 < std < float("inf"):
        return None
    return {"shape": shape, "std": _short(std)}


def _spectrum(matrix: Array) -> Record | None:
    """Singular values of an evenly spaced sample, largest first, and where iid weights have theirs.

    The edges are those of Marchenko and Pastur, std·(√c ± √r) for r rows and c columns.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    sides = [min(side, most) for side, most in zip(wide.shape, SPECTRUM_SIDES, strict=True)]
    sample = _evenly(wide, *sides).astype(np.float64)
    values = singular_values(sample)
    if not np.isfinite(values).all():
        return None
    chosen = values[_spaced(len(values), SPECTRUM_POINTS)]
    rms = float(np.sqrt(np.mean(sample * sample)))
    rows, columns = sorted(sample.shape)
    return {
        "values": [_short(float(value)) for value in chosen],
        "rows": sample.shape[0],
        "columns": sample.shape[1],
        "sampled": sample.size < wide.size,
        "edges": [_short(rms * (sqrt(columns) + sign * sqrt(rows))) for sign in (-1, 1)],
    }


def _picture(matrix: Array) -> Record | None:
    """A small picture: a letter per element, ``a`` at -3 rms or less, ``i`` at 0, ``q`` at +3."""
    sample = _evenly(matrix, PICTURE, PICTURE).astype(np.float64)
    rms = float(np.sqrt(np.mean(sample * sample)))
    if not isfinite(rms):
        return None
    scaled = sample / (3 * rms) * PICTURE_LEVELS if rms else sample
    shades = np.clip(np.rint(scaled), -PICTURE_LEVELS, PICTURE_LEVELS).astype(int)
    lines = ["".join(chr(ord("i") + shade) for shade in line) for line in shades.tolist()]
    return {"lines": lines, "rms": _short(rms)}


def _evenly(matrix: Array, rows: int, columns: int) -> Array:
    chosen = np.ix_(_spaced(matrix.shape[0], rows), _spaced(matrix.shape[1], columns))
    return np.asarray(matrix[chosen])


def _spaced(count: int, most: int) -> Array:
    """Up to ``most`` indices below ``count``, evenly spaced, both ends included."""
    if count <= most:
        return np.arange(count)
    return np.asarray(np.rint(np.linspace(0, count - 1, most)), dtype=np.intp)


def _short(value: float | None) -> float | None:
    """The number with six significant digits; None where it is not finite."""
    if value is None or not isfinite(value):
        return None
    return float(f"{value:.6g}")
