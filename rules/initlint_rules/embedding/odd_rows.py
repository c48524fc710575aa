"""odd-rows: rows of a vocabulary table that are filled in instead of drawn."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

import numpy as np

from initlint.api import (
    Confidence,
    Context,
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
    dominators,
)

MIN_ROWS = 64
"""Fewer rows give no distribution to be odd in."""

MAX_ELEMENTS = 1 << 26
"""Tables above 64 million values (256 MiB) are not read whole for this."""

REPEATED = 8
"""Equal rows that count as one group: resized tables fill all new rows with one vector; a pair of
equal rows can be two unused tokens."""


class OddRows(Rule):
    """Some rows of a vocabulary table are zero or repeat one vector.

    What it does
    ------------
    Looks in embedding tables for rows that are exactly zero and for groups of equal rows, and in
    codebooks (tables that are compared with what they are to replace) for codes that are copies.

    Why is this bad
    ---------------
    A table resized for new tokens gets rows of zeros or of one repeated vector. Tokens with equal
    rows mean the same to the network, a zero row is no token at all, and in a head tied to the
    table they all share one logit. Of equal codes the first is the nearest to everything: the
    others are never chosen and never get a gradient. A table of one vector alone (a constant)
    hands on the same signal for every token, until its rows have parted.

    How it decides
    --------------
    Zero rows beside the padding row, and groups of eight or more equal rows. Always an info: rows
    of tokens that never occur look the same. A fresh table of one vector that all of the signal
    comes through: info, for its rows receive different gradients and part. A fresh codebook of
    which at most half of the codes differ: warning.

    What it does not flag
    ---------------------
    The padding row, tables that are zero altogether (`zero-weight`), single rows of tables of fewer
    than 64, tables of one vector beside another path (gains and positions that are looked up),
    quantised tables.

    Example
    -------
    ::

        import torch
        from torch import nn

        def model():
            torch.manual_seed(0)
            net = nn.Sequential(nn.Embedding(512, 64), nn.Linear(64, 64), nn.Tanh(),
                                nn.Linear(64, 10))
            with torch.no_grad():
                net[0].weight[-16:] = net[0].weight[:-16].mean(0)
            return net

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        def model():
            torch.manual_seed(0)
            net = nn.Sequential(nn.Embedding(512, 64), nn.Linear(64, 64), nn.Tanh(),
                                nn.Linear(64, 10))
            with torch.no_grad():
                mean, spread = net[0].weight[:-16].mean(0), net[0].weight[:-16].std()
                net[0].weight[-16:] = mean + spread * torch.randn(16, 64)
            return net

    References
    ----------
    - Hewitt 2021, Initializing new word embeddings for pretrained language models.
    - transformers, modeling_utils.py: resize_token_embeddings with mean_resizing.
    """

    code = "EMB803"
    name = "odd-rows"
    formula = "|row| = 0 beside the padding row,  or row_i = row_j for eight and more, or for all"
    needs = frozenset({Need.WEIGHTS})
    stages = frozenset(Stage)
    folds = ("correlation-collapse", "zero-gradient")

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per kind of oddity and table."""
        graph = context.model.graph
        for layer in graph.order:
            weight = layer.weight
            if layer.op is Op.EMBEDDING and weight is not None and weight.size <= MAX_ELEMENTS:
                if _is_codebook(graph, layer, weight):
                    yield from _copied_codes(context, layer, weight)
                elif _is_one_vector(context, layer, weight):
                    yield _one_vector(layer, weight)
                else:
                    yield from _examine(context, layer, weight)


def _is_codebook(graph: LayerGraph, layer: Layer, weight: Param) -> bool:
    """True where the table itself has a say in which of its rows is read."""
    above = graph.upstream([layer.id])
    return any(param.key == weight.key for key in above for param in graph[key].params)


def _is_one_vector(context: Context, layer: Layer, weight: Param) -> bool:
    """True for a fresh table of one vector, not of zeros, that every path from the input crosses.

    Elsewhere it may be a gain or a shift per class, which starts alike for all.
    """
    if weight.shape[0] < 3 or not weight.trainable or weight.quantised:
        return False
    moments = context.measures.moments(weight)
    if moments is None or moments.non_finite or moments.max_abs == 0:
        return False
    groups = context.measures.duplicates(weight)
    if len(groups) != 1 or len(groups[0]) < weight.shape[0]:
        return False
    if context.measures.stage(weight) is Stage.TRAINED:
        return False
    return layer.id in dominators(context.model.graph)


