"""One forward and one backward rule per operator of the vocabulary."""

from initlint.model.op import Op
from initlint.theory.node import OperatorRule
from initlint.theory.operators.arithmetic import ARITHMETIC
from initlint.theory.operators.attention import ATTENTION
from initlint.theory.operators.elementwise import ELEMENTWISE
from initlint.theory.operators.normalise import NORMALISATION
from initlint.theory.operators.pooling import POOLING
from initlint.theory.operators.recurrent import RECURRENCE
from initlint.theory.operators.shape import SHAPE
from initlint.theory.operators.weighted import WEIGHT

RULES: dict[Op, OperatorRule] = {
    **ARITHMETIC,
    **ATTENTION,
    **ELEMENTWISE,
    **NORMALISATION,
    **POOLING,
    **RECURRENCE,
    **SHAPE,
    **WEIGHT,
}
"""Operators without an entry end the prediction."""

__all__ = ["RULES"]
