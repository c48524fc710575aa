"""Measured counterparts of predicted drifts: how the rms runs along a stretch of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log10

from initlint.model import NORMALISERS, RECURRENT, SATURATING, TRANSPARENT, Layer, LayerGraph, Op
from initlint.model.unrolled import unrolled_recurrences
from initlint.probe.result import Activations, OutputStats

_PASSING = frozenset({Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE, Op.BILINEAR})
"""Weighted layers whose output scale follows their input's: no tables, no bounded states."""

_RESETS = NORMALISERS | RECURRENT | {Op.EMBEDDING, Op.INPUT, Op.SOFTMAX, Op.ATTENTION}


def input_rms(layer_id: str, graph: LayerGraph, probe: Activations) -> float | None:
    """Measured rms of the first input of a layer; None where it was not observed.

    The input is what counts: a branch that ends in a zero layer is no loss as long as the trunk
    that the next layer reads carries the signal.
    """
    edges = graph.inputs(layer_id)
    stats = probe.outputs.get(edges[0].source) if edges else None
    return stats.rms if stats is not None and stats.count else None


_MEANS = ("mean", "average", "avg")


OVERFLOWED = 3.4e38
"""Float32's largest number: the rms of a signal that overflowed was at least about that."""

OVERFLOWING = 88.0
"""ln(`OVERFLOWED`): from this exponent on an exponential overflows, and products need larger
factors still. What is not finite behind smaller values is no growth (the logarithm of a negative
input)."""


def signal_profile(
    layers: Sequence[str], graph: LayerGraph, probe: Activations
) -> tuple[tuple[str, float], ...]:
    """Layers of a stretch and the measured rms of the signal that each reads.

    The signal is that in front of means over positions. Layers that were not observed are left
    out. A signal that is exactly zero from some layer on was cut there, and one that is not finite
    makes no numbers behind it: what comes before counts, and an overflow with `OVERFLOWED`.
    """
    profile: list[tuple[str, float]] = []
    most = 0.0
    for key in layers:
        if key not in graph or graph[key].op not in _PASSING:
            continue
        source = _before_means(key, graph)
        stats = probe.outputs.get(source) if source is not None else None
        if stats is None or not stats.count:
            continue
        if stats.non_finite and most >= OVERFLOWING:
            profile.append((key, OVERFLOWED))
        if stats.non_finite or not stats.rms > 0.0:
            break
        profile.append((key, stats.rms))
        most = max(most, _magnitude(stats), _magnitude(probe.outputs.get(key)))
    return tuple(profile)


def _magnitude(stats: OutputStats | None) -> float:
    return 0.0 if stats is None or not stats.count else max(abs(stats.min), abs(stats.max))


def _before_means(layer_id: str, graph: LayerGraph) -> str | None:
    """The producer of a layer's first input, in front of means over positions.

    They shrink a signal that differs between positions, whatever the weights are.
    """
    edges = graph.inputs(layer_id)
    while edges:
        layer = graph[edges[0].source]
        mean = layer.op in (Op.POOL, Op.REDUCE) and str(layer.attrs.get("kind", "mean")) in _MEANS
        before = graph.inputs(layer.id)
        if not before or not (mean or (layer.op in TRANSPARENT and not layer.params)):
            return layer.id
        edges = before
    return None


def measured_drift(layers: Sequence[str], graph: LayerGraph, probe: Activations) -> float | None:
    """Decades of rms between what enters the first and the last of these layers.

    With the right gain the input of every layer has the same second moment (He et al. 2015,
    equation 9), so the intended value is 0. Growth counts from 1 upwards: a signal that enters
    small (a codebook, a hash grid, coordinates) and reaches unit scale does no harm.

    Returns:
        None when fewer than two inputs were observed.
    """
    seen = [rms for _, rms in signal_profile(layers, graph, probe)]
    if len(seen) < 2:
        return None
    end = log10(seen[-1])
    drift = end - log10(seen[0])
    return drift if drift <= 0 else max(min(drift, end), 0.0)


def stretches(graph: LayerGraph) -> tuple[tuple[str, ...], ...]:
    """Longest chains of weighted layers with nothing between them that resets the scale.

    Needs no theory: operators of unknown effect are crossed. One chain for each layer at which a
    chain ends; linear in nodes and edges. The steps of a recurrence written out are no chain.
    """
    steps = {key for recurrence in unrolled_recurrences(graph) for key in recurrence.steps}
    best: dict[str, tuple[int, str | None]] = {}
    carried: dict[str, str | None] = {}
    continued: set[str] = set()
    for layer in graph.order:
        before = [carried.get(edge.source) for edge in graph.inputs(layer.id)]
        tail = max(
            (key for key in before if key is not None),
            key=lambda key: (best[key][0], -graph.position[key]),
            default=None,
        )
        if layer.op in _RESETS or layer.id in steps or _joins_fresh_signal(layer, graph, carried):
            carried[layer.id] = None
        elif layer.op in _PASSING:
            best[layer.id] = (best[tail][0] + 1 if tail else 1, tail)
            if tail is not None:
                continued.add(tail)
            carried[layer.id] = layer.id
        else:
            carried[layer.id] = tail
    chains: list[tuple[str, ...]] = []
    for key in best:
        if key in continued:
            continue
        chain: list[str] = []
        link: str | None = key
        while link is not None:
            chain.append(link)
            link = best[link][1]
        chains.append(tuple(reversed(chain)))
    return tuple(chains)


def hidden_layers(chain: Sequence[str], graph: LayerGraph) -> tuple[str, ...]:
    """The layers of a chain from which a measured drift can count.

    Without the first, whose input has the scale of the data, and without those after it that read
    the inside of a side branch (a low-rank adapter), whose scale is not the signal's.
    """
    found = tuple(chain[1:])
    edges = graph.inputs(chain[0])
    while edges and len(found) > 1 and _goes_around(graph, edges[0].source, found):
        found = found[1:]
    return found


def _goes_around(graph: LayerGraph, source: str, layers: Sequence[str]) -> bool:
    """True when a signal gets to the last layer without what enters the first."""
    inside, end = {edge.source for edge in graph.inputs(layers[0])}, layers[-1]
    seen, waiting = {source}, [source]
    while waiting:
        for edge in graph.outputs(waiting.pop()):
            if edge.target == end:
                return True
            early = graph.position[edge.target] < graph.position[end]
            if early and edge.target not in seen and edge.target not in inside:
                seen.add(edge.target)
                waiting.append(edge.target)
    return False


def _joins_fresh_signal(layer: Layer, graph: LayerGraph, carried: Mapping[str, str | None]) -> bool:
    """True for a sum whose other operand no layer of a chain has scaled since a reset.

    The scale of such a sum is the other operand's: a small branch on a normalised skip path is
    small on purpose.
    """
    if layer.op not in (Op.ADD, Op.SUB):
        return False
    sources = [graph[edge.source] for edge in graph.inputs(layer.id)]
    signals = [source for source in sources if source.op is not Op.CONSTANT]
    return len(signals) > 1 and any(carried.get(source.id) is None for source in signals)


def saturates(layers: Sequence[str], graph: LayerGraph) -> bool:
    """True when some layer of the stretch feeds a bounded activation, which absorbs growth."""
    return any(
        (activation := graph.activation(key)) is not None and activation.op in SATURATING
        for key in layers
    )
