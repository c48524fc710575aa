"""From a module and its inputs to a `Model`."""

from __future__ import annotations

import copy
import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from initlint.load.steps import sequence_length
from initlint.load.torch_capture import Capture, layers_of, loose_params
from initlint.load.torch_construct import is_library
from initlint.load.torch_functions import map_tensors, tensors_in
from initlint.load.torch_state import Saved, borrowed
from initlint.load.torch_tracer import Tracer, on_meta, tracing
from initlint.load.torch_weights import Names, unwrap
from initlint.model import Edge, Kind, Layer, LayerGraph, LoadError, Model, Where


@dataclass(frozen=True, slots=True)
class TorchRunnable:
    """What the probe of a PyTorch module needs.

    Attributes:
        module: the module, wrappers of compilation and data parallelism taken off.
        args, kwargs: example inputs, on the module's device.
        layers: layer id by call key (see `Call.key`): what a second run recognises.
        names: the module's tensors by name.
        sources: names of the parameters behind each `Param.key`; several for a weight that a
            parametrisation computes.
        guessed: True when the inputs were worked out here, so that they may be exchanged.
        label: inputs by name, as the report prints them.
        drawn: True when their values were drawn here, though the user gave their shape.
        frozen_norms: True when batch normalisation cannot take statistics of this batch (one value
            per channel) and uses its stored ones instead.
    """

    module: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    layers: Mapping[str, str]
    names: Names
    sources: Mapping[str, tuple[str, ...]]
    guessed: bool = False
    label: Mapping[str, str] = field(default_factory=dict)
    frozen_norms: bool = False
    drawn: bool = False


SINGLE_VALUE = "Expected more than 1 value per channel"
"""How torch says that a batch is too small for batch statistics (torch/nn/functional.py)."""


def module_device(module: Any) -> Any:
    """The device of a module's first tensor."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")


def user_frame(error: BaseException) -> str:
    """``file:line`` of the deepest frame of the user's own code, with a leading `` at ``."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not is_library(frame.filename)]
    if not own:
        return ""
    path = own[-1].filename
    try:
        short = os.path.relpath(path)
    except ValueError:
        short = path
    return f" at {path if short.startswith('..') else short}:{own[-1].lineno}"


def one_line(error: BaseException, limit: int = 200) -> str:
    """The error's class and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    text = text if len(text) <= limit else f"{text[: limit - 1]}…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def materialised(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The module with its lazy layers given their shapes, as its first call would do.

    The caller's module is not touched: a copy is run when some layer is still without a shape.
    """
    lazy = torch.nn.parameter.is_lazy
    if not any(lazy(tensor) for tensor in (*module.parameters(), *module.buffers())):
        return module
    module = copy.deepcopy(module)
    with torch.no_grad():
        module(*args, **kwargs)
    return module


