"""Which parameters ever receive a gradient: the Boolean unlock fixpoint.

Zero is not an error, unreachability is. A parameter that is zero, or whose gradient is zero now, is
healthy when some step of gradient descent brings it a gradient. Starting from the parameters that
are exactly zero, liveness is propagated forward and backward (`initlint.theory.liveness`); every
parameter that receives a gradient stops being zero, and the propagation repeats until nothing
changes. What has received no gradient by then never will, under any optimiser whose update is zero
for a zero gradient. The rules are exact but for cancellations of measure zero.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from initlint.model.graph import LayerGraph
from initlint.model.layer import BUFFERS, Layer, Param, Role
from initlint.model.model import Model
from initlint.model.op import Op
from initlint.theory.liveness import alive, learns, passes

Zero = Callable[[Param], bool]
"""Whether a parameter is exactly zero (or counts as such) at initialisation."""

_NONE = 0
"""The number of the empty set."""


class _Sets:
    """Sets of keys, each made of keys of its own and of sets made before: they share what is equal.

    In a stack of n zero layers each is blocked by up to n others. Listed one by one they would be
    as many as the square of the layers.
    """

    def __init__(self) -> None:
        self.own: list[tuple[str, ...]] = [()]
        self.parts: list[tuple[int, ...]] = [()]

    def add(self, own: Iterable[str], parts: Iterable[int]) -> int:
        """The number of a set."""
        mine, others = tuple(dict.fromkeys(own)), tuple(dict.fromkeys(parts))
        others = tuple(part for part in others if part != _NONE)
        if not mine and len(others) < 2:
            return others[0] if others else _NONE
        self.own.append(mine)
        self.parts.append(others)
        return len(self.own) - 1

    def fresh(self, number: int, seen: set[int]) -> Iterator[str]:
        """Keys of a set, those left out that stand in parts seen before; what is met is seen."""
        waiting = [number]
        while waiting:
            number = waiting.pop()
            if number not in seen:
                seen.add(number)
                yield from self.own[number]
                waiting.extend(self.parts[number])

    def holding(self, wanted: Collection[str]) -> list[bool]:
        """For each set whether it holds one of these keys."""
        found: list[bool] = []
        for own, parts in zip(self.own, self.parts, strict=True):  # parts come before their whole
            found.append(any(key in wanted for key in own) or any(found[part] for part in parts))
        return found


class Causes(Mapping[str, tuple[str, ...]]):
    """Per key of each blocked parameter the keys of the zero parameters behind it.

    Each list is made when it is asked for, and may be as long as the network is deep: what is asked
    of all of them together has a method here, whose work grows with the graph alone.
    """

    def __init__(
        self,
        found: Mapping[str, int] | None = None,
        sets: _Sets | None = None,
        order: Mapping[str, int] | None = None,
    ) -> None:
        self._found = found or {}
        self._sets = sets or _Sets()
        self._order = order or {}

    def __getitem__(self, key: str) -> tuple[str, ...]:
        return self._sorted(self._sets.fresh(self._found[key], set()))

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def _sorted(self, keys: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(set(keys), key=self._order.__getitem__))

    def among(self, wanted: Collection[str]) -> frozenset[str]:
        """Keys of the blocked parameters that one of these is a cause of."""
        holding = self._sets.holding(wanted)
        return frozenset(key for key, number in self._found.items() if holding[number])

    def each_once(self, blocked: Iterable[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Blocked parameters and their causes, without causes that one before them has."""
        seen: set[int] = set()
        for key in blocked:
            yield key, self._sorted(self._sets.fresh(self._found.get(key, _NONE), seen))

    def groups(self, keys: Iterable[str]) -> list[tuple[tuple[str, ...], frozenset[str]]]:
        """These keys, those together that block one parameter, and what each group blocks.

        A blocked parameter that is among them belongs to the group of its causes.
        """
        keys = dict.fromkeys(keys)
        holding = self._sets.holding(keys)
        joined = _Joined()
        seen: set[int] = set()
        first: dict[str, object] = {}  # by blocked parameter: what it is joined with
        for key, number in self._found.items():
            ends: list[object] = [key] if key in keys else []
            ends += [number] if holding[number] else []
            if ends:
                first[key] = ends[0]
                joined.join(*ends)
            waiting = [number]
            while waiting:
                whole = waiting.pop()
                if whole in seen or not holding[whole]:
                    continue
                seen.add(whole)
                parts = [part for part in self._sets.parts[whole] if holding[part]]
                joined.join(whole, *parts, *(own for own in self._sets.own[whole] if own in keys))
                waiting += parts
        members: dict[object, list[str]] = {}
        for key in keys:
            members.setdefault(joined.root(key), []).append(key)
        blocked: dict[object, set[str]] = {}
        for key, end in first.items():
            blocked.setdefault(joined.root(end), set()).add(key)
        return [(tuple(own), frozenset(blocked.get(root, ()))) for root, own in members.items()]


