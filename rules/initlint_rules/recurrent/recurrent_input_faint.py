"""recurrent-input-faint: gated cells whose input weights start small beside a small neighbour."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import sqrt

from initlint.api import (
    NORMALISERS,
    RECURRENT,
    WEIGHTED,
    Context,
    Finding,
    Fix,
    Layer,
    Need,
    Op,
    Param,
    Role,
    Rule,
    Severity,
    Stage,
    fans,
    record,
)

FAINT = 10**-0.7
"""Gain sqrt(fan_in Var(W)) of a factor below which the gradient of the other is worth a word, as in
`residual-branch-faint`: the least drift that is one. An encoder and a decoder of GRUs with all
weights of N(0, 0.001) made 0.83 of their twin's progress, 1.02 with the encoder's input weights at
their scale and 1.00 with the head alone; all of U(-0.08, 0.08) at width 32 they made 0.54, 0.89
with the tokens' table alone, 0.81 with the input weights alone, 0.91 with both."""


class RecurrentInputFaint(Rule):
    """A gated cell reads, or is read, through two factors in a row that both start small.

    What it does
    ------------
    Compares the input weights of LSTM and GRU layers with 1/sqrt(fan_in), and with them what stands
    next to them: the tables or layers that they read, and the layers that read the cell.

    Why is this bad
    ---------------
    One small factor opens at once, for its own gradient is of full size. Of two in a row each one's
    gradient is multiplied with the other's small factor: a saddle, from which SGD needs hundreds of
    steps. The usual reason is a standard deviation that was meant for another width: U(-0.08, 0.08)
    at a thousand units gives a gain of 1.5, at 32 of 0.26.

    How it decides
    --------------
    Gains sqrt(fan_in Var(W)) of all input weights of a cell below 0.2, and those of all that it
    reads or of all that reads it (a table's standard deviation) below it as well: an info, for Adam
    opens them in some hundred steps.

    What it does not flag
    ---------------------
    One small factor alone (a table of N(0, 0.02) before a framework's cell, a small head); zeros; a
    normaliser between; plain cells, whose input starts small on purpose beside an identity; trained
    or frozen layers.

    Example
    -------
    ::

        from torch import nn

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.tokens, self.cell = nn.Embedding(50, 32), nn.GRU(32, 32, batch_first=True)
                self.head = nn.Linear(32, 5)
                for weight in self.parameters():
                    nn.init.uniform_(weight, -0.05, 0.05)

            def forward(self, ids):
                return self.head(self.cell(self.tokens(ids))[0].mean(1))

        def model():
            return Model()

    Use instead
    -----------
    ::

        from torch import nn

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.tokens, self.cell = nn.Embedding(50, 32), nn.GRU(32, 32, batch_first=True)
                self.head = nn.Linear(32, 5)

            def forward(self, ids):
                return self.head(self.cell(self.tokens(ids))[0].mean(1))

        def model():
            return Model()

    References
    ----------
    - Saxe, McClelland, Ganguli 2014, Exact solutions to the nonlinear dynamics of learning in deep
      linear neural networks: the saddle at zero of two factors.
    - Sutskever, Vinyals, Le 2014, Sequence to sequence learning: U(-0.08, 0.08), at width 1000.
    """

    code = "REC408"
    name = "recurrent-input-faint"
    formula = "dL/dW_1 ~ W_2,  dL/dW_2 ~ W_1:  both gains below 10^-0.7"
    since = "0.1"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH})
    stages = frozenset({Stage.FRESH})

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding that names every such cell and its neighbours."""
        found: dict[str, _Pair] = {}
        for cell in context.model.graph.order:
            pair = _pair(context, cell) if cell.op in (Op.LSTM, Op.GRU) else None
            if pair is not None:
                found.setdefault(pair.weights[0].key, pair)
        if found:
            yield _finding(context, list(found.values()))


@record(frozen=True, slots=True)
class _Pair:
    """A cell whose input weights are small, and the small neighbours."""

    cell: Layer
    weights: tuple[Param, ...]
    gain: float
    beside: tuple[Layer, ...]
    tables: tuple[Param, ...]


def _pair(context: Context, cell: Layer) -> _Pair | None:
    weights = cell.with_role(Role.WEIGHT)
    own = _gain(context, cell)
    if not weights or own is None or own >= FAINT:
        return None
    read, reading = _read(context, cell), _reading(context, cell)
    sides = [side for side in (read, reading) if side and _all_faint(context, side)]
    if not sides:
        return None
    tables = [layer.weight for layer in read if layer.op is Op.EMBEDDING] if read in sides else []
    return _Pair(
        cell,
        weights,
        own,
        tuple(layer for side in sides for layer in side),
        tuple(table for table in tables if table is not None),
    )


def _gain(context: Context, layer: Layer) -> float | None:
    """The largest gain of a layer's input weights; None for zeros, trained and frozen ones."""
    gains = []
    for param in layer.with_role(Role.WEIGHT):
        std, fan = context.measures.effective_std(param), fans(layer, param)
        trained = context.measures.stage(param) is Stage.TRAINED
        if not std or fan is None or trained or not param.trainable:
            return None
        gains.append(std * sqrt(fan.fan_in))
    return max(gains, default=None)


