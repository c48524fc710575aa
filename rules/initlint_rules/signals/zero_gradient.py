"""zero-gradient: parameters that receive no gradient now and after the first steps."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping

from initlint.api import (
    Activations,
    Context,
    Finding,
    Fix,
    GradientStats,
    Layer,
    LayerGraph,
    Need,
    Op,
    Param,
    Role,
    Rule,
    Severity,
    Stage,
    is_bypassed,
)

LARGE_SHARE = 0.05
"""Share of the model's parameters without a gradient that makes it an error: more than any one
head, gate or adapter of a usual network holds."""

MOST_SIBLINGS = 64
"""Siblings looked at per parameter: the first of them tell, and each costs a walk of the graph."""


SMALL_PART = 0.05
"""Part of the stuck parameters below which a layer (a head behind a shut cell) is not counted among
those that a cause must answer for: an engineering choice."""


class ZeroGradient(Rule):
    """Parameters get exactly zero gradient, also after small steps on all others.

    What it does
    ------------
    Runs one forward and one backward pass and finds trainable parameters on the path to the loss
    whose gradient is exactly zero; then takes three small steps on the others and looks again.

    Why is this bad
    ---------------
    The parameters never move. They cost memory and optimizer state, and the part of the network
    they belong to computes what its initial values say.

    How it decides
    --------------
    Exactly zero gradient before and after the steps. Zero factors that are meant (the B of LoRA, a
    zero residual gain, a zero head) let the gradient through after one step, at most two; two zero
    factors in series never do. Warning; error when more than 5 % of the parameters are stuck. Where
    layers of zeros multiply what every stuck parameter makes, those layers are named.

    What it does not flag
    ---------------------
    Parameters that the forward pass did not use, frozen ones, tables of which this batch reads the
    row of padding alone, experts that no sample of this batch
    was routed to (a parallel sibling does get a gradient), recurrent weights where the first state
    alone is read (a sequence of one step), zeros that unlock.

    Example
    -------
    ::

        import torch
        from torch import nn

        class Rounded(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Linear(32, 32)
                self.levels = nn.Linear(32, 32)
                self.head = nn.Linear(32, 4)

            def forward(self, x):
                body = self.body(x)
                return self.head(body + torch.round(self.levels(x)))

        def model():
            return Rounded()

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        class Rounded(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Linear(32, 32)
                self.levels = nn.Linear(32, 32)
                self.head = nn.Linear(32, 4)

            def forward(self, x):
                levels = self.levels(x)
                straight_through = levels + (torch.round(levels) - levels).detach()
                return self.head(self.body(x) + straight_through)

        def model():
            return Rounded()

    References
    ----------
    - Zhang, Dauphin, Ma 2019, Fixup initialization: which zeros a residual network can start from.
    - Bengio, Leonard, Courville 2013, Estimating or propagating gradients through stochastic
      neurons: gradients through steps.
    """

    code = "PRB109"
    name = "zero-gradient"
    formula = "dL/dtheta = 0 at step 0, 1, 2, ..."
    needs = frozenset({Need.GRAPH, Need.BACKWARD})
    stages = frozenset(Stage)

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding that names every stuck parameter."""
        if context.probe is None:
            return
        gradients, graph = context.probe.gradients, context.model.graph
        stuck = [
            (layer, param)
            for layer, param in graph.params
            if param.trainable and _is_stuck(gradients.get(param.key))
        ]
        stuck = _without_idle_experts(stuck, graph, gradients)
        stuck = _without_first_steps(stuck, gradients)
        stuck = [item for item in stuck if not _reads_padding(*item, context.probe)]
        if not stuck:
            return
        total = sum(param.size for _, param in graph.params if param.key in gradients)
        size = sum(param.size for _, param in stuck)
        share = size / max(total, 1)
        layer, param = stuck[0]
        names = list(dict.fromkeys(param.name for _, param in stuck))
        zeros = _zero_factors([owner.id for owner, _ in stuck], graph, context.probe)
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        held: dict[str, int] = {}
        for owner, each in stuck:
            held[owner.id] = held.get(owner.id, 0) + each.size
        by = f": the zeros of {zeros[0][1].name} multiply the signal" if zeros else ""
        yield Finding(
            severity=Severity.ERROR
            if share > LARGE_SHARE and not is_bypassed(graph, tuple(held))
            else Severity.WARNING,
            layer=zeros[0][0].id if zeros else layer.id,
            param=zeros[0][1].name if zeros else param.name,
            layers=tuple(owner.id for owner, _ in zeros) or tuple(held),
            culprits=tuple(key for key, own in held.items() if own >= SMALL_PART * size),
            shares={_around(graph, key, held): own / size for key, own in held.items()},
            message=f"{param.name}{others} get no gradient, also after three steps on the others"
            f"{by}",
            evidence={
                "params": names[:20],
                "elements": size,
                "share": share,
                "weight_rms": gradients[param.key].weight_rms,
            },
            why="something between the parameter and the loss has zero derivative: two zero "
            "factors in series, a dead unit, a rounding or a comparison",
            measured=f"gradient exactly 0 for {size:,} parameters ({share:.1%})",
            expected="a gradient at the first step, or after the zero factor beside it has moved",
            fix=Fix(
                "scale_preserving" if zeros else "reinitialise",
                params=tuple(param.key for _, param in zeros or stuck),
                code=f"draw {zeros[0][1].name} at random, or give a bias of 1 to what scales"
                if zeros
                else "give one of the factors behind it non-zero values, or freeze the parameter",
            ),
        )


def _zero_factors(
    stuck: Iterable[str], graph: LayerGraph, probe: Activations
) -> list[tuple[Layer, Param]]:
    """Layers of zeros whose output multiplies what every stuck layer makes, and their weights.

    Such a zero would open after one step; where it does not, what is multiplied stays zero too, as
    behind a normaliser that reads the zeros of another one.
    """
    found: dict[str, tuple[Layer, Param]] = {}
    for key in dict.fromkeys(stuck):
        behind = {key, *graph.descendants(key)}
        mine = [
            place
            for name in behind
            if graph[name].op is Op.MUL and len(graph.inputs(name)) > 1
            for factor in graph.effective_producers(name)
            if factor.id not in behind and (place := _of_zeros(factor, probe)) is not None
        ]
        if not mine:
            return []
        found.update((owner.id, (owner, weight)) for owner, weight in mine)
    return sorted(found.values(), key=lambda place: graph.position[place[0].id])


def _of_zeros(layer: Layer, probe: Activations) -> tuple[Layer, Param] | None:
    """A layer that makes nothing but zeros, of weights that are all zero, and its weight."""
    stats, weight = probe.outputs.get(layer.id), layer.weight
    held = probe.gradients.get(weight.key) if weight is not None else None
    if weight is None or stats is None or held is None or stats.rms or held.weight_rms:
        return None
    return layer, weight


def _around(graph: LayerGraph, key: str, stuck: Container[str]) -> tuple[str, ...]:
    """Layers one of which keeps the gradient away from a layer.

    It comes through the stuck layers behind, and the first behind them that does move; the stuck
    layers before it may give it nothing but zeros to multiply the gradient with.
    """
    found = {key: None}
    for ahead in (True, False):
        seen, waiting = {key}, [key]
        while waiting:
            here = waiting.pop()
            for layer in graph.consumers(here) if ahead else graph.producers(here):
                if layer.id in seen:
                    continue
                seen.add(layer.id)
                moves = bool(layer.params) and layer.id not in stuck
                if layer.params and (ahead or not moves):
                    found[layer.id] = None
                if not moves:
                    waiting.append(layer.id)
    return tuple(found)


def _is_stuck(stats: GradientStats | None) -> bool:
    return stats is not None and stats.reached and stats.unlocks is False


def _without_idle_experts(
    stuck: list[tuple[Layer, Param]], graph: LayerGraph, gradients: Mapping[str, GradientStats]
) -> list[tuple[Layer, Param]]:
    """Drop parameters with a moving sibling that runs beside them: routing passed them by."""
    moving: dict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)
    for layer, param in graph.params:
        stats = gradients.get(param.key)
        if stats is not None and stats.rms > 0:
            moving[_numberless(param)].append(layer.id)

    def is_idle(layer: Layer, param: Param) -> bool:
        siblings = moving.get(_numberless(param), [])[:MOST_SIBLINGS]
        later = graph.descendants(layer.id)
        return any(
            other not in later and layer.id not in graph.descendants(other) for other in siblings
        )

    return [(layer, param) for layer, param in stuck if not is_idle(layer, param)]


def _without_first_steps(
    stuck: list[tuple[Layer, Param]], gradients: Mapping[str, GradientStats]
) -> list[tuple[Layer, Param]]:
    """Drop what a recurrence does not use where its first state alone is read.

    A sequence of one step, and the last output of the backward direction, come from no earlier
    state: recurrent weights and forget gate multiply zero, whatever they hold, while the input
    weights do get a gradient.
    """
    held = {param.key for _, param in stuck}

    def is_first(layer: Layer, param: Param) -> bool:
        ways = [item for item in layer.params if item.direction == param.direction]
        past = [item.key for item in ways if item.role is Role.RECURRENT_WEIGHT]
        entering = [gradients.get(item.key) for item in ways if item.role is Role.WEIGHT]
        moved = any(stats is not None and stats.rms > 0 for stats in entering)
        return bool(past) and held.issuperset(past) and moved

    return [(layer, param) for layer, param in stuck if not is_first(layer, param)]


def _reads_padding(layer: Layer, param: Param, probe: Activations) -> bool:
    """True for a table of which only the row of padding was read, which is zero and stays so."""
    stats = probe.outputs.get(layer.id)
    padded = layer.op is Op.EMBEDDING and layer.attrs.get("padding_idx") is not None
    return padded and stats is not None and stats.rms == 0.0 < probe.gradients[param.key].weight_rms


def _numberless(param: Param) -> tuple[str, tuple[int, ...]]:
    """What siblings share: the name without its numbers, and the shape."""
    return re.sub(r"\d+", "#", param.key), param.shape
