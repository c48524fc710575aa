"""What each input of an ONNX graph should hold, read off its name, shape and consumers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from initlint.probe.inputs import Axis, Content, Extent, InputSpec
from initlint.probe.onnx_hints import GraphHints

_BATCH_NAME = re.compile(r"(^|_)(batch|bs|n)(_?size)?($|_)|^b$", re.IGNORECASE)
_LENGTH_NAME = re.compile(r"seq|len|time|frame|token|step|audio|past|samples", re.IGNORECASE)
_PAST_NAME = re.compile(r"past", re.IGNORECASE)
_STATE_NAME = re.compile(
    r"(^|[._/:])(h|c|hn|cn|h_?[0n]|c_?[0n]|h_?in|c_?in|hx|cx|(.*_)?(hidden|cell|state)s?"
    r"(_?(in|input|h|c|[0-9]+))?|past.*)$",
    re.IGNORECASE,
)
_ENVIRONMENT = re.compile(r"(^|[._/:])states?$", re.IGNORECASE)
"""The name by which policies and critics know what they see; a recurrent state has three axes."""

_MASK_NAME = re.compile(r"mask", re.IGNORECASE)
_TYPE_NAME = re.compile(r"token_?type|segment", re.IGNORECASE)
_POSITION_NAME = re.compile(r"position|pos_ids", re.IGNORECASE)
_LENGTH_INPUT = re.compile(r"len(gth)?s?($|_)|n_?frames|seq_?lens?", re.IGNORECASE)
_RATE_NAME = re.compile(r"^sr$|sampl(e|ing)_?rate", re.IGNORECASE)
_CACHE_SWITCH = re.compile(r"use_cache", re.IGNORECASE)

_FLOATS = frozenset({"float16", "float32", "float64"})


def input_specs(inputs: Sequence[Any], graph: Any) -> tuple[InputSpec, ...]:
    """How to make every input.

    Args:
        inputs: the inputs to feed (``GraphInput``: name, dtype, dims, optional).
        graph: the ``onnx.GraphProto`` that reads them.
    """
    hints = GraphHints(graph)
    drafts = [(item, _content(item, hints)) for item in inputs]
    if all(content is Content.ZEROS for _, (content, _) in drafts):
        drafts = [(item, _signal(item, draft, hints)) for item, draft in drafts]
    roles = _symbol_roles(drafts, hints)
    return tuple(
        InputSpec(item.name, item.dtype, _axes(item, content, hints, roles), content, bound)
        for item, (content, bound) in drafts
    )


def _content(item: Any, hints: GraphHints) -> tuple[Content, int]:
    name, dtype = item.name, item.dtype
    if dtype == "string":
        return Content.TEXT, 0
    if dtype == "bool":
        return (Content.ZEROS if _CACHE_SWITCH.search(name) else Content.ONES), 0
    if _RATE_NAME.search(name):
        return Content.SAMPLE_RATE, 0
    if _MASK_NAME.search(name):
        return Content.ONES, 0
    bound = hints.index_bound(name)
    if dtype in _FLOATS:
        if bound is not None:
            return Content.TOKENS, bound
        seen = _ENVIRONMENT.search(name) and len(item.dims or ()) != 3
        state = hints.is_initial_state(name) or (_STATE_NAME.search(name) and not seen)
        return (Content.ZEROS if state else Content.NORMAL), 0
    if _TYPE_NAME.search(name):
        return Content.ZEROS, 0
    if _POSITION_NAME.search(name):
        return Content.POSITIONS, bound or 0
    if bound is not None:
        return Content.TOKENS, bound
    if _LENGTH_INPUT.search(name):
        return Content.LENGTHS, 0
    if dtype in ("uint8", "int8") and len(item.dims or ()) >= 3:
        return Content.TOKENS, 256 if dtype == "uint8" else 128
    if item.dims is not None and len(item.dims) < 1:
        return Content.ONES, 0
    return Content.TOKENS, 2


def _signal(item: Any, draft: tuple[Content, int], hints: GraphHints) -> tuple[Content, int]:
    """What an input called like a state holds in a graph that has no other: the signal."""
    by_name = item.dtype in _FLOATS and not hints.is_initial_state(item.name)
    return (Content.NORMAL, 0) if by_name else draft


def _symbol_roles(
    drafts: Sequence[tuple[Any, tuple[Content, int]]], hints: GraphHints
) -> dict[str, Axis]:
    """What a symbolic axis stands for; one symbol has one role in the whole graph."""
    roles: dict[str, Axis] = {}
    for item, (content, _) in drafts:
        dims = item.dims or ()
        widths = hints.widths(item.name, len(dims)) if content is Content.NORMAL else {}
        for position, symbol in enumerate(dims):
            if not isinstance(symbol, str):
                continue
            role = _role(symbol, position, dims, content, widths, len(drafts))
            held = roles.get(symbol)
            stronger = held is None or (
                held.extent is not Extent.FIXED and role.extent in (Extent.FIXED, Extent.BATCH)
            )
            if stronger:
                roles[symbol] = role
    return roles


def _axes(
    item: Any,
    draft: Content,
    hints: GraphHints,
    roles: Mapping[str, Axis],
) -> tuple[Axis, ...]:
    dims = item.dims
    if dims is None:
        dims = (None,) * hints.rank(item.name)
    widths = hints.widths(item.name, len(dims)) if draft is Content.NORMAL else {}
    found = []
    for position, size in enumerate(dims):
        if isinstance(size, int):
            found.append(Axis(Extent.FIXED, size))
        elif isinstance(size, str):
            found.append(roles.get(size) or _role(size, position, dims, draft, widths, 1))
        else:
            found.append(_role("", position, dims, draft, widths, 2))
    return tuple(found)


def _role(
    symbol: str,
    position: int,
    dims: Sequence[int | str | None],
    content: Content,
    widths: Mapping[int, Axis],
    inputs: int,
) -> Axis:
    if _PAST_NAME.search(symbol) and not re.search(r"\+|total", symbol):
        return Axis(Extent.FIXED, 0)  # the first step: nothing came before
    if _BATCH_NAME.search(symbol):
        return Axis(Extent.BATCH)
    if position in widths:
        return widths[position]
    if content is Content.ZEROS and len(dims) == 3:
        return Axis(Extent.BATCH)  # a recurrent state: layers and width are fixed
    if position == 0:
        sole_signal = len(dims) == 1 and inputs == 1 and content is Content.NORMAL
        length = bool(_LENGTH_NAME.search(symbol)) or sole_signal
        return Axis(Extent.LENGTH if length else Extent.BATCH)
    if len(dims) == 4 and not _LENGTH_NAME.search(symbol):
        channels_last = dims[3] in (1, 3, 4)
        channel = 3 if channels_last else 1
        return Axis(Extent.FIXED, 3) if position == channel else Axis(Extent.SPATIAL)
    return Axis(Extent.LENGTH)