def _one_vector(layer: Layer, weight: Param) -> Finding:
    return Finding(
        severity=Severity.INFO,
        confidence=Confidence.HIGH,
        layer=layer.id,
        param=weight.name,
        message=f"all {weight.shape[0]} rows of {weight.name} are one vector: every token looks "
        "the same until the first steps have parted them",
        evidence={"distinct": 1, "count": weight.shape[0], "kind": "one vector"},
        why="what is the same for every token tells the layers behind nothing about the input",
        measured=f"1 distinct of {weight.shape[0]} rows",
        expected="random vectors",
        fix=Fix(
            "reinitialise",
            params=(weight.key,),
            code=f"torch.nn.init.normal_({weight.name})",
        ),
    )


def _copied_codes(context: Context, layer: Layer, weight: Param) -> Iterator[Finding]:
    rows = weight.shape[0]
    distinct = rows - sum(len(group) - 1 for group in context.measures.duplicates(weight))
    if rows < 2 or 2 * distinct > rows or context.measures.stage(weight) is Stage.TRAINED:
        return
    yield Finding(
        severity=Severity.WARNING,
        confidence=Confidence.HIGH,
        layer=layer.id,
        param=weight.name,
        message=f"only {distinct} of {rows} codes of {weight.name} are distinct: the first of all "
        "copies is always the nearest, and the others are never chosen",
        evidence={"distinct": distinct, "count": rows, "kind": "codes"},
        why="a code learns from what it is chosen for; copies tie for the same inputs, and ties go "
        "to the first",
        measured=f"{distinct} distinct of {rows} rows",
        expected=f"{rows} distinct rows",
        fix=Fix(
            "uniform",
            params=(weight.key,),
            arguments={"bound": 1 / rows},
            code=f"torch.nn.init.uniform_({weight.name}, -1 / {rows}, 1 / {rows}), or draw codes "
            "from the encoder's outputs",
        ),
    )


def _examine(context: Context, layer: Layer, weight: Param) -> Iterator[Finding]:
    if weight.quantised or weight.shape[0] < MIN_ROWS:
        return
    values = context.measures.read(weight)
    if values is None or not np.isfinite(values).all():
        return
    norms = np.sqrt(np.square(values.astype(np.float64)).sum(axis=1))
    padding = layer.attrs.get("padding_idx")
    zero = np.flatnonzero(norms == 0)
    zero = zero[zero != padding] if padding is not None else zero
    if 1 < len(zero) < len(norms) or (len(zero) == 1 and zero[0] != 0):
        yield _finding(layer, weight, zero, "are zero")
    equal = [
        np.asarray(group)
        for group in context.measures.duplicates(weight)
        if len(group) >= REPEATED and norms[group[0]] > 0
    ]
    if equal and sum(map(len, equal)) < len(norms) / 2:
        rows = np.sort(np.concatenate(equal))
        yield _finding(layer, weight, rows, "repeat one vector")


def _finding(
    layer: Layer,
    weight: Param,
    rows: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    what: str,
) -> Finding:
    shown = ", ".join(str(row) for row in rows[:5]) + (" ..." if len(rows) > 5 else "")
    return Finding(
        severity=Severity.INFO,
        confidence=Confidence.HIGH,
        layer=layer.id,
        param=weight.name,
        message=f"{len(rows)} of {weight.shape[0]} rows of {weight.name} {what}: {shown}",
        evidence={"rows": [int(row) for row in rows[:20]], "count": len(rows), "kind": what},
        why="rows filled in for new or unused tokens carry nothing the network has learnt",
        measured=f"{len(rows)} rows {what}",
        expected="rows drawn around the mean of the others, with their spread",
        fix=Fix(
            "advice",
            code=f"draw these rows of {weight.name} from N(mean of the other rows, their std); the "
            f"spread per value is about 1/sqrt({weight.shape[1]}) of a row's norm "
            f"({1 / sqrt(weight.shape[1]):.2g})",
        ),
    )
