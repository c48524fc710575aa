"""shared-random-stream: layers drawn from the same stretch of a random generator."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, product
from typing import Any

import numpy as np

from initlint.api import (
    STREAM_MOST,
    WEIGHTED,
    Context,
    Family,
    Finding,
    Fix,
    Layer,
    Need,
    Param,
    Role,
    Rule,
    Severity,
    SharedStream,
    Stage,
    record,
    same_stream,
)

LEAST = 64
"""Common elements that are evidence: 64 independent ratios agree to 1e-4 with probability below
1e-250."""

CLOSE, CLOSE_TO_ZERO = 1e-2, 1e-8
"""How far ratios of first values may be apart, relative and absolute, for layers to be compared."""

SIDES = 3
"""Ratios by which layers are sorted into cells: a million cells for every factor of e."""

HEAD = 16
"""Leading values by which candidates are sorted before they are compared in full."""

_RANDOM = frozenset({Family.UNIFORM, Family.NORMAL, Family.TRUNCATED_NORMAL})


@record(frozen=True, slots=True)
class _Drawn:
    layer: Layer
    param: Param
    values: Any


class SharedRandomStream(Rule):
    """Weights of different layers are multiples of each other: their generator was seeded anew.

    What it does
    ------------
    Finds layers of different shape or scale whose values, in the order in which they are stored,
    are proportional over the whole of the shorter one.

    Why is this bad
    ---------------
    A seed that is set before every layer, or an initialiser object with a fixed seed that is used
    twice, gives every layer the same random numbers. Layers that should be independent are
    correlated, and mean-field reasoning, ensembles and random features lose their ground.

    How it decides
    --------------
    Exact: the ratio of corresponding values is constant to 1e-4 over at least 64 values. A warning.

    What it does not flag
    ---------------------
    Layers that are equal element by element (duplicate-layers), tied weights, frozen parameters,
    deterministic tables, orthogonal matrices, fewer than 64 values, trained weights.

    Example
    -------
    ::

        import torch
        from torch import nn

        def seeded(inputs, outputs):
            torch.manual_seed(42)
            return nn.Linear(inputs, outputs)

        def model():
            return nn.Sequential(
                seeded(64, 128), nn.ReLU(), seeded(128, 32), nn.ReLU(), nn.Linear(32, 4)
            )

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        def model():
            torch.manual_seed(42)
            return nn.Sequential(
                nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 4)
            )

    References
    ----------
    - Keras, random_initializers.py: an initializer instance with a seed returns the same values at
      every call.
    """

    code = "SYM105"
    name = "shared-random-stream"
    formula = "b_k = r a_k for all k,  |b_k / a_k - r| < 1e-4 |r|"
    needs = frozenset({Need.WEIGHTS})
    stages = frozenset({Stage.FRESH, Stage.MIXED})

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per group of layers from one stream."""
        for group, stream in _groups(_drawn(context)):
            yield _finding(group, stream)


def _drawn(context: Context) -> list[_Drawn]:
    found: list[_Drawn] = []
    stored: set[tuple[str, str | None, int]] = set()
    for layer, param in context.model.graph.params:
        key = (param.stored_name or param.name, param.gate, param.direction)
        if key in stored or layer.op not in WEIGHTED:
            continue
        stored.add(key)
        usable = (
            param.role in (Role.WEIGHT, Role.RECURRENT_WEIGHT)
            and param.trainable
            and param.tied_to is None
            and not param.quantised
            and param.size >= LEAST
        )
        if not usable or context.measures.stage(param) is not Stage.FRESH:
            continue
        if context.measures.identify(param).family not in _RANDOM:
            continue
        values = _as_stored(context, param)
        if values is not None and np.abs(values[:HEAD]).min() > 0.0:
            found.append(_Drawn(layer, param, values))
    return found


def _as_stored(context: Context, param: Param) -> Any:
    """As many values as are compared, in the order in which they were drawn."""
    tensor = param.tensor
    if tensor is None:
        return None
    kinds = {view.kind for view in tensor.views}
    if kinds <= {"reshape"} or ("transpose" in kinds and not param.gate):
        return tensor.source.read(0, min(param.size, STREAM_MOST))
    array = context.measures.leading(param)
    return None if array is None else array.reshape(-1)[:STREAM_MOST].copy()


def _groups(drawn: list[_Drawn]) -> Iterator[tuple[list[_Drawn], SharedStream]]:
    """Layers proportional to the first of their group; sorted first, so that few are compared."""
    groups: list[tuple[list[_Drawn], Any]] = []
    streams: dict[int, SharedStream | None] = {}
    signs: dict[tuple[int, ...], None] = {}
    cells: dict[tuple[object, ...], list[int]] = {}
    places: list[tuple[int, ...]] = []
    for item in drawn:
        head = item.values[:HEAD].astype(np.float64)
        ratios = head / head[0]
        key = tuple(int(value) for value in np.sign(ratios))
        signs.setdefault(key)
        cell = _cell(ratios)
        near = (cells.get((key, *other), ()) for other in _around(cell))
        for number in sorted(chain.from_iterable(near)):
            group, first = groups[number]
            if not np.allclose(ratios, first, rtol=CLOSE, atol=CLOSE_TO_ZERO):
                continue
            found = same_stream(group[0].values, item.values)
            if found is not None:
                group.append(item)
                streams[number] = streams.get(number) or _unlike(group[0], item, found)
                break
        else:
            cells.setdefault((key, *cell), []).append(len(groups))
            groups.append(([item], ratios))
            places.append(key)
    rank = {key: number for number, key in enumerate(signs)}
    for number in sorted(streams, key=lambda number: (rank[places[number]], number)):
        stream = streams[number]
        if stream is not None:
            yield groups[number][0], stream


def _cell(ratios: Any) -> tuple[int, ...]:
    """The cell of a grid of logarithms that the first ratios lie in; close ones lie side by side.

    Weights around a common mean have one sign, and all of a network's would else be compared.
    """
    logarithms = np.log(np.abs(ratios[1 : 1 + SIDES]) + CLOSE_TO_ZERO / CLOSE)
    return tuple(np.floor(logarithms / (1.02 * CLOSE)).astype(int).tolist())


def _around(cell: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """A cell and those beside it."""
    return product(*((side - 1, side, side + 1) for side in cell))


def _unlike(first: _Drawn, second: _Drawn, stream: SharedStream) -> SharedStream | None:
    """None for copies, which duplicate-layers reports."""
    equal = first.param.shape == second.param.shape and abs(stream.ratio - 1.0) < 1e-6
    return None if equal else stream


def _finding(group: list[_Drawn], stream: SharedStream) -> Finding:
    layers = tuple(dict.fromkeys(item.layer.id for item in group))
    names = ", ".join(layers[:3]) + (f" and {len(layers) - 3} more" if len(layers) > 3 else "")
    return Finding(
        severity=Severity.WARNING,
        layer=layers[0],
        param=group[0].param.name,
        layers=layers,
        message=f"{names} were drawn from the same random numbers",
        evidence={
            "ratio": stream.ratio,
            "spread": stream.spread,
            "compared": stream.count,
            "params": [item.param.name for item in group[:20]],
        },
        why="a generator seeded anew before each layer repeats its numbers; the layers are "
        "multiples of each other",
        measured=f"ratio {stream.ratio:.6g}, the same to {stream.spread:.1g} over {stream.count} "
        "values",
        expected="independent draws",
        fix=Fix(
            "redraw",
            params=tuple(item.param.key for item in group[1:]),
            code="seed once, before the model is built; give each layer its own initialiser",
        ),
    )
