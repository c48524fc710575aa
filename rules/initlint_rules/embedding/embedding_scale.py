"""embedding-scale: token vectors far from the scale of what the blocks add to them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from math import exp, log10, sqrt

from initlint.api import (
    RECURRENT,
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
    Rule,
    Severity,
    Sink,
    Stage,
    drift_severity,
    input_rms,
    record,
)

from ._streams import Stream, gain, streams

DROWNED = 1e2
"""Power of the first block's branches over that of the embedding from which more than 99 % of the
stream is branch output: a decade of rms."""

DOMINANT = 1e-2
"""Power of all branches together over that of the embedding: below, what every block adds is less
than 1 % of what the head reads."""

UNUSED = 1e-4
"""The same at two decades of rms: the last layer sees the blocks in the fourth digit, and so does
the gradient of the blocks relative to that of a network whose stream they make."""

UNHEARD = 5e-3
"""Rms of vectors below which a recurrent layer hardly hears them: half way, as a ratio, between the
smallest tables in use (0.02) and 0.001, at which a GRU and a plain cell made 0.50 and 0.76 of the
progress of their twins."""

LOUD = frozenset({Severity.WARNING, Severity.ERROR})
"""What is said of tables whose vectors layers read as they are: token vectors of rms 2 to 5 (an
info) are in use."""


@record(frozen=True, slots=True)
class _Loud:
    """A table of wide vectors; with ``product`` ``rms`` is the root of that of their products."""

    rms: float
    severity: Severity
    table: Layer
    weight: Param
    product: bool


class EmbeddingScale(Rule):
    """Token vectors start far from the scale of what the blocks add to them.

    What it does
    ------------
    In networks whose residual stream starts at an embedding without a normaliser, or at a
    projection of the input (patches) that is far too wide, compares its power with that of the
    residual branches, as theory predicts it. Looks at the scale of tables that linear layers read
    as they are.

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
    branches less than 1/100 of it: info. All branches together below 1/10,000: warning. A
    projection counts whose gain sqrt(fan_in Var(W)) is above 3: a hundred times too wide one of
    patches left a ViT 0.80 of its twin's progress, a ten times too wide one all of it. Vectors
    that enter a linear or recurrent layer at an rms of 5 (0.7 decades above unit scale) or more:
    warning; of 32 (1.5 decades): error, as for any signal that has grown. Vectors that enter a
    recurrent layer at an rms below 0.005: info. Of products of table
    vectors that a layer reads or the network puts out (factorisation machines) the root counts.

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
    optional = frozenset({Need.PROBE})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    folds = (
        "forward-drift",
        "variance-profile",
        "head-excess-loss",
        "saturation",
        "attention-logit-scale",
        "attention-entropy",
    )

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per residual stream that starts at a table."""
        for stream in streams(context):
            if context.measures.stage(stream.weight) is not Stage.FRESH:
                continue
            if stream.first > DROWNED:
                if not stream.projected:
                    yield _finding(context, stream, Severity.INFO, small=True)
            elif stream.total < DOMINANT:
                unused = stream.total < UNUSED
                severity = Severity.WARNING if unused else Severity.INFO
                yield _finding(context, stream, severity, small=False)
        yield from _read_as_they_are(context)
        yield from _unheard(context)


def _unheard(context: Context) -> Iterator[Finding]:
    """Tables that recurrent layers read, far below any scale in use."""
    graph = context.model.graph
    found: list[tuple[float, Layer, Param]] = []
    for table in graph.order:
        weight = table.weight if table.op is Op.EMBEDDING else None
        if weight is None or weight.quantised or not weight.trainable:
            continue
        readers = [graph[key] for key in _readers(graph, table)]
        entering = max((_entering(context, reader.id) for reader in readers), default=0.0)
        if not 0.0 < entering < UNHEARD or any(item.op not in RECURRENT for item in readers):
            continue
        if context.measures.stage(weight) is Stage.FRESH:
            found.append((entering, table, weight))
    if not found:
        return
    entering, table, weight = min(found, key=lambda item: item[0])
    yield Finding(
        severity=Severity.INFO,
        layer=table.id,
        param=weight.name,
        layers=tuple(dict.fromkeys((table.id, *(item.id for _, item, _ in found)))),
        message=f"vectors of {table.id} enter a recurrent layer at rms {entering:.2g}: its states "
        "follow its biases, and hardly differ between sequences",
        evidence={"embedding_rms": entering},
        why="the gradient of the input weights is multiplied with the vectors, step by step",
        measured=f"rms {entering:.2g}",
        expected="about 1; tables of 0.02 are in use",
        fix=Fix(
            "rescale",
            params=tuple(dict.fromkeys(item.key for _, _, item in found)),
            arguments={"factor": 1.0 / entering},
            code=f"torch.nn.init.normal_({weight.name})",
        ),
    )


def _read_as_they_are(context: Context) -> Iterator[Finding]:
    """Tables whose vectors reach linear layers without a normaliser, far above unit scale."""
    graph = context.model.graph
    found: list[_Loud] = []
    for table in graph.order:
        weight = table.weight if table.op is Op.EMBEDDING else None
        if weight is None or weight.quantised or not weight.trainable:
            continue
        if context.measures.stage(weight) is not Stage.FRESH:
            continue
        std = context.measures.effective_std(weight) or 0.0
        read = max((_entering(context, key) for key in _readers(graph, table)), default=0.0)
        product = max((_entering(context, key) for key in _comparers(graph, table)), default=0.0)
        own = max(min(read, std * _multiplied(graph, table)), sqrt(product))
        severity = drift_severity(log10(own), 0.0, Sink.OUTPUT) if own > 1.0 else None
        if severity is not None and severity in LOUD:
            found.append(_Loud(own, severity, table, weight, sqrt(product) >= own))
    if found:
        yield _loud(context, found)


_READERS = frozenset({Op.LINEAR, Op.CONV}) | RECURRENT
_PASSING = TRANSPARENT | {Op.ADD, Op.CONCAT}
_PRODUCTS = frozenset({Op.MUL, Op.MATMUL})


def _readers(graph: LayerGraph, table: Layer) -> list[str]:
    """Linear layers that read the table's vectors as they are, beside others or in a sum."""
    return [key for key in _reached(graph, [table.id]) if graph[key].op in _READERS]


