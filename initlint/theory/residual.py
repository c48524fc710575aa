"""Residual additions: what a branch adds to its trunk."""

from __future__ import annotations

import math
from collections import deque

from initlint.model.graph import LayerGraph
from initlint.model.layer import Role
from initlint.model.op import NORMALISERS, TRANSPARENT, WEIGHTED, Op
from initlint.model.record import record
from initlint.model.residual import takes_other_parts
from initlint.theory.forward import ForwardPass
from initlint.theory.node import Node
from initlint.theory.result import ResidualBranch

MAX_BRANCH = 500
"""Layers walked back from an addition in search of the fork: longer branches do not occur, and
the search stays linear in the graph."""

_GATES = frozenset({Op.SIGMOID, Op.HARD_SIGMOID, Op.SOFTMAX})


@record(frozen=True, slots=True)
class _Walk:
    """The nodes of a graph by id, and one step back along the main path."""

    nodes: dict[str, Node]
    graph: LayerGraph

    def back(self, key: str) -> str | None:
        """The producer through which the trunk runs, if any.

        At an addition that is the operand made first (the branch is computed from it), at an
        attention the query, at a product the operand that is not a gate: of two the one made last,
        for a signal that is multiplied by the trunk itself (a cross layer) is made from it.
        """
        node = self.nodes[key]
        sources = [node.edges[index].source for index in node.signals]
        if not sources:
            return None
        if node.layer.op in (Op.ADD, Op.SUB):
            return min(sources, key=self.graph.position.__getitem__)
        if node.layer.op is Op.MUL:
            plain = [source for source in sources if not self._is_gate(source)]
            return max(plain or sources[:1], key=self.graph.position.__getitem__)
        return sources[0]

    def _is_gate(self, key: str) -> bool:
        """True for shares between 0 and 1, also where they were given further axes."""
        layer = self.graph[key]
        seen = self.graph.effective_producers(key) if layer.op in TRANSPARENT else (layer,)
        return any(item.op in _GATES for item in seen)

    def fork(self, a: str, b: str) -> tuple[str, list[str], list[str]] | None:
        """The layer from which two operands come, and the layers between on either side."""
        position = self.graph.position
        left: list[str] = []
        right: list[str] = []
        for _ in range(MAX_BRANCH):
            if a == b:
                return a, left, right
            later = a if position[a] > position[b] else b
            step = self.back(later)
            if step is None:
                return None
            if later == a:
                left.append(a)
                a = step
            else:
                right.append(b)
                b = step
        return None


def _between(walk: _Walk, trunk: str, last: str) -> list[str]:
    """Layers behind the fork that feed ``last``, in topological order."""
    position = walk.graph.position
    limit = position[trunk]
    seen = {last}
    queue = deque([last])
    while queue and len(seen) < MAX_BRANCH:
        node = walk.nodes[queue.popleft()]
        for index in node.signals:
            source = node.edges[index].source
            if source not in seen and position[source] > limit:
                seen.add(source)
                queue.append(source)
    return sorted(seen, key=position.__getitem__)


def _closes_with_gain(walk: _Walk, chain: list[str]) -> bool:
    """True when a multiplier stands between the last weighted layer and the addition."""
    for key in chain:
        layer = walk.graph[key]
        if layer.op in WEIGHTED:
            return False
        if layer.op is Op.MUL and (layer.with_role(Role.GAIN) or "constant" in layer.attrs):
            return True
    return False


def _weighted(walk: _Walk, keys: list[str]) -> list[str]:
    return [key for key in keys if walk.graph[key].op in WEIGHTED]


def _branch(walk: _Walk, node: Node, first: int, second: int) -> ResidualBranch | None:
    sources = [node.edges[index].source for index in (first, second)]
    fork = walk.fork(*sources)
    if fork is None:
        return None
    trunk, left, right = fork
    counts = [len(_weighted(walk, side)) for side in (left, right)]
    skip, branch = (0, 1) if counts[0] < counts[1] else (1, 0)
    if counts[skip] > 1 or counts[branch] <= counts[skip]:
        return None
    chain = (left, right)[branch]
    if takes_other_parts(walk.graph, trunk, (left, right)[skip], chain):
        return None
    layers = _between(walk, trunk, sources[branch])
    weighted = _weighted(walk, layers)
    indices = (first, second)
    trunk_state, branch_state = node.states[indices[skip]], node.states[indices[branch]]
    gain = None
    if trunk_state is not None and branch_state is not None and trunk_state.log_q > -math.inf:
        gain = math.exp(min(branch_state.log_q - trunk_state.log_q, 700.0))
    post_norm = walk.graph.feeds_normaliser(node.layer.id)
    last = next((key for key in chain if walk.graph[key].op in WEIGHTED), None)
    return ResidualBranch(
        add=node.layer.id,
        trunk=trunk,
        last=last,
        layers=tuple(weighted),
        gain=gain,
        normalised=post_norm or any(walk.graph[key].op in NORMALISERS for key in layers),
        gated=_closes_with_gain(walk, chain),
        post_norm=post_norm,
    )


def residual_branches(forward: ForwardPass) -> tuple[ResidualBranch, ...]:
    """Every addition whose operands come from one fork, one of them through more weights.

    The skip path may hold one weighted layer (a projection); sums of unrelated tensors (token and
    position tables, parallel branches) are not residual.
    """
    if not forward.nodes:
        return ()
    nodes = {node.layer.id: node for node in forward.nodes}
    walk = _Walk(nodes, forward.nodes[0].context.graph)
    found = []
    for node in forward.nodes:
        if node.layer.op is not Op.ADD or len(node.signals) != 2:
            continue
        branch = _branch(walk, node, *node.signals)
        if branch is not None:
            found.append(branch)
    return tuple(found)