def input_names(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """``(name, tensor)`` of every tensor among the inputs, named after forward's parameters."""
    import inspect

    try:
        known = list(inspect.signature(module.forward).parameters)
    except (TypeError, ValueError):
        known = []
    pairs = []
    for position, value in enumerate(args):
        pairs.append((known[position] if position < len(known) else f"input_{position}", value))
    pairs += list(kwargs.items())
    named = []
    for name, value in pairs:
        tensors = list(tensors_in(value))
        for number, tensor in enumerate(tensors):
            named.append((name if len(tensors) == 1 else f"{name}.{number}", tensor))
    return named


def trace(
    names: Names,
    module: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    saved: Saved,
    *,
    meta: bool,
) -> Capture:
    """One forward pass under interception."""
    capture = Capture(names)
    device = module_device(module)
    tracer = Tracer(names, capture.on_call, before_write=saved.keep, meta=meta, device=device)
    if meta:
        args, kwargs = map_tensors((args, dict(kwargs)), lambda tensor: tensor.to("meta"))
    else:
        args, kwargs = map_tensors((args, dict(kwargs)), lambda tensor: tensor.detach().clone())
    named = input_names(module, args, kwargs)
    capture.batch = next((int(tensor.shape[0]) for _, tensor in named if tensor.ndim), None)
    for name, tensor in named:
        capture.add_input(tracer.mark_fed(tensor), name, tensor)
    with torch.no_grad(), tracing(tracer):
        result = module(*args, **kwargs)
    capture.add_outputs(list(output_tensors(result)), tracer)
    return capture


def output_tensors(result: Any) -> list[Any]:
    """The tensors a network returns; key-value caches of generation are not among them."""
    if isinstance(result, dict):
        kept = {key: item for key, item in result.items() if not _is_cache(item)}
        return list(tensors_in(kept))
    if isinstance(result, (list, tuple)):
        return list(tensors_in([item for item in result if not _is_cache(item)]))
    return list(tensors_in(result))


def _is_cache(value: Any) -> bool:
    return type(value).__name__.endswith("Cache")


def run_capture(
    module: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    target: str = "",
    seed: int = 0,
    sites: Mapping[str, Where] | None = None,
    guessed: bool = False,
    drawn: bool = False,
    notices: tuple[str, ...] = (),
    fresh_hint: bool | None = None,
) -> Model:
    """Capture a module as a `Model`.

    Raises:
        LoadError: the forward raised; the message has the user's own file and line.
    """
    module, prefix = unwrap(module)
    module = materialised(module, args, kwargs)
    names = Names(module, prefix)
    structure_only = any(tensor.device.type == "meta" for tensor in names.tensors.values())
    capture, frozen_norms = _captured(names, module, args, kwargs, target, seed)
    layers, edges, keys = layers_of(capture, sites or {})
    graph = _fused(layers, edges)
    loose = loose_params(capture)
    if loose:
        listed = ", ".join(param.name for param in loose[:3])
        more = f" and {len(loose) - 3} more" if len(loose) > 3 else ""
        notices = (*notices, f"the forward pass never reads {listed}{more}")
    if structure_only:
        notices = (*notices, "structure only: the module is on the meta device, without weights")
    label = {
        name: f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
        for name, tensor in input_names(module, args, kwargs)
    }
    runnable = TorchRunnable(
        module,
        tuple(args),
        dict(kwargs),
        _through_fusion(keys, graph),
        names,
        capture.sources,
        guessed,
        label,
        frozen_norms,
        drawn,
    )
    return Model(
        target=target or type(module).__name__,
        kind=Kind.TORCH,
        graph=graph,
        loose=loose,
        runnable=None if structure_only else runnable,
        notices=notices,
        producer=f"torch {torch.__version__}",
        fresh_hint=fresh_hint,
        metadata={
            **({} if guessed else {"sequence_length": sequence_length(graph)}),
            **_configuration(module),
        },
    )


def _configuration(module: Any) -> dict[str, Any]:
    """What a module's ``config`` says about its weights, in the spelling of ``config.json``."""
    config = getattr(module, "config", None)
    found: dict[str, Any] = {}
    tied = getattr(config, "tie_word_embeddings", None)
    if isinstance(tied, bool):
        found["tie_word_embeddings"] = tied
    for name in ("initializer_range", "initializer_factor"):
        value = getattr(config, name, None)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            found[name] = float(value)
    return {"config": found} if found else {}


def _captured(
    names: Names,
    module: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    target: str,
    seed: int,
) -> tuple[Capture, bool]:
    """The capture, and whether batch normalisation had to use its stored statistics.

    Tried in the order of cost: on meta tensors where arithmetic is dear or impossible, on two rows
    of a batch of pictures, on everything. A run that needs what a cheaper one lacks (values of
    meta tensors, more rows) raises there, and only the last one's error is the module's own.
    """
    structure_only = any(tensor.device.type == "meta" for tensor in names.tensors.values())
    if on_meta(names):
        try:
            with borrowed(module, seed) as saved:
                return trace(names, module, args, kwargs, saved, meta=True), False
        except Exception as error:  # what the user's forward raises, for want of values perhaps
            if structure_only:
                raise _load_error(module, target, error) from error
    few = _two_rows(args, kwargs)
    if few is not None:
        try:
            with _one_thread(), borrowed(module, seed) as saved:
                return trace(names, module, *few, saved, meta=False), False
        except Exception:  # the whole batch tells whether it is a fault
            few = None
    try:
        with borrowed(module, seed) as saved:
            return trace(names, module, args, kwargs, saved, meta=False), False
    except Exception as error:  # whatever the user's forward raises is told as the module's
        if SINGLE_VALUE not in str(error):
            raise _load_error(module, target, error) from error
    with borrowed(module, seed, frozen_norms=True) as saved:
        return trace(names, module, args, kwargs, saved, meta=False), True


@contextmanager
def _one_thread() -> Iterator[None]:
    """Two rows are too little to share out: threads would wait for one another longer."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _two_rows(
    args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The first two rows of a batch of pictures; None where the first axis may be another one."""
    tensors = list(tensors_in((args, dict(kwargs))))
    sides = {int(tensor.shape[0]) if tensor.ndim else 0 for tensor in tensors}
    if len(sides) != 1 or min(sides) <= 2 or max(tensor.ndim for tensor in tensors) < 4:
        return None
    few = map_tensors((args, dict(kwargs)), lambda tensor: tensor.narrow(0, 0, 2))
    return few[0], few[1]


def _load_error(module: Any, target: str, error: BaseException) -> LoadError:
    name = target or type(module).__name__
    return LoadError(f"{name}: forward raised {one_line(error)}{user_frame(error)}")


def _through_fusion(keys: Mapping[str, str], graph: LayerGraph) -> dict[str, str]:
    """Layer id by call key after fusion: a fused layer has the output of its last part."""
    kept = {key: name for key, name in keys.items() if name in graph}
    known = set(kept.values())
    for layer in graph:
        if layer.id in known or not layer.id:
            continue
        path, _, visit = layer.id.partition("#")
        prefix = f"{path}@{visit or 1}/"
        parts = [key for key, name in keys.items() if key.startswith(prefix) and key not in kept]
        if parts:
            kept[parts[-1]] = layer.id
    return kept


def _fused(layers: list[Layer], edges: list[Edge]) -> LayerGraph:
    graph = LayerGraph(layers, edges)
    from initlint.model.patterns import fuse

    return fuse(graph)
