"""blocked-parameters: parameters whose gradient is zero now and at every later step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from initlint.api import (
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
    blocked_harm,
    dominators,
    is_bypassed,
    severity_of,
    unlocking,
)

SHOWN = 20
"""Keys listed in the evidence; a block of a large network can hold thousands."""

_ADDED = (Role.BIAS, Role.RECURRENT_BIAS, Role.SHIFT, Role.RUNNING_MEAN)
"""Roles of what is added or taken off: zeros among them alone stop no signal and no gradient."""

MATRICES = (Role.WEIGHT, Role.RECURRENT_WEIGHT)
"""Roles whose blocking on the trunk stops the network from learning."""


class BlockedParameters(Rule):
    """Zero gains, gates or biases in series leave parameters without gradient for ever.

    What it does
    ------------
    Follows, step by step, which parameters receive a gradient, and reports those that never will
    because zero gains, gates or biases stand in each other's way.

    Why is this bad
    ---------------
    The gradient of one factor of a product is proportional to the other. One zero factor is fine:
    it learns first, and then the rest does. Two zero factors in series, a zero LayerScale on a
    branch that ends in a zero-gamma normaliser, hold each other at zero under every optimiser, and
    all parameters of the branch with them. A normaliser with zero gain and shift before a ReLU
    does it alone, because the ReLU's slope at zero is zero.

    How it decides
    --------------
    Exact, on the graph: the values and gradients that are zero are propagated as truth values,
    parameters that receive a gradient stop being zero, and this repeats until nothing changes.
    What is left is blocked: an error when weights of the trunk or more than 5 % of all parameters
    are, else a warning. Gradients that the probe did measure overrule it.

    What it does not flag
    ---------------------
    Zeros that unlock later: ReZero, SkipInit, LayerScale, zero-gamma, adaLN-Zero, zero gates and
    heads. Frozen parameters, and parameters that no output depends on. Zero weight matrices are
    reported by zero-weight.

    Example
    -------
    ::

        import torch
        from torch import nn

        class Block(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.fc, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
                nn.init.zeros_(self.norm.weight)
                self.alpha = nn.Parameter(torch.zeros(1))

            def forward(self, x):
                return x + self.alpha * self.norm(torch.relu(self.fc(x)))

        def model():
            return nn.Sequential(nn.Linear(64, 64), Block(64), Block(64), nn.Linear(64, 10))

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        class Block(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.fc, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
                self.alpha = nn.Parameter(torch.zeros(1))

            def forward(self, x):
                return x + self.alpha * self.norm(torch.relu(self.fc(x)))

        def model():
            return nn.Sequential(nn.Linear(64, 64), Block(64), Block(64), nn.Linear(64, 10))

    References
    ----------
    - Bachlechner et al. 2021, ReZero is all you need.
    - Goyal et al. 2017, Accurate, large minibatch SGD, section 5.1: zero gamma.
    - Touvron et al. 2021, Going deeper with image transformers: LayerScale starts small, not zero.
    """

    code = "SYM103"
    name = "blocked-parameters"
    formula = "y = a B x, a = 0 and B = 0  =>  dL/da = 0 and dL/dB = 0 at every step"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH})
    optional = frozenset({Need.PROBE, Need.BACKWARD})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    folds = (
        "zero-gradient",
        "dead-relu",
        "variance-profile",
        "symmetric-units",
        "identical-incoming",
    )

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding that names every zero factor and what it blocks."""
        params = {param.key: (layer, param) for layer, param in context.model.graph.params}
        zeros = {key for key, (_, param) in params.items() if _is_zero(context, param)}
        if all(params[key][1].role in _ADDED for key in zeros):
            return  # what is added to a signal stands in nothing's way
        result = unlocking(context.model, lambda param: param.key in zeros)
        matrices = {key for key in zeros if _is_trainable_matrix(params[key][1])}
        told = result.blocked_by.among(matrices) | matrices
        blocked = [
            key
            for key, step in result.steps.items()
            if step is None and key not in told and not _learns(context, key)
        ]
        causes: dict[str, None] = {}
        for key, chain in result.blocked_by.each_once(blocked):
            causes.update(dict.fromkeys((*chain, key) if key in zeros else chain))
        if blocked and causes:
            yield _finding(context, params, blocked, tuple(causes))


def _is_zero(context: Context, param: Param) -> bool:
    moments = context.measures.moments(param)
    return (
        moments is not None and moments.constant and moments.max_abs == 0 and not moments.non_finite
    )


def _is_trainable_matrix(param: Param) -> bool:
    """What zero-weight reports, which also knows whether it cuts the network."""
    return param.role in MATRICES and param.trainable and not param.quantised


def _learns(context: Context, key: str) -> bool:
    """True when the probe saw a gradient, now or after a small step."""
    stats = context.probe.gradients.get(key) if context.probe else None
    return stats is not None and (stats.rms > 0 or stats.unlocks is True)


def _finding(
    context: Context,
    params: Mapping[str, tuple[Layer, Param]],
    blocked: list[str],
    causes: tuple[str, ...],
) -> Finding:
    trunk = frozenset(dominators(context.model.graph))
    trainable = sum(param.size for _, param in params.values() if param.trainable)
    stuck = sum(params[key][1].size for key in blocked)
    share = stuck / max(trainable, 1)
    on_trunk = any(
        params[key][0].id in trunk and params[key][1].role in MATRICES for key in blocked
    )
    harm = severity_of(blocked_harm(share, trunk=on_trunk, unlocks=False))
    first, param = params[causes[0]]
    zero_layers = tuple(dict.fromkeys(params[key][0].id for key in causes))
    layers = tuple(dict.fromkeys([*zero_layers, *(params[key][0].id for key in blocked)]))
    chain = " x ".join(causes[:4]) + (" ..." if len(causes) > 4 else "")
    return Finding(
        severity=Severity.WARNING
        if harm is None or is_bypassed(context.model.graph, layers)
        else harm,
        layer=first.id,
        param=param.name,
        layers=layers,
        culprits=layers,
        message=f"{len(blocked)} parameters ({share:.0%} of all values) never receive a gradient: "
        f"{chain} start at zero",
        evidence={
            "zero_parameters": list(causes[:SHOWN]),
            "blocked_parameters": blocked[:SHOWN],
            "blocked_values": stuck,
            "blocked_share": share,
            "blocks_the_trunk": on_trunk,
        },
        why="each zero factor's gradient is proportional to the other, or to a ReLU's slope at 0, "
        "so none of them ever moves",
        measured=f"{stuck:,} of {trainable:,} trainable values without gradient at every step",
        expected="at most one zero factor on every path",
        fix=Fix(
            "ones",
            params=causes[:-1] or causes,
            code=f"start {causes[0]} away from zero (a gain at 1) and keep at most one zero factor "
            "per branch",
        ),
    )
