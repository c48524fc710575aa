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

import numpy as np

from initlint.probe.activations import most_elements, positions, view_of
from initlint.probe.graph_suffix import Graph, constant, integer, node, output
from initlint.probe.inputs import Array, Sizes
from initlint.probe.request import Observed, Request
from initlint.probe.schedule import Plan

OLDEST_OPSET = 5
"""Reshape takes its shape as an input from this version of the operators on."""

WORTH = 1 << 25
"""Bytes to be saved from which a second session, some milliseconds, costs less than their pages."""

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


@dataclass(frozen=True, slots=True)
class Sample:
    """Elements of one output.

    Attributes:
        item: whose output it is.
        shape: the shape of the value that the pilot lets expect.
        view: the same as samples, positions before, units, positions after.
        axis: 1 or 3, the axis of ``view`` that is thinned out.
        chosen: the positions along it that are kept.
        name: of the output that holds them; two more names begin with it.
    """

    item: Observed
    shape: tuple[int, ...]
    view: tuple[int, int, int, int]
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
        yield constant(f"{name} view", (-1, *self.view[1:]))
        yield constant(f"{name} chosen", self.chosen.tolist())
        yield node("Reshape", (value, f"{name} view"), f"{name} viewed")
        chosen = (f"{name} viewed", f"{name} chosen")
        yield node("Gather", chosen, elements, [integer("axis", self.axis)])
        yield node("Shape", (value,), shape)
        yield node("ReduceSumSquare", (value,), squares, [integer("keepdims", 0)])
        yield from map(output, self.names)


def plan_samples(
    request: Request,
    observed: Sequence[Observed],
    pilot: Mapping[str, Array],
    sizes: Sizes,
    plan: Plan,
) -> tuple[Sample, ...]:
    """What to sample in runs of a plan, the last layers first; empty when it does not pay.

    Nodes that read the last values come first, because onnxruntime then computes those of early
    values as soon as they are there.

    Args:
        request: what is run.
        observed: what is measured.
        pilot: the values of a run of ``sizes``.
        sizes: of the pilot.
        plan: what is to be run.
    """
    if plan.sizes == sizes or request.opset < OLDEST_OPSET:
        return ()
    readers = Counter(item.value for item in observed)
    found, saved = [], 0
    for number, item in enumerate(observed):
        value = pilot.get(item.value)
        if value is None or readers[item.value] > 1:
            continue
        sample = _sample(item, value, sizes.batch, plan, request.seed, f"initlint sample {number}")
        if sample is not None:
            share = len(sample.chosen) / sample.view[sample.axis]
            saved += int((1 - share) * prod(sample.shape)) * value.dtype.itemsize
            found.append(sample)
    stored = sum(item.size for item in request.external)  # a further session holds them anew
    return tuple(reversed(found)) if saved > WORTH + stored else ()


def _sample(
    item: Observed, value: Array, batch: int, plan: Plan, seed: int, name: str
) -> Sample | None:
    """None where all elements are looked at, or the first axis may not be the batch."""
    shape = value.shape
    if value.dtype not in _FLOATS or value.ndim < 2 or not value.size:
        return None
    if item.op == "softmax" or plan.per_run < 2:  # of a softmax, the entropy is measured
        return None
    if not item.batched or shape[0] != batch or batch in shape[1:]:
        return None
    expected = (plan.per_run, *shape[1:])
    view = view_of(expected, plan.per_run, item.channel_axis)
    kept = positions(view, most_elements(item.op, plan.runs), seed) if view else None
    return Sample(item, expected, view, *kept, name) if view and kept else None


def sampled_blocks(
    samples: Sequence[Sample], values: Mapping[str, Array]
) -> dict[str, Array] | None:
    """The elements by layer; None when a value is not finite or has another shape than expected."""
    for sample in samples:
        _, shape, squares = sample.names
        if tuple(values[shape].tolist()) != sample.shape or not np.isfinite(values[squares]):
            return None
    return {sample.item.layer: values[sample.name] for sample in samples}