class _Joined:
    """Disjoint sets of things: who is joined has one root."""

    def __init__(self) -> None:
        self._parent: dict[object, object] = {}

    def root(self, item: object) -> object:
        parent = self._parent
        while (above := parent.get(item, item)) != item:
            parent[item] = item = parent.get(above, above)  # every walk halves the way of the next
        return item

    def join(self, first: object, *others: object) -> None:
        root = self.root(first)
        for other in others:
            self._parent[self.root(other)] = root


@dataclass(frozen=True, slots=True)
class Unlocking:
    """The result of the fixpoint.

    Attributes:
        steps: per key of each trainable parameter that some output depends on: the first optimizer
            step at which its gradient is not zero (0: the first one), or None when there is none.
        blocked_by: per key of each blocked parameter: keys of the zero parameters on its
            ways to the outputs and from the inputs, in order of the graph.
    """

    steps: Mapping[str, int | None] = field(default_factory=dict)
    blocked_by: Causes = field(default_factory=Causes)


def _owner(param: Param) -> str:
    """Identity of the storage: tied parameters unlock together."""
    if param.tied_to is None:
        return param.key
    return "/".join([param.tied_to, *param.key.split("/")[1:]])


class _State:
    """Liveness of every tensor and gradient while parameters stop being zero.

    Making a parameter non-zero only ever brings tensors and gradients to life, so a change is
    propagated from where it happens, and all steps together cost as much as the graph.
    """

    def __init__(self, graph: LayerGraph, zeros: set[str]) -> None:
        self.graph = graph
        self.zeros = zeros
        self.value: dict[str, bool] = {}
        self.gradient: dict[str, bool] = {}
        self._sources = {layer.id: graph.inputs(layer.id) for layer in graph}
        self._inputs: dict[str, list[bool]] = {}
        self._readers: dict[str, list[str]] = defaultdict(list)
        for layer, param in graph.params:
            self._readers[_owner(param)].append(layer.id)
        for layer in graph.order:
            self.value[layer.id] = alive(layer, self.inputs(layer), self.non_zero)
        self._inputs.clear()  # those of a cycle were not all known yet
        self._marked = any(layer.op is Op.OUTPUT for layer in graph)
        for layer in reversed(graph.order):
            self.gradient[layer.id] = self._gradient(layer)
        self.learning = self._learning(layer.id for layer in graph.order)

    def non_zero(self, param: Param) -> bool:
        return _owner(param) not in self.zeros

    def inputs(self, layer: Layer) -> list[bool]:
        """Liveness of the inputs; those of a cycle's closing edges count as alive.

        Kept, for a sum of many tensors is asked once for each of them.
        """
        found = self._inputs.get(layer.id)
        if found is None:
            sources = self._sources[layer.id]
            found = self._inputs[layer.id] = [self.value.get(edge.source, True) for edge in sources]
        return found

    def _gradient(self, layer: Layer) -> bool:
        edges = self.graph.outputs(layer.id)
        if layer.op is Op.OUTPUT or (not self._marked and not edges):
            return True
        return any(
            self.gradient.get(edge.target, True) and self.lets_through(edge.target, edge.position)
            for edge in edges
        )

    def lets_through(self, consumer: str, position: int) -> bool:
        """Whether a consumer's gradient reaches the producer of one of its inputs."""
        layer = self.graph[consumer]
        return passes(layer, position, self.inputs(layer), self.non_zero)

    def _learning(self, layers: Iterable[str]) -> set[str]:
        """Owners of the parameters of some layers that receive a gradient."""
        found: set[str] = set()
        for key in layers:
            layer = self.graph[key]
            if layer.params and self.gradient[key]:
                inputs = self.inputs(layer)
                found.update(
                    _owner(param)
                    for param in layer.params
                    if learns(layer, param, inputs, self.non_zero)
                )
        return found

    def release(self, owners: set[str]) -> None:
        """Make parameters non-zero and propagate what follows."""
        self.zeros -= owners
        touched = dict.fromkeys(key for owner in sorted(owners) for key in self._readers[owner])
        queue = deque(touched)
        while queue:
            key = queue.popleft()
            if self.value[key]:
                continue
            layer = self.graph[key]
            self.value[key] = alive(layer, self.inputs(layer), self.non_zero)
            if self.value[key]:
                targets = [edge.target for edge in self.graph.outputs(key)]
                for target in targets:
                    self._inputs.pop(target, None)
                touched.update(dict.fromkeys(targets))
                queue.extend(targets)
        queue = deque(touched)
        while queue:
            for edge in self._sources[queue.popleft()]:
                if not self.gradient[edge.source]:
                    self.gradient[edge.source] = self._gradient(self.graph[edge.source])
                    if self.gradient[edge.source]:
                        touched[edge.source] = None
                        queue.append(edge.source)
        self.learning |= self._learning(touched)


