"""policy-head: an actor that starts with opinions, or without any wish to explore."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, log, sqrt

import numpy as np

from initlint.api import (
    TRANSPARENT,
    WEIGHTED,
    Confidence,
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

OPINION = 0.3
"""Standard deviation of an actor's logits or means from which it is worth saying: the entropy of
the policy is then s^2/2 = 0.045 nats below that of chance, five per cent of the usual budget for
exploration; the recommended gain of 0.01 gives s = 0.01."""

STRONG = 1.0
"""Half a nat is gone before the first step, and single states start with an action that is taken
two or three times as often as chance would."""

LOWEST_LOG_STD = -3.0
"""Log standard deviation below which an action explores less than 5 % of the unit range."""

WANTED_GAIN = 0.01

MOST_STORED = 1 << 16
"""Numbers compared row by row: a batch of a thousand states with 64 actions each."""


@record(frozen=True, slots=True)
class _Actor:
    head: Layer
    log_std: Param | None


class PolicyHead(Rule):
    """The head of an on-policy actor starts so wide that the policy has opinions of its own.

    What it does
    ------------
    Finds actors by their structure and measures the standard deviation s of what their head gives:
    logits, or the means of a Gaussian whose log standard deviation is a free parameter.

    Why is this bad
    ---------------
    On-policy methods learn from the actions that the policy takes. A head that is drawn like a
    hidden layer prefers some actions in every state for no reason, which biases the first batches
    and costs entropy, s^2/2 nats. A hundredfold smaller head starts from chance; it was the
    initialisation choice with the largest effect in a study of 250,000 agents.

    How it decides
    --------------
    An actor is a linear head whose Gaussian has a trainable log standard deviation of as many
    elements that no input reaches, or the wider one of two heads at the end of two separate
    towers over the same input, where the other gives one number, the value. s above 0.3: info;
    above 1: warning. A log standard deviation below -3: info.

    What it does not flag
    ---------------------
    Heads with a gain of 0.01 or zero, off-policy actors (a tanh at the output, a log standard
    deviation with an input of its own), value heads, classifiers with an auxiliary output on the
    same trunk, trained weights (a policy cloned from demonstrations).

    Example
    -------
    ::

        import torch
        from torch import nn

        def tower(outputs, gain):
            net = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, outputs))
            nn.init.orthogonal_(net[2].weight, gain)
            return net

        class Agent(nn.Module):
            def __init__(self):
                super().__init__()
                self.actor, self.critic = tower(4, 3.0), tower(1, 1.0)

            def forward(self, x):
                return self.actor(x), self.critic(x)

        def model():
            return Agent()

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        def tower(outputs, gain):
            net = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, outputs))
            nn.init.orthogonal_(net[2].weight, gain)
            return net

        class Agent(nn.Module):
            def __init__(self):
                super().__init__()
                self.actor, self.critic = tower(4, 0.01), tower(1, 1.0)

            def forward(self, x):
                return self.actor(x), self.critic(x)

        def model():
            return Agent()

    References
    ----------
    - Andrychowicz et al. 2021, What matters for on-policy deep actor-critic methods?
    - stable-baselines3, policies.py, and CleanRL, ppo.py: gains sqrt(2), 0.01 and 1.
    """

    code = "DOM102"
    name = "policy-head"
    formula = "entropy lost = s^2 / 2 nats for logits of standard deviation s"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.THEORY})
    optional = frozenset({Need.PROBE})
    stages = frozenset({Stage.FRESH})
    folds = ("head-excess-loss",)

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per actor, and one per log standard deviation."""
        for actor in _actors(context):
            weight = actor.head.weight
            if weight is None or weight.quantised:
                continue
            spread = _std(context, actor.head.id)
            if spread is not None and spread[0] > OPINION:
                yield _finding(context, actor, weight, *spread)
            if actor.log_std is not None:
                yield from _narrow(context, actor, actor.log_std)


def _actors(context: Context) -> Iterator[_Actor]:
    graph = context.model.graph
    ends = _at_the_end(graph)
    heads = [
        layer
        for layer in graph.weighted
        if layer.op is Op.LINEAR and graph.is_head(layer.id) and layer.id in ends
    ]
    free = [
        (layer, param, length)
        for layer in graph
        if layer.op is Op.CONSTANT and not graph.inputs(layer.id)
        for param in layer.with_role(Role.TABLE, Role.OTHER)
        if param.trainable and (length := _length(context, param))
    ]
    found: set[str] = set()
    for layer, param, length in free:
        for head in heads:
            width = head.weight.shape[0] if head.weight is not None else 0
            if width == length and head.id not in found and _together(graph, layer, head):
                found.add(head.id)
                yield _Actor(head, param)
    values = [head for head in heads if head.weight is not None and head.weight.shape[0] == 1]
    actors = [head for head in heads if head.weight is not None and head.weight.shape[0] > 1]
    if len(values) != 1 or len(actors) != 1 or actors[0].id in found:
        return
    if _separate(graph, actors[0], values[0]):
        yield _Actor(actors[0], None)


