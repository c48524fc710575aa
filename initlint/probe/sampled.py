"""Large outputs sampled by the graph itself, so that a run holds few of them whole.

Statistics look at a bounded number of elements of an output (`activations.ELEMENTS`). Where a batch
holds many more, nodes behind the value take just those, and onnxruntime frees the value once the
next layers have read it. The sum of all squares tells whether anything was not finite. The graph
may turn out to be another than the pilot made believe; then the outputs are taken whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np

from initlint.probe.activations import most_elements, positions, unit_axis
from initlint.probe.graph_suffix import Graph, constant, integer, node, output
from initlint.probe.inputs import Array, Sizes
from initlint.probe.request import Observed, Request
from initlint.probe.schedule import Plan

OLDEST_OPSET = 5
"""Reshape takes its shape as an input from this version of the operators on."""

WORTH = 1 << 25
"""Bytes to be saved from which a second session, some milliseconds, costs less than their pages."""

SECOND_PILOT = 16
"""Samples of a run, over those of the pilot, from which a pilot on twice as many is worth its
eighth of the run: it tells which axis of every value holds the samples, and whether the graph takes
another batch than the pilot's at all, which a large run may find out in its last node."""

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


class Layout(NamedTuple):
    """An output as blocks: positions before the samples, samples, positions behind, units, after.

    Positions behind the samples are those before the units.
    """

    ahead: int
    samples: int
    behind: int
    units: int
    after: int


