"""The state of a PyTorch optimiser inside a checkpoint, and which parameter each part belongs to.

``torch.optim.Optimizer.state_dict`` numbers the parameters in the order of its groups and keeps
``state[number]``; from version 2.6 on a group may hold ``param_names``. Without names, parameters
are those of the state dict in its order, buffers left out, as ``model.parameters()`` gives them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from initlint.load.pickle_machine import Record
from initlint.load.stored import Stored
from initlint.model import GradientMemory, OptimiserState

KINDS = ("exp_avg_sq", "square_avg", "sum", "momentum_buffer")
"""What Adam, RMSprop, Adagrad and SGD keep: zero exactly where every gradient was zero."""

MAX_PARAMETERS = 200_000
"""As many as a checkpoint may hold tensors."""

_HOLDER = re.compile(r".*optim.*")
_BUFFER = re.compile(r"(.*\.)?(running_(mean|var)|num_batches_tracked|inv_freq|position_ids)")
_DEPTH = 3


def optimiser_state(root: Any, weights: Mapping[str, Stored]) -> OptimiserState | None:
    """The memory of the first optimiser in a checkpoint; None where there is none.

    Args:
        root: what the checkpoint's pickle describes.
        weights: the model's tensors by name, in the order of the state dict.
    """
    found = next(_optimisers(root, _DEPTH), None)
    if found is None:
        return None
    state, groups = found
    numbers, names = _numbers(groups)
    if not numbers or len(numbers) > MAX_PARAMETERS:
        return None
    memories = [_memory(number, _mapping(state.get(number)) or {}) for number in numbers]
    if all(memory.values is None for memory in memories):
        return None
    known = names if names is not None else _by_order(memories, weights)
    named = [
        GradientMemory(memory.index, name, memory.kind, memory.values, memory.step)
        for memory, name in zip(memories, known, strict=True)
    ]
    return OptimiserState(tuple(named))


def _mapping(value: Any) -> Mapping[Any, Any] | None:
    if isinstance(value, Record):
        return value.items
    return value if isinstance(value, dict) else None


def _optimisers(
    value: Any, depth: int, inside: bool = False
) -> Iterator[tuple[Mapping[Any, Any], Sequence[Any]]]:
    """State and groups of every optimiser below a key that names one."""
    if isinstance(value, (list, tuple)) and inside:
        for item in value[:8]:
            yield from _optimisers(item, depth - 1, inside)
        return
    found = _mapping(value)
    if found is None or depth < 0:
        return
    state, groups = _mapping(found.get("state")), found.get("param_groups")
    if state is not None and isinstance(groups, (list, tuple)):
        yield state, groups
        return
    for key, child in found.items():
        if isinstance(key, str) and (inside or _HOLDER.fullmatch(key.lower())):
            yield from _optimisers(child, depth - 1, inside=True)


def _numbers(groups: Sequence[Any]) -> tuple[list[int], list[str | None] | None]:
    """Numbers of the parameters in the order of the groups, and their names where they are told."""
    numbers: list[int] = []
    names: list[str | None] = []
    for group in groups:
        found = _mapping(group) or {}
        params, told = found.get("params"), found.get("param_names")
        if not isinstance(params, (list, tuple)) or not all(type(n) is int for n in params):
            return [], None
        numbers.extend(params)
        if isinstance(told, (list, tuple)) and len(told) == len(params):
            names.extend(name if isinstance(name, str) else None for name in told)
    return numbers, names if len(names) == len(numbers) and numbers else None


def _memory(number: int, state: Mapping[Any, Any]) -> GradientMemory:
    step = state.get("step")
    count: float | None = None
    if isinstance(step, Stored) and step.tensor.size == 1:
        count = float(step.tensor.read().reshape(-1)[0])
    elif isinstance(step, (int, float)) and not isinstance(step, bool):
        count = float(step)
    for kind in KINDS:
        values = state.get(kind)
        if isinstance(values, Stored) and not values.quantised:
            return GradientMemory(number, None, kind, values.tensor, count)
    return GradientMemory(number, None, step=count)


def _by_order(
    memories: Sequence[GradientMemory], weights: Mapping[str, Stored]
) -> Sequence[str | None]:
    """Names by order where number and shapes agree, else by shapes that occur once on both sides.

    Groups with their own settings (no decay for biases) do not keep the order of the model.
    """
    names = [name for name in weights if _BUFFER.fullmatch(name) is None]
    shapes = [weights[name].tensor.shape for name in names]
    own = [memory.values.shape if memory.values is not None else None for memory in memories]
    if len(names) == len(memories) and all(
        mine is None or mine == shape for mine, shape in zip(own, shapes, strict=True)
    ):
        return names
    count, count_own = Counter(shapes), Counter(own)
    single = {shape: name for shape, name in zip(shapes, names, strict=True) if count[shape] == 1}
    return [single.get(mine) if mine and count_own[mine] == 1 else None for mine in own]