def _comparers(graph: LayerGraph, table: Layer) -> list[str]:
    """What reads products of the table's vectors with those of tables, or the end of the network.

    Matrix factorisation, factorisation machines: there the scale of the vectors counts twice.
    """
    met = [
        key
        for key in _reached(graph, [table.id])
        if graph[key].op in _PRODUCTS
        and len(graph.inputs(key)) > 1
        and all(_is_of_tables(graph, edge.source) for edge in graph.inputs(key))
    ]
    return [
        key for key in _reached(graph, met, {Op.REDUCE}) if graph[key].op in _READERS | {Op.OUTPUT}
    ]


def _reached(
    graph: LayerGraph, starts: Iterable[str], passing: Collection[Op] = ()
) -> tuple[str, ...]:
    """What reads layers' outputs, through sums, concatenations and changes of shape."""
    seen: dict[str, None] = {}
    waiting = list(starts)
    while waiting:
        for layer in graph.consumers(waiting.pop()):
            if layer.id in seen:
                continue
            seen[layer.id] = None
            added = layer.op is Op.ADD  # a table of positions
            passed = layer.op in _PASSING or layer.op in passing or _factor(layer) is not None
            if passed and (added or not layer.params):
                waiting.append(layer.id)
    return tuple(seen)


def _factor(layer: Layer) -> float | None:
    """The fixed number that a layer multiplies by; None where it does something else."""
    value = layer.attrs.get("constant")
    if layer.op is not Op.MUL or layer.params or not isinstance(value, int | float):
        return None
    return abs(float(value))


