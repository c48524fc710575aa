"""identical-critics: two value heads of the same inputs start with the same weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np

from initlint.api import (
    Context,
    Finding,
    Fix,
    Layer,
    LayerGraph,
    Need,
    Op,
    Rule,
    Severity,
    Stage,
)

MOST_ENDS = 16
"""Scalar ends compared with each other: larger ensembles are vectorised, not separate modules."""

_MEETING = frozenset({Op.MINIMUM, Op.MAXIMUM})


class IdenticalCritics(Rule):
    """Two chains of layers read the same tensor, end in one number each, and have equal weights.

    What it does
    ------------
    Follows every scalar output, and both sides of every element-wise minimum, back to where their
    paths meet, and compares the weights layer by layer.

    Why is this bad
    ---------------
    Twin critics (TD3, SAC) take the smaller of two estimates to avoid optimism. With equal weights,
    the same inputs and the same target they get the same gradient and stay equal for ever: the
    minimum of two is one, and the overestimation is back. The same holds for an ensemble made by
    copying.

    How it decides
    --------------
    Both chains start at the same layer and consist of the same operators with bitwise equal, not
    constant weights. Error: no step can separate them.

    What it does not flag
    ---------------------
    Online and target networks (the target is frozen), towers that share their storage, chains that
    end in more than one number, chains with dropout inside (noise separates them).

    Example
    -------
    ::

        import copy

        import torch
        from torch import nn

        class Twins(nn.Module):
            def __init__(self):
                super().__init__()
                self.first = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
                self.second = copy.deepcopy(self.first)

            def forward(self, x):
                return self.first(x), self.second(x)

        def model():
            return Twins()

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        def critic():
            return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))

        class Twins(nn.Module):
            def __init__(self):
                super().__init__()
                self.first = critic()
                self.second = critic()

            def forward(self, x):
                return self.first(x), self.second(x)

        def model():
            return Twins()

    References
    ----------
    - Fujimoto, van Hoof, Meger 2018, Addressing function approximation error in actor-critic
      methods.
    """

    code = "DOM103"
    name = "identical-critics"
    formula = "theta_1 = theta_2  =>  min(Q_1, Q_2) = Q_1 at every step"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH})
    stages = frozenset({Stage.FRESH, Stage.MIXED, Stage.UNKNOWN})
    folds = ("duplicate-layers", "symmetric-units", "identical-incoming", "repeated-draw")

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per group of equal chains, naming both of the first pair."""
        graph = context.model.graph
        told: set[frozenset[str]] = set()  # critics that are called twice are named once
        for ends in _groups(graph):
            equal = [
                (one, other)
                for one, other in combinations(ends[:MOST_ENDS], 2)
                if _stored(one, other) not in told and _are_copies(context, one, other)
            ]
            told.update(_stored(one, other) for one, other in equal)
            if equal:
                yield _finding(equal)


def _groups(graph: LayerGraph) -> Iterator[list[list[Layer]]]:
    """Chains that are compared with each other: those that meet in a minimum, and all outputs."""
    for layer in graph.order:
        if layer.op in _MEETING:
            yield [_chain(graph, above) for above in graph.producers(layer.id)]
    outputs = [layer for layer in graph.order if layer.op is Op.OUTPUT]
    ends = [above for layer in outputs for above in graph.producers(layer.id)]
    chains = [_chain(graph, end) for end in ends]
    yield [chain for chain in chains if _is_scalar(chain)]


def _chain(graph: LayerGraph, end: Layer) -> list[Layer]:
    """Layers from ``end`` back to where another path branches off, the shared layer included."""
    chain = [end]
    while len(above := graph.producers(chain[-1].id)) == 1:
        chain.append(above[0])
        if len(graph.outputs(above[0].id)) > 1:
            break
    return chain


def _is_scalar(chain: list[Layer]) -> bool:
    """True when the last weights of a chain give one number per sample."""
    return any(
        layer.weight is not None and layer.weight.shape[0] == 1
        for layer in chain[:1] + [layer for layer in chain if layer.weight is not None][:1]
    )


def _are_copies(context: Context, one: list[Layer], other: list[Layer]) -> bool:
    if one[0].id == other[0].id or len(one) != len(other) or one[-1].id != other[-1].id:
        return False
    pairs = list(zip(one[:-1], other[:-1], strict=True))
    if any(a.op is not b.op or a.op is Op.DROPOUT for a, b in pairs):
        return False
    if any(not _same_settings(a.attrs, b.attrs) for a, b in pairs):
        return False
    weighted = [(a, b) for a, b in pairs if a.params or b.params]
    if not weighted or not all(_equal(context, a, b) for a, b in weighted):
        return False
    return any(
        not moments.constant
        for a, _ in weighted
        for param in a.params
        if (moments := context.measures.moments(param)) is not None and len(param.shape) > 1
    )


def _stored(one: list[Layer], other: list[Layer]) -> frozenset[str]:
    """Names of the weights that two chains read."""
    layers = one[:-1] + other[:-1]
    return frozenset(param.stored_name for layer in layers for param in layer.params)


def _same_settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(np.asarray(value, dtype=object), np.asarray(other[key], dtype=object))
        for key, value in one.items()
    )


def _equal(context: Context, one: Layer, other: Layer) -> bool:
    """True when two layers hold equal, trainable parameters of their own.

    Exporters store equal values once: one storage under two names is no sharing.
    """
    if len(one.params) != len(other.params):
        return False
    for a, b in zip(one.params, other.params, strict=True):
        shared = a.name == b.name or a.tied_to is not None or b.tied_to is not None
        if shared or a.shape != b.shape or not (a.trainable and b.trainable):
            return False
        left, right = context.measures.read(a), context.measures.read(b)
        if left is None or right is None or not np.array_equal(left, right):
            return False
    return True


def _finding(equal: list[tuple[list[Layer], list[Layer]]]) -> Finding:
    one, other = equal[0]
    weighted = [layer for chain in (one, other) for layer in chain[:-1] if layer.params]
    names = tuple(
        dict.fromkeys(
            layer.id for pair in equal for chain in pair for layer in chain[:-1] if layer.params
        )
    )
    first = next(layer for layer in reversed(one[:-1]) if layer.params)
    second = next(layer for layer in reversed(other[:-1]) if layer.params)
    return Finding(
        severity=Severity.ERROR,
        layer=first.id,
        layers=names,
        message=f"the value heads that start at {first.id} and {second.id} are copies of each "
        "other",
        evidence={"pairs": len(equal), "layers_each": len(weighted) // 2},
        why="equal weights, inputs and targets give equal gradients: the two never differ",
        measured=f"{len(weighted) // 2} layers bitwise equal",
        expected="independent draws",
        fix=Fix(
            "reinitialise",
            params=tuple(param.key for layer in other[:-1] for param in layer.params),
            code="construct the second critic anew, or call reset_parameters() on its layers",
        ),
    )
