"""Example inputs for a module: given by the user, or worked out from its first layers."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from initlint.load.torch_candidates import Call, Drawing, Shape, candidates
from initlint.load.torch_functions import map_tensors, tensors_in
from initlint.load.torch_search import Trial, search
from initlint.load.torch_state import borrowed
from initlint.load.torch_tracer import Tracer, on_meta, tracing
from initlint.load.torch_weights import Names
from initlint.model import LoadError

TRIAL_ROWS = 2
"""Rows while shapes are tried out: batch statistics need two."""

_SECONDS = 20.0
"""How long fitting shapes are looked for; one trial on two rows takes milliseconds."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What forward is called with, and how that was decided.

    Attributes:
        args, kwargs: the call.
        guessed: True when shapes were worked out here.
        drawn: True when the values were drawn here, though the user gave the shape.
        notice: one line for the user when they were.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] | None = None
    guessed: bool = False
    notice: str = ""
    drawn: bool = False


def float_dtype(module: Any) -> Any:
    """The dtype of the module's first floating parameter, which its inputs then share."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point() and not tensor.is_quantized:
            return tensor.dtype
    return torch.get_default_dtype()


def device_of(module: Any) -> Any:
    """The device inputs go to: the module's; the CPU's for a module without weights."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device if tensor.device.type != "meta" else torch.device("meta")
    return torch.device("cpu")


# inputs the user gives


def from_shape(module: Any, shape: Sequence[int], dtype: str | None, seed: int) -> Inputs:
    """One synthesised input of a given shape.

    Raises:
        LoadError: an unknown dtype.
    """
    kind = getattr(torch, dtype or "", None) if dtype else None
    if dtype and not isinstance(kind, torch.dtype):
        raise LoadError(f"--input-dtype {dtype}: no such dtype; try float32 or int64")
    generator = torch.Generator().manual_seed(seed)
    device = device_of(module)
    if kind is not None and not kind.is_floating_point:
        tables = [child for child in module.modules() if isinstance(child, nn.Embedding)]
        high = tables[0].num_embeddings if tables else 2
        tensor = Shape(tuple(shape), high).make(generator, kind, device).to(kind)
    else:
        tensor = Shape(tuple(shape)).make(generator, kind or float_dtype(module), device)
    return Inputs((tensor,), {}, drawn=True)


def from_npz(module: Any, path: str) -> Inputs:
    """Inputs from an ``.npz``: by name where the names are forward's parameters, else in order.

    Raises:
        LoadError: the file cannot be read as plain arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise LoadError(f"--input {path}: not an .npz of plain arrays ({error})") from error
    device = device_of(module)
    tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
    parameters = inspect.signature(module.forward).parameters
    if tensors and set(tensors) <= set(parameters):
        return Inputs((), tensors)
    return Inputs(tuple(tensors.values()), {})


def from_value(value: Any) -> Inputs:
    """Inputs from whatever an ``example_inputs()`` function returned."""
    if isinstance(value, Inputs):
        return value
    if isinstance(value, dict):
        return Inputs((), value)
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        if len(value) == 2 and isinstance(value[0], tuple) and isinstance(value[1], dict):
            return Inputs(*value)
        return Inputs(value, {})
    if isinstance(value, list):
        return Inputs(tuple(value), {})
    return Inputs((value,), {})


# inputs worked out


def guess(module: Any, seed: int) -> Inputs:
    """Inputs that a module's forward accepts, tried out on few rows.

    Raises:
        LoadError: none of the shapes that its first layers suggest fits; the message names the
            options to give one.
    """
    stop = time.monotonic() + _SECONDS
    names = Names(module)
    first: Exception | None = None
    for positional, named in candidates(module):
        args, kwargs = _drawn((positional, named), module, seed, TRIAL_ROWS)
        error = _try(names, module, args, kwargs, seed).error
        if error is None:
            described = [str(shape) for shape in positional if shape is not None]
            described += [f"{name} {shape}" for name, shape in named.items() if shape is not None]
            return _worked_out(*_drawn((positional, named), module, seed, None), described)
        first = first or error
        if time.monotonic() > stop:
            break
    plan = search(
        module,
        lambda args, kwargs: _try(names, module, args, kwargs, seed),
        lambda: _drawing(module, seed, None),
        lambda: time.monotonic() > stop,
    )
    if plan is not None:
        return _worked_out(*plan.call(_drawing(module, seed, None)), plan.described())
    from initlint.load.torch_run import one_line, user_frame

    why = f" (first try: {one_line(first)}{user_frame(first)})" if first is not None else ""
    raise LoadError(
        f"{type(module).__name__}: could not work out inputs that forward accepts{why}; give "
        "--input-shape, --input FILE.npz, or an example_inputs() function beside the model"
    )


def _worked_out(args: tuple[Any, ...], kwargs: dict[str, Any], described: list[str]) -> Inputs:
    notice = f"inputs worked out from the first layers: {'; '.join(described) or 'none'}"
    return Inputs(args, kwargs, True, notice)


def _drawn(call: Call, module: Any, seed: int, rows: int | None) -> Call:
    """The tensors of a call, drawn from one seed."""
    draw = _drawing(module, seed, rows)
    positional, named = call
    return tuple(map(draw, positional)), {key: draw(shape) for key, shape in named.items()}


def _drawing(module: Any, seed: int, rows: int | None) -> Drawing:
    """What draws tensors for a module, one after the other from one seed."""
    generator = torch.Generator().manual_seed(seed)
    dtype, device = float_dtype(module), device_of(module)

    def draw(shape: Shape | None) -> Any:
        return None if shape is None else shape.make(generator, dtype, device, rows)

    return draw


def _try(
    names: Names, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], seed: int
) -> Trial:
    """A forward call; on meta tensors where the module is there or is large."""
    if any(torch.nn.parameter.is_lazy(tensor) for tensor in names.tensors.values()):
        import copy

        module = copy.deepcopy(module)
        names = Names(module)
    elif on_meta(names):
        twins = map_tensors((args, kwargs), lambda tensor: tensor.to("meta"))
        trial = _attempt(names, module, twins[0], twins[1], seed, meta=True)
        if trial.error is None or not _needs_values(trial.error):
            return trial
    return _attempt(names, module, args, kwargs, seed, meta=False)


def _attempt(
    names: Names,
    module: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    seed: int,
    *,
    meta: bool,
) -> Trial:
    calls = 0

    def count(call: Any) -> None:
        nonlocal calls
        calls += call.name != "getitem"  # a list's items are had without one

    try:
        with torch.no_grad(), borrowed(module, seed) as saved, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a wrong shape is warned of misleads
            tracer = Tracer(names, count, before_write=saved.keep, meta=meta)
            for tensor in tensors_in((args, kwargs), 3):
                tracer.mark_fed(tensor)
            with tracing(tracer):
                module(*args, **kwargs)
    except Exception as error:  # a wrong shape may make the user's forward raise anything
        return Trial(calls, error)
    return Trial(calls, None)


def _needs_values(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, NotImplementedError) or "meta" in text or "data-dependent" in text
