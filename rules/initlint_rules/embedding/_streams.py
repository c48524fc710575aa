"""Residual streams that start at tokens: looked up in a table, or projected from the input."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, sqrt

from initlint.api import (
    TRANSPARENT,
    Context,
    Layer,
    LayerGraph,
    Op,
    Param,
    ResidualBranch,
    fans,
    record,
)

SILENT = 1e-12
"""Branches with less power than this are closed on purpose (zero weights, tiny gates)."""

FAR = 3.0
"""Gain sqrt(fan_in Var(W)) of a projection beyond which its scale is a mistake and no choice:
schemes in use are within 1.73 of 1 (He, a sixth of it in PyTorch's default). Below, wide tokens are
wide inputs, which the stream has to carry."""


@record(frozen=True, slots=True)
class Stream:
    """A residual stream, and the power of its branches relative to the tokens it starts at.

    Attributes:
        source: the table or the projection that makes the tokens.
        weight: its weight.
        power: mean square of what enters the first branch.
        first, total: power of the first block's branches, and of all of them, relative to it.
        branches: that are added, in order.
    """

    source: Layer
    weight: Param
    power: float
    first: float
    total: float
    branches: tuple[ResidualBranch, ...]

    @property
    def projected(self) -> bool:
        """Whether the tokens are a projection of the input."""
        return self.source.op is not Op.EMBEDDING


def streams(context: Context) -> Iterator[Stream]:
    """Streams that begin at one table, or at one projection that is far too wide."""
    if context.theory is None:
        return
    graph, forward = context.model.graph, context.theory.forward
    chains: list[list[ResidualBranch]] = []
    ends: dict[str, list[ResidualBranch]] = {}
    for branch in context.theory.residuals:
        chain = ends.pop(_source(graph, branch.trunk), None)
        if chain is None:
            chain = []
            chains.append(chain)
        chain.append(branch)
        ends[branch.add] = chain
    for chain in chains:
        start = _start(graph, chain[0].trunk)
        signal = forward.get(chain[0].trunk)
        weight = start.weight if start is not None else None
        if start is None or weight is None or signal is None or not -600 < signal.log_q < 600:
            continue
        if start.op is not Op.EMBEDDING and gain(context, start, weight) <= FAR:
            continue
        if any(item.gated or not item.normalised for item in chain):
            continue
        # The last sum may feed the final normaliser; a chain of one that does is post-norm.
        if any(item.post_norm for item in (chain[:-1] if len(chain) > 1 else chain)):
            continue
        # A gain is relative to the trunk at its own addition.
        power, parts, stream = exp(signal.log_q), [], 1.0
        for item in chain:
            if item.gain is None:
                break
            parts.append(item.gain * stream)
            stream += item.gain * stream
        if len(parts) == len(chain) and sum(parts) > SILENT:
            yield Stream(start, weight, power, max(parts[:2]), sum(parts), tuple(chain))


def gain(context: Context, layer: Layer, weight: Param) -> float:
    """Factor by which a layer changes the rms of what it reads; 0 where it is not known."""
    std, fan = context.measures.effective_std(weight), fans(layer, weight)
    return std * sqrt(fan.fan_in) if std and fan is not None else 0.0


def _source(graph: LayerGraph, key: str) -> str:
    layer = graph[key]
    while layer.op in TRANSPARENT and len(graph.inputs(layer.id)) == 1:
        layer = graph[graph.inputs(layer.id)[0].source]
    return layer.id


def _start(graph: LayerGraph, key: str) -> Layer | None:
    """What makes the tokens at the start of a stream, through positions, factors and dropout."""
    for _ in range(len(graph)):
        layer = graph[key]
        edges = graph.inputs(layer.id)
        if layer.op is Op.EMBEDDING:
            return layer if edges else None
        if layer.op in (Op.LINEAR, Op.CONV):
            return layer if graph[_source(graph, edges[0].source)].op is Op.INPUT else None
        if layer.op not in TRANSPARENT | {Op.ADD, Op.MUL, Op.DIV, Op.CONCAT}:
            return None
        others = [edge for edge in edges if not _is_table(graph, edge.source)]
        if not edges or (len(edges) > 1 and len(others) > 1):
            return None
        fed = [edge for edge in edges if graph.inputs(edge.source)]
        key = (others or fed or list(edges))[0].source
    return None


def _is_table(graph: LayerGraph, key: str) -> bool:
    """True for a table, a constant or a parameter, whatever is done to its values' order."""
    layer = graph[_source(graph, key)]
    if layer.op in (Op.MUL, Op.DIV, Op.ADD) and len(graph.inputs(layer.id)) >= 1:
        return all(_is_table(graph, edge.source) for edge in graph.inputs(layer.id))
    return layer.op in (Op.EMBEDDING, Op.CONSTANT)
