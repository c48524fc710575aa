"""adapter-not-identity: a low-rank adapter that changes the network before its first step."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod, sqrt

from initlint.api import (
    TRANSPARENT,
    Confidence,
    Context,
    Family,
    Finding,
    Fix,
    Layer,
    LayerGraph,
    Need,
    Op,
    Param,
    Rule,
    Severity,
    Stage,
    fans,
    record,
)
from initlint_rules._consequences import SIGNALS

NOTICEABLE = 0.1
"""Change relative to the base layer's own output from which it is a warning: one per cent of the
power of that output. A dozen adapted layers then replace a tenth of what the base had learned by
noise; well below it the outputs of the base hardly differ."""

_CONSTANT = frozenset({Op.MUL, Op.DIV})
_LINEAR = frozenset({Op.LINEAR, Op.CONV})
_DRAWN = frozenset({Family.UNIFORM, Family.NORMAL, Family.TRUNCATED_NORMAL})


@record(frozen=True, slots=True)
class _Adapter:
    down: Layer
    up: Layer
    base: Layer
    scale: float


class AdapterNotIdentity(Rule):
    """A low-rank adapter on a fixed or trained layer starts with both factors random.

    What it does
    ------------
    Finds two linear layers in series, of a rank below that of the layer they run beside, whose
    output is added to that layer's, and compares the random change with what it is added to.

    Why is this bad
    ---------------
    An adapter is to start as the identity: the adapted network computes what the base computes, and
    training moves from there. With neither factor zero it adds noise to every layer, and the first
    steps of the fine-tuning are spent on taking it away.

    How it decides
    --------------
    Structure: base(x) + s B(A(x)) from one x, without an activation between A and B, and with
    fewer numbers in A and B than in the base weight. Evidence that the base is kept: it is frozen
    while A and B train, or its weights are trained; one of A and B still holds its random draw,
    and the other looks like one.
    The change relative to the base's output is s rms(B) rms(A) sqrt(fan_B fan_A) / (rms(W)
    sqrt(fan_W)). Warning from 0.1, else info.

    What it does not flag
    ---------------------
    Adapters with one zero factor (LoRA's B, or A of an embedding), trained adapters, bottlenecks
    with an activation, low-rank branches of a network that trains as a whole.

    Example
    -------
    ::

        import torch
        from torch import nn

        class Adapted(nn.Module):
            def __init__(self):
                super().__init__()
                self.base = nn.Linear(64, 64).requires_grad_(False)
                self.down = nn.Linear(64, 8, bias=False)
                self.up = nn.Linear(8, 64, bias=False)

            def forward(self, x):
                return self.base(x) + self.up(self.down(x))

        def model():
            return Adapted()

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        class Adapted(nn.Module):
            def __init__(self):
                super().__init__()
                self.base = nn.Linear(64, 64).requires_grad_(False)
                self.down = nn.Linear(64, 8, bias=False)
                self.up = nn.Linear(8, 64, bias=False)
                nn.init.zeros_(self.up.weight)

            def forward(self, x):
                return self.base(x) + self.up(self.down(x))

        def model():
            return Adapted()

    References
    ----------
    - Hu et al. 2022, LoRA: low-rank adaptation of large language models, section 4.1: random A,
      zero B, so that the change is zero at the beginning of training.
    - FastVideo, pull request 781: a second factor that was left random.
    """

    code = "DOM106"
    name = "adapter-not-identity"
    formula = "W x + s B A x = W x at the start, hence B A = 0"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH})
    stages = frozenset(Stage)
    folds = (*SIGNALS, "residual-branch-unscaled", "gain-mismatch", "relu-after-xavier")

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per adapter."""
        graph = context.model.graph
        for layer in graph.order:
            for adapter in _adapters(graph, layer) if layer.op is Op.ADD else ():
                change = _change(context, adapter)
                if change is not None:
                    yield _finding(adapter, change)


def _adapters(graph: LayerGraph, addition: Layer) -> Iterator[_Adapter]:
    edges = graph.inputs(addition.id)
    if len(edges) != 2:
        return
    for mine, other in (edges, edges[::-1]):
        up, after = _source(graph, mine.source)
        if up is None or up.op not in _LINEAR or not graph.inputs(up.id):
            continue
        down, between = _source(graph, graph.inputs(up.id)[0].source)
        base, beside = _source(graph, other.source)
        if down is None or base is None or down.op not in _LINEAR or base.op is not down.op:
            continue
        if _reads(graph, down) == _reads(graph, base) and _is_low_rank(down, up, base):
            yield _Adapter(down, up, base, abs(after * between / (beside or 1.0)))


def _source(graph: LayerGraph, key: str) -> tuple[Layer | None, float]:
    """The layer behind dropout, views and constant factors, and the product of the factors."""
    layer, scale = graph[key], 1.0
    while (layer.op in TRANSPARENT and not layer.params) or (
        layer.op in _CONSTANT and "constant" in layer.attrs
    ):
        if layer.op in _CONSTANT:
            constant = layer.attrs["constant"]
            if not isinstance(constant, int | float) or constant == 0:
                return None, scale
            scale *= constant if layer.op is Op.MUL else 1 / constant
        edges = graph.inputs(layer.id)
        if len(edges) != 1:
            return None, scale
        layer = graph[edges[0].source]
    return layer, scale


def _reads(graph: LayerGraph, layer: Layer) -> str | None:
    edges = graph.inputs(layer.id)
    source = _source(graph, edges[0].source)[0] if edges else None
    return source.id if source is not None else None


def _is_low_rank(down: Layer, up: Layer, base: Layer) -> bool:
    weights = [layer.weight for layer in (down, up, base)]
    if any(weight is None or len(weight.shape) < 2 for weight in weights):
        return False
    a, b, w = (weight for weight in weights if weight is not None)
    fits = b.shape[0] == w.shape[0] and b.shape[1] == a.shape[0] and a.shape[1:] == w.shape[1:]
    return fits and prod(b.shape[2:]) == 1 and a.size + b.size < w.size


def _change(context: Context, adapter: _Adapter) -> float | None:
    """Rms of the adapter's output relative to the base's, for inputs without a direction."""
    down, up, base = (layer.weight for layer in (adapter.down, adapter.up, adapter.base))
    if down is None or up is None or base is None:
        return None
    kept = not base.trainable or context.measures.stage(base) is Stage.TRAINED
    if not (_untouched(context, down, up) and kept and down.trainable and up.trainable):
        return None
    sizes = [_row_rms(context, layer) for layer in (adapter.down, adapter.up, adapter.base)]
    if any(size is None or size <= 0.0 for size in sizes):
        return None
    a, b, w = (size for size in sizes if size is not None)
    return adapter.scale * a * b / w


def _untouched(context: Context, *factors: Param) -> bool:
    """One factor still holds its draw, and the other one's values look like a draw.

    Beside trained layers a small Gaussian is never certainly fresh. It need not be: a step that had
    moved one factor from zero would, at the next, have moved the other.
    """
    stages = [context.measures.stage(weight) for weight in factors]
    return Stage.FRESH in stages and all(
        stage is Stage.FRESH
        or (stage is Stage.UNKNOWN and context.stage is Stage.FRESH)
        or (stage is Stage.UNKNOWN and context.measures.identify(weight).family in _DRAWN)
        for stage, weight in zip(stages, factors, strict=True)
    )


def _row_rms(context: Context, layer: Layer) -> float | None:
    weight: Param | None = layer.weight
    moments = context.measures.moments(weight) if weight is not None else None
    fan = fans(layer, weight) if weight is not None else None
    if moments is None or fan is None or moments.non_finite:
        return None
    return sqrt(moments.second_moment * fan.fan_in)


def _finding(adapter: _Adapter, change: float) -> Finding:
    weight = adapter.up.weight
    name = weight.name if weight is not None else adapter.up.id
    return Finding(
        severity=Severity.WARNING if change >= NOTICEABLE else Severity.INFO,
        confidence=Confidence.MEDIUM,
        layer=adapter.up.id,
        param=name,
        layers=(adapter.up.id, adapter.down.id),
        culprits=(adapter.up.id, adapter.down.id),
        message=f"the adapter beside {adapter.base.id} changes its output by {change:.0%} before "
        "the first step: both factors are random",
        evidence={"relative_change": change, "scale": adapter.scale, "base": adapter.base.id},
        why="an adapter starts as the identity when one factor is zero; the other one then still "
        "receives a gradient after the first step",
        measured=f"rms of the change / rms of the base's output = {change:.2g}",
        expected="0",
        fix=Fix(
            "zeros",
            params=(weight.key,) if weight is not None else (),
            code=f"torch.nn.init.zeros_({name})",
        ),
    )
