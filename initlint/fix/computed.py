"""Weights that are computed from several parameters."""

from __future__ import annotations

import math

from initlint.fix.plan import Planner, Record
from initlint.model import Layer, Param, Role


def open_factor(planner: Planner, finding: Record, layer: Layer, param: Param) -> bool:
    """One of the stored factors drawn, where a parameter is computed from several that are zero.

    One zero factor gets a gradient through the others; two close each other. What is drawn stays
    without effect until the other one has moved, so its scale decides the speed of that alone: that
    of a gain where factors of one shape are multiplied element by element, else of a matrix.
    """
    tensor, values = param.tensor, planner.measures.read(param)
    if tensor is None or values is None or values.any():
        return False
    zero = [operand for operand in tensor.operands if not operand.read().any()]
    if len(zero) < 2:
        return False
    shape = zero[0].shape
    alike = shape == zero[1].shape or not shape
    factor = Param(Role.OTHER, zero[0].name, shape, zero[0].dtype, zero[0])
    planner.draw(finding, layer, factor, "normal", std=1 if alike else 1 / math.sqrt(shape[-1]))
    return True
