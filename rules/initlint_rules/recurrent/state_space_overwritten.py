"""state-space-overwritten: a general initialiser ran over the parameters of a state-space layer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from initlint.api import (
    TRANSPARENT,
    Context,
    Finding,
    Fix,
    Layer,
    LayerGraph,
    Need,
    Op,
    Param,
    Role,
    Rule,
    Severity,
    Stage,
    record,
)

STEPS = (1e-4, 0.5)
"""Step sizes that count as chosen. Mamba draws them log-uniformly from [1e-3, 0.1]; this leaves a
decade below and half a decade above. A bias of 0 gives softplus(0) = 0.69."""

MAJORITY = 0.5
"""Share of channels that must be outside: a few outliers are a choice."""

GONE = 20.0
"""Decay per step, |A| dt, above which exp(-|A| dt) < 2e-9 and the state is forgotten at once."""


@record(frozen=True, slots=True)
class _StateSpace:
    """exp(dt A) with dt = softplus(x + b).

    Attributes:
        decay: the layer that multiplies the step by A.
        rate: A, as the layer uses it.
        bias: b, where the step has one, and the layer that adds it.
    """

    decay: Layer
    rate: Param
    adder: Layer | None
    bias: Param | None


class StateSpaceOverwritten(Rule):
    """Step sizes or decay rates of a state-space layer are not what its construction sets.

    What it does
    ------------
    Finds the discretisation exp(softplus(x + b) A) of Mamba-like layers and checks the step
    softplus(b) and the rate A that it starts with.

    Why is this bad
    ---------------
    These parameters are not weights: b holds the inverse softplus of steps between 0.001 and 0.1,
    and A the negative rates 1 to N, so that states remember from one to a thousand tokens. A loop
    that zeroes all biases, or a normal draw over every parameter, makes every step 0.69: the layer
    forgets within two tokens. Rates of the wrong sign grow.

    How it decides
    --------------
    More than half of the channels have softplus(b) outside [10^-4, 0.5]: warning. It is no error,
    for the harm is the task's: two blocks with steps of 0.69 made 0.12 of their twin's progress
    where 32 tokens had to be counted (0.09 with every parameter drawn again), and all of it where
    the last two tell the answer. Rates above zero, or a decay of more than 20 per step in more than
    half of the states: error.

    What it does not flag
    ---------------------
    Trained layers, frozen parameters, steps without a bias, other uses of softplus. The shape of
    the rates: 1 to N, all 1, and learned spectra are all in use.

    Example
    -------
    ::

        import torch
        from torch import nn

        class Scan(nn.Module):
            def __init__(self):
                super().__init__()
                self.step = nn.Linear(32, 32)
                self.rate = nn.Parameter(torch.log(torch.arange(1.0, 33.0)))
                self.out = nn.Linear(32, 32)

            def forward(self, x):
                step = nn.functional.softplus(self.step(x))
                return self.out(torch.exp(step * -torch.exp(self.rate)) * x)

        def model():
            net = Scan()
            nn.init.zeros_(net.step.bias)
            return net

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        class Scan(nn.Module):
            def __init__(self):
                super().__init__()
                self.step = nn.Linear(32, 32)
                self.rate = nn.Parameter(torch.log(torch.arange(1.0, 33.0)))
                self.out = nn.Linear(32, 32)

            def forward(self, x):
                step = nn.functional.softplus(self.step(x))
                return self.out(torch.exp(step * -torch.exp(self.rate)) * x)

        def model():
            net = Scan()
            step = torch.logspace(-3, -1, 32)
            net.step.bias.data = step + torch.log(-torch.expm1(-step))
            return net

    References
    ----------
    - Gu, Dao 2023, Mamba: linear-time sequence modeling with selective state spaces.
    - state-spaces/mamba, mamba_simple.py: `dt_proj.bias._no_reinit = True`.
    """

    code = "REC405"
    name = "state-space-overwritten"
    formula = "step = softplus(b) in [1e-4, 0.5];  decay exp(-exp(A_log) step)"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH})
    stages = frozenset({Stage.FRESH, Stage.MIXED})

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding for all steps and one for all rates."""
        spaces = _state_spaces(context.model.graph)
        steps = [space for space in spaces if _odd_share(_step(context, space)) > MAJORITY]
        if steps:
            yield _steps_finding(context, steps)
        rates = [space for space in spaces if _is_useless(context, space)]
        if rates:
            yield _rates_finding(context, rates)


