"""unchanged-between: parameters that are the same, bit for bit, in two states of one training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum

import numpy as np

from initlint.api import (
    BUFFERS,
    Context,
    Finding,
    Fix,
    Layer,
    Need,
    Op,
    OptimiserState,
    Param,
    Rule,
    Severity,
    Stage,
    Tensor,
    record,
    unlocking,
)

SELECTIVE = 0.5
"""Share of the trainable elements that must have moved before one that rested is conspicuous. Where
less moved, a part was trained on purpose: a head, adapters, a LoRA pair."""

MANTISSA = {"bfloat16": 8, "float16": 11}
"""Significant bits, the hidden one included."""

STEP = 1e-3
"""Step of an Adam-like optimiser at a common learning rate: what rounding must let through."""


class _Cause(Enum):
    """Why a parameter did not move, with its severity and the line that explains it."""

    BLOCKED = "blocked"
    NO_GRADIENT = "no_gradient"
    ROUNDED = "rounded"
    UNKNOWN = "unknown"
    SELECTIVE = "selective"
    FROZEN = "frozen"


_SEVERITY = {
    _Cause.BLOCKED: Severity.ERROR,
    _Cause.NO_GRADIENT: Severity.ERROR,
    _Cause.ROUNDED: Severity.ERROR,
    _Cause.UNKNOWN: Severity.WARNING,
    _Cause.SELECTIVE: Severity.INFO,
    _Cause.FROZEN: Severity.INFO,
}

_WHY = {
    _Cause.BLOCKED: "zeros in series: no gradient reaches it at any step",
    _Cause.NO_GRADIENT: "the optimiser's memory of its gradient is zero: none ever reached it",
    _Cause.ROUNDED: "one step is smaller than half the distance to the next number of its dtype",
    _Cause.UNKNOWN: "forgotten by the optimiser, cut off by a detach, or frozen",
    _Cause.SELECTIVE: "most parameters rested: a head or adapters are trained on a fixed network",
    _Cause.FROZEN: "requires_grad is False",
}

_CURE = {
    _Cause.BLOCKED: "make one factor of the chain non-zero (see blocked-parameters)",
    _Cause.NO_GRADIENT: "look for detach, no_grad, or units that are all dead before it",
    _Cause.ROUNDED: "keep these parameters in float32, or round stochastically",
    _Cause.UNKNOWN: "check that the optimiser was given all of model.parameters()",
    _Cause.SELECTIVE: "nothing, if that is meant",
    _Cause.FROZEN: "nothing, if that is meant",
}


@record(frozen=True, slots=True)
class _Rested:
    layer: Layer
    param: Param
    cause: _Cause


class UnchangedBetween(Rule):
    """Parameters are the same, bit for bit, in two checkpoints while others moved.

    What it does
    ------------
    In a comparison of two states (`initlint diff BEFORE AFTER`), finds parameters that did not move
    at all, and says why where the weights, the graph or the optimiser's state tell.

    Why is this bad
    ---------------
    Training moves every parameter that it reaches, at least in the last bit. One that rests was
    frozen, or left out of the optimiser, or gets no gradient, or its steps are rounded away; the
    loss goes down all the same, and a part of the model stays what it was drawn as.

    How it decides
    --------------
    Exact: equal bit by bit, while other parameters changed. Error where the cause is certain: zeros
    in series block it, the optimiser's memory of its gradient is zero, or in half precision a step
    of 1e-3 is below half the distance to the next number. Otherwise a warning; an info for frozen
    parameters, and where less than half of the trainable elements moved, which is how heads and
    adapters are trained.

    What it does not flag
    ---------------------
    Buffers, integers, embeddings of which some row moved, tied copies, two states that are the same
    as a whole (diff says so itself).

    Example
    -------
    ::

        from initlint.testing import Network, from_array, normal

        def model():
            net = Network()
            x = net.input(64)
            earlier = {}
            for index in range(4):
                weight = normal(net.rng, 64, 64, std=0.1)
                x = net.relu(net.linear(x, weight, name=f"fc{index}"))
                old = weight if index == 2 else 0.9 * weight
                earlier[f"fc{index}.weight"] = from_array("old", old)
            net.output(x)
            return net.model(earlier=earlier)

    Use instead
    -----------
    ::

        from initlint.testing import Network, from_array, normal

        def model():
            net = Network()
            x = net.input(64)
            earlier = {}
            for index in range(4):
                weight = normal(net.rng, 64, 64, std=0.1)
                x = net.relu(net.linear(x, weight, name=f"fc{index}"))
                earlier[f"fc{index}.weight"] = from_array("old", 0.9 * weight)
            net.output(x)
            return net.model(earlier=earlier)

    References
    ----------
    - Goodfellow, Bengio, Courville 2016, Deep Learning, section 11.5: debugging strategies.
    """

    code = "CKP103"
    name = "unchanged-between"
    formula = "theta(after) = theta(before), bit for bit"
    needs = frozenset({Need.WEIGHTS})
    stages = frozenset(Stage)
    folds = ("never-trained-layer",)

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per cause."""
        earlier: Mapping[str, Tensor] = context.model.metadata.get("earlier", {})
        if not earlier:
            return
        rested: list[tuple[Layer, Param]] = []
        moved, trainable = 0, 0
        loose = ((Layer(param.name, Op.OTHER), param) for param in context.model.loose)
        for layer, param in (*context.model.graph.params, *loose):
            old = earlier.get(param.key)
            if old is None or param.tensor is None or not _is_judged(param):
                continue
            same = old.shape == param.shape and _equal(old, param.tensor)
            trainable += param.size * param.trainable
            if same:
                rested.append((layer, param))
            else:
                moved += param.size
        if not rested or not moved:
            return
        causes = _causes(context, rested, selective=moved < SELECTIVE * trainable)
        groups: dict[_Cause, list[_Rested]] = defaultdict(list)
        for item in causes:
            groups[item.cause].append(item)
        total = trainable or 1
        for cause in _Cause:
            if groups[cause]:
                yield _finding(cause, groups[cause], total)


