"""Stretches between resets of scale: how far the signal drifts, and which layers make it drift.

A scale error multiplies from layer to layer until something resets the scale. The network is cut
there, and each piece is followed along the path that carries most of the signal to its end:

- it *starts* at an input, a table, a normaliser or a recurrent layer (whose bounded state has its
  own scale);
- it *ends* in a normaliser, a recurrent layer, or an output.

Every layer on the path that is not a reset lies on one normaliser's piece only, so the work is
linear in the graph (outputs walk their whole path, and there are few).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from initlint.model.op import NORMALISERS, RECURRENT, SATURATING, WEIGHTED, Op
from initlint.theory.backward import final_outputs
from initlint.theory.flow import Flow, is_silent
from initlint.theory.forward import ForwardPass
from initlint.theory.node import Node, size
from initlint.theory.operators import RULES
from initlint.theory.operators.normalise import reset
from initlint.theory.operators.weighted import weight_gain
from initlint.theory.result import Segment, Sink
from initlint.theory.state import Gradient, State

RESETS = NORMALISERS | RECURRENT
"""Operators at which a stretch ends, and the next one begins."""

STARTS = RESETS | frozenset({Op.INPUT, Op.CONSTANT, Op.EMBEDDING, Op.SHAPE, Op.COMPARE})
"""Operators whose output scale does not depend on the scale of what comes in."""

MAX_OUTPUTS = 64
"""Outputs whose whole path is walked: beyond, a network repeats its heads."""

OPEN = -math.log10(2)
"""Decades that a sigmoid gate at zero takes from what it multiplies."""

HALF_DECADE = 0.5 / math.log(10)
"""ln of a second moment to decades of rms."""


def decades(log_ratio: float) -> float:
    """Decades of rms from the natural logarithm of a ratio of second moments."""
    return HALF_DECADE * log_ratio


def _starts(flow: Flow, key: str) -> bool:
    """True where a stretch begins."""
    return flow.nodes[key].layer.op in STARTS or key in flow.recurrent


def _walk(flow: Flow, start: str, claimed: set[str] | None) -> list[str] | None:
    """Layers from the reset (included) to ``start``, in order; None where theory ended on the way.

    With ``claimed`` the walk also stops at a layer that another piece holds.
    """
    path = [start]
    key = start
    while not _starts(flow, key):
        if flow.states.get(key) is None or key not in flow.carrier:
            return None
        key = flow.carrier[key]
        path.append(key)
        if claimed is not None and key in claimed:
            break
    if flow.states.get(key) is None:
        return None
    return path[::-1]


def _forward_shares(flow: Flow, path: Sequence[str]) -> tuple[dict[str, float], dict[str, float]]:
    """Decades of rms per weighted layer along a path, with all that follows it up to the next.

    What an addition adds to the carrier belongs to the last weighted layer of the other operand, as
    does what a product does with weights that a layer makes (a hypernetwork), and what a gate takes
    away beyond what it takes when half open.
    The second result holds the part of each share that means over positions took, 0 or less.
    """
    shares: dict[str, float] = {}
    averaged: dict[str, float] = {}
    waiting = 0.0
    current: str | None = None
    for before, key in pairwise(path):
        node = flow.nodes[key]
        left, right = flow.states[before], flow.states[key]
        if left is None or right is None:
            continue
        step = decades(right.log_q - _arrived(node, before, left).log_q)
        if node.layer.op in WEIGHTED:
            current = key
            shares[current] = shares.get(current, 0.0) + waiting
            waiting = 0.0
        owner, gate = current, _gate(flow, node, before)
        if gate is not None and step < OPEN:
            shares[gate] = shares.get(gate, 0.0) + step - OPEN
            step = OPEN
        summed = node.layer.op in (Op.ADD, Op.SUB) and len(node.signals) > 1
        if summed or (node.layer.op is Op.MATMUL and _is_made_weight(node, before)):
            owner = _other(flow, node, before) or current
        if owner is None:
            waiting += step
        else:
            shares[owner] = shares.get(owner, 0.0) + step
            if step < 0 and _averages(node):
                averaged[owner] = averaged.get(owner, 0.0) + step
    return shares, averaged


def _arrived(node: Node, source: str, default: State) -> State:
    for edge, state in zip(node.edges, node.states, strict=True):
        if edge.source == source and state is not None:
            return state
    return default


def _is_made_weight(node: Node, carrier: str) -> bool:
    """True when the other operand of a product is the same for every sample, and no softmax."""
    others = [
        state for edge, state in zip(node.edges, node.states, strict=True) if edge.source != carrier
    ]
    return bool(others) and all(
        state is not None and state.samples >= 1.0 and state.peak is None for state in others
    )


def _gate(flow: Flow, node: Node, carrier: str) -> str | None:
    """The weighted layer behind a sigmoid that multiplies the carrier."""
    if node.layer.op is not Op.MUL or len(node.signals) != 2:
        return None
    sources = [edge.source for edge in node.edges if edge.source != carrier]
    if len(sources) != 1 or flow.nodes[sources[0]].layer.op not in (Op.SIGMOID, Op.HARD_SIGMOID):
        return None
    return flow.weighted.get(sources[0])


def _other(flow: Flow, node: Node, carrier: str) -> str | None:
    for index in node.signals:
        source = node.edges[index].source
        if source != carrier and source in flow.weighted:
            return flow.weighted[source]
    return None


def _elements(node: Node, before: float) -> float:
    """Logarithm of the elements per sample; ``before`` where the shape does not say.

    In a graph with a free batch axis, a shape without one has the batch in some other place.
    """
    shape = node.output_shape
    if shape is None or (None not in shape and node.context.free_batch):
        return before
    count = size(shape)
    return math.log(count) if count else before


def _energy(gradient: Gradient | None, log_count: float) -> float | None:
    """Logarithm of the gradient's sum of squares per sample at a layer's output.

    A weight's gradient sums over positions, and with fan-in scaling this sum, not the mean per
    element, is what a convolution or a change of width conserves.
    """
    if gradient is None or gradient.log_g == -math.inf:
        return None
    return gradient.log_g + log_count


def _averages(node: Node) -> bool:
    """True for a mean over positions: of a window, of a set, under the weights of a softmax."""
    op = node.layer.op
    if op in (Op.POOL, Op.REDUCE):
        return str(node.layer.attrs.get("kind", "mean")) in ("mean", "average", "avg")
    state = node.states[0] if node.states else None
    return op is Op.ATTENTION or (op is Op.MATMUL and state is not None and state.peak is not None)


def _backward_shares(
    flow: Flow, gradients: Mapping[str, Gradient | None], path: Sequence[str], last: str
) -> tuple[dict[str, float], float]:
    """Decades of gradient per weighted layer, from the output of ``last`` back to the first.

    A mean over N positions hands 1/N of the gradient to each of them, whatever the weights are:
    what means take away (second result, in decades) is the network's shape and nobody's drift.
    """
    shares: dict[str, float] = {}
    averaged = 0.0
    current: str | None = None
    behind: float | None = None
    log_count = 0.0
    for key in path:
        node = flow.nodes[key]
        log_count = _elements(node, log_count)
        energy = _energy(gradients.get(key), log_count)
        if node.layer.op in WEIGHTED and node.layer.op is not Op.EMBEDDING:
            current = key if current is not None or energy is not None else None
        if current is not None:
            if energy is None:
                return {}, 0.0
            step = decades(behind - energy) if behind is not None else 0.0
            behind = energy
            if _averages(node) and step < 0:
                averaged, step = averaged + step, 0.0
            shares[current] = shares.get(current, 0.0) + step
        if key == last:
            break
    return shares, averaged


def _layers(flow: Flow, path: Sequence[str], shares: Mapping[str, float]) -> tuple[str, ...]:
    keys = {key for key in path if flow.nodes[key].layer.op in WEIGHTED} | set(shares)
    if _starts(flow, path[0]):
        keys.discard(path[0])
    position = next(iter(flow.nodes.values())).context.graph.position
    return tuple(sorted(keys, key=position.__getitem__))


def _is_residual(flow: Flow, path: Sequence[str]) -> bool:
    return any(
        flow.nodes[key].layer.op is Op.ADD and len(flow.nodes[key].signals) > 1 for key in path
    )


def _final_sink(flow: Flow, output: str) -> tuple[Sink, str] | None:
    """What the loss will see: the kind of end and the layer whose output is judged."""
    key = output
    while key in flow.carrier:
        key = flow.carrier[key]
        op = flow.nodes[key].layer.op
        if op in (Op.SOFTMAX, Op.LOG_SOFTMAX):
            return Sink.SOFTMAX, flow.carrier.get(key, key)
        if op in SATURATING:
            return Sink.SATURATION, flow.carrier.get(key, key)
        if op not in (Op.RESHAPE, Op.TRANSPOSE, Op.IDENTITY, Op.CAST, Op.SLICE, Op.PIXEL_SHUFFLE):
            return Sink.OUTPUT, key
    return None


def _limited(
    flow: Flow, shares: Mapping[str, float], head: str | None, averaged: Mapping[str, float]
) -> dict[str, float]:
    """Forward shares with means over positions and a small head forgiven.

    A mean over positions that differ shrinks the signal whatever the weights are, so a loss is
    told without it; it may still make up for growth. Logits near zero are a choice (zero or 0.01
    heads): a head may bring an exploded signal back to O(1), but what it takes below that is not
    drift. Its bias, the same for every sample, does not restore a signal that was lost on the way.
    """
    shares = _without_means(shares, averaged)
    found = dict(shares)
    if head is None or head not in found:
        return found
    if found[head] > 0:
        gain = weight_gain(flow.nodes[head])
        found[head] = min(found[head], decades(gain)) if gain is not None else found[head]
    if found[head] >= 0:
        return found
    body = sum(share for key, share in found.items() if key != head)
    found[head] = max(found[head], -max(body, 0.0))
    return found


def _without_means(
    shares: Mapping[str, float], averaged: Mapping[str, float]
) -> Mapping[str, float]:
    """Shares without what means took, as far as the sum is a loss."""
    lost, total = sum(averaged.values()), sum(shares.values())
    if lost >= 0 or total >= 0:
        return shares
    part = min(1.0, total / lost)
    return {key: share - part * averaged.get(key, 0.0) for key, share in shares.items()}


def _to_output(flow: Flow, gradients: Mapping[str, Gradient | None], output: str) -> Segment | None:
    end = _final_sink(flow, output)
    if end is None:
        return None
    sink, judged = end
    path = _walk(flow, judged, None)
    if path is None:
        return None
    weighted = [key for key in path[1:] if flow.nodes[key].layer.op in WEIGHTED]
    head = _head(flow, path)
    body = path[: path.index(head)] if head else path
    if any(is_silent(flow.states[key]) for key in body):
        return None
    found, means = _forward_shares(flow, path)
    shares = _limited(flow, _finite(found), head, means)
    if not shares:
        return None
    last = body[-1] if not head else next((key for key in body[::-1] if key in weighted), None)
    back: dict[str, float] = {}
    averaged = 0.0
    if last and len(weighted) > 2:
        back, averaged = _backward_shares(flow, gradients, path, last)
    state = flow.states[body[-1] if is_silent(flow.states[judged]) else judged]
    return Segment(
        layers=_layers(flow, path, shares),
        path=tuple(path),
        sink=sink,
        drift=_above_unit(flow, path, sum(shares.values())),
        backward_drift=sum(back.values()),
        band=_band(state),
        contributions=shares,
        backward_contributions=back,
        averaged=averaged,
        residual=_is_residual(flow, path),
    )


def _above_unit(flow: Flow, path: Sequence[str], drift: float) -> float:
    """A drift without the growth that only brings a small table or gate up to unit scale."""
    if drift <= 0:
        return drift
    states = (flow.states[key] for key in path)
    peak = max((state.log_q for state in states if state is not None), default=math.inf)
    return min(drift, max(decades(peak), 0.0))


def _head(flow: Flow, path: Sequence[str]) -> str | None:
    """The last weighted layer of a path, unless an addition follows it."""
    for key in reversed(path[1:]):
        node = flow.nodes[key]
        if node.layer.op in WEIGHTED:
            return key
        if node.layer.op in (Op.ADD, Op.SUB) and len(node.signals) > 1:
            return None
    return None


def _finite(shares: Mapping[str, float]) -> dict[str, float]:
    """A zero head has a share of -inf: what it takes away is forgiven in any case."""
    return {key: share if math.isfinite(share) else -1e3 for key, share in shares.items()}


def _band(state: State | None) -> float:
    """Two standard deviations of the rms over draws of the weights, in decades."""
    if state is None or not math.isfinite(state.log_variance):
        return math.inf
    return 2 * decades(math.sqrt(state.log_variance))


def _kept_by_epsilon(flow: Flow, node: Node) -> float:
    """Decades that a normaliser fails to restore because its ε outweighs the variance."""
    full, state = reset(node), flow.states[node.layer.id]
    if node.first is None:
        state = None
    elif state is None:
        state = RULES[node.layer.op].forward(node)
    if full is None or state is None or is_silent(state) or is_silent(full):
        return 0.0
    lost = decades(state.log_q - full.log_q)
    return lost if lost < -math.log10(2) / 2 else 0.0


def _to_reset(flow: Flow, node: Node, claimed: set[str]) -> Segment | None:
    """The piece that ends in a normaliser or a recurrent layer."""
    if node.first is None or not node.signals:
        return None
    start = node.edges[node.signals[0]].source
    path = _walk(flow, start, claimed)
    if path is None:
        return None
    claimed.update(key for key in path if flow.nodes[key].layer.op not in STARTS)
    weighted = [key for key in path[1:] if flow.nodes[key].layer.op in WEIGHTED]
    shares, _ = _forward_shares(flow, path)
    if not shares or any(is_silent(flow.states[key]) for key in path):
        return None
    total = sum(shares.values())
    recurrent = node.layer.op in RECURRENT
    drift = total if recurrent else _kept_by_epsilon(flow, node)
    scale = drift / total if total else 0.0
    shares = {key: share * scale for key, share in shares.items()}
    state = flow.states[start]
    return Segment(
        layers=_layers(flow, path, shares),
        path=(*path, node.layer.id),
        sink=Sink.SATURATION if recurrent else Sink.NORMALISER,
        drift=drift,
        backward_drift=0.0,
        band=_band(state),
        contributions=shares,
        backward_contributions={},
        normalised=not recurrent and len(weighted) == 1,
        residual=_is_residual(flow, path),
    )


def segments(
    forward: ForwardPass, flow: Flow, gradients: Mapping[str, Gradient | None]
) -> tuple[Segment, ...]:
    """All stretches between resets of scale that theory could follow, in topological order."""
    if not forward.nodes:
        return ()
    found: list[Segment] = []
    claimed: set[str] = set()
    for node in forward.nodes:
        if node.layer.op in RESETS:
            piece = _to_reset(flow, node, claimed)
            if piece is not None:
                found.append(piece)
    for output in final_outputs(forward.nodes[0].context.graph)[:MAX_OUTPUTS]:
        piece = _to_output(flow, gradients, output)
        if piece is not None:
            found.append(piece)
    return tuple(found)