@dataclass(frozen=True, slots=True)
class Sample:
    """Elements of one output.

    Attributes:
        item: whose output it is.
        shape: the shape of the value that the pilot lets expect.
        layout: the same as a layout.
        axis: 1 when positions before the units are chosen, 3 for those after them.
        chosen: the positions that are kept.
        name: of the output that holds them; two more names begin with it.
    """

    item: Observed
    shape: tuple[int, ...]
    layout: Layout
    axis: int
    chosen: Array
    name: str

    @property
    def names(self) -> tuple[str, str, str]:
        """Outputs: the elements, the shape of the value, the sum of its squares."""
        return self.name, f"{self.name} shape", f"{self.name} squares"

    def fields(self) -> Iterator[Graph]:
        """The nodes that make the outputs."""
        elements, shape, squares = self.names
        value, name = self.item.value, self.name
        view, axis, places = self._taken()
        yield constant(f"{name} view", view)
        yield constant(f"{name} chosen", places.tolist())
        yield node("Reshape", (value, f"{name} view"), f"{name} viewed")
        chosen = (f"{name} viewed", f"{name} chosen")
        yield node("Gather", chosen, elements, [integer("axis", axis)])
        yield node("Shape", (value,), shape)
        yield node("ReduceSumSquare", (value,), squares, [integer("keepdims", 0)])
        yield from map(output, self.names)

    def _taken(self) -> tuple[tuple[int, ...], int, Array]:
        """What the graph takes: the shape it sees the value in, an axis, places along it.

        Of positions ahead of the samples it takes all that hold a chosen one.
        """
        ahead, samples, behind, units, after = self.layout
        if self.axis == 3:
            return (-1, after), 1, self.chosen
        if ahead == 1:
            return (-1, behind, units * after), 1, self.chosen
        return (-1, samples * behind * units * after), 0, np.unique(self.chosen // behind)

    def block(self, taken: Array) -> Array:
        """What the graph took, as a block of the statistics."""
        ahead, samples, behind, units, after = self.layout
        if self.axis == 3:
            parts = taken.reshape(ahead, samples, behind, units, -1)
            return np.moveaxis(parts, 1, 0).reshape(samples, ahead * behind, units, -1)
        if ahead == 1:
            return taken.reshape(samples, -1, units, after)
        whole = np.unique(self.chosen // behind)
        parts = np.moveaxis(taken.reshape(len(whole), samples, behind, units, after), 1, 0)
        places = np.searchsorted(whole, self.chosen // behind) * behind + self.chosen % behind
        found: Array = np.take(parts.reshape(samples, -1, units, after), places, 1)
        return found

    @property
    def elements(self) -> int:
        """Elements that the graph takes."""
        view, axis, places = self._taken()
        along = self.layout.ahead if axis == 0 else view[1]
        return prod(self.shape) // along * len(places)


def plan_samples(
    request: Request,
    observed: Sequence[Observed],
    pilot: Mapping[str, Array],
    sizes: Sizes,
    plan: Plan,
    grown: Mapping[str, int | None] | None = None,
) -> tuple[Sample, ...]:
    """What to sample in runs of a plan, the last layers first; empty when it does not pay.

    Nodes that read the last values come first, because onnxruntime then computes those of early
    values as soon as they are there.

    Args:
        request: what is run.
        observed: what is measured.
        pilot: the values of a run of ``sizes``.
        sizes: of the pilot.
        plan: what is to be run, on more samples than the pilot.
        grown: the axis of each value that holds the samples; None where only shapes can tell.
    """
    if request.opset < OLDEST_OPSET:
        return ()
    readers = Counter(item.value for item in observed)
    found, saved = [], 0
    for number, item in enumerate(observed):
        value = pilot.get(item.value)
        if value is None or readers[item.value] > 1:
            continue
        if grown is not None:
            axis = grown.get(item.value)
        else:
            axis = 0 if _seems_first(item, value, sizes.batch) else None
        if axis is None:
            continue
        name = f"initlint sample {number}"
        sample = _sample(item, value, axis, sizes.batch, plan, request.seed, name)
        if sample is not None:
            saved += (prod(sample.shape) - sample.elements) * value.dtype.itemsize
            found.append(sample)
    return tuple(reversed(found)) if saved > _worth(request) else ()


def may_pay(request: Request, pilot: Mapping[str, Array], sizes: Sizes, plan: Plan) -> bool:
    """True when a run of the plan may make enough bytes that need not be held."""
    held = sum(value.nbytes for value in pilot.values())
    return held // sizes.batch * plan.per_run > _worth(request)


def _worth(request: Request) -> int:
    """Bytes to save; a further session holds the weights anew."""
    return WORTH + sum(item.size for item in request.external)


def _seems_first(item: Observed, value: Array, batch: int) -> bool:
    """True when the first axis alone has the size of the batch, which can enter the value."""
    return item.batched and value.shape[:1] == (batch,) and batch not in value.shape[1:]


def _sample(
    item: Observed, value: Array, axis: int, batch: int, plan: Plan, seed: int, name: str
) -> Sample | None:
    """None where all elements are looked at, or samples and units are in no order that is known."""
    shape, samples = value.shape, plan.per_run
    if value.dtype not in _FLOATS or value.ndim < 2 or not value.size:
        return None
    if item.op == "softmax" or samples < 2:  # of a softmax, the entropy is measured
        return None
    unit = unit_axis(value.ndim, item.channel_axis)
    if unit <= axis:
        return None
    folded = shape[axis] // batch
    behind = folded * prod(shape[axis + 1 : unit])
    layout = Layout(prod(shape[:axis]), samples, behind, shape[unit], prod(shape[unit + 1 :]))
    view = (samples, layout.ahead * behind, layout.units, layout.after)
    kept = positions(view, most_elements(item.op, plan.runs), seed)
    expected = (*shape[:axis], folded * samples, *shape[axis + 1 :])
    return Sample(item, expected, layout, *kept, name) if kept else None


def sampled_blocks(
    samples: Sequence[Sample], values: Mapping[str, Array]
) -> dict[str, Array] | None:
    """The elements by layer; None when a value is not finite or has another shape than expected."""
    for sample in samples:
        _, shape, squares = sample.names
        if tuple(values[shape].tolist()) != sample.shape or not np.isfinite(values[squares]):
            return None
    return {sample.item.layer: sample.block(values[sample.name]) for sample in samples}
