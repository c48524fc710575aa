"""How much work a graph asks for, counted before anything is expanded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from initlint.load.files import shown
from initlint.model import LoadError

MAX_NODES = 1_000_000
"""Nodes after inlining local functions. At about 30 µs a node this is half of the static tier's
minute; the largest published exports have some 10^5."""

MAX_DEPTH = 100
"""Nesting of calls and subgraphs. Exporters nest two or three deep; Python's stack ends at 1000
frames, of which each level takes a handful."""

FunctionKey = tuple[str, str, str]


def function_key(proto: Any) -> FunctionKey:
    """Identity of a model-local function."""
    return _domain(proto.domain), proto.name, proto.overload


def call_key(node: Any) -> FunctionKey:
    """The function that a node would call."""
    return _domain(node.domain), node.op_type, node.overload


def subgraphs(node: Any) -> Iterator[Any]:
    """The graphs that a node holds in its attributes."""
    for attribute in node.attribute:
        if attribute.type == 5:
            yield attribute.g
        elif attribute.type == 10:
            yield from attribute.graphs


def expanded_nodes(model: Any) -> int:
    """Nodes of the model with every local function inlined, by dynamic programming.

    Raises:
        LoadError: more than `MAX_NODES`, nested deeper than `MAX_DEPTH`, or a function that calls
            itself.
    """
    functions = {function_key(function): function for function in model.functions}
    known: dict[FunctionKey, tuple[int, int]] = {}
    total, _ = _count(model.graph.node, functions, known, frozenset(), 0)
    return total


def _count(
    nodes: Any,
    functions: dict[FunctionKey, Any],
    known: dict[FunctionKey, tuple[int, int]],
    calling: frozenset[FunctionKey],
    depth: int,
) -> tuple[int, int]:
    """(nodes after expansion, levels below) of a node list."""
    if depth > MAX_DEPTH:
        raise LoadError(f"functions and subgraphs are nested deeper than {MAX_DEPTH} levels")
    total = levels = 0
    for node in nodes:
        total += 1
        key = call_key(node) if functions else None
        if key in functions:
            if key in calling:
                raise LoadError(f"function {shown(key[1])!r} calls itself, which ONNX forbids")
            if key not in known:
                body = functions[key].node
                known[key] = _count(body, functions, known, calling | {key}, depth + 1)
            count, below = known[key]
            total += count
            levels = max(levels, below + 1)
        for graph in subgraphs(node) if len(node.attribute) else ():
            count, below = _count(graph.node, functions, known, calling, depth + 1)
            total += count
            levels = max(levels, below + 1)
        if depth + levels > MAX_DEPTH:
            raise LoadError(f"functions and subgraphs are nested deeper than {MAX_DEPTH} levels")
        if total > MAX_NODES:
            raise LoadError(
                f"the graph has more than {MAX_NODES} nodes after inlining its functions"
            )
    return total, levels


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain
