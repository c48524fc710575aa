"""Which layers hold parameters that are known by name only."""

from __future__ import annotations

from collections.abc import Iterable

from initlint.api import Model


def layers_of(model: Model, names: Iterable[str]) -> tuple[str, ...]:
    """Ids of the layers that hold the named parameters, in the graph's order.

    A parameter that no layer reads stands for itself, by the path of its module.
    """
    wanted = dict.fromkeys(names)
    found = [layer.id for layer, param in model.graph.params if param.name in wanted]
    placed = {param.name for _, param in model.graph.params}
    loose = (name.rpartition(".")[0] or name for name in wanted if name not in placed)
    return tuple(dict.fromkeys((*found, *loose)))


def listed(names: Iterable[str]) -> str:
    """The first three of some names, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - 3} more" if len(every) > 3 else ""
    return f"{', '.join(every[:3])}{more}"