def _length(context: Context, param: Param) -> int:
    """Length of a vector, also of one stored once per row of a batch by an exporter; else 0."""
    if param.size == max(param.shape, default=0):
        return param.size
    values = context.measures.read(param) if 0 < param.size <= MOST_STORED else None
    if values is None:
        return 0
    rows = values.reshape(-1, param.shape[-1])
    return param.shape[-1] if (rows == rows[0]).all() else 0


_SCORES = TRANSPARENT | {Op.SOFTMAX, Op.LOG_SOFTMAX, Op.OUTPUT}
_AFTER_HEAD = _SCORES | {Op.ADD, Op.MUL, Op.SUB, Op.OTHER, Op.COMPARE, Op.REDUCE}


def _at_the_end(graph: LayerGraph) -> frozenset[str]:
    """Layers whose output is an output of the network, or is combined with noise there."""
    found: set[str] = set()
    for layer in reversed(graph.order):
        targets = [edge.target for edge in graph.outputs(layer.id)]
        if all(graph[key].op in _AFTER_HEAD and key in found for key in targets):
            found.add(layer.id)
    return frozenset(found)


def _together(graph: LayerGraph, free: Layer, head: Layer) -> bool:
    """True when parameter and mean form one Gaussian: side by side at the outputs, or as a sum."""
    mine, theirs = graph.downstream((free.id,)), graph.downstream((head.id,))
    if mine & theirs:
        return True
    plain = all(graph[key].op in TRANSPARENT | {Op.EXP, Op.OUTPUT} for key in mine)
    return plain and any(graph[key].op is Op.OUTPUT for key in mine)


def _separate(graph: LayerGraph, actor: Layer, critic: Layer) -> bool:
    """True for two towers over the same inputs that share no weights."""
    above, beside = (graph.upstream((layer.id,)) for layer in (actor, critic))
    weights = [{key for key in side if graph[key].op in WEIGHTED} for side in (above, beside)]
    inputs = [{key for key in side if graph[key].op is Op.INPUT} for side in (above, beside)]
    return bool(all(weights) and inputs[0] == inputs[1] and not weights[0] & weights[1])


def _std(context: Context, key: str) -> tuple[float, bool] | None:
    """Standard deviation of a layer's output, and whether it was measured."""
    stats = context.probe.outputs.get(key) if context.probe else None
    if stats is not None and stats.count and not stats.non_finite:
        return stats.std, True
    signal = context.theory.forward.get(key) if context.theory else None
    if signal is None or not -600 < signal.log_q < 600:
        return None
    return sqrt(exp(signal.log_q) * max(1 - signal.mean_share, 0.0)), False


def _finding(context: Context, actor: _Actor, weight: Param, std: float, measured: bool) -> Finding:
    what = "means" if actor.log_std is not None else "logits"
    factor = WANTED_GAIN / std
    return Finding(
        severity=Severity.WARNING if std > STRONG else Severity.INFO,
        confidence=Confidence.MEDIUM,
        layer=actor.head.id,
        param=weight.name,
        message=f"the actor's {what} start with std {std:.2g}: the policy prefers some actions "
        "before it has seen a reward",
        evidence={
            "std": std,
            "entropy_lost_nats": 0.5 * std * std,
            "measured": measured,
            "weight_std": context.measures.effective_std(weight),
        },
        why="an on-policy method learns from the actions it takes; chance opinions bias the first "
        "batches and cost s^2/2 nats of entropy",
        measured=f"std of the {what} {std:.2g}",
        expected="about 0.01",
        fix=Fix(
            "rescale",
            params=(weight.key,),
            arguments={"factor": factor},
            code=f"torch.nn.init.orthogonal_({weight.name}, gain={WANTED_GAIN})",
        ),
    )


def _narrow(context: Context, actor: _Actor, log_std: Param) -> Iterator[Finding]:
    values = context.measures.read(log_std)
    if values is None or not values.size:
        return
    lowest = float(np.min(values))
    # A loader may have applied the exponential: what is positive is a standard deviation.
    log_lowest = log(lowest) if lowest > 0.0 else lowest
    if log_lowest >= LOWEST_LOG_STD:
        return
    yield Finding(
        severity=Severity.INFO,
        confidence=Confidence.MEDIUM,
        layer=actor.head.id,
        param=log_std.name,
        message=f"the policy's standard deviation starts at {exp(log_lowest):.2g}: it hardly "
        "explores",
        evidence={"log_std": log_lowest, "std": exp(log_lowest)},
        why="a policy that hardly varies its actions sees no difference between their rewards",
        measured=f"log std {log_lowest:.2g}",
        expected="-1 to 0",
        fix=Fix(
            "constant",
            params=(log_std.key,),
            arguments={"value": 0.0},
            code=f"torch.nn.init.zeros_({log_std.name})",
        ),
    )
