"""norm-gain-zero-on-trunk: a zero gain that every path through the network crosses."""

from __future__ import annotations

from collections.abc import Iterator

from initlint.api import (
    NORMALISERS,
    Context,
    Finding,
    Fix,
    Layer,
    Need,
    Param,
    Role,
    Rule,
    Severity,
    Stage,
    dominators,
    unlocking,
)


class NormGainZeroOnTrunk(Rule):
    """A normaliser that every path crosses starts with a gain of zero.

    What it does
    ------------
    Finds normalisers with an all-zero gain (gamma) that no skip path goes around.

    Why is this bad
    ---------------
    Their output is the shift alone, the same for every input, and nothing before them receives a
    gradient. When a ReLU follows and the shift is zero as well, its slope at zero is zero: the
    gain never moves, and everything before it stays untrained for ever.

    How it decides
    --------------
    Exact, on the graph: the normaliser lies on every path from input to output. An error when the
    gain itself never receives a gradient or is frozen, an info when it learns at the first step
    and then lets the rest learn.

    What it does not flag
    ---------------------
    Zero gamma on the last normaliser of a residual branch, and every other gain with a way around
    it. Gains stored as w with 1 + w in the graph. Trained gains.

    Example
    -------
    ::

        from torch import nn

        def model():
            norm = nn.BatchNorm1d(64)
            nn.init.zeros_(norm.weight)
            return nn.Sequential(nn.Linear(64, 64), norm, nn.ReLU(), nn.Linear(64, 10))

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            return nn.Sequential(
                nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10)
            )

    References
    ----------
    - Goyal et al. 2017, Accurate, large minibatch SGD, section 5.1: zero gamma belongs at the end
      of residual branches.
    - torchvision, models/resnet.py: zero_init_residual.
    """

    code = "NRM602"
    name = "norm-gain-zero-on-trunk"
    formula = "y = gamma x + beta,  gamma = 0  =>  dL/dx = 0"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    folds = (
        "blocked-parameters",
        "zero-gradient",
        "correlation-collapse",
        "dead-relu",
        "variance-profile",
        "gradient-profile",
        "forward-drift",
        "epsilon-dominates",
    )

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding that names every such normaliser."""
        graph = context.model.graph
        zeros = [
            (layer, gain)
            for layer in graph.order
            if layer.op in NORMALISERS
            for gain in layer.with_role(Role.GAIN)
            if _is_zero(context, gain)
        ]
        trunk = frozenset(dominators(graph)) if zeros else frozenset()
        found = [(layer, gain) for layer, gain in zeros if layer.id in trunk]
        if not found:
            return
        steps = unlocking(context.model, lambda param: _is_zero(context, param)).steps
        stuck = [item for item in found if steps.get(item[1].key) is None]
        yield _finding(found, stuck)


def _is_zero(context: Context, param: Param) -> bool:
    moments = context.measures.moments(param)
    return (
        moments is not None and moments.constant and moments.max_abs == 0 and not moments.non_finite
    )


def _finding(found: list[tuple[Layer, Param]], stuck: list[tuple[Layer, Param]]) -> Finding:
    layer, gain = (stuck or found)[0]
    names = tuple(item.id for item, _ in found)
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    if stuck:
        effect = "no path goes around it, and it never receives a gradient itself"
    else:
        effect = "no path goes around it: nothing before it learns in the first step"
    return Finding(
        severity=Severity.ERROR if stuck else Severity.INFO,
        layer=layer.id,
        param=gain.name,
        layers=(layer.id, *(name for name in names if name != layer.id)),
        message=f"the gain of {layer.id}{more} is all zero: {effect}",
        evidence={"normalisers": list(names[:20]), "stuck": [item.id for item, _ in stuck[:20]]},
        why="its output is the shift alone, whatever comes in",
        measured=f"{gain.size} of {gain.size} gains are 0",
        expected="gamma 1; 0 only at the end of a residual branch",
        fix=Fix(
            "ones",
            params=tuple(param.key for _, param in found),
            code=f"torch.nn.init.ones_({gain.name})",
        ),
    )
