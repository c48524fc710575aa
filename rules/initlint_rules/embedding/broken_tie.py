"""broken-tie: a head that should share the embedding's table holds other numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from initlint.api import (
    Context,
    Finding,
    Fix,
    Layer,
    Need,
    Op,
    Param,
    Rule,
    Severity,
    Stage,
)

MIN_CORRELATION = 0.5
"""Correlation from which two tables of one shape, not said to be tied, once were one: independent
draws of n weights correlate by 1/sqrt(n), and tables trained apart from the start by far less."""

MIN_ELEMENTS = 1024
"""Smaller tables correlate by more than 3 % by chance, and may be equal on purpose."""


class BrokenTie(Rule):
    """The output head should share the embedding's table, but the two hold different numbers.

    What it does
    ------------
    Compares the table of token vectors with an output head of the same shape, where the model's
    configuration says that they are one (``tie_word_embeddings``), and looks for heads that are an
    altered copy of the table.

    Why is this bad
    ---------------
    A tie that was lost when weights were loaded, re-initialised or saved leaves a head that was
    never trained, or one of two halves that learn apart: each gets half of the gradients that the
    table was meant to get. Code that trusts the configuration drops one of them when it loads the
    checkpoint.

    How it decides
    --------------
    The configuration says tied and the stored values differ: warning, error when the head is as it
    was drawn while the table is trained. In a module that was just built, equal values in two
    storages: warning, they part at the first step. Without a configuration: tables that differ but
    correlate by more than 0.5 are an info.

    What it does not flag
    ---------------------
    One storage (a working tie), equal copies in a file (exporters write the table twice), a
    configuration that unties them, tables of other shapes, heads and tables that never were one.

    Example
    -------
    ::

        import torch
        from torch import nn

        class Config:
            tie_word_embeddings = True

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.config = Config()
                self.embed = nn.Embedding(200, 32)
                nn.init.normal_(self.embed.weight, std=0.02)
                self.norm = nn.LayerNorm(32)
                self.head = nn.Linear(32, 200, bias=False)

            def forward(self, ids):
                return self.head(self.norm(self.embed(ids)))

        def model():
            return Model()

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        class Config:
            tie_word_embeddings = True

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.config = Config()
                self.embed = nn.Embedding(200, 32)
                nn.init.normal_(self.embed.weight, std=0.02)
                self.norm = nn.LayerNorm(32)
                self.head = nn.Linear(32, 200, bias=False)
                self.head.weight = self.embed.weight

            def forward(self, ids):
                return self.head(self.norm(self.embed(ids)))

        def model():
            return Model()

    References
    ----------
    - Press, Wolf 2017, Using the output embedding to improve language models.
    - transformers, PretrainedConfig.tie_word_embeddings and PreTrainedModel.tie_weights.
    """

    code = "EMB804"
    name = "broken-tie"
    formula = "head.weight != embedding.weight where the configuration says they are one"
    needs = frozenset({Need.WEIGHTS})
    stages = frozenset(Stage)
    folds = ("duplicate-layers", "never-trained-layer")

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per pair of table and head."""
        declared = _declared(context.model.metadata.get("config"))
        if declared is False:
            return
        params = context.model.graph.params
        tables = [(layer, param) for layer, param in params if _is_table(layer, param)]
        if not tables:
            return
        if declared and any(_is_tied(param, table) for _, param in params for _, table in tables):
            return  # what the configuration promises is kept; other tables have no part in it
        heads = [(layer, param) for layer, param in params if _is_head(context, layer, param)]
        for table in tables:
            for head in heads:
                found = _compare(context, table, head, declared is True)
                if found is not None:
                    yield found


def _declared(config: object) -> bool | None:
    """What a configuration says about the tie, its own or its text part's; None: nothing."""
    if not isinstance(config, Mapping):
        return None
    for part in (config, config.get("text_config")):
        if isinstance(part, Mapping) and isinstance(part.get("tie_word_embeddings"), bool):
            return bool(part["tie_word_embeddings"])
    return None


def _is_table(layer: Layer, param: Param) -> bool:
    return layer.op is Op.EMBEDDING and layer.weight is param and param.size >= MIN_ELEMENTS


def _is_tied(param: Param, table: Param) -> bool:
    """True for another layer's parameter that is the table itself."""
    return param is not table and param.tied_to == table.name


def _is_head(context: Context, layer: Layer, param: Param) -> bool:
    if layer.op is not Op.LINEAR or layer.weight is not param or param.tied_to is not None:
        return False
    return not context.model.connected or context.model.graph.is_head(layer.id)


def _compare(
    context: Context, table: tuple[Layer, Param], head: tuple[Layer, Param], declared: bool
) -> Finding | None:
    (_, rows), (_, weight) = table, head
    if rows.shape != weight.shape or rows.quantised or weight.quantised:
        return None
    if rows.tied_to == weight.name or (rows.stored_name and rows.stored_name == weight.stored_name):
        return None
    left, right = context.measures.read(rows), context.measures.read(weight)
    if left is None or right is None:
        return None
    equal = bool(np.array_equal(left, right))
    if equal:
        drawn = context.model.fresh_hint is True
        return _finding(table, head, Severity.WARNING, 1.0, equal) if declared and drawn else None
    correlation = _correlation(left, right)
    if declared:
        untrained = (
            context.measures.stage(weight) is Stage.FRESH
            and context.measures.stage(rows) is Stage.TRAINED
        )
        severity = Severity.ERROR if untrained else Severity.WARNING
        return _finding(table, head, severity, correlation, equal)
    if MIN_CORRELATION < correlation < 1.0:
        return _finding(table, head, Severity.INFO, correlation, equal)
    return None


def _correlation(left: np.ndarray, right: np.ndarray) -> float:
    a = left.astype(np.float64).reshape(-1)
    b = right.astype(np.float64).reshape(-1)
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt(np.dot(a, a)) * np.sqrt(np.dot(b, b)))
    return float(np.dot(a, b)) / scale if scale > 0 else 0.0


def _finding(
    table: tuple[Layer, Param],
    head: tuple[Layer, Param],
    severity: Severity,
    correlation: float,
    equal: bool,
) -> Finding:
    (embedding, rows), (layer, weight) = table, head
    if equal:
        message = f"{weight.name} is a copy of {rows.name}, which the configuration calls tied"
    elif severity is Severity.INFO:
        message = (
            f"{weight.name} is {rows.name} changed (correlation {correlation:.2f}): a tie that "
            "broke, or was cut"
        )
    else:
        never = " and was never trained" if severity is Severity.ERROR else ""
        message = (
            f"{weight.name} differs from {rows.name}{never}, though the configuration says that "
            "they are tied"
        )
    return Finding(
        severity=severity,
        layer=layer.id,
        param=weight.name,
        layers=(layer.id, embedding.id),
        message=message,
        evidence={"correlation": correlation, "equal": equal, "rows": rows.shape[0]},
        why="two tables in place of one: each learns from its own half of the gradients, and a "
        "loader that ties them drops one",
        measured="two storages with equal values"
        if equal
        else f"different values, correlation {correlation:.2f}",
        expected="one storage",
        fix=Fix(
            "tie",
            params=(weight.key,),
            code=f"{layer.id}.weight = {embedding.id}.weight  # after loading, before training",
        ),
    )
