"""The order in which the nodes of a graph can be visited."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from initlint.load.files import shown
from initlint.load.onnx.limits import subgraphs
from initlint.model import LoadError


def names_read(nodes: Iterable[Any]) -> Iterator[str]:
    """Names that nodes read, the captures of their subgraphs included."""
    for node in nodes:
        for text in node.input:
            if text:
                yield text
        if node.attribute:
            for graph in subgraphs(node):
                yield from names_read(graph.node)
                for proto in graph.output:
                    yield proto.name


def ordered(nodes: Sequence[Any], scope: Mapping[str, Any]) -> Iterator[Any]:
    """Nodes so that each comes after the producers of what it reads; stored order otherwise.

    Raises:
        LoadError: a value that nothing produces, one that two nodes produce, or a cycle.
    """
    producer: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for text in node.output:
            if text:
                if text in producer:
                    raise LoadError(f"two nodes produce the value {shown(text)!r}")
                producer[text] = index
    sorted_already = True
    for index, node in enumerate(nodes):
        for text in node.input if not node.attribute else _reads_of(node):
            if not text:
                continue
            made_by = producer.get(text)
            if made_by is not None:
                sorted_already = sorted_already and made_by < index
            elif text not in scope and text in node.input:
                raise LoadError(
                    f"node {shown(node.name or node.op_type)!r} reads {shown(text)!r}, "
                    "which nothing produces"
                )
    if sorted_already:
        yield from nodes
        return
    needs = [
        {producer[text] for text in _reads_of(node) if text and text in producer} for node in nodes
    ]
    twice = next((text for text in producer if text in scope), None)
    yield from _by_need(nodes, needs, twice)


def _reads_of(node: Any) -> Iterable[str]:
    names = list(node.input)
    for graph in subgraphs(node):
        names.extend(names_read(graph.node))
        names.extend(proto.name for proto in graph.output)
    return names


def _by_need(
    nodes: Sequence[Any], needs: list[set[int]], twice: str | None = None
) -> Iterator[Any]:
    """Nodes in an order that serves every need; ``twice`` is a value with two origins, if any."""
    readers: dict[int, list[int]] = {}
    for index, own in enumerate(needs):
        for made_by in own:
            readers.setdefault(made_by, []).append(index)
    left = [len(own) for own in needs]
    ready = deque(index for index, count in enumerate(left) if count == 0)
    done = 0
    while ready:
        index = ready.popleft()
        done += 1
        yield nodes[index]
        for reader in readers.get(index, ()):
            left[reader] -= 1
            if left[reader] == 0:
                ready.append(reader)
    if done < len(nodes):
        stuck = next(index for index, count in enumerate(left) if count > 0)
        if twice is not None:
            raise LoadError(
                f"the value {shown(twice)!r} is an input or initializer and a node's output as well"
            )
        name = nodes[stuck].name or nodes[stuck].op_type
        raise LoadError(f"the graph has a cycle through node {shown(name)!r}")
