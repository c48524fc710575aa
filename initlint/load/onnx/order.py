"""The order in which the nodes of a graph can be visited."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from initlint.load.files import shown
from initlint.load.onnx.limits import subgraphs
from initlint.model import LoadError


@dataclass(frozen=True, slots=True)
class Names:
    """The names in a list of nodes, taken out of the file once: each access makes them anew.

    Attributes:
        inputs: what each node reads, "" where an input is absent.
        outputs: what each node produces, likewise.
        captured: what the subgraphs of a node read and give, by the node's index.
        plain: indices of the nodes without attributes.
    """

    inputs: Sequence[tuple[str, ...]]
    outputs: Sequence[tuple[str, ...]]
    captured: Mapping[int, tuple[str, ...]]
    plain: frozenset[int]

    def uses(self, results: Iterable[str]) -> Counter[str]:
        """How often each name is read, the results of the graph included."""
        found = Counter(chain.from_iterable(self.inputs))
        for names in self.captured.values():
            found.update(names)
        found.update(results)
        del found[""]
        return found

    def reads(self, index: int) -> tuple[str, ...]:
        """Everything that a node needs, its subgraphs included."""
        return self.inputs[index] + self.captured.get(index, ())


def names_of(nodes: Sequence[Any]) -> Names:
    """The names in a list of nodes."""
    inputs: list[tuple[str, ...]] = []
    outputs: list[tuple[str, ...]] = []
    captured: dict[int, tuple[str, ...]] = {}
    plain: list[int] = []
    for index, node in enumerate(nodes):
        # A slice is copied at once, an iterator asks for one after the other.
        inputs.append(tuple(node.input[:]))
        outputs.append(tuple(node.output[:]))
        if not len(node.attribute):
            plain.append(index)
        elif names := tuple(_captures(node)):
            captured[index] = names
    return Names(inputs, outputs, captured, frozenset(plain))


def _captures(node: Any) -> Iterator[str]:
    """Names that the subgraphs of a node read, and those of their results."""
    for graph in subgraphs(node):
        for inner in graph.node:
            yield from (text for text in inner.input if text)
            yield from _captures(inner)
        for proto in graph.output:
            yield proto.name


def ordered(nodes: Sequence[Any], names: Names, scope: Mapping[str, Any]) -> Sequence[int]:
    """Indices of nodes so that each comes after the producers of what it reads.

    Stored order where that is such an order.

    Raises:
        LoadError: a value that nothing produces, one that two nodes produce, or a cycle.
    """
    producer: dict[str, int] = {}
    for index, outputs in enumerate(names.outputs):
        for text in outputs:
            if text in producer:
                raise LoadError(f"two nodes produce the value {shown(text)!r}")
            if text:
                producer[text] = index
    sorted_already = True
    captured, made = names.captured, producer.get
    for index, inputs in enumerate(names.inputs):
        for text in inputs if index not in captured else names.reads(index):
            made_by = made(text)
            if made_by is not None:
                if made_by >= index:
                    sorted_already = False
            elif text and text not in scope and text in inputs:
                node = nodes[index]
                raise LoadError(
                    f"node {shown(node.name or node.op_type)!r} reads {shown(text)!r}, "
                    "which nothing produces"
                )
    if sorted_already:
        return range(len(nodes))
    needs = [
        {producer[text] for text in names.reads(index) if text in producer}
        for index in range(len(nodes))
    ]
    twice = next((text for text in producer if text in scope), None)
    return _by_need(nodes, needs, twice)


def _by_need(nodes: Sequence[Any], needs: list[set[int]], twice: str | None = None) -> list[int]:
    """An order that serves every need; ``twice`` is a value with two origins, if any."""
    readers: dict[int, list[int]] = {}
    for index, own in enumerate(needs):
        for made_by in own:
            readers.setdefault(made_by, []).append(index)
    left = [len(own) for own in needs]
    ready = deque(index for index, count in enumerate(left) if count == 0)
    done: list[int] = []
    while ready:
        index = ready.popleft()
        done.append(index)
        for reader in readers.get(index, ()):
            left[reader] -= 1
            if left[reader] == 0:
                ready.append(reader)
    if len(done) < len(nodes):
        stuck = next(index for index, count in enumerate(left) if count > 0)
        if twice is not None:
            raise LoadError(
                f"the value {shown(twice)!r} is an input or initializer and a node's output as well"
            )
        name = nodes[stuck].name or nodes[stuck].op_type
        raise LoadError(f"the graph has a cycle through node {shown(name)!r}")
    return done
