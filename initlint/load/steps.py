"""How many steps the recurrent layers of a graph take."""

from __future__ import annotations

from collections import Counter

from initlint.model import RECURRENT, LayerGraph


def sequence_length(graph: LayerGraph) -> int | None:
    """The longest sequence that a recurrent layer of the graph is fed; None where unknown.

    A cell that the forward pass calls again and again takes as many steps as it has layers. A
    layer fed one step at a time is part of a loop that runs elsewhere, and tells nothing.
    """
    found: list[int] = []
    calls: Counter[str] = Counter()
    for layer in graph:
        if layer.op not in RECURRENT:
            continue
        if layer.attrs.get("cell"):
            calls[layer.params[0].tied_to or layer.params[0].key if layer.params else layer.id] += 1
            continue
        steps = layer.attrs.get("sequence_length")
        if isinstance(steps, int):
            found.append(steps)
    longest = max((*found, *calls.values()), default=0)
    return longest if longest > 1 else None
