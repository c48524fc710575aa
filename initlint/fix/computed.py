"""Weights that are computed: from codes by a network of their own, or from several parameters."""

from __future__ import annotations

import math

from initlint.fix.plan import Planner, Record
from initlint.model import Layer, Param, Role

FAR = 3.0
"""Factor from the scale that keeps the signal beyond which a scale is a mistake and no choice: the
schemes in use differ by less (He and PyTorch's default by 2.4)."""


def rescale_codes(planner: Planner, finding: Record, layer: Layer) -> None:
    """Learned tables that a writer of weights starts from, to unit scale where they are far off.

    Its layers keep the scale that they are given; widened instead, they would make of every step
    of the table as many times the step.
    """
    graph = planner.network.graph
    seen, waiting = {layer.id}, [layer.id]
    while waiting:
        above = {edge.source for edge in graph.inputs(waiting.pop())} - seen
        seen |= above
        waiting.extend(above)
    for key in seen:
        for param in graph[key].with_role(Role.TABLE):
            std = planner.measures.effective_std(param) if param.trainable else None
            if std and abs(math.log(std)) > math.log(FAR):
                planner.rescale(finding, graph[key], param, 1 / std)


def open_factor(planner: Planner, finding: Record, layer: Layer, param: Param) -> bool:
    """One of the stored factors drawn, where a parameter is computed from several that are zero.

    One zero factor gets a gradient through the others; two close each other. What is drawn stays
    without effect until the other one has moved, so its scale decides the speed of that alone.
    """
    tensor, values = param.tensor, planner.measures.read(param)
    if tensor is None or values is None or values.any():
        return False
    zero = [operand for operand in tensor.operands if not operand.read().any()]
    if len(zero) < 2:
        return False
    shape = zero[0].shape
    factor = Param(Role.OTHER, zero[0].name, shape, zero[0].dtype, zero[0])
    planner.draw(finding, layer, factor, "normal", std=1 / math.sqrt(shape[-1] if shape else 1))
    return True
