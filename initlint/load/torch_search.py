"""Inputs found by trial: how far forward gets tells which of two shapes is nearer to what it wants.

Where no likely call of `torch_candidates` fits, one argument is changed at a time, going on from
the call in which most functions succeed before the first error. Arguments may turn out to be
dictionaries, whose keys are found as forward asks for them, or lists.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from heapq import heappop, heappush
from typing import Any

from torch import nn

from initlint.load.torch_candidates import (
    ADJACENCY,
    EDGES,
    LENGTH,
    ROWS,
    Drawing,
    Shape,
    first_shapes,
    other_shapes,
    required_parameters,
)

MOST_SIDE = 256
"""Largest side of a picture that is tried when a flattened one must have a given size."""

MOST_WIDTHS = 24
"""Different sizes of a module's weights that are tried as sides of an input."""


class Form(Enum):
    """What an argument is, other than one tensor."""

    DICT = 0
    PAIR = 2
    TRIPLE = 3


Slot = tuple[str, str | int | None]
"""An argument, or one entry of it."""

Choice = Shape | Form | None


@dataclass(frozen=True, slots=True)
class Plan:
    """How every argument is made.

    Attributes:
        choices: per slot, entries of dictionaries and lists included.
        keyword: names of arguments that are passed by keyword.
    """

    choices: Mapping[Slot, Choice]
    keyword: frozenset[str]

    def changed(self, slot: Slot, choice: Choice) -> Plan:
        """This plan with another choice for one slot; entries of an argument go with its form."""
        name, entry = slot
        kept = {
            key: value
            for key, value in self.choices.items()
            if entry is not None or key[0] != name or key == slot
        }
        return replace(self, choices={**kept, slot: choice})

    def call(
        self, draw: Drawing, unknown: Callable[[str], Shape] | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments.

        Args:
            draw: makes tensors.
            unknown: shapes of entries that are not planned yet; None: all are.
        """
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for (name, entry), choice in self.choices.items():
            if entry is None:
                value = self._value(name, choice, draw, unknown)
                if name in self.keyword:
                    kwargs[name] = value
                else:
                    args.append(value)
        return tuple(args), kwargs

    def _value(
        self, name: str, choice: Choice, draw: Drawing, unknown: Callable[[str], Shape] | None
    ) -> Any:
        if not isinstance(choice, Form):
            return draw(choice)
        entries = {
            entry: draw(inner)
            for (owner, entry), inner in self.choices.items()
            if owner == name and entry is not None and not isinstance(inner, Form)
        }
        if choice is Form.DICT:
            return _Asked(entries, lambda key: draw(unknown(key))) if unknown else entries
        for index in range(choice.value):
            if index not in entries and unknown:
                entries[index] = draw(unknown(str(index)))
        return [entries[index] for index in range(choice.value)]

    def described(self) -> list[str]:
        """Every argument in words."""
        found = []
        for (name, entry), choice in self.choices.items():
            if isinstance(choice, Shape):
                found.append(f"{name if entry is None else f'{name}[{entry!r}]'} {choice}")
        return found


class _Asked(dict[Any, Any]):
    """A dictionary that makes what it is asked for."""

    def __init__(self, known: Mapping[Any, Any], make: Callable[[str], Any]) -> None:
        super().__init__(known)
        self._make = make

    def __missing__(self, key: Any) -> Any:
        if not isinstance(key, str):
            raise KeyError(key)
        self[key] = self._make(key)
        return self[key]


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of forward.

    Attributes:
        calls: functions that succeeded.
        error: what it raised; None for a run that ended.
    """

    calls: int
    error: Exception | None

    @property
    def place(self) -> tuple[str, str]:
        """What tells one failure from another."""
        return type(self.error).__name__, str(self.error)


def search(
    module: Any,
    attempt: Callable[[tuple[Any, ...], Mapping[str, Any]], Trial],
    draw: Callable[[], Drawing],
    over: Callable[[], bool],
) -> Plan | None:
    """A plan of arguments that forward accepts, or None.

    Args:
        module: whose forward.
        attempt: runs it.
        draw: a source of tensors that begins anew, so that every trial sees the same values.
        over: True when no time is left.
    """
    first = _first_plan(module)
    if first is None:
        return None
    head = next((choice for choice in first.choices.values() if isinstance(choice, Shape)), None)
    if head is None:
        return None

    def unknown(key: str) -> Shape:
        found = other_shapes(module, key, head)
        return next((shape for shape in found if shape is not None), head)

    def tried(plan: Plan) -> tuple[Plan, Trial]:
        args, kwargs = plan.call(draw(), unknown)
        trial = attempt(args, kwargs)
        for name, value in (*zip(_positional(plan), args, strict=True), *kwargs.items()):
            if plan.choices[name, None] in (Form.PAIR, Form.TRIPLE):
                new: Iterator[Any] = iter(range(len(value)))
            else:
                new = iter(value if isinstance(value, _Asked) else ())
            missing = {(name, key): unknown(str(key)) for key in new}
            plan = replace(plan, choices={**missing, **plan.choices})
        return plan, trial

    plan, best = tried(first)
    if best.error is None:
        return plan
    order = itertools.count()
    ahead = [(-best.calls, next(order), plan)]
    seen = {best.place}
    while ahead:
        calls, _, plan = heappop(ahead)
        for changes in (_likely(module, plan, head), _unlikely(plan)):
            better = False
            for slot, choice in changes:
                if over():
                    return None
                changed, trial = tried(plan.changed(slot, choice))
                if trial.error is None:
                    return changed
                if -trial.calls <= calls and trial.place not in seen:
                    better |= -trial.calls < calls
                    seen.add(trial.place)
                    heappush(ahead, (-trial.calls, next(order), changed))
            if better:
                break
    return None


def _positional(plan: Plan) -> list[str]:
    return [name for name, entry in plan.choices if entry is None and name not in plan.keyword]


def _first_plan(module: Any) -> Plan | None:
    """The likeliest shape for every argument."""
    positional, keyword = required_parameters(module)
    names = [*positional, *keyword]
    if not names:
        return None
    head = next(first_shapes(module, names[0]))
    choices: dict[Slot, Choice] = {(names[0], None): head}
    for name in names[1:]:
        choices[name, None] = other_shapes(module, name, head)[0]
    return Plan(choices, frozenset(keyword))


def _likely(module: Any, plan: Plan, head: Shape) -> Iterator[tuple[Slot, Choice]]:
    """Other shapes, slot by slot: those that the name suggests, then sizes that weights have."""
    for slot, choice in plan.choices.items():
        if isinstance(choice, Form):
            continue
        label = slot[1] if isinstance(slot[1], str) else slot[0]
        shapes = itertools.chain(other_shapes(module, label, head), _sizes(module))
        for shape in dict.fromkeys(shapes):
            if shape != choice:
                yield slot, shape


def _unlikely(plan: Plan) -> Iterator[tuple[Slot, Choice]]:
    """Containers instead of tensors, and pictures of every size."""
    for slot, choice in plan.choices.items():
        if slot[1] is None and not isinstance(choice, Form):
            for form in Form:
                yield slot, form
    for slot, choice in plan.choices.items():
        for shape in _pictures(choice):
            yield slot, shape


def _sizes(module: Any) -> Iterator[Shape]:
    """Vectors, sequences, integers and graphs of the sizes that weights have."""
    tables = {
        int(child.num_embeddings)
        for child in module.modules()
        if isinstance(child, (nn.Embedding, nn.EmbeddingBag))
    }
    widths, lengths = _widths(module), _lengths(module)
    for width in widths:
        yield Shape((ROWS, width))
        for length in lengths:
            yield Shape((ROWS, length, width))
    for high in sorted(tables, reverse=True) or sorted(widths, reverse=True):
        yield Shape((ROWS,), high)
        for length in lengths:
            yield Shape((ROWS, length), high)
    for width in widths:
        yield Shape((ROWS, width, LENGTH))
    yield Shape((ROWS,))
    yield Shape((ROWS, 1))
    yield ADJACENCY
    yield EDGES


def _widths(module: Any) -> list[int]:
    """Sizes that a last axis may have: what weights read, what they give, and the rest of these."""
    read: dict[int, None] = {}
    given: dict[int, None] = {}
    for child in module.modules():
        for tensor in child._parameters.values():
            if tensor is None or tensor.ndim < 2 or nn.parameter.is_lazy(tensor):
                continue
            read[int(tensor.shape[1] if isinstance(child, nn.Linear) else tensor.shape[-1])] = None
            given[int(tensor.shape[0])] = None
    rests = {a - b: None for a in read for b in (*read, *given) if a > b}
    return list(dict.fromkeys((*read, *given, *rests)))[:MOST_WIDTHS]


def _lengths(module: Any) -> list[int]:
    """Lengths that a sequence may have: any, or that of a learned table of positions."""
    tables = [
        int(tensor.shape[-2])
        for child in module.modules()
        for tensor in (*child._parameters.values(), *child._buffers.values())
        if tensor is not None
        and not nn.parameter.is_lazy(tensor)
        and tensor.ndim in (2, 3)
        and not isinstance(child, (nn.Linear, nn.Embedding, nn.modules.conv._ConvNd, nn.RNNBase))
    ]
    return list(dict.fromkeys((LENGTH, *tables)))[:4]


def _pictures(choice: Choice) -> Iterator[Shape]:
    """The same picture in other sizes."""
    if isinstance(choice, Shape) and len(choice.sides) >= 3 and choice.high is None:
        rows, channels, *sides = choice.sides
        for side in range(4, MOST_SIDE + 1) if len(sides) == 2 else ():
            yield replace(choice, sides=(rows, channels, side, side))
