"""rank-deficient-init: a fresh matrix that spans far fewer directions than it has rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from initlint.api import (
    Context,
    Family,
    Finding,
    Fix,
    Kind,
    Layer,
    Need,
    Op,
    Param,
    Role,
    Rule,
    Severity,
    Stage,
)
from initlint_rules._consequences import SIGNALS

SMALLEST_SIDE = 8
"""Sides below which a matrix holds too few directions for their number to tell anything."""

LEAST_SHARE = 0.5
"""Share of the directions that must be there. A random matrix has all of them, a random one times
[1; -1] (looks-linear) exactly half."""

FLOOR = 1e-3
"""Singular values below this share of the largest count as none: a square Gaussian matrix of n
rows has its smallest near 1/(2n) of the largest, so up to 500 rows only one falls below."""

ROWS = 96
"""Rows that are looked at: the rank of any 96 of n rows is full for a full-rank matrix, and the
cost (96^2 n) stays below that of reading the weights. Deficient matrices of a rank between half of
96 and half of their side are not found."""

COLUMNS = 16 * ROWS
"""Columns that are looked at, spread over all: as many times more as keep the singular values of a
random matrix together ((1 + 1/4) / (1 - 1/4) between the largest and the smallest)."""

FEW_VALUES = 3
"""Magnitudes up to which a matrix is a structure (identity, Hadamard, mask), not a draw."""

_STRUCTURES = frozenset(
    {
        Family.ZEROS,
        Family.ONES,
        Family.CONSTANT,
        Family.IDENTITY,
        Family.DIRAC,
        Family.ORTHOGONAL,
        Family.DELTA_ORTHOGONAL,
        Family.SPARSE,
        Family.HADAMARD,
        Family.DETERMINISTIC,
    }
)


class RankDeficientInit(Rule):
    """A fresh weight matrix spans far fewer directions than it has rows and columns.

    What it does
    ------------
    Counts the singular values of freshly drawn matrices and kernels, rows that are zero or repeat
    another left out.

    Why is this bad
    ---------------
    A matrix of rank r passes on r numbers of its input and drops the rest, and as many gradient
    directions reach the layers before. Products of thin factors, a broadcast that repeats one
    row with different factors, or a truncated decomposition give such matrices. Training can raise
    the rank, but only through directions that the loss happens to ask for.

    How it decides
    --------------
    Fewer than half of the singular values above 1/1000 of the largest, of 96 rows at most. Warning;
    error at rank one.

    What it does not flag
    ---------------------
    Low rank by construction (the factors are the parameters), exact structures (identity, dirac,
    Hadamard, masks, zeros), repeated rows (identical-incoming), pruned rows, looks-linear pairs
    [W; -W], depthwise and resampling kernels, frozen filter banks, trained weights.

    Example
    -------
    ::

        import torch
        from torch import nn

        def model():
            net = nn.Sequential(
                nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 64), nn.Tanh(), nn.Linear(64, 32)
            )
            with torch.no_grad():
                net[4].weight.copy_(torch.randn(32, 4) @ torch.randn(4, 64) / 16)
            return net

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        def model():
            net = nn.Sequential(
                nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 64), nn.Tanh(), nn.Linear(64, 32)
            )
            nn.init.orthogonal_(net[4].weight)
            return net

    References
    ----------
    - Zhao, Schaefer, Anandkumar 2022, ZerO initialization: rank constraints in training.
    - Saxe, McClelland, Ganguli 2014: orthogonal weights keep all directions.
    """

    code = "SYM107"
    name = "rank-deficient-init"
    formula = "#{s_i > s_1 / 1000} < min(rows, columns) / 2"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH})
    stages = frozenset({Stage.FRESH})
    local = True
    folds = (*SIGNALS, "gain-mismatch", "distribution-anomaly", "inconsistent-siblings")

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per matrix."""
        for layer, param in context.model.graph.params:
            if not _is_judged(context, layer, param):
                continue
            array = context.measures.read(param)
            counted = _rank(array) if array is not None else None
            if counted is None:
                continue
            rank, side = counted
            if rank < LEAST_SHARE * side:
                yield _finding(context, layer, param, rank, side)


