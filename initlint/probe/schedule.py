"""How many samples a probe feeds, and in how many runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod

from initlint.probe.inputs import MAX_ELEMENTS, Sizes, fixed_batch, has_batch, volume
from initlint.probe.request import Observed, Request

FEWEST_SAMPLES = 2
"""Distinct inputs of a large model: one pair to compare. Its outputs hold many positions, and so
many rows, anyway."""

FEW_SAMPLES = 8
"""Distinct inputs that are enough where more would take further runs: 28 pairs."""

ONE_BY_ONE = 4
"""Samples up to which a large model takes one a run: the run that tells the shapes is then one of
them."""

MAX_SAMPLES = 256
"""Distinct inputs at most. With correlation 0.9 a ReLU unit of a vector layer is silent on all of
256 by chance for 18 % of the units, on all of 16 for 28 %; more buys little."""

WORK = 1 << 31
"""Multiplications of all samples together: 0.1 s of one core at 25 billion a second, half of what
onnxruntime takes to be imported and to make a session. 2 and 8 samples of a ResNet-50, a VGG and a
ConvNeXt of 224 pixels, healthy and with five faults each, led to the same findings."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of one run, the samples in it, and the number of runs."""

    sizes: Sizes
    per_run: int
    runs: int


def plan_runs(
    request: Request,
    observed: Sequence[Observed],
    pilot: Sizes,
    shapes: Mapping[str, tuple[int, ...]],
) -> Plan:
    """How many samples, in how many runs, from the shapes that the pilot produced.

    Only sizes decide, never the clock: the same model is measured on the same samples everywhere.
    """
    work = max(_work(observed, shapes) // pilot.batch, 1)
    held = max(sum(4 * prod(shape) for shape in shapes.values()) // pilot.batch, 1)
    samples = max(min(WORK // work, MAX_SAMPLES), FEWEST_SAMPLES)
    if not any(item.varies for item in observed):
        return Plan(pilot, pilot.batch, 1)
    if not has_batch(request.inputs):
        per_run = fixed_batch(request.inputs)
        return Plan(pilot, per_run, ceil(min(samples, FEW_SAMPLES) / per_run))
    if samples <= ONE_BY_ONE and not request.batch_norms:  # which need samples side by side
        return Plan(pilot, pilot.batch, ceil(samples / pilot.batch))
    fits = min(
        request.activation_bytes // held,
        MAX_ELEMENTS // max(volume(request.inputs, pilot) // pilot.batch, 1),
    )
    per_run = max(min(samples, fits), 1)
    wanted = min(samples, FEW_SAMPLES, max(fits, FEW_SAMPLES // 2))
    sizes = Sizes(per_run, pilot.spatial, pilot.length)
    return Plan(sizes, per_run, ceil(wanted / per_run))


def _work(observed: Sequence[Observed], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Multiplications with weights in the pilot: weights times positions, summed over layers."""
    total = 0
    for item in observed:
        shape = shapes.get(item.value, ())
        if item.weights and shape:
            axis = item.channel_axis if -len(shape) <= item.channel_axis < len(shape) else -1
            total += item.weights * (prod(shape) // max(shape[axis], 1))
    return total
