"""What is looked at before a graph is run: cheap counts that say when running it is unwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

MAX_NODES = 50_000
"""Nodes of a graph that is run.

A session, one run and the statistics of every output take 0.3 to 0.4 ms a node (measured on chains
of 5,000 to 40,000 products and ReLUs of width 16): 20 s, and a graph of twice as many would only be
stopped by the clock. Models have some thousands.
"""

MAX_FAN_OUT = 10_000
"""Consumers of one value: session creation is quadratic in them (10^5 took 90 s of CPU time)."""

MAX_STORED = 50_000
"""Stored values: session creation is quadratic in them (10^5 took 22 s); models have thousands."""

MAX_INPUTS = 1000
"""Inputs to make up; a language model with a cache per layer has some hundreds."""

MAX_SUBGRAPH_DEPTH = 30
"""Each level of If or Loop takes three of the hundred levels that protobuf reads."""

MAX_FUNCTION_DEPTH = 100
"""Inlining recurses; some thousand chained functions overflow the stack of onnxruntime."""

MAX_EXPANDED_NODES = 1_000_000
"""Nodes after every local function is inlined; 40 functions that call the next twice have 2^40."""

KNOWN_DOMAINS = frozenset(
    {
        "",
        "ai.onnx",
        "ai.onnx.ml",
        "ai.onnx.training",
        "ai.onnx.preview",
        "ai.onnx.preview.training",
        "com.microsoft",
        "com.microsoft.nchwc",
        "com.ms.internal.nhwc",
    }
)
"""Operator domains that a CPU build of onnxruntime registers."""


_TOO_MANY = f"the graph has more than {MAX_NODES} nodes"


def refusal(model: Any) -> str | None:
    """Why the graph of an ``onnx.ModelProto`` should not be run; None when it may be."""
    graph = model.graph
    stored = len(graph.initializer) + len(graph.sparse_initializer)
    if stored > MAX_STORED:
        return f"the graph stores {stored} values, more than {MAX_STORED}"
    if len(graph.node) > MAX_NODES:
        return _TOO_MANY
    functions = {(item.domain, item.name): item for item in model.functions}
    calls: Counter[tuple[str, str]] = Counter()
    consumers: Counter[str] = Counter()
    count = 0
    for node, depth in _walk(graph.node):
        count += 1
        if count > MAX_NODES:
            return _TOO_MANY
        if depth > MAX_SUBGRAPH_DEPTH:
            return f"subgraphs are nested more than {MAX_SUBGRAPH_DEPTH} deep"
        key = (node.domain, node.op_type)
        if key in functions:
            calls[key] += 1
        elif node.domain not in KNOWN_DOMAINS:
            return f"operator {node.op_type} of domain {node.domain} is not part of onnxruntime"
        consumers.update(set(node.input))
    fed = {item.name for item in graph.input} - {item.name for item in graph.initializer}
    if len(fed) > MAX_INPUTS:
        return f"the graph has more than {MAX_INPUTS} inputs"
    del consumers[""]
    name, most = max(consumers.items(), key=lambda item: item[1], default=("", 0))
    if most > MAX_FAN_OUT:
        return f"value {name} has {most} consumers, more than {MAX_FAN_OUT}"
    return _functions_refusal(functions, calls, count)


def _functions_refusal(
    functions: Mapping[tuple[str, str], Any],
    calls: Mapping[tuple[str, str], int],
    count: int,
) -> str | None:
    """Depth and size after inlining, by dynamic programming over the call graph."""
    inner: dict[tuple[str, str], Counter[tuple[str, str]]] = {}
    own: dict[tuple[str, str], int] = {}
    for key, function in functions.items():
        inner[key], own[key] = Counter(), 0
        for node, depth in _walk(function.node):
            if depth > MAX_SUBGRAPH_DEPTH:
                return f"subgraphs are nested more than {MAX_SUBGRAPH_DEPTH} deep"
            callee = (node.domain, node.op_type)
            own[key] += 1
            if callee in functions:
                inner[key][callee] += 1
            elif node.domain not in KNOWN_DOMAINS:
                return f"operator {node.op_type} of domain {node.domain} is not part of onnxruntime"
    size: dict[tuple[str, str], int] = {}
    height: dict[tuple[str, str], int] = {}
    for root in functions:
        stack = [root]
        open_calls: set[tuple[str, str]] = set()
        while stack:
            key = stack[-1]
            if key in size:
                stack.pop()
                continue
            waiting = [callee for callee in inner[key] if callee not in size]
            if waiting and key in open_calls:
                return "local functions call each other in a circle"
            if waiting:
                open_calls.add(key)
                stack.extend(waiting)
                continue
            size[key] = own[key] + sum(times * size[callee] for callee, times in inner[key].items())
            height[key] = 1 + max((height[callee] for callee in inner[key]), default=0)
            open_calls.discard(key)
            stack.pop()
    deepest = max((height[key] for key in calls), default=0)
    if deepest > MAX_FUNCTION_DEPTH:
        return f"local functions are nested more than {MAX_FUNCTION_DEPTH} deep"
    if count + sum(times * size[key] for key, times in calls.items()) > MAX_EXPANDED_NODES:
        return f"the graph has more than {MAX_EXPANDED_NODES} nodes once functions are inlined"
    return None


def _walk(nodes: Any) -> Iterator[tuple[Any, int]]:
    """Every node with the depth of its subgraph, without recursion."""
    stack = [(node, 0) for node in nodes]
    while stack:
        node, depth = stack.pop()
        yield node, depth
        for attribute in node.attribute:
            if attribute.HasField("g"):
                stack.extend((inner, depth + 1) for inner in attribute.g.node)
            for graph in attribute.graphs:
                stack.extend((inner, depth + 1) for inner in graph.node)
