"""A short real training of ranked schemes: does the ranking hold on the user's own data?"""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from typing import Any

import numpy as np

from initlint.fix.changes import applied, merged
from initlint.model import Kind, LoadError, Model
from initlint.settings import Settings

Record = dict[str, Any]
Batches = Callable[[], Iterator[tuple[tuple[Any, ...], Mapping[str, Any], Any]]]

BATCH = 32
"""Rows of one step drawn from a file of data."""

TAIL = 0.2
"""Share of the steps, at the end, whose mean loss is the result of a run."""

RATES = (("adam", 1e-3), ("sgd", 1e-2))
"""Optimisers, each at its usual learning rate; a scheme's result is the better of the two. SGD has
momentum 0.9."""

AGREES = 0.9
"""Share of the best scheme's progress that the recommended one must reach: what a drift of one
decade, which the ranking calls harmless, costs."""

TARGETS = ("target", "targets", "label", "labels", "y")
"""Names under which an ``.npz`` may hold what the outputs are compared with."""


def confirm(
    model: Model,
    settings: Settings,
    schemes: Mapping[str, Any],
    steps: int,
    data: str,
) -> Record:
    """Train a copy of a module from each scheme, and say whether the recommended one holds.

    Args:
        model: a captured module; it is left as it was.
        settings: of the linter.
        schemes: changes by name of scheme, the recommended one first.
        steps: optimiser steps of each run.
        data: ``.npz`` of inputs and targets, or ``file.py:attr`` of an iterable of
            ``(inputs, targets)``, or of a callable that returns one.

    Returns:
        ``steps``, ``data``, ``chance`` (loss of the first batch, best scheme), ``losses`` by scheme
        (None: diverged), ``best``, and ``agrees``.

    Raises:
        LoadError: the target is no module, or the data do not fit it.
    """
    if model.kind is not Kind.TORCH or model.runnable is None:
        raise LoadError("--train-steps needs a PyTorch module as the target")
    batches = _batches(model, data, settings.seed, steps)
    starts: dict[str, float] = {}
    losses: dict[str, float | None] = {}
    for name, changes in schemes.items():
        with applied(model, merged(changes)):
            fresh = copy.deepcopy(model.runnable.module).train()
        ends = []
        for kind, rate in RATES:
            curve = _train(copy.deepcopy(fresh), batches, steps, kind, rate, settings.seed)
            starts.setdefault(name, curve[0])
            tail = curve[-max(1, round(TAIL * steps)) :]
            ends.append(sum(tail) / len(tail) if len(curve) == steps else float("inf"))
        losses[name] = min(ends) if isfinite(min(ends)) else None
    done = {name: loss for name, loss in losses.items() if loss is not None}
    first = next(iter(schemes), None)
    best = min(done, key=lambda name: done[name]) if done else None
    start = min((value for value in starts.values() if isfinite(value)), default=float("inf"))
    return {
        "steps": steps,
        "data": data,
        "chance": start if isfinite(start) else None,
        "losses": losses,
        "best": best,
        "agrees": best is not None
        and first in done
        and start - done[first] >= AGREES * (start - done[best]),
    }


def _train(
    module: Any, batches: Batches, steps: int, kind: str, rate: float, seed: int
) -> list[float]:
    """Losses step by step; shorter than asked for when one was not finite."""
    import torch

    weights = [weight for weight in module.parameters() if weight.requires_grad]
    if kind == "adam":
        optimiser: Any = torch.optim.Adam(weights, rate)
    else:
        optimiser = torch.optim.SGD(weights, rate, momentum=0.9)
    torch.manual_seed(seed)
    curve: list[float] = []
    for args, kwargs, target in itertools.islice(batches(), steps):
        try:
            loss = _loss(module(*args, **kwargs), target)
        except (RuntimeError, TypeError, IndexError) as error:
            first_line = str(error).strip().split("\n")[0]
            raise LoadError(f"--data does not fit the module: {first_line}") from error
        curve.append(float(loss.detach()))
        if not isfinite(curve[-1]):
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return curve


def _loss(result: Any, target: Any) -> Any:
    """The module's own loss, else cross-entropy against classes, squared error against numbers."""
    import torch
    from torch.nn import functional

    from initlint.load.torch_run import output_tensors

    own = result.get("loss") if isinstance(result, dict) else getattr(result, "loss", None)
    if isinstance(own, torch.Tensor):
        return own
    output = output_tensors(result)[0]
    if output.ndim == 0:
        return output
    if target is None:
        raise LoadError(f"--data holds no targets; name one of its arrays {TARGETS[0]!r}")
    if target.is_floating_point():
        if target.numel() != output.numel():
            raise LoadError(f"targets {list(target.shape)} do not fit outputs {list(output.shape)}")
        return functional.mse_loss(output, target.reshape(output.shape).to(output))
    rows = target.reshape(-1)
    if rows.numel() * output.shape[-1] == output.numel():
        return functional.cross_entropy(output.reshape(-1, output.shape[-1]), rows)
    if output.ndim > 2 and target.shape == (output.shape[0], *output.shape[2:]):
        return functional.cross_entropy(output, target)
    raise LoadError(f"targets {list(target.shape)} do not fit outputs {list(output.shape)}")


def _batches(model: Model, data: str, seed: int, steps: int) -> Batches:
    if data.endswith(".npz"):
        return _from_file(model, data, seed)
    from initlint.load.torch_inputs import from_value
    from initlint.load.torch_spec import attribute

    held = attribute(data)
    if isinstance(held, Iterator):  # every run needs the same batches, and it can be read but once
        held = list(itertools.islice(held, steps))

    def batches() -> Iterator[tuple[tuple[Any, ...], Mapping[str, Any], Any]]:
        while True:
            count = 0
            for item in held() if callable(held) else held:
                if not isinstance(item, (tuple, list)) or len(item) != 2:
                    raise LoadError(f"--data {data}: gives no pairs of inputs and targets")
                inputs = from_value(item[0])
                count += 1
                yield inputs.args, inputs.kwargs or {}, item[1]
            if not count:
                raise LoadError(f"--data {data}: is empty")

    return batches


def _from_file(model: Model, path: str, seed: int) -> Batches:
    import torch

    from initlint.load.torch_inputs import float_dtype

    module = model.runnable.module
    dtype = float_dtype(module)
    try:
        with np.load(path, allow_pickle=False) as held:
            arrays = ((name, torch.from_numpy(held[name])) for name in held.files)
            found = {
                name: value.to(dtype) if value.is_floating_point() else value
                for name, value in arrays
            }
    except (OSError, ValueError) as error:
        raise LoadError(f"--data {path}: not an .npz of plain arrays ({error})") from error
    key = next((name for name in TARGETS if name in found), None)
    target = found.pop(key) if key else None
    rows = {len(value) for value in found.values() if value.ndim}
    if not found or len(rows) != 1 or (target is not None and len(target) not in rows):
        raise LoadError(f"--data {path}: inputs and targets differ in their number of rows")
    count = rows.pop()

    def batches() -> Iterator[tuple[tuple[Any, ...], Mapping[str, Any], Any]]:
        generator = torch.Generator().manual_seed(seed)
        by_name = set(found) <= set(inspect.signature(module.forward).parameters)
        while True:
            chosen = torch.randint(0, count, (min(BATCH, count),), generator=generator)
            part = {name: value[chosen] for name, value in found.items()}
            wanted = None if target is None else target[chosen]
            yield ((), part, wanted) if by_name else (tuple(part.values()), {}, wanted)

    return batches