def unlocking(model: Model, zero: Zero) -> Unlocking:
    """When each trainable parameter first receives a gradient, and what blocks the others.

    Frozen parameters and buffers keep their zeros and are never targets. Parameters that no output
    depends on, whatever their values, are left out. A model without edges gives an empty result.

    Args:
        model: the model; its tensors are not read.
        zero: tells whether a parameter is exactly zero; asked once per parameter.
    """
    if not model.connected:
        return Unlocking()
    graph = model.graph
    targets = {
        param.key: _owner(param)
        for _, param in graph.params
        if param.trainable and param.role not in BUFFERS
    }
    trainable = set(targets.values())
    whole: dict[str, bool] = {}
    for _, param in graph.params:  # a part that is zero (one of a vector of scales) is not all
        owner = _owner(param)
        whole[owner] = whole.get(owner, True) and zero(param)
    zeros = {owner for owner, is_zero in whole.items() if is_zero}
    free = _State(graph, set())
    reachable = free.learning
    state = _State(graph, zeros) if zeros else free
    first: dict[str, int] = {}
    step = 0
    while True:
        learning = state.learning & trainable
        for owner in learning - first.keys():
            first[owner] = step
        if not state.zeros & learning:
            break
        state.release(state.zeros & learning)
        step += 1
    steps = {key: first.get(owner) for key, owner in targets.items() if owner in reachable}
    blocked = {key for key, found in steps.items() if found is None}
    return Unlocking(steps, _Explanation(state).of(blocked) if blocked else Causes())


def unlock_steps(model: Model, zero: Zero) -> Mapping[str, int | None]:
    """`Unlocking.steps` alone."""
    return unlocking(model, zero).steps


def blocking(model: Model, zero: Zero) -> Mapping[str, tuple[str, ...]]:
    """`Unlocking.blocked_by` alone."""
    return unlocking(model, zero).blocked_by


class _Explanation:
    """Traces dead values and dead gradients to the zero parameters behind them."""

    def __init__(self, state: _State) -> None:
        self._state = state
        self._graph = state.graph
        self._sets = _Sets()
        self._dead_values: dict[str, int] = {}
        self._dead_gradients: dict[str, int] = {}
        self._dead_inputs_of: dict[str, int] = {}
        for layer in self._graph.order:
            self._dead_values[layer.id] = self._value_causes(layer)
        self._dead_inputs_of.clear()  # those of a cycle were not all known yet
        for layer in reversed(self._graph.order):
            self._dead_gradients[layer.id] = self._gradient_causes(layer)

    def of(self, blocked: set[str]) -> Causes:
        """Causes of each blocked parameter, in order of the graph."""
        order = {param.key: index for index, (_, param) in enumerate(self._graph.params)}
        found: dict[str, int] = {}
        for layer, param in self._graph.params:
            if param.key not in blocked:
                continue
            parts = [self._dead_gradients[layer.id]]
            own: tuple[str, ...] = ()
            if not learns(layer, param, self._state.inputs(layer), self._state.non_zero):
                parts.append(self._dead_inputs(layer))
                own = self._zero_params(layer, param)
            found[param.key] = self._sets.add(own, parts)
        return Causes(found, self._sets, order)

    def _zero_params(self, layer: Layer, besides: Param | None = None) -> tuple[str, ...]:
        """Zero factors of a layer; zero addends stop nothing."""
        factors = (Role.WEIGHT, Role.GAIN, Role.RECURRENT_WEIGHT, Role.PROJECTION)
        return tuple(
            param.key
            for param in layer.with_role(*factors)
            if param is not besides and not self._state.non_zero(param)
        )

    def _dead_inputs(self, layer: Layer) -> int:
        found = self._dead_inputs_of.get(layer.id)
        if found is None:
            parts = [
                self._dead_values.get(edge.source, _NONE)
                for edge in self._graph.inputs(layer.id)
                if not self._state.value.get(edge.source, True)
            ]
            found = self._dead_inputs_of[layer.id] = self._sets.add((), parts)
        return found

    def _value_causes(self, layer: Layer) -> int:
        """Zero parameters because of which a layer's output is zero, the nearest ones."""
        if self._state.value[layer.id]:
            return _NONE
        own = self._zero_params(layer)
        if layer.op is Op.CONSTANT:
            own = tuple(param.key for param in layer.params)
        return self._sets.add(own, ()) if own else self._dead_inputs(layer)

    def _gradient_causes(self, layer: Layer) -> int:
        """Zero parameters because of which no gradient reaches a layer's output."""
        if self._state.gradient[layer.id]:
            return _NONE
        own: list[str] = []
        parts: list[int] = []
        for edge in self._graph.outputs(layer.id):
            consumer = self._graph[edge.target]
            if not self._state.gradient.get(edge.target, True):
                parts.append(self._dead_gradients.get(edge.target, _NONE))
            if not self._state.lets_through(edge.target, edge.position):
                zeros = self._zero_params(consumer)
                own += zeros
                parts += () if zeros else (self._dead_inputs(consumer),)
        return self._sets.add(own, parts)
