"""Is there a way around some layers: beside a branch, or beside a gate?"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from initlint.model.graph import LayerGraph, derived
from initlint.model.op import WEIGHTED, Op
from initlint.model.record import record
from initlint.model.residual import Residual, residual_branches

GATE_LAYERS = 32
"""Layers that a gate is made of at most: squeeze-excite has six, an attention map about ten. What
is deeper is a network of its own, and so many per product keep the search linear."""


def is_bypassed(graph: LayerGraph, layers: Collection[str]) -> bool:
    """True when a trunk that trains leads every input around these layers.

    All of them lie on residual branches; without these branches each input still reaches an output,
    through weights that are trained before the first branch and behind the last. What such layers
    fail to do costs their capacity, not the training of the rest: an identity is added to nothing.
    False for adapters in a frozen network, whose branches are all that trains, and for latents that
    read the input through a branch alone.
    """
    branches = _branches_of(graph)
    affected = tuple(sorted({number for key in layers for number in branches.get(key, ())}))
    if not affected:
        return False
    known = _known(graph)
    if affected not in known:
        known[affected] = _without(graph, [residual_branches(graph)[item] for item in affected])
    removed, spared = known[affected]
    return spared and removed.issuperset(layers)


@derived
def _branches_of(graph: LayerGraph) -> dict[str, list[int]]:
    """For each layer the numbers of the branches that hold it and have an identity beside them."""
    found: dict[str, list[int]] = {}
    for number, branch in enumerate(residual_branches(graph)):
        for key in branch.branch if not branch.projection else ():
            found.setdefault(key, []).append(number)
    return found


@derived
def _known(graph: LayerGraph) -> dict[tuple[int, ...], tuple[set[str], bool]]:
    """What `_without` has told of some branches, filled as it is asked for."""
    return {}


def _without(graph: LayerGraph, affected: Sequence[Residual]) -> tuple[set[str], bool]:
    """What goes with branches, and whether what is left leads every input to an output and trains.

    One branch is looked at by itself: there may be as many as layers.
    """
    whole = _whole(graph)
    branch = affected[0]
    removed = _made_for(graph, branch.branch) if len(affected) == 1 else set()
    if removed and whole.ordered and branch.trunk in whole.fed and _skips(graph, branch, removed):
        trains = branch.trunk in whole.trained and branch.add in whole.training
        return removed, trains and whole.leads_out and not _cuts_off(graph, removed)
    removed = {key for branch in affected for key in branch.branch}
    for layer in reversed(graph.order):  # what is made for these branches alone
        readers = graph.outputs(layer.id)
        if layer.op is not Op.INPUT and readers and all(e.target in removed for e in readers):
            removed.add(layer.id)
    inputs = [layer.id for layer in graph if layer.op is Op.INPUT]
    if not inputs or not _all_lead_out(graph, inputs, removed):
        return removed, False
    trunk = _reached(graph, inputs, removed)
    trained = {key for key in trunk if _trains(graph, key)}
    before = {affected[0].trunk, *graph.upstream([affected[0].trunk])}
    after = graph.downstream([affected[-1].add])
    return removed, bool(trained & before) and bool(trained & after)


@record(frozen=True, slots=True)
class _Whole:
    """What is true of a graph before anything is taken from it.

    Attributes:
        ordered: no edge leads back, as those of recurrent bodies do.
        leads_out: there are inputs, and an output depends on each.
        fed: ids of layers that an input feeds.
        trained: ids of layers that are trained and fed, or depend on one that is.
        training: ids of layers that a trained layer depends on.
        out: ids of layers that an output depends on.
    """

    ordered: bool
    leads_out: bool
    fed: frozenset[str]
    trained: frozenset[str]
    training: frozenset[str]
    out: frozenset[str]


@derived
def _whole(graph: LayerGraph) -> _Whole:
    position = graph.position
    fed: set[str] = set()
    trained: set[str] = set()
    for layer in graph.order:
        above = [edge.source for edge in graph.inputs(layer.id)]
        if layer.op is Op.INPUT or not fed.isdisjoint(above):
            fed.add(layer.id)
        if (layer.id in fed and _trains(graph, layer.id)) or not trained.isdisjoint(above):
            trained.add(layer.id)
    training: set[str] = set()
    out: set[str] = set()
    for layer in reversed(graph.order):
        below = [edge.target for edge in graph.outputs(layer.id)]
        if any(key in training or _trains(graph, key) for key in below):
            training.add(layer.id)
        if layer.op is Op.OUTPUT or not out.isdisjoint(below):
            out.add(layer.id)
    inputs = [layer.id for layer in graph if layer.op is Op.INPUT]
    return _Whole(
        all(position[edge.source] < position[edge.target] for edge in graph.edges),
        bool(inputs) and out.issuperset(inputs),
        frozenset(fed),
        frozenset(trained),
        frozenset(training),
        frozenset(out),
    )


def _made_for(graph: LayerGraph, branch: Iterable[str]) -> set[str]:
    """The layers of a branch, and those that are made for it alone."""
    removed = set(branch)
    waiting = [edge.source for key in removed for edge in graph.inputs(key)]
    while waiting:
        key = waiting.pop()
        alone = all(edge.target in removed for edge in graph.outputs(key))
        if key not in removed and graph[key].op is not Op.INPUT and alone:
            removed.add(key)
            waiting += [edge.source for edge in graph.inputs(key)]
    return removed


def _skips(graph: LayerGraph, branch: Residual, removed: Collection[str]) -> bool:
    """True when the skip path leads from the trunk to the sum without the removed layers.

    The second of two branches of one trunk is added to a sum that is part of the first.
    """
    way = {*branch.skip, branch.add}
    waiting, seen = [branch.trunk], {branch.trunk}
    while waiting:
        key = waiting.pop()
        if key in removed:
            continue
        if key == branch.add:
            return True
        fresh = {edge.target for edge in graph.outputs(key) if edge.target in way} - seen
        seen |= fresh
        waiting += fresh
    return False


def _cuts_off(graph: LayerGraph, removed: Collection[str]) -> bool:
    """True when an input leads to the outputs through these layers alone."""
    out = _whole(graph).out
    lost = set(removed)
    waiting = [edge.source for key in removed for edge in graph.inputs(key)]
    while waiting:
        key = waiting.pop()
        if key in lost or graph[key].op is Op.OUTPUT:
            continue
        if not any(e.target in out and e.target not in lost for e in graph.outputs(key)):
            if graph[key].op is Op.INPUT:
                return True
            lost.add(key)
            waiting += [edge.source for edge in graph.inputs(key)]
    return False


def gate_layers(graph: LayerGraph) -> frozenset[str]:
    """Layers whose only use is to make a gate for what they read (squeeze-excite, attention maps).

    The gated signal goes around them as it is; their own gradient passes an average and the slope
    of a squashing function, and says nothing of the signal's.
    """
    found: set[str] = set()
    for layer in graph:
        if layer.op is Op.MUL and len(edges := graph.inputs(layer.id)) == 2:
            for plain, gate in (edges, edges[::-1]):
                found |= _between(graph, plain.source, gate.source)
    return frozenset(found)


def _between(graph: LayerGraph, start: str, end: str) -> set[str]:
    """What lies between two layers, the last included; empty unless all stems from the first."""
    found: set[str] = set()
    waiting = [end]
    while waiting:
        key = waiting.pop()
        if key == start or key in found:
            continue
        inside = graph.position[key] >= graph.position[start] and graph.inputs(key)
        if not inside or len(found) == GATE_LAYERS:
            return set()
        found.add(key)
        waiting.extend(edge.source for edge in graph.inputs(key))
    return found


def _reached(graph: LayerGraph, starts: Iterable[str], removed: Collection[str]) -> set[str]:
    found = set(starts)
    waiting = list(found)
    while waiting:
        for edge in graph.outputs(waiting.pop()):
            if edge.target not in found and edge.target not in removed:
                found.add(edge.target)
                waiting.append(edge.target)
    return found


def _all_lead_out(graph: LayerGraph, starts: Iterable[str], removed: Collection[str]) -> bool:
    """True when an output depends on each of some layers by a way without the removed ones."""
    waiting = [layer.id for layer in graph if layer.op is Op.OUTPUT and layer.id not in removed]
    found = set(waiting)
    while waiting:  # back from all outputs at once: there may be as many inputs as layers
        for edge in graph.inputs(waiting.pop()):
            if edge.source not in found and edge.source not in removed:
                found.add(edge.source)
                waiting.append(edge.source)
    return all(
        key in found or any(edge.target in found for edge in graph.outputs(key)) for key in starts
    )


@derived
def passed_by(graph: LayerGraph) -> frozenset[str]:
    """Layers without which a way leads from an input above them to an output.

    A layer is on all these ways when it stands above all that feeds it in the tree of
    post-dominators. Numbered from its root, each branch of a tree is a range, so the least and the
    greatest number of what feeds a layer tell.
    """
    after = _next_for_all(graph)
    number, last = _numbered(after)
    least: dict[int, int] = {}
    greatest: dict[int, int] = {}
    found: set[str] = set()
    for here, layer in enumerate(graph.order):
        above = [graph.position[edge.source] for edge in graph.inputs(layer.id)]
        fed = [place for place in above if place in least and place < here]
        low = min((least[place] for place in fed), default=None)
        high = max((greatest[place] for place in fed), default=None)
        if here not in after:  # no output depends on it
            if low is not None and high is not None:
                least[here], greatest[here] = low, high
                found.add(layer.id)
            continue
        if low is None or high is None:
            if layer.op is Op.INPUT:
                least[here] = greatest[here] = number[here]
            continue
        if low < number[here] or high > last[here]:
            found.add(layer.id)
        least[here], greatest[here] = min(low, number[here]), max(high, number[here])
    return frozenset(found)


def _next_for_all(graph: LayerGraph) -> dict[int, int]:
    """By position, of each layer that an output depends on: the next that all its ways cross.

    What outputs are followed by is one end of all, behind the last position.
    """
    end = len(graph)
    after: dict[int, int] = {}
    for here in reversed(range(end)):
        layer = graph.order[here]
        targets = [graph.position[edge.target] for edge in graph.outputs(layer.id)]
        common = end if layer.op is Op.OUTPUT else None
        for target in targets:
            if target not in after or target <= here:
                continue
            common = target if common is None else common
            while common != target:
                if common < target:
                    common = after[common]
                else:
                    target = after[target]
        if common is not None:
            after[here] = common
    return after


def _numbered(after: Mapping[int, int]) -> tuple[dict[int, int], dict[int, int]]:
    """Numbers of a tree's nodes from its root, and the greatest number in each one's branch."""
    size = dict.fromkeys(after, 1)
    for here in sorted(after):
        if after[here] in size:
            size[after[here]] += size[here]
    number: dict[int, int] = {}
    free: dict[int, int] = {}
    for here in sorted(after, reverse=True):
        number[here] = free.get(after[here], 0)
        free[after[here]] = number[here] + size[here]
        free[here] = number[here] + 1
    return number, {here: number[here] + size[here] - 1 for here in after}


def _trains(graph: LayerGraph, key: str) -> bool:
    layer = graph[key]
    return layer.op in WEIGHTED and any(param.trainable for param in layer.params)
