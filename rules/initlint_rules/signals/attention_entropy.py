"""attention-entropy: attention heads whose softmax starts on a few keys."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from initlint.api import (
    WEIGHTED,
    Context,
    Edge,
    Finding,
    Fix,
    Layer,
    LayerGraph,
    Need,
    Op,
    OutputStats,
    Param,
    Rule,
    Severity,
    Stage,
    is_spared,
    record,
)

LIMITS = ((0.25, Severity.ERROR), (0.5, Severity.WARNING))
"""Entropy of a head's rows over ln T. Gaussian logits of standard deviation s leave it
1 - s^2/(2 ln T) up to the freezing point s* = sqrt(2 ln T), where finite softmaxes measured 0.34
(T = 1024) to 0.53 (T = 64): half is s* reached, a quarter is beyond it for every T."""

TEMPERED = 0.06
"""Entropy of a head with normalised queries and keys that no start in use reaches. Cosines of
independent vectors of width d have standard deviation 1/sqrt(d). At d = 32 and 16 to 1024 keys a
factor of 10 (Swin v2) leaves 0.64 and more, CLIP's 14.3 leaves 0.50, and 100, where both clamp it
later, 0.06 for every number of keys."""

UNIT = 0.01
"""How far from one the mean squared norm of stored unit vectors may be."""

NO_BIAS = 0.5
"""Largest spread of a position bias that leaves the entropy to the logits: s^2/2 = 0.12 nats."""

MASKED = -1e3
"""Addends below this forbid a key."""


class AttentionEntropy(Rule):
    """Attention heads start with their softmax on a few keys.

    What it does
    ------------
    Measures, on the probe, the entropy of every head's attention weights and compares it with that
    of a uniform row, the logarithm of the number of keys a query sees.

    Why is this bad
    ---------------
    A head that starts on single keys looks at random places with full confidence. Its weights pass
    almost no gradient to queries and keys, whose softmax is flat there, so it is slow to learn to
    look elsewhere, and its values jump when the largest logit changes.

    How it decides
    --------------
    The lowest head of an attention below half of ln T: warning; below a quarter: error, or a
    warning where the attentions are residual branches of a trunk that trains and whose measured
    gradient stays within one decade over all blocks. Rows of a causal mask count with the keys they
    see, early rows not at all. Normalised queries and keys leave the width to a temperature,
    narrow on purpose: a warning below 0.06, which a factor of 100 leaves cosines of width 32.

    What it does not flag
    ---------------------
    Cosine attention and normalised queries or keys with the temperatures in use (10 in Swin v2,
    14.3 in CLIP); tokens compared with themselves by the same weights; logits with a position bias
    of their own (ALiBi, relative tables), which is narrow on purpose; softmaxes that are no
    attention; attention without weights before it; trained models, where narrow heads are learned.

    Example
    -------
    ::

        import torch
        from torch import nn

        class Attention(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
                with torch.no_grad():  # queries like keys: each token looks at itself
                    self.q.weight.copy_(torch.eye(width))
                    self.k.weight.copy_(0.9 * torch.eye(width))

            def forward(self, x):
                weights = torch.softmax(self.q(x) @ self.k(x).transpose(1, 2) / 8, dim=-1)
                return weights @ self.v(x)

        def model():
            return nn.Sequential(
                nn.Embedding(100, 64), nn.LayerNorm(64), Attention(64), nn.Linear(64, 10)
            )

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        class Attention(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
                for layer in (self.q, self.k, self.v):
                    nn.init.xavier_uniform_(layer.weight)

            def forward(self, x):
                weights = torch.softmax(self.q(x) @ self.k(x).transpose(1, 2) / 8, dim=-1)
                return weights @ self.v(x)

        def model():
            return nn.Sequential(
                nn.Embedding(100, 64), nn.LayerNorm(64), Attention(64), nn.Linear(64, 10)
            )

    References
    ----------
    - Zhai et al. 2023, Stabilizing transformer training by preventing attention entropy collapse.
    - Derrida 1981, Random-energy model: where a softmax over Gaussian logits freezes.
    """

    code = "PRB105"
    name = "attention-entropy"
    formula = "H / ln T = 1 - s^2 / (2 ln T) for Gaussian logits of standard deviation s"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.PROBE})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    folds = ("gradient-profile",)

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding that names every such attention, the narrowest first."""
        if context.probe is None:
            return
        found: list[_Narrow] = []
        for layer in context.model.graph.order:
            stats = context.probe.outputs.get(layer.id)
            if stats is None or not stats.entropy or min(stats.entropy) >= LIMITS[-1][0]:
                continue
            source = _source(context, layer)
            if source is not None and (not source.tempered or min(stats.entropy) < TEMPERED):
                found.append(_Narrow(min(stats.entropy), layer, stats, source))
        for tempered in (False, True):
            alike = [item for item in found if item.source.tempered is tempered]
            if alike:
                yield _finding(context, sorted(alike, key=lambda item: item.lowest))


@record(frozen=True, slots=True)
class _Source:
    """What makes the logits of an attention.

    Attributes:
        makers: the weighted layers that make queries and keys.
        factor: the layer that scales their product, where that is one of its own.
        tempered: whether normalisers leave the width of the logits to the factor.
    """

    makers: tuple[str, ...]
    factor: Layer | None
    tempered: bool


@record(frozen=True, slots=True)
class _Narrow:
    """An attention with a narrow head."""

    lowest: float
    layer: Layer
    stats: OutputStats
    source: _Source


def _source(context: Context, layer: Layer) -> _Source | None:
    """What makes the logits; None where that is not freshly drawn, or not judged."""
    graph = context.model.graph
    product, factor = (layer, None) if layer.op is Op.ATTENTION else _product(context, layer)
    if product is None or any(_prefers(context, edge) for edge in graph.inputs(layer.id)[3:]):
        return None
    made = [_maker(graph, edge.source) for edge in graph.inputs(product.id)[:2]]
    if product.op is Op.LINEAR:  # queries that are a parameter
        if factor is None or not _is_unit(context, product):
            return None
        made.append((product.id, True))
    makers = [key for key, _ in made if key is not None]
    tempered = len(made) == 2 and all(normalised for _, normalised in made)
    learned = factor is not None and bool(factor.params)
    if len(makers) < 2 or (not tempered and (learned or any(norm for _, norm in made))):
        return None
    if tempered and not _multiplies(graph, layer):
        return None
    weights = [weight for key in makers if (weight := graph[key].weight) is not None]
    if tempered and len({weight.key for weight in weights}) < len(makers):
        return None  # a token's cosine with itself is one, by design the largest
    trained = any(context.measures.stage(weight) is Stage.TRAINED for weight in weights)
    if trained and context.stage is not Stage.FRESH:
        return None
    return _Source(tuple(dict.fromkeys(makers)), factor, tempered)


def _product(context: Context, softmax: Layer) -> tuple[Layer | None, Layer | None]:
    """The product of queries and keys behind a softmax, and the factor that scales it."""
    graph, layer, factor = context.model.graph, softmax, None
    for _ in range(len(graph)):
        edges = graph.inputs(layer.id)
        if not edges:
            return None, None
        if layer.op is Op.ADD and any(_prefers(context, edge) for edge in edges[1:]):
            return None, None
        layer = graph[edges[0].source]
        if layer.op in (Op.MATMUL, Op.LINEAR):
            return layer, factor
        if layer.op in (Op.MUL, Op.DIV):
            factor = layer if factor is None or layer.params else factor
        elif layer.params and _is_wide(context, layer):
            return None, None
        if layer.op is Op.ADD and _is_bias(layer.attrs.get("constant")):
            return None, None
        if layer.op in WEIGHTED or layer.op is Op.INPUT:
            return None, None
    return None, None


def _prefers(context: Context, edge: Edge) -> bool:
    """True for an addend made of parameters alone, such as a relative table, that is wide."""
    graph = context.model.graph
    made_from = [graph[key] for key in (edge.source, *graph.upstream([edge.source]))]
    if any(layer.op is Op.INPUT for layer in made_from):
        return False
    tables = [layer for layer in made_from if layer.params]
    multiples = [layer for layer in made_from if layer.op in (Op.MUL, Op.DIV)]
    return bool(tables) and any(_reaches(context, layer) for layer in (*tables, *multiples))


def _reaches(context: Context, layer: Layer) -> bool:
    stats = context.probe.outputs.get(layer.id) if context.probe is not None else None
    return _is_wide(context, layer) if stats is None else stats.rms > NO_BIAS


def _is_wide(context: Context, layer: Layer) -> bool:
    """True for a position table that moves the logits by itself."""
    return any(
        (moments := context.measures.moments(param)) is None or moments.std > NO_BIAS
        for param in layer.params
    )


def _is_bias(constant: object) -> bool:
    """True for a fixed addend that prefers some of the keys it does not forbid."""
    if constant is None:
        return False
    values = np.asarray(constant, dtype=np.float64)
    allowed = values[values > MASKED]
    return bool(allowed.size) and float(allowed.std()) > NO_BIAS


def _is_unit(context: Context, layer: Layer) -> bool:
    """True for a weight whose rows are unit vectors, without a bias."""
    weight = layer.weight
    moments = None if weight is None else context.measures.moments(weight)
    if weight is None or moments is None or len(layer.params) > 1 or len(weight.shape) != 2:
        return False
    return abs((moments.std**2 + moments.mean**2) * weight.shape[1] - 1.0) < UNIT


def _multiplies(graph: LayerGraph, layer: Layer) -> bool:
    """True for a fused attention, and for a softmax whose rows weigh values."""
    if layer.op is Op.ATTENTION:
        return True
    return any(item.op is Op.MATMUL for item in graph.effective_consumers(layer.id))


def _maker(graph: LayerGraph, key: str) -> tuple[str | None, bool]:
    """The weighted layer behind queries or keys, and whether a normaliser stands between."""
    normalised = False
    for _ in range(len(graph)):
        layer = graph[key]
        if layer.op in WEIGHTED:
            return key, normalised
        edges = graph.inputs(key)
        if not edges or layer.op is Op.INPUT:
            break
        normalised |= layer.op in (Op.LAYER_NORM, Op.RMS_NORM, Op.LP_NORM)
        key = edges[0].source
    return None, normalised


def _finding(context: Context, found: list[_Narrow]) -> Finding:
    first = found[0]
    lowest, layer, stats, source = first.lowest, first.layer, first.stats, first.source
    severity = next(level for limit, level in LIMITS if lowest < limit)
    if source.tempered or is_spared(context, [item.layer.id for item in found]):
        severity = min(severity, Severity.WARNING)
    limit = TEMPERED if source.tempered else LIMITS[-1][0]
    narrow = sum(value < limit for value in stats.entropy)
    heads = len(stats.entropy)
    several = f" {narrow} of {heads} heads of" if heads > 1 else ""
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    factors = [item.source.factor.id for item in found if item.source.factor is not None]
    blamed = factors[0] if source.tempered and factors else source.makers[0]
    maker = context.model.graph[blamed]
    weight = next(iter(maker.params), None) if source.tempered else maker.weight
    every = tuple(dict.fromkeys(key for item in found for key in item.source.makers))
    layers = (*factors, *every) if source.tempered else every
    return Finding(
        severity=severity,
        layer=blamed,
        param=None if weight is None else weight.name,
        layers=(*layers, *(item.layer.id for item in found)),
        message=f"the softmax of{several} {layer.id}{more} starts on few keys: entropy "
        f"{lowest:.2f} of that of a uniform row",
        evidence={
            "lowest": lowest,
            "heads": heads,
            "narrow_heads": narrow,
            "mean": sum(stats.entropy) / heads,
            "attentions": len(found),
        },
        why="a softmax that sits on single keys passes almost no gradient to queries and keys",
        measured=f"entropy / ln(keys) = {lowest:.2f} in the narrowest head",
        expected=f"above {limit:g}: "
        + (
            "what a factor of 100 leaves cosines of width 32"
            if source.tempered
            else "1 - s^2 / (2 ln T) for logits of standard deviation s"
        ),
        fix=_milder(blamed)
        if source.tempered
        else _narrower(source.makers[0], [context.model.graph[key].weight for key in every]),
    )


def _milder(factor: str) -> Fix:
    return Fix(
        "advice",
        code=f"start the temperature at {factor} milder: for cosines of width d a factor of "
        "sqrt(d) gives logits of standard deviation 1",
    )


def _narrower(maker: str, weights: list[Param | None]) -> Fix:
    """Queries and keys alike: narrow logits need both at their scale."""
    held = [weight for weight in weights if weight is not None]
    return Fix(
        "xavier_uniform",
        params=tuple(weight.key for weight in held),
        code=f"torch.nn.init.xavier_uniform_({held[0].name if held else maker}), and the other "
        "factor of the product, which gives logits of standard deviation 1 on a normalised input",
    )
