"""embedding-scale: token vectors far from the scale of what the blocks add to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import exp, log10, sqrt

from initlint.api import (
    TRANSPARENT,
    Confidence,
    Context,
    Finding,
    Fix,
    Layer,
    LayerGraph,
    Need,
    Op,
    Param,
    ResidualBranch,
    Rule,
    Severity,
    Stage,
)

DROWNED = 1e2
"""Power of the first block's branches over that of the embedding from which more than 99 % of the
stream is branch output: a decade of rms."""

DOMINANT = 1e-2
"""Power of all branches together over that of the embedding: below, what every block adds is less
than 1 % of what the head reads."""

UNUSED = 1e-4
"""The same at two decades of rms: the last layer sees the blocks in the fourth digit, and so does
the gradient of the blocks relative to that of a network whose stream they make."""

SILENT = 1e-12
"""Branches with less power than this are closed on purpose (zero weights, tiny gates)."""


@dataclass(frozen=True, slots=True)
class _Stream:
    table: Layer
    weight: Param
    power: float
    first: float
    total: float
    branches: tuple[ResidualBranch, ...]


class EmbeddingScale(Rule):
    """Token vectors start far from the scale of what the blocks add to them.

    What it does
    ------------
    In networks whose residual stream starts at an embedding without a normaliser, compares the
    power of the embedding with that of the residual branches, as theory predicts it.

    Why is this bad
    ---------------
    The stream is the sum of the two. Vectors ten times smaller than the first block's output leave
    the stream 1 % of the token itself: later blocks read mixtures of positions and attention, and
    the table's gradient is large. Vectors a hundred times larger than all branches together (N(0,
    1) tables over weights of 0.02) leave the head a bag of embeddings: blocks begin to count only
    once they have grown a hundredfold.

    How it decides
    --------------
    Power of the first block's branches more than 100 times that of the embedding, or power of all
    branches less than 1/100 of it: info. All branches together below 1/10,000: warning.

    What it does not flag
    ---------------------
    A normaliser behind the embedding (BERT), post-norm networks, branches closed on purpose (zero
    last layers, ReZero, LayerScale), tables multiplied by sqrt(width) where that gives the right
    scale (Gemma), T5's N(0, 1) tables, hash grids and codebooks, trained weights.

    Example
    -------
    ::

        from torch import nn

        class Block(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.norm = nn.LayerNorm(width)
                self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
                for layer in (self.up, self.down):
                    nn.init.normal_(layer.weight, std=0.005)
                    nn.init.zeros_(layer.bias)

            def forward(self, x):
                return x + self.down(nn.functional.gelu(self.up(self.norm(x))))

        def model():
            return nn.Sequential(nn.Embedding(100, 64), *[Block(64) for _ in range(4)],
                                 nn.LayerNorm(64), nn.Linear(64, 10))

    Use instead
    -----------
    ::

        from torch import nn

        class Block(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.norm = nn.LayerNorm(width)
                self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
                for layer in (self.up, self.down):
                    nn.init.normal_(layer.weight, std=0.02)
                    nn.init.zeros_(layer.bias)

            def forward(self, x):
                return x + self.down(nn.functional.gelu(self.up(self.norm(x))))

        def model():
            embedding = nn.Embedding(100, 64)
            nn.init.normal_(embedding.weight, std=0.02)
            return nn.Sequential(embedding, *[Block(64) for _ in range(4)],
                                 nn.LayerNorm(64), nn.Linear(64, 10))

    References
    ----------
    - Radford et al. 2019, GPT-2: all of N(0, 0.02), positions 0.01.
    - Takase, Kiyono, Kobayashi, Suzuki 2023, Spike no more: stabilizing the pre-training of large
      language models (scaled embeddings).
    """

    code = "EMB801"
    name = "embedding-scale"
    formula = "stream after one block = e^2 + q_branch"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.THEORY})
    stages = frozenset({Stage.FRESH, Stage.MIXED})

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per residual stream that starts at a table."""
        for stream in _streams(context):
            if context.measures.stage(stream.weight) is not Stage.FRESH:
                continue
            if stream.first > DROWNED:
                yield _finding(context, stream, Severity.INFO, small=True)
            elif stream.total < DOMINANT:
                unused = stream.total < UNUSED
                severity = Severity.WARNING if unused else Severity.INFO
                yield _finding(context, stream, severity, small=False)


def _streams(context: Context) -> Iterator[_Stream]:
    """Residual streams that begin at one table, with the power of their branches relative to it."""
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
        table = _table(graph, chain[0].trunk)
        signal = forward.get(chain[0].trunk)
        weight = table.weight if table is not None else None
        if table is None or weight is None or signal is None or not -600 < signal.log_q < 600:
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
            yield _Stream(table, weight, power, max(parts[:2]), sum(parts), tuple(chain))


def _source(graph: LayerGraph, key: str) -> str:
    layer = graph[key]
    while layer.op in TRANSPARENT and len(graph.inputs(layer.id)) == 1:
        layer = graph[graph.inputs(layer.id)[0].source]
    return layer.id


def _table(graph: LayerGraph, key: str) -> Layer | None:
    """The token table behind the start of a stream, through positions, factors and dropout."""
    for _ in range(len(graph)):
        layer = graph[key]
        if layer.op is Op.EMBEDDING:
            return layer if graph.inputs(layer.id) else None
        if layer.op not in TRANSPARENT | {Op.ADD, Op.MUL, Op.DIV}:
            return None
        edges = graph.inputs(layer.id)
        tables = [edge for edge in edges if _is_table(graph, edge.source)]
        if not edges or (len(edges) > 1 and len(tables) != len(edges)):
            return None
        fed = [edge for edge in edges if graph.inputs(edge.source)]
        key = (fed or list(edges))[0].source
    return None


def _is_table(graph: LayerGraph, key: str) -> bool:
    """True for a table, a constant or a parameter, whatever is done to its values' order."""
    layer = graph[_source(graph, key)]
    if layer.op in (Op.MUL, Op.DIV, Op.ADD) and len(graph.inputs(layer.id)) >= 1:
        return all(_is_table(graph, edge.source) for edge in graph.inputs(layer.id))
    return layer.op in (Op.EMBEDDING, Op.CONSTANT)


def _finding(context: Context, stream: _Stream, severity: Severity, *, small: bool) -> Finding:
    rms, share = sqrt(stream.power), stream.first if small else stream.total
    decades = 0.5 * log10(share)
    wanted = sqrt(stream.first if small else stream.total) if share > 0 else 1.0
    std = context.measures.effective_std(stream.weight) or 0.0
    what = (
        f"vectors of {stream.table.id} start {1 / wanted:.2g} times the rms of what the first "
        "block adds: the stream loses the token"
        if small
        else f"vectors of {stream.table.id} start {1 / wanted:.2g} times the rms of all that "
        f"{len(stream.branches)} residual branches add: the head reads the embedding"
    )
    return Finding(
        severity=severity,
        confidence=Confidence.MEDIUM,
        layer=stream.table.id,
        param=stream.weight.name,
        message=what,
        evidence={
            "embedding_rms": rms,
            "first_block_power": stream.first,
            "branch_power": stream.total,
            "decades": decades,
            "branches": len(stream.branches),
        },
        why="the residual stream is the sum of both, and the smaller part is lost in the larger "
        "one until training has changed their scales",
        measured=f"branch rms over embedding rms 10^{decades:+.1f}",
        expected="between 10^-1 and 10^+1",
        fix=Fix(
            "rescale",
            params=(stream.weight.key,),
            arguments={"factor": wanted},
            code=f"torch.nn.init.normal_({stream.weight.name}, std={std * wanted:.2g})",
        ),
    )