def _is_judged(param: Param) -> bool:
    return param.role not in BUFFERS and param.tied_to is None and "float" in param.dtype


def _equal(old: Tensor, new: Tensor) -> bool:
    """Equal element by element, NaN included; the comparison stops at the first chunk that is not.

    Both are read in their canonical orientation, as far as their views ask for it.
    """
    if old.views or new.views:
        return bool(np.array_equal(old.read(), new.read(), equal_nan=True))
    return all(
        np.array_equal(one, two, equal_nan=True)
        for one, two in zip(old.chunks(), new.chunks(), strict=True)
    )


def _causes(
    context: Context, rested: Sequence[tuple[Layer, Param]], *, selective: bool
) -> list[_Rested]:
    blocked = _blocked(context)
    silent = _without_gradient(context)
    found = []
    for layer, param in rested:
        names = {param.key, param.name, param.stored_name}
        if not param.trainable:
            cause = _Cause.FROZEN
        elif param.key in blocked:
            cause = _Cause.BLOCKED
        elif names & silent:
            cause = _Cause.NO_GRADIENT
        elif selective:
            cause = _Cause.SELECTIVE
        elif _is_rounded(context, param):
            cause = _Cause.ROUNDED
        else:
            cause = _Cause.UNKNOWN
        found.append(_Rested(layer, param, cause))
    return found


def _blocked(context: Context) -> frozenset[str]:
    """Keys of parameters that zeros in series cut off; none without a graph."""
    if not context.model.connected:
        return frozenset()

    def is_zero(param: Param) -> bool:
        moments = context.measures.moments(param)
        return moments is not None and moments.max_abs == 0.0

    steps = unlocking(context.model, is_zero).steps
    return frozenset(key for key, step in steps.items() if step is None)


def _without_gradient(context: Context) -> frozenset[str]:
    """Names of parameters that the optimiser of the later state never got a gradient for."""
    state = context.model.metadata.get("optimiser")
    if not isinstance(state, OptimiserState):
        return frozenset()
    return frozenset(
        memory.name
        for memory in state.parameters
        if memory.name is not None and memory.values is not None and memory.zero_share() == 1.0
    )


def _is_rounded(context: Context, param: Param) -> bool:
    """True when most of its values are too large for one step to show in its dtype."""
    bits = MANTISSA.get(param.dtype)
    values = context.measures.read(param) if bits is not None else None
    if values is None or bits is None or not values.size:
        return False
    mantissa, exponent = np.frexp(np.abs(values.astype(np.float64)))
    gap = np.exp2(exponent - bits - (mantissa == 0.5))
    return float(np.mean((values != 0) & (gap > 2.0 * STEP))) > 0.5


def _finding(cause: _Cause, found: Sequence[_Rested], total: int) -> Finding:
    first = found[0]
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    share = sum(item.param.size for item in found) / total
    return Finding(
        severity=_SEVERITY[cause],
        layer=first.layer.id,
        param=first.param.name,
        layers=tuple(dict.fromkeys(item.layer.id for item in found)),
        message=f"{first.param.key}{more} did not move at all: {_WHY[cause]}",
        evidence={
            "cause": cause.value,
            "count": len(found),
            "share_of_trainable": share,
            "params": [item.param.key for item in found],
        },
        why=_WHY[cause],
        measured=f"{len(found)} parameters equal bit by bit, {share:.1%} of the trainable elements",
        expected="a change in every parameter that is trained",
        fix=Fix("train", params=tuple(item.param.key for item in found), code=_CURE[cause]),
    )
