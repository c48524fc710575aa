"""Similarities of unit vectors that a factor makes into logits far too wide."""

from __future__ import annotations

from collections.abc import Iterator

from initlint.api import (
    TRANSPARENT,
    Confidence,
    Context,
    Finding,
    Fix,
    Layer,
    LayerGraph,
    Op,
    Severity,
)

LEVELS = ((10**1.5, Severity.ERROR), (10.0, Severity.WARNING))
"""Logit standard deviations. A cosine of independent vectors of width d has 1/sqrt(d), so CLIP's
largest factor, 100, gives 4.4 at width 512 and ArcFace's 64 gives 5.7 at 128. At 10 the first loss
of a hundred classes is 20 nats above a guess; two networks at 160 and 970 made 0.34 and 0.20 of
their twins' progress."""

_COMPARING = frozenset({Op.MATMUL, Op.LINEAR, Op.TRANSPOSE}) | TRANSPARENT
_SCALING = frozenset({Op.MUL, Op.DIV})


def hot_similarities(context: Context, output: Layer) -> Iterator[Finding]:
    """A finding where an output compares unit vectors at far too low a temperature."""
    graph, stats = context.model.graph, None
    factors, compared = _factors(graph, output)
    if context.probe is not None and compared and factors:
        ends = (output.id, *(edge.source for edge in graph.inputs(output.id)))
        stats = next((seen for key in ends if (seen := context.probe.outputs.get(key))), None)
    severity = next((level for limit, level in LEVELS if stats and stats.std >= limit), None)
    if stats is None or severity is None:
        return
    factor = factors[0]
    param = factor.params[0] if factor.params else None
    name = param.name if param is not None else f"the factor at {factor.id}"
    yield Finding(
        severity=severity,
        confidence=Confidence.MEDIUM,
        layer=factor.id,
        param=param.name if param is not None else None,
        layers=tuple(item.id for item in factors),
        message=f"{factor.id} scales the similarities of unit vectors to logits of std "
        f"{stats.std:.2g}",
        evidence={"logit_std": stats.std, "factors": [item.id for item in factors]},
        why="a softmax over such logits starts certain and wrong, and each step overshoots by the "
        "factor",
        measured=f"logit std {stats.std:.2g}",
        expected="logit std below 5, as with the largest factors in use",
        fix=_milder(factor, name, stats.std),
    )


def _milder(factor: Layer, name: str, std: float) -> Fix:
    """The factor that gives logits of std 1; a fixed one is the user's to change."""
    code = (
        f"make {name} {std:.2g} times milder: for cosines of width d a factor near sqrt(d) gives "
        "logits of std 1"
    )
    param = factor.params[0] if factor.params else None
    if param is None or not param.trainable:
        return Fix("advice", code=code)
    change = std if factor.op is Op.DIV else 1 / std
    return Fix("rescale", params=(param.key,), code=code, arguments={"factor": change})


def _factors(graph: LayerGraph, output: Layer) -> tuple[list[Layer], bool]:
    """Single factors between unit vectors and an output, and whether all that enters is unit."""
    found: list[Layer] = []
    compared, waiting, seen = False, [output.id], {output.id}
    while waiting:
        for layer in graph.producers(waiting.pop()):
            if layer.id in seen:
                continue
            seen.add(layer.id)
            if layer.op is Op.LP_NORM:
                compared = True
            elif layer.op in _SCALING and len(graph.inputs(layer.id)) == 1 and _is_one(layer):
                found.append(layer)
                waiting.append(layer.id)
            elif layer.op in _COMPARING:
                waiting.append(layer.id)
            elif layer.op not in (Op.CONSTANT, Op.INPUT):
                return [], False
    return found, compared


def _is_one(layer: Layer) -> bool:
    """True for a factor that is one number."""
    if layer.params:
        return len(layer.params) == 1 and layer.params[0].size == 1
    constant = layer.attrs.get("constant")
    return constant is not None and getattr(constant, "size", 1) == 1