def _state_spaces(graph: LayerGraph) -> list[_StateSpace]:
    found = []
    for layer in graph.order:
        rate = next(iter(layer.with_role(Role.GAIN, Role.TABLE)), None)
        if layer.op is not Op.MUL or rate is None or not rate.trainable:
            continue
        consumers = graph.effective_consumers(layer.id)
        producers = graph.effective_producers(layer.id)
        if not any(consumer.op is Op.EXP for consumer in consumers):
            continue
        soft = next((above for above in producers if above.op is Op.SOFTPLUS), None)
        if soft is None:
            continue
        adder, bias = _bias(graph, soft)
        found.append(_StateSpace(layer, rate, adder, bias))
    return found


def _bias(graph: LayerGraph, soft: Layer) -> tuple[Layer | None, Param | None]:
    for above in graph.effective_producers(soft.id):
        bias = next(iter(above.with_role(Role.BIAS, Role.SHIFT)), None)
        if above.op not in TRANSPARENT and bias is not None and bias.trainable:
            return above, bias
    return None, None


def _step(context: Context, space: _StateSpace) -> np.ndarray | None:
    """Step per channel for an input of zero."""
    values = context.measures.read(space.bias) if space.bias is not None else None
    return None if values is None else np.logaddexp(0.0, values.astype(np.float64)).reshape(-1)


def _odd_share(step: np.ndarray | None) -> float:
    return 0.0 if step is None else float(np.mean((step < STEPS[0]) | (step > STEPS[1])))


def _is_useless(context: Context, space: _StateSpace) -> bool:
    rates = context.measures.read(space.rate)
    if rates is None or not rates.size:
        return False
    step = _step(context, space)
    typical = 0.01 if step is None else float(np.median(step))
    return bool(np.mean(rates > 0) > MAJORITY or np.mean(-rates * typical > GONE) > MAJORITY)


def _steps_finding(context: Context, spaces: list[_StateSpace]) -> Finding:
    first = spaces[0]
    step = _step(context, first)
    assert step is not None
    assert first.adder is not None
    assert first.bias is not None
    layers = tuple(dict.fromkeys(space.adder.id for space in spaces if space.adder is not None))
    others = f" and {len(layers) - 1} more" if len(layers) > 1 else ""
    middle = float(np.median(step))
    return Finding(
        severity=Severity.WARNING,
        layer=first.adder.id,
        param=first.bias.name,
        layers=layers,
        message=f"the state-space steps of {first.adder.id}{others} start at {middle:.2g}, "
        "not between 0.001 and 0.1",
        evidence={"median_step": middle, "outside": _odd_share(step), "channels": int(step.size)},
        why="the step sets how many tokens a state remembers: 1 / (|A| step)",
        measured=f"median softplus(bias) {middle:.2g}, {_odd_share(step):.0%} outside "
        "[0.0001, 0.5]",
        expected="log-uniform between 0.001 and 0.1",
        fix=Fix(
            "inverse_softplus",
            params=tuple(space.bias.key for space in spaces if space.bias is not None),
            code="step = exp(uniform(log 0.001, log 0.1)); "
            "bias = step + log(-expm1(-step)); leave it out of general initialisers",
        ),
    )


def _rates_finding(context: Context, spaces: list[_StateSpace]) -> Finding:
    first = spaces[0]
    rates = context.measures.read(first.rate)
    assert rates is not None
    grows = bool(np.mean(rates > 0) > MAJORITY)
    what = "grow instead of decaying" if grows else "decay within one step"
    return Finding(
        severity=Severity.ERROR,
        layer=first.decay.id,
        param=first.rate.name,
        layers=tuple(dict.fromkeys(space.decay.id for space in spaces)),
        message=f"the states of {first.decay.id} {what}",
        evidence={"median_rate": float(np.median(rates)), "positive": float(np.mean(rates > 0))},
        why="a state is multiplied by exp(step A) at every token: A must be negative and moderate",
        measured=f"median rate A = {float(np.median(rates)):.2g}",
        expected="rates between -1 and -N for N states",
        fix=Fix(
            "analytic",
            params=tuple(space.rate.key for space in spaces),
            code="A_log = log(arange(1, N + 1)) in every channel, A = -exp(A_log)",
        ),
    )
