"""The layer graph: layers, the tensors between them, and the structural questions rules ask."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cached_property, wraps
from operator import attrgetter
from typing import Any, TypeVar

from initlint.model.layer import Layer, Param
from initlint.model.op import ACTIVATIONS, NORMALISERS, TRANSPARENT, WEIGHTED, Op
from initlint.model.record import record


@record(frozen=True, slots=True)
class Edge:
    """A tensor from producer to consumer.

    Attributes:
        source: id of the producing layer.
        target: id of the consuming layer.
        position: index among the consumer's inputs.
        output: index among the producer's outputs.
        shape: shape where known, None entries for dynamic axes.
    """

    source: str
    target: str
    position: int = 0
    output: int = 0
    shape: tuple[int | None, ...] | None = None


Found = TypeVar("Found")

MOST_ENDS = 1024
"""Ends of a graph up to which it is told for all layers at once which of them depend on each.

One bit for an end: 128 bytes a layer, 13 MB for 10^5 layers.
"""

_source: Callable[[Edge], str] = attrgetter("source")
_target: Callable[[Edge], str] = attrgetter("target")
_position: Callable[[Edge], int] = attrgetter("position")


def _grouped(edges: Sequence[Edge], end: Callable[[Edge], str]) -> tuple[Edge, ...]:
    """Edges with those that share an end together, ends in the order of their first edge."""
    if len(edges) < 3:  # nothing can stand between two of one end
        return tuple(edges)
    groups: dict[str, list[Edge]] = {}
    for edge in edges:
        groups.setdefault(end(edge), []).append(edge)
    return tuple(edge for group in groups.values() for edge in group)


def _by_position(edges: Sequence[Edge]) -> tuple[Edge, ...]:
    """Edges into one layer in the order of its inputs."""
    return tuple(sorted(_grouped(edges, _source), key=_position))


def _by_target(edges: Sequence[Edge]) -> tuple[Edge, ...]:
    """Edges out of one layer, those to one reader together."""
    return _grouped(edges, _target)


def _ends(
    layers: Iterable[str],
    edges: Iterable[Edge],
    end: Callable[[Edge], str],
    arranged: Callable[[Sequence[Edge]], tuple[Edge, ...]],
) -> dict[str, tuple[Edge, ...]]:
    """The edges at every layer, arranged where there are several: most layers have one."""
    found: dict[str, tuple[Edge, ...]] = dict.fromkeys(layers, ())
    several: dict[str, list[Edge]] = {}
    for edge in edges:
        key = end(edge)
        if not found[key]:
            found[key] = (edge,)
        elif key in several:
            several[key].append(edge)
        else:
            several[key] = [*found[key], edge]
    found.update((key, arranged(held)) for key, held in several.items())
    return found


class LayerGraph:
    """An immutable directed multigraph of `Layer` nodes.

    Built once by a loader: ``LayerGraph(layers, edges)``. `nx` is the same graph as a
    ``networkx.MultiDiGraph`` for algorithms that this class does not offer.

    Raises:
        ValueError: two layers have one id, or an edge names a layer that is not there.
    """

    def __init__(self, layers: Iterable[Layer], edges: Iterable[Edge]) -> None:
        self._layers: dict[str, Layer] = {}
        for layer in layers:
            if layer.id in self._layers:
                raise ValueError(f"two layers are called {layer.id!r}")
            self._layers[layer.id] = layer
        self._edges = tuple(edges)
        for edge in self._edges:
            if edge.target not in self._layers or edge.source not in self._layers:
                raise ValueError(f"edge {edge.source!r} -> {edge.target!r} leaves the graph")
        self._derived: dict[str, Any] = {}
        self._inputs = _ends(self._layers, self._edges, _target, _by_position)
        self._outputs = _ends(self._layers, self._edges, _source, _by_target)

    @cached_property
    def nx(self) -> Any:
        """The graph as a frozen ``networkx.MultiDiGraph``, made when first asked for.

        Node keys are layer ids; nodes carry the attribute ``layer``, edges the attribute ``edge``.
        A run that asks for it nowhere is spared the import, a third of all that it imports.
        """
        import networkx

        graph: Any = networkx.MultiDiGraph()
        graph.add_nodes_from((key, {"layer": layer}) for key, layer in self._layers.items())
        graph.add_edges_from((edge.source, edge.target, {"edge": edge}) for edge in self._edges)
        return networkx.freeze(graph)

    def is_shared(self, param: Param) -> bool:
        """True where another layer reads the same parameter, such as a head that is a table."""
        return param.tied_to is not None or not self._tied.isdisjoint((param.key, param.name))

    @cached_property
    def _tied(self) -> frozenset[str | None]:
        """What parameters are tied to."""
        return frozenset(param.tied_to for _, param in self.params)

    @cached_property
    def readers(self) -> dict[str, tuple[str, ...]]:
        """Ids of the layers that read a parameter, by its key, in topological order."""
        found: dict[str, list[str]] = {}
        for layer, param in self.params:
            found.setdefault(param.key, []).append(layer.id)
        return {key: tuple(layers) for key, layers in found.items()}

    def __len__(self) -> int:
        return len(self._layers)

    def __contains__(self, layer_id: object) -> bool:
        return layer_id in self._layers

    def __getitem__(self, layer_id: str) -> Layer:
        return self._layers[layer_id]

    def __iter__(self) -> Iterator[Layer]:
        """Layers in the order the loader gave them (execution order for both loaders)."""
        return iter(self._layers.values())

    @cached_property
    def order(self) -> tuple[Layer, ...]:
        """Layers in topological order; ties, and cycles of recurrent bodies, in given order.

        Linear in nodes and edges.
        """
        indegree = {key: len(edges) for key, edges in self._inputs.items()}
        ready = deque(key for key, edges in self._inputs.items() if not edges)
        done: list[Layer] = []
        seen: set[str] = set()
        waiting = iter(self._layers)
        while len(done) < len(self):
            if not ready:
                ready.append(next(key for key in waiting if key not in seen))
            key = ready.popleft()
            if key in seen:
                continue
            seen.add(key)
            done.append(self._layers[key])
            for edge in self._outputs[key]:
                indegree[edge.target] -= 1
                if indegree[edge.target] == 0:
                    ready.append(edge.target)
        return tuple(done)

    @cached_property
    def position(self) -> dict[str, int]:
        """Rank of every layer id in `order`."""
        return {layer.id: index for index, layer in enumerate(self.order)}

    @property
    def edges(self) -> tuple[Edge, ...]:
        """All edges in the order the loader gave them."""
        return self._edges

    def inputs(self, layer_id: str) -> tuple[Edge, ...]:
        """Edges into a layer, by input position."""
        return self._inputs[layer_id]

    def outputs(self, layer_id: str) -> tuple[Edge, ...]:
        """Edges out of a layer."""
        return self._outputs[layer_id]

    def producers(self, layer_id: str) -> tuple[Layer, ...]:
        """Layers that feed a layer, by input position."""
        layers = self._layers
        return tuple([layers[edge.source] for edge in self._inputs[layer_id]])

    def consumers(self, layer_id: str) -> tuple[Layer, ...]:
        """Layers that read a layer's output."""
        layers = self._layers
        return tuple([layers[edge.target] for edge in self._outputs[layer_id]])

    @cached_property
    def weighted(self) -> tuple[Layer, ...]:
        """Layers that own weight matrices, in topological order."""
        return tuple(layer for layer in self.order if layer.op in WEIGHTED)

    @cached_property
    def params(self) -> tuple[tuple[Layer, Param], ...]:
        """Every parameter with the layer that reads it, in topological order."""
        return tuple((layer, param) for layer in self.order for param in layer.params)

    def effective_consumers(self, layer_id: str) -> tuple[Layer, ...]:
        """Consumers seen through operators that pass values on unchanged."""
        return self._seen_through(layer_id, self.consumers)

    def effective_producers(self, layer_id: str) -> tuple[Layer, ...]:
        """Producers seen through operators that pass values on unchanged."""
        return self._seen_through(layer_id, self.producers)

    @staticmethod
    def _seen_through(
        layer_id: str, neighbours: Callable[[str], tuple[Layer, ...]]
    ) -> tuple[Layer, ...]:
        """The nearest layers on one side that do something, each once."""
        near = neighbours(layer_id)
        if len(near) == 1 and (near[0].op not in TRANSPARENT or near[0].params):
            return near
        found: dict[str, Layer] = {}
        queue = deque(near)
        seen: set[str] = set()
        while queue:
            layer = queue.popleft()
            if layer.id in seen:
                continue
            seen.add(layer.id)
            if layer.op in TRANSPARENT and not layer.params:
                queue.extend(neighbours(layer.id))
            else:
                found[layer.id] = layer
        return tuple(found.values())

    def activation(self, layer_id: str) -> Layer | None:
        """The one activation that a layer's output feeds, through transparent operators.

        None when the output goes to a normaliser, another layer, or several different operators.
        """
        found = self.effective_consumers(layer_id)
        ops = {layer.op for layer in found}
        if len(ops) == 1 and found[0].op in ACTIVATIONS:
            return found[0]
        return None

    def feeds_normaliser(self, layer_id: str) -> bool:
        """True when every consumer, through transparent operators, is a normaliser."""
        found = self.effective_consumers(layer_id)
        return bool(found) and all(layer.op in NORMALISERS for layer in found)

    def is_head(self, layer_id: str) -> bool:
        """True when no other weighted layer is downstream: the output goes to the loss alone."""
        return layer_id not in self._before_weights

    @cached_property
    def _before_weights(self) -> frozenset[str]:
        """Ids of layers with a weighted layer or a product of activations downstream."""
        mixing = WEIGHTED | {Op.ATTENTION}
        found: set[str] = set()
        for layer in reversed(self.order):
            for edge in self._outputs[layer.id]:
                reader = self._layers[edge.target]
                # A product with a fixed grid is no layer, as little as a fixed factor is.
                joins = reader.op is Op.MATMUL and len(self._inputs[edge.target]) > 1
                if edge.target in found or reader.op in mixing or joins:
                    found.add(layer.id)
                    break
        return frozenset(found)

    def leads_to_heads(self, layer_id: str) -> bool:
        """True when no layer downstream has a weighted layer behind it."""
        return layer_id not in self._before_hidden

    @cached_property
    def _before_hidden(self) -> frozenset[str]:
        """Ids of layers with a layer downstream that is no head."""
        found: set[str] = set()
        for layer in reversed(self.order):
            targets = [edge.target for edge in self._outputs[layer.id]]
            if any(key in found or key in self._before_weights for key in targets):
                found.add(layer.id)
        return frozenset(found)

    def downstream(self, layer_ids: Iterable[str]) -> frozenset[str]:
        """Ids of all layers that depend on any of these, by one walk over the graph."""
        return self._reach(layer_ids, lambda key: (edge.target for edge in self._outputs[key]))

    def upstream(self, layer_ids: Iterable[str]) -> frozenset[str]:
        """Ids of all layers that any of these depends on, by one walk over the graph."""
        return self._reach(layer_ids, lambda key: (edge.source for edge in self._inputs[key]))

    @cached_property
    def _leads_on(self) -> bool:
        """True where no edge leads back, as those of recurrent bodies do."""
        rank = self.position
        return all(rank[edge.source] < rank[edge.target] for edge in self._edges)

    def leads_to_any(self, layer_id: str, others: Collection[str]) -> bool:
        """True when one of some layers depends on a layer. Cost: the layers between them."""
        if not self._leads_on:
            return not self.downstream((layer_id,)).isdisjoint(others)
        last = max((self.position[key] for key in others), default=-1)

        def step(key: str) -> Iterable[str]:
            targets = (edge.target for edge in self._outputs[key])
            return (target for target in targets if self.position[target] <= last)

        return not self._reach((layer_id,), step).isdisjoint(others)

    def meet_later(self, first: str, second: str) -> bool:
        """True when some layer depends on both of two layers."""
        ends = self._ends
        if ends is None:
            return not self.downstream((first,)).isdisjoint(self.downstream((second,)))
        return bool(ends[first] & ends[second])

    @cached_property
    def _ends(self) -> dict[str, int] | None:
        """Which layers that nothing reads depend on each, one bit for each of them.

        Layers with a common consumer have a common end. None where there are too many ends.
        """
        bits = {key: 1 << n for n, key in enumerate(k for k, e in self._outputs.items() if not e)}
        if len(bits) > MOST_ENDS or not self._leads_on:
            return None
        found: dict[str, int] = {}
        for layer in reversed(self.order):
            found[layer.id] = 0
            for edge in self._outputs[layer.id]:
                found[layer.id] |= found[edge.target] | bits.get(edge.target, 0)
        return found

    @staticmethod
    def _reach(layer_ids: Iterable[str], step: Callable[[str], Iterable[str]]) -> frozenset[str]:
        seen: set[str] = set()
        queue = deque(near for key in layer_ids for near in step(key))
        while queue:
            key = queue.popleft()
            if key not in seen:
                seen.add(key)
                queue.extend(step(key))
        return frozenset(seen)

    def descendants(self, layer_id: str) -> frozenset[str]:
        """Ids of all layers downstream of a layer."""
        return self.downstream((layer_id,))


def derived(work: Callable[[LayerGraph], Found]) -> Callable[[LayerGraph], Found]:
    """A function of a graph alone, worked out once for each: a graph never changes."""
    name = f"{work.__module__}.{work.__qualname__}"

    @wraps(work)
    def once(graph: LayerGraph) -> Found:
        known = graph._derived
        if name not in known:
            known[name] = work(graph)
        found: Found = known[name]
        return found

    return once
