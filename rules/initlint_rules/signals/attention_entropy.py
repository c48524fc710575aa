"""attention-entropy: attention heads whose softmax starts on a few keys."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from initlint.api import (
    WEIGHTED,
    Context,
    Finding,
    Fix,
    Layer,
    LayerGraph,
    Need,
    Op,
    OutputStats,
    Rule,
    Severity,
    Stage,
    is_spared,
)

LIMITS = ((0.25, Severity.ERROR), (0.5, Severity.WARNING))
"""Entropy of a head's rows over ln T. Gaussian logits of standard deviation s leave it
1 - s^2/(2 ln T) up to the freezing point s* = sqrt(2 ln T), where finite softmaxes measured 0.34
(T = 1024) to 0.53 (T = 64): half is s* reached, a quarter is beyond it for every T."""

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
    see, early rows not at all.

    What it does not flag
    ---------------------
    Cosine attention and normalised queries or keys with a learned temperature; logits with a
    position bias of their own (ALiBi, relative tables), which is narrow on purpose; softmaxes that
    are no attention; attention without weights before it; trained models, where narrow heads are
    learned.

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
        found: list[tuple[float, Layer, OutputStats, tuple[str, ...]]] = []
        for layer in context.model.graph.order:
            stats = context.probe.outputs.get(layer.id)
            if stats is None or not stats.entropy or min(stats.entropy) >= LIMITS[-1][0]:
                continue
            makers = _makers(context, layer)
            if makers:
                found.append((min(stats.entropy), layer, stats, makers))
        if found:
            found.sort(key=lambda item: item[0])
            yield _finding(context, found)


def _makers(context: Context, layer: Layer) -> tuple[str, ...]:
    """Layers that make queries and keys; none where they are not freshly drawn, or not judged."""
    graph = context.model.graph
    if layer.op is Op.ATTENTION:
        sources = [edge.source for edge in graph.inputs(layer.id)[:2]]
        scaled = False
    else:
        product, scaled = _product(context, layer)
        sources = [] if product is None else [e.source for e in graph.inputs(product.id)[:2]]
    makers = [maker for source in sources if (maker := _maker(graph, source)) is not None]
    if scaled or len(makers) < 2:
        return ()
    weights = [weight for key in makers if (weight := graph[key].weight) is not None]
    trained = any(context.measures.stage(weight) is Stage.TRAINED for weight in weights)
    if trained and context.stage is not Stage.FRESH:
        return ()
    return tuple(dict.fromkeys(makers))


def _product(context: Context, softmax: Layer) -> tuple[Layer | None, bool]:
    """The product of queries and keys behind a softmax, and whether something else shapes it."""
    graph, layer = context.model.graph, softmax
    for _ in range(len(graph)):
        edges = graph.inputs(layer.id)
        if not edges:
            return None, False
        layer = graph[edges[0].source]
        if layer.op is Op.MATMUL:
            return layer, False
        if layer.params and (layer.op in (Op.MUL, Op.DIV) or _is_wide(context, layer)):
            return None, True
        if layer.op is Op.ADD and _is_bias(layer.attrs.get("constant")):
            return None, True
        if layer.op in WEIGHTED or layer.op is Op.INPUT:
            return None, False
    return None, False


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


def _maker(graph: LayerGraph, key: str) -> str | None:
    """The weighted layer behind queries or keys; None behind a normaliser of their own."""
    for _ in range(len(graph)):
        layer = graph[key]
        if layer.op in WEIGHTED:
            return key
        edges = graph.inputs(key)
        if not edges or layer.op in (Op.LAYER_NORM, Op.RMS_NORM, Op.LP_NORM, Op.INPUT):
            return None
        key = edges[0].source
    return None


def _finding(
    context: Context, found: list[tuple[float, Layer, OutputStats, tuple[str, ...]]]
) -> Finding:
    lowest, layer, stats, makers = found[0]
    severity = next(level for limit, level in LIMITS if lowest < limit)
    if is_spared(context, [item[1].id for item in found]):
        severity = min(severity, Severity.WARNING)
    narrow = sum(value < LIMITS[-1][0] for value in stats.entropy)
    heads = len(stats.entropy)
    several = f" {narrow} of {heads} heads of" if heads > 1 else ""
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    weight = context.model.graph[makers[0]].weight
    width = makers[0] if weight is None else weight.name
    every = tuple(dict.fromkeys(key for _, _, _, names in found for key in names))
    return Finding(
        severity=severity,
        layer=makers[0],
        param=None if weight is None else weight.name,
        layers=(*every, *(item[1].id for item in found)),
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
        expected=f"above {LIMITS[-1][0]:g}: 1 - s^2 / (2 ln T) for logits of standard deviation s",
        fix=Fix(
            "xavier_uniform",
            params=() if weight is None else (weight.key,),
            code=f"torch.nn.init.xavier_uniform_({width}), which gives logits of standard "
            "deviation 1 on a normalised input",
        ),
    )
