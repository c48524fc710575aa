"""Statistics of all observed layers over the runs of one session."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

from initlint.probe.activations import OutputAccumulator
from initlint.probe.inputs import Array
from initlint.probe.request import Observed
from initlint.probe.result import OutputStats

THREADED = 1 << 17
"""Elements of an output from which threads pay for the statistics: with smaller ones they wait for
each other's interpreter (242 outputs in four runs: 0.2 s on two threads, 0.17 s on one)."""

MOST_THREADS = 4
"""Each holds a few megabytes of float64 copies."""


class Meter:
    """One accumulator per observed layer."""

    def __init__(self, observed: Sequence[Observed], seed: int, runs: int) -> None:
        self._observed = observed
        self._seed = seed
        self._runs = runs
        self._held: dict[str, OutputAccumulator] = {}
        self._done: dict[str, OutputStats] = {}

    def add(
        self,
        values: Mapping[str, Array],
        samples: int,
        pilot: Mapping[str, tuple[int, ...]],
        sampled: Mapping[str, Array] | None = None,
    ) -> None:
        """Add one run.

        Args:
            values: outputs by value.
            samples: distinct inputs.
            pilot: the shapes of a run on fewer samples, if there was one.
            sampled: by layer, elements of outputs that were not taken whole.
        """
        blocks = sampled or {}
        whole = {
            item.layer: value
            for item in self._observed
            if (value := values.get(item.value)) is not None and value.dtype.kind == "f"
        }
        present = [
            (item, value)
            for item in self._observed
            if (value := blocks.get(item.layer, whole.get(item.layer))) is not None
        ]

        for item, _ in present:  # in the order of the layers, whichever is done first
            self._accumulator(item)

        def add_one(pair: tuple[Observed, Array]) -> OutputStats | None:
            item, value = pair
            if item.layer in blocks:
                self._held[item.layer].add(value)
            else:
                axis = grown_axis(pilot.get(item.value), value.shape)
                # a value that does not grow with the batch is the same for every sample
                distinct = 1 if pilot and axis is None else samples
                self._held[item.layer].update(value, distinct, axis)
            # hold nothing that is not needed again
            return self._held.pop(item.layer).finish() if self._runs == 1 else None

        found = _each(add_one, present, sum(value.size for _, value in present))
        for (item, _), stats in zip(present, found, strict=True):
            if stats is not None:
                self._done[item.layer] = stats

    def _accumulator(self, item: Observed) -> OutputAccumulator:
        if item.layer not in self._held:
            bounds = dict(zip(("min", "max"), item.bounds, strict=False))
            self._held[item.layer] = OutputAccumulator(
                item.op,
                channel_axis=item.channel_axis,
                attrs=bounds,
                seed=self._seed,
                runs=self._runs,
                varies=item.varies,
            )
        return self._held[item.layer]

    def finish(self) -> dict[str, OutputStats]:
        """Statistics by layer."""
        elements = sum(held.elements for held in self._held.values())
        found = _each(OutputAccumulator.finish, self._held.values(), elements)
        return {**self._done, **dict(zip(self._held, found, strict=True))}


Part = TypeVar("Part")
Found = TypeVar("Found")


def _each(work: Callable[[Part], Found], parts: Collection[Part], elements: int) -> list[Found]:
    """Work on parts that hold so many elements together, on threads where that pays."""
    if elements < THREADED * len(parts):
        return [work(part) for part in parts]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_THREADS)) as pool:
        return list(pool.map(work, parts))


def grown_axis(pilot: tuple[int, ...] | None, shape: tuple[int, ...]) -> int | None:
    """The axis that grew with the batch."""
    if pilot is None or len(pilot) != len(shape):
        return None
    grown = [axis for axis, (one, many) in enumerate(zip(pilot, shape, strict=True)) if many != one]
    return grown[0] if len(grown) == 1 else None
