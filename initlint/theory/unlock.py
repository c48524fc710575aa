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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from initlint.model.graph import LayerGraph
from initlint.model.layer import BUFFERS, Layer, Param, Role
from initlint.model.model import Model
from initlint.model.op import Op
from initlint.theory.liveness import alive, learns, passes

Zero = Callable[[Param], bool]
"""Whether a parameter is exactly zero (or counts as such) at initialisation."""


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
    blocked_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


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
        self._readers: dict[str, list[str]] = defaultdict(list)
        for layer, param in graph.params:
            self._readers[_owner(param)].append(layer.id)
        for layer in graph.order:
            self.value[layer.id] = alive(layer, self.inputs(layer), self.non_zero)
        self._marked = any(layer.op is Op.OUTPUT for layer in graph)
        for layer in reversed(graph.order):
            self.gradient[layer.id] = self._gradient(layer)
        self.learning = self._learning(layer.id for layer in graph.order)

    def non_zero(self, param: Param) -> bool:
        return _owner(param) not in self.zeros

    def inputs(self, layer: Layer) -> list[bool]:
        """Liveness of the inputs; those of a cycle's closing edges count as alive."""
        return [self.value.get(edge.source, True) for edge in self._sources[layer.id]]

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
    return Unlocking(steps, _Explanation(state).of(blocked) if blocked else {})


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
        self._dead_values: dict[str, dict[str, None]] = {}
        self._dead_gradients: dict[str, dict[str, None]] = {}
        self._order = {param.key: index for index, (_, param) in enumerate(self._graph.params)}
        for layer in self._graph.order:
            self._dead_values[layer.id] = self._value_causes(layer)
        for layer in reversed(self._graph.order):
            self._dead_gradients[layer.id] = self._gradient_causes(layer)

    def of(self, blocked: set[str]) -> dict[str, tuple[str, ...]]:
        """Causes of each blocked parameter, in order of the graph."""
        result: dict[str, tuple[str, ...]] = {}
        for layer, param in self._graph.params:
            if param.key not in blocked:
                continue
            causes = dict(self._dead_gradients[layer.id])
            if not learns(layer, param, self._state.inputs(layer), self._state.non_zero):
                causes |= self._dead_inputs(layer)
                causes |= self._zero_params(layer, param)
            result[param.key] = tuple(sorted(causes, key=lambda key: self._order[key]))
        return result

    def _zero_params(self, layer: Layer, besides: Param | None = None) -> dict[str, None]:
        """Zero factors of a layer; zero addends stop nothing."""
        factors = (Role.WEIGHT, Role.GAIN, Role.RECURRENT_WEIGHT, Role.PROJECTION)
        return {
            param.key: None
            for param in layer.with_role(*factors)
            if param is not besides and not self._state.non_zero(param)
        }

    def _dead_inputs(self, layer: Layer) -> dict[str, None]:
        causes: dict[str, None] = {}
        for edge in self._graph.inputs(layer.id):
            if not self._state.value.get(edge.source, True):
                causes |= self._dead_values.get(edge.source, {})
        return causes

    def _value_causes(self, layer: Layer) -> dict[str, None]:
        """Zero parameters because of which a layer's output is zero, the nearest ones."""
        if self._state.value[layer.id]:
            return {}
        own = self._zero_params(layer)
        if layer.op is Op.CONSTANT:
            own = {param.key: None for param in layer.params}
        return own or self._dead_inputs(layer)

    def _gradient_causes(self, layer: Layer) -> dict[str, None]:
        """Zero parameters because of which no gradient reaches a layer's output."""
        causes: dict[str, None] = {}
        if self._state.gradient[layer.id]:
            return causes
        for edge in self._graph.outputs(layer.id):
            consumer = self._graph[edge.target]
            if not self._state.gradient.get(edge.target, True):
                causes |= self._dead_gradients.get(edge.target, {})
            if not self._state.lets_through(edge.target, edge.position):
                causes |= self._zero_params(consumer) or self._dead_inputs(consumer)
        return causes