def _multiplied(graph: LayerGraph, table: Layer) -> float:
    """What the vectors of a table are multiplied by at once: sqrt(width) in many transformers."""
    found, readers = 1.0, graph.effective_consumers(table.id)
    while len(readers) == 1 and (factor := _factor(readers[0])) is not None:
        found *= factor
        readers = graph.effective_consumers(readers[0].id)
    return found


def _is_of_tables(graph: LayerGraph, key: str) -> bool:
    """True for what tables alone make, by concatenation and changes of shape."""
    waiting, seen = [key], set()
    while waiting:
        layer = graph[waiting.pop()]
        if layer.id in seen or layer.op is Op.EMBEDDING:
            continue
        seen.add(layer.id)
        edges = graph.inputs(layer.id)
        if layer.op not in _PASSING or layer.params or not edges:
            return False
        waiting.extend(edge.source for edge in edges)
    return True


def _entering(context: Context, key: str) -> float:
    """Rms of what a layer reads: measured, else predicted; 0 where it is not known."""
    seen = input_rms(key, context.model.graph, context.probe) if context.probe else None
    if seen is not None:
        return seen
    edges = context.model.graph.inputs(key)
    signal = context.theory.forward.get(edges[0].source) if context.theory and edges else None
    return exp(0.5 * signal.log_q) if signal is not None and -600 < signal.log_q < 600 else 0.0


def _loud(context: Context, found: Sequence[_Loud]) -> Finding:
    worst = max(found, key=lambda item: item.rms)
    rms, table, weight = worst.rms, worst.table, worst.weight
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    factor = 1.0 / rms
    std = context.measures.effective_std(weight) or 0.0
    layers = (table.id, *(item.table.id for item in found if item is not worst))
    readers = (key for item in found for key in _readers(context.model.graph, item.table))
    return Finding(
        severity=worst.severity,
        confidence=Confidence.HIGH if context.probe is not None else Confidence.MEDIUM,
        layer=table.id,
        param=weight.name,
        layers=layers,
        culprits=tuple(dict.fromkeys((*layers, *readers))),  # queries and keys of such vectors
        message=f"products of vectors of {table.id}{more} start with rms {rms * rms:.2g}, with no "
        "normaliser behind them"
        if worst.product
        else f"vectors of {table.id}{more} enter a layer at rms {rms:.2g}, with no normaliser "
        "between",
        evidence={"embedding_rms": rms, "decades": log10(rms)},
        why="what reads a table expects inputs of unit scale: signal, first loss and gradient all "
        "grow with the vectors",
        measured=f"rms {rms * rms if worst.product else rms:.2g}",
        expected="about 1",
        fix=Fix(
            "rescale",
            params=tuple(item.weight.key for item in found),
            arguments={"factor": factor},
            code=f"torch.nn.init.normal_({weight.name}, std={std * factor:.2g})",
        ),
    )


def _finding(context: Context, stream: Stream, severity: Severity, *, small: bool) -> Finding:
    rms, share = sqrt(stream.power), stream.first if small else stream.total
    decades = 0.5 * log10(share)
    wanted = sqrt(share) if share > 0 else 1.0
    factor = wanted
    if stream.projected:  # what is left is the scale of the input
        factor = max(wanted, 1 / gain(context, stream.source, stream.weight))
    std = context.measures.effective_std(stream.weight) or 0.0
    what = (
        f"vectors of {stream.source.id} start {1 / wanted:.2g} times the rms of what the first "
        "block adds: the stream loses the token"
        if small
        else f"vectors of {stream.source.id} start {1 / wanted:.2g} times the rms of all that "
        f"{len(stream.branches)} residual branches add: the head reads the "
        + ("projected input" if stream.projected else "embedding")
    )
    return Finding(
        severity=severity,
        confidence=Confidence.MEDIUM,
        layer=stream.source.id,
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
            arguments={"factor": factor},
            code=f"torch.nn.init.normal_({stream.weight.name}, std={std * factor:.2g})",
        ),
    )
