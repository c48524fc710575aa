"""The layers whose outputs leave a network, for the rules that judge them."""

from __future__ import annotations

from collections.abc import Iterator

from initlint.api import TRANSPARENT, Context, Layer, LayerGraph, Op, Param, Stage

SEEN_THROUGH = TRANSPARENT | {Op.CONCAT}


def last_layers(graph: LayerGraph) -> Iterator[Layer]:
    """Weighted layers whose outputs leave the network unchanged, or side by side with others."""
    seen: set[str] = set()
    pending = [layer.id for layer in graph.order if layer.op is Op.OUTPUT]
    while pending:
        for layer in graph.effective_producers(pending.pop()):
            if layer.id in seen:
                continue
            seen.add(layer.id)
            if layer.op in (Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE):
                if graph.is_head(layer.id):
                    yield layer
            elif layer.op in SEEN_THROUGH:
                pending.append(layer.id)


def is_drawn(context: Context, weight: Param) -> bool:
    """Not trained: a few weights may be too few to tell by themselves."""
    stage = context.measures.stage(weight)
    return stage is Stage.FRESH or (stage is Stage.UNKNOWN and context.stage is Stage.FRESH)
