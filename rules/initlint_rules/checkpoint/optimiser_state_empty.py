"""optimiser-state-empty: the optimiser never saw a gradient for a parameter that it was given."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from initlint.api import (
    Context,
    Finding,
    Fix,
    GradientMemory,
    Layer,
    Need,
    Op,
    OptimiserState,
    Param,
    Role,
    Rule,
    Severity,
    Stage,
    record,
)

ZERO_SHARE = 0.99
"""Share of exact zeros from which a parameter got no gradient as a whole. Dead units empty single
rows: in good models up to 43 % of a layer (see dead-units), never all."""

FEWEST_STEPS = 10
"""Optimiser steps before an empty memory says anything. Zero factors that are meant (the B of LoRA,
a zero gain, a zero head) let the gradient through after one step each; chains of three occur."""

_SPARSE = frozenset({Op.EMBEDDING})
_EXPERT = re.compile(r"(^|[._])experts?([._]|$)")
"""Experts of a mixture that no token was sent to: seen in names only, a checkpoint has no graph."""


@record(frozen=True, slots=True)
class _Empty:
    memory: GradientMemory
    layer: Layer | None
    param: Param | None

    @property
    def label(self) -> str:
        return self.memory.name or f"parameter {self.memory.index} of the optimiser"


class OptimiserStateEmpty(Rule):
    """The optimiser's memory of a parameter's gradient is exactly zero after many steps.

    What it does
    ------------
    In checkpoints that carry the state of their optimiser, looks at the running mean of squared
    gradients (Adam, RMSprop, Adagrad) or the momentum (SGD) of every parameter.

    Why is this bad
    ---------------
    That memory is zero exactly when every gradient was zero. The parameter was given to the
    optimiser and never learned: it is blocked by zeros in series, cut off by a detach, or behind
    units that are all dead. Nothing else in the checkpoint shows it as surely.

    How it decides
    --------------
    Exact: at least 99 % zeros after ten steps or more. An error. A parameter for which the
    optimiser holds nothing at all, while it does for others, was never part of the loss: a warning.

    What it does not flag
    ---------------------
    Embeddings and position tables (rows of tokens that never came), experts that no token was sent
    to, checkpoints of the first ten steps, float16 memories (squares below 6e-8 round to zero),
    frozen parameters and those outside the optimiser, which a checkpoint cannot tell apart.

    Example
    -------
    ::

        import numpy as np

        from initlint.api import GradientMemory, OptimiserState
        from initlint.testing import Network, from_array, normal

        def model():
            net = Network()
            x = net.relu(net.linear(net.input(64), normal(net.rng, 64, 64, std=0.1), name="a"))
            net.output(net.linear(x, normal(net.rng, 64, 64, std=0.1), name="b"))
            memories = [
                GradientMemory(0, "a.weight", "exp_avg_sq", from_array("v", np.zeros(4096)), 500.0),
                GradientMemory(1, "b.weight", "exp_avg_sq", from_array("v", np.ones(4096)), 500.0),
            ]
            return net.model(optimiser=OptimiserState(tuple(memories)))

    Use instead
    -----------
    ::

        import numpy as np

        from initlint.api import GradientMemory, OptimiserState
        from initlint.testing import Network, from_array, normal

        def model():
            net = Network()
            x = net.relu(net.linear(net.input(64), normal(net.rng, 64, 64, std=0.1), name="a"))
            net.output(net.linear(x, normal(net.rng, 64, 64, std=0.1), name="b"))
            memories = [
                GradientMemory(0, "a.weight", "exp_avg_sq", from_array("v", np.ones(4096)), 500.0),
                GradientMemory(1, "b.weight", "exp_avg_sq", from_array("v", np.ones(4096)), 500.0),
            ]
            return net.model(optimiser=OptimiserState(tuple(memories)))

    References
    ----------
    - Kingma, Ba 2015, Adam, algorithm 1: v is a running mean of squared gradients.
    - PyTorch, torch/optim/optimizer.py, `Optimizer.state_dict`.
    """

    code = "CKP106"
    name = "optimiser-state-empty"
    formula = "v_t = b v_{t-1} + (1 - b) g_t^2 = 0  <=>  g_1 = ... = g_t = 0"
    needs = frozenset({Need.WEIGHTS})
    stages = frozenset(Stage)
    folds = ("never-trained-layer", "unchanged-between")

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding for empty memories and one for missing ones."""
        state = context.model.metadata.get("optimiser")
        if not isinstance(state, OptimiserState):
            return
        placed = {
            name: (layer, param)
            for layer, param in context.model.graph.params
            for name in (param.stored_name, param.name)
        }
        steps = max((memory.step or 0.0 for memory in state.parameters), default=0.0)
        counted = any(memory.step is not None for memory in state.parameters)
        if counted and steps < FEWEST_STEPS:
            return
        empty: list[_Empty] = []
        absent: list[_Empty] = []
        for memory in state.parameters:
            layer, param = placed.get(memory.name or "", (None, None))
            if _is_sparse(memory, layer, param):
                continue
            item = _Empty(memory, layer, param)
            if memory.values is None:
                absent.append(item)
            elif (memory.step is None or memory.step >= FEWEST_STEPS) and (
                memory.zero_share(ZERO_SHARE) >= ZERO_SHARE
            ):
                empty.append(item)
        if empty:
            yield _finding(empty, steps, len(state.parameters), Severity.ERROR)
        if absent:
            yield _finding(absent, steps, len(state.parameters), Severity.WARNING)


def _is_sparse(memory: GradientMemory, layer: Layer | None, param: Param | None) -> bool:
    if memory.values is not None and memory.values.dtype == "float16":
        return True
    if memory.name is not None and _EXPERT.search(memory.name):
        return True
    return (layer is not None and layer.op in _SPARSE) or (
        param is not None and param.role is Role.TABLE
    )


def _finding(found: Sequence[_Empty], steps: float, count: int, severity: Severity) -> Finding:
    first = found[0]
    layers = tuple(dict.fromkeys(item.layer.id for item in found if item.layer is not None))
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    missing = severity is Severity.WARNING
    what = (
        "no gradient ever reached the optimiser for"
        if missing
        else f"every gradient in {steps:,.0f} steps was exactly zero for"
        if steps
        else "every gradient was exactly zero for"
    )
    return Finding(
        severity=severity,
        layer=layers[0] if layers else first.label,
        param=first.param.name if first.param is not None else first.memory.name,
        layers=layers,
        message=f"{what} {first.label}{more}",
        evidence={
            "parameters": [item.label for item in found][:20],
            "empty": len(found),
            "of": count,
            "steps": steps,
            "memory": first.memory.kind or "none",
        },
        why="the forward pass never used it, or the loss does not depend on it"
        if missing
        else "the running mean of squared gradients is zero only if all of them were: blocked by "
        "zeros in series, detached, or behind units that are all dead",
        measured="no state" if missing else f"{first.memory.kind} is zero in at least 99 %",
        expected="squared gradients above zero",
        fix=Fix(
            "reinitialise",
            params=tuple(item.param.key for item in found if item.param is not None),
            code="find the cut in the graph (detach, no_grad, a zero factor in series), then train "
            "these parameters again from a fresh draw",
        ),
    )