def _all_faint(context: Context, layers: Iterable[Layer]) -> bool:
    return all((gain := _gain(context, layer)) is not None and gain < FAINT for layer in layers)


def _read(context: Context, cell: Layer) -> list[Layer]:
    """Tables and layers that a cell's input is made of; none behind a normaliser or raw data."""
    graph, found = context.model.graph, dict[str, Layer]()
    edges = graph.inputs(cell.id)
    waiting, seen = [edge.source for edge in edges if edge.position == 0], set[str]()
    while waiting:
        layer = graph[waiting.pop()]
        if layer.id in seen:
            continue
        seen.add(layer.id)
        if layer.op in NORMALISERS or layer.op is Op.INPUT:
            return []
        if layer.op in WEIGHTED:
            found[layer.id] = layer
        else:
            waiting.extend(edge.source for edge in graph.inputs(layer.id))
    return list(found.values())


def _reading(context: Context, cell: Layer) -> list[Layer]:
    """Layers with weights that a cell's output enters; none where a normaliser is among them."""
    graph, found = context.model.graph, dict[str, Layer]()
    waiting, seen = [cell.id], set[str]()
    while waiting:
        for layer in graph.consumers(waiting.pop()):
            if layer.id in seen:
                continue
            seen.add(layer.id)
            if layer.op in NORMALISERS:
                return []
            if layer.op in WEIGHTED:
                if not _is_itself(layer, cell):
                    found[layer.id] = layer
            else:
                waiting.append(layer.id)
    return list(found.values())


def _is_itself(layer: Layer, cell: Layer) -> bool:
    """True for the next step of a cell that a loop wrote out."""
    own = {param.key for param in cell.params}
    return layer.op in RECURRENT and any(param.key in own for param in layer.params)


def _finding(context: Context, found: list[_Pair]) -> Finding:
    first = found[0]
    keys = dict.fromkeys(pair.cell.id for pair in found)
    beside = dict.fromkeys(layer.id for pair in found for layer in pair.beside)
    near = first.beside[0]
    other = _gain(context, near) or 0.0
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    changed = [param for pair in found for param in (*pair.weights, *pair.tables)]
    name = first.weights[0].name
    return Finding(
        severity=Severity.INFO,
        layer=first.cell.id,
        param=name,
        layers=(*keys, *(key for key in beside if key not in keys)),
        message=f"input weights of {first.cell.id}{more} start with a gain of {first.gain:.2g}, "
        f"and {near.id} next to them with {other:.2g}: each one's gradient waits for the other",
        evidence={"cells": len(found), "gain": first.gain, "neighbour": other},
        why="the gradient of each of two factors in a row is multiplied with the other",
        measured=f"gains sqrt(fan_in Var(W)) of {first.gain:.2g} and {other:.2g}",
        expected=f"one of them above {FAINT:.1g}, the input weights near 1",
        fix=Fix(
            "scale_preserving",
            params=tuple(dict.fromkeys(param.key for param in changed)),
            code=f"torch.nn.init.xavier_uniform_({name}), gate by gate"
            + (f", and torch.nn.init.normal_({first.tables[0].name})" if first.tables else ""),
        ),
    )
