"""shared-random-stream: layers drawn from the same stretch of a random generator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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
    same_stream,
)

LEAST = 64
"""Common elements that are evidence: 64 independent ratios agree to 1e-4 with probability below
1e-250."""

HEAD = 16
"""Leading values by which candidates are sorted before they are compared in full."""

_RANDOM = frozenset({Family.UNIFORM, Family.NORMAL, Family.TRUNCATED_NORMAL})


@dataclass(frozen=True, slots=True)
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
    buckets: dict[tuple[int, ...], list[tuple[list[_Drawn], SharedStream | None]]] = {}
    for item in drawn:
        head = item.values[:HEAD].astype(np.float64)
        ratios = head / head[0]
        key = tuple(int(value) for value in np.sign(ratios))
        groups = buckets.setdefault(key, [])
        for number, (group, stream) in enumerate(groups):
            first = group[0].values[:HEAD].astype(np.float64)
            if not np.allclose(ratios, first / first[0], rtol=1e-2):
                continue
            found = same_stream(group[0].values, item.values)
            if found is not None:
                group.append(item)
                groups[number] = (group, stream or _unlike(group[0], item, found))
                break
        else:
            groups.append(([item], None))
    for bucket in buckets.values():
        for group, stream in bucket:
            if stream is not None:
                yield group, stream


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