def _is_judged(context: Context, layer: Layer, param: Param) -> bool:
    if layer.op not in (Op.LINEAR, Op.CONV) or param.role is not Role.WEIGHT:
        return False
    if not param.trainable or param.quantised or int(layer.attrs.get("groups", 1)) > 1:
        return False
    model = context.model
    if model.kind is Kind.TORCH and model.runnable is not None and not param.stored_name:
        return False  # made from other parameters: low rank by construction
    if len(param.shape) < 2 or min(param.shape[0], param.size // param.shape[0]) < SMALLEST_SIDE:
        return False
    return context.measures.identify(param).family not in _STRUCTURES


def _rank(array: Any) -> tuple[int, int] | None:
    """Singular values above the floor, and how many there could be; None where enough are there."""
    matrix = array.reshape(array.shape[0], -1)
    step = -(-len(matrix) // ROWS)
    rows = matrix[::step]
    if rows.shape[1] > COLUMNS:
        rows = rows[:, np.linspace(0, rows.shape[1] - 1, COLUMNS).astype(int)]
    if not np.isfinite(rows).all() or _has_enough(rows):
        return None
    rows = np.asarray(rows, dtype=np.float64)
    rows = rows[(rows != 0).any(axis=1)]
    rows = rows[:, (rows != 0).any(axis=0)]
    if min(rows.shape, default=0) < SMALLEST_SIDE:
        return None
    first = np.abs(rows[:SMALLEST_SIDE])
    few = len(set(first[0, :ROWS].tolist())) <= FEW_VALUES  # nearly every row has more
    if few and len(np.unique(first)) <= FEW_VALUES:
        return None
    signs = np.sign(rows[np.arange(len(rows)), np.abs(rows).argmax(axis=1)])
    rows = rows * signs[:, None]
    if len(set(rows[:, 0].tolist())) < len(rows):  # else no two are equal
        rows = np.unique(rows, axis=0)
    side = min(rows.shape)
    if side < SMALLEST_SIDE:
        return None
    rows = rows / np.abs(rows).max()
    # Squares in float64: what is a millionth of the largest is still right to ten digits.
    powers = np.linalg.eigvalsh(rows @ rows.T if side == len(rows) else rows.T @ rows)
    return int((powers > FLOOR**2 * powers[-1]).sum()), side


def _has_enough(rows: Any) -> bool:
    """Whether a block of half of the rows proves that half of the directions are there.

    A block's singular values are at most those of its matrix, and the largest of a matrix is at
    most its Frobenius norm, so a Gram matrix of the block that stays positive definite when
    (floor · norm)² is taken off its diagonal is proof. Nearly every matrix ends here.
    """
    count = -(-min(rows.shape) // 2)
    block = np.asarray(rows[:count, : 4 * count], dtype=np.float64)
    gram = block @ block.T
    power = float(np.einsum("ij,ij->", rows, rows, dtype=np.float64))
    gram[np.arange(count), np.arange(count)] -= FLOOR**2 * power
    try:
        np.linalg.cholesky(gram)
    except np.linalg.LinAlgError:
        return False
    return True


def _finding(context: Context, layer: Layer, param: Param, rank: int, side: int) -> Finding:
    return Finding(
        severity=Severity.ERROR if rank <= 1 else Severity.WARNING,
        layer=layer.id,
        param=param.name,
        message=f"{param.name} has rank {rank} of {side}: it passes on {rank} directions of its "
        "input",
        evidence={
            "rank": rank,
            "side": side,
            "shape": list(param.shape),
            "std": context.measures.effective_std(param),
        },
        why="what lies outside a matrix's few directions is lost for the signal, and for the "
        "gradient of the layers before",
        measured=f"{rank} of {side} singular values above {FLOOR:g} of the largest",
        expected=f"{side}",
        fix=Fix(
            "orthogonal",
            params=(param.key,),
            code=f"torch.nn.init.orthogonal_({param.name})",
        ),
    )
