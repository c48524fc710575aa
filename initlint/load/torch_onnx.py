"""``--via onnx``: a PyTorch module linted as its ONNX export."""

from __future__ import annotations

import functools
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from initlint.load.onnx import load_onnx
from initlint.load.torch_inputs import Inputs
from initlint.load.torch_run import input_names, materialised, one_line, output_tensors, user_frame
from initlint.load.torch_state import borrowed
from initlint.load.torch_weights import Names, public_name, unwrap
from initlint.model import Layer, LayerGraph, LoadError, Model, Param, Where


def load_export(
    module: Any,
    inputs: Inputs,
    sites: Mapping[str, Where],
    *,
    folder: str,
    target: str,
    seed: int,
    fresh_hint: bool | None,
) -> Model:
    """Export a module with torch's dynamo exporter and load the file.

    Names and layers are those of the ONNX loader. What the file cannot tell is added from the
    module: where layers were constructed, which parameters train, and that they were just drawn.

    Args:
        module: the module; it is left bit for bit as it was.
        inputs: its example inputs, which the probe gets too.
        sites: where submodules were constructed, by path.
        folder: an existing folder for the export, which must outlive the model.
        target: name of the module in the report and in messages.
        seed: seeds the generators during the export.
        fresh_hint: see `Model`.

    Raises:
        LoadError: the exporter is not installed or cannot export the module.
    """
    module = unwrap(module)[0]
    args, kwargs = inputs.args, dict(inputs.kwargs or {})
    module = materialised(module, args, kwargs)
    names = Names(module)
    if any(tensor.device.type == "meta" for tensor in names.tensors.values()):
        raise LoadError(f"{target}: a module without weights cannot be exported")
    own = tempfile.mkdtemp(dir=folder)
    path = os.path.join(own, "model.onnx")
    # the exporter takes a last positional dictionary for the keyword arguments
    positional = (*args, {}) if args and isinstance(args[-1], dict) and not kwargs else args
    try:
        with borrowed(module, seed), _plain_outputs(module), _quiet():
            module.eval()
            torch.onnx.export(
                module, positional, path, kwargs=kwargs, dynamo=True, optimize=False, verbose=False
            )
    except ImportError as error:
        raise LoadError("--via onnx needs onnxscript: install it beside PyTorch") from error
    except Exception as error:  # the exporter's own classes, and whatever a user's forward raises
        cause = _first_cause(error)
        message = f"{target}: the ONNX export raised {one_line(cause)}{user_frame(cause)}"
        raise LoadError(message) from error
    model = load_onnx(path, names.shared())
    lost = _lost(names, model)
    notices = [*model.notices, *([inputs.notice] if inputs.notice else [])]
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        notices.append(f"the ONNX export does not hold {', '.join(lost[:3])}{more}")
    return replace(
        model,
        target=target,
        graph=_told(model.graph, names, sites),
        notices=tuple(notices),
        fresh_hint=fresh_hint,
        metadata={
            **model.metadata,
            **({"sequence_length": None} if inputs.guessed else {}),
            "inputs_file": _write_inputs(module, args, kwargs, model, own),
            "inputs_guessed": inputs.guessed or inputs.drawn,
        },
    )


@contextmanager
def _plain_outputs(module: Any) -> Iterator[None]:
    """The module returns a tuple of tensors: key-value caches and the like cannot be exported."""
    original = module.forward

    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
        return tuple(output_tensors(original(*args, **kwargs)))

    module.forward = forward
    yield
    # `borrowed`, outside, puts back every attribute of the module


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says about itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            open(os.devnull, "w", encoding="utf-8") as nowhere,
            redirect_stdout(nowhere),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _first_cause(error: BaseException) -> BaseException:
    """What went wrong, without the exporter's own words around it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _lost(names: Names, model: Model) -> list[str]:
    """Parameters that the export does not hold, though the module trains them."""
    held = {param.name for _, param in model.graph.params} | {param.name for param in model.loose}
    return [
        name
        for name, tensor in names.unique()
        if tensor.requires_grad and not held & set(map(public_name, names.all_of(name)))
    ]


def _told(graph: LayerGraph, names: Names, sites: Mapping[str, Where]) -> LayerGraph:
    """The graph with construction sites, and with buffers and frozen parameters marked."""
    frozen = {
        public_name(name)
        for name, tensor in names.tensors.items()
        if name not in names.parameters or not tensor.requires_grad
    }

    def param(old: Param) -> Param:
        return replace(old, trainable=False) if old.name in frozen else old

    def layer(old: Layer) -> Layer:
        where = _site(old, sites)
        if where is not None:
            where = replace(where, node=old.where.node)
        return replace(old, params=tuple(map(param, old.params)), where=where or old.where)

    edges = [edge for old in graph for edge in graph.inputs(old.id)]
    return LayerGraph([layer(old) for old in graph], edges)


def _site(layer: Layer, sites: Mapping[str, Where]) -> Where | None:
    """Where the module of a layer, or the one around it, was constructed."""
    owners = [param.name.rpartition(".")[0] for param in layer.params[:1]]
    for path in (*owners, layer.scope):
        while path:
            if path in sites:
                return sites[path]
            path = path.rpartition(".")[0]
    return None


def _write_inputs(
    module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], model: Model, folder: str
) -> str | None:
    """The example inputs as a file for the probe; None where they are not the graph's inputs."""
    tensors = [tensor.detach().cpu() for _, tensor in input_names(module, args, kwargs)]
    wanted = model.runnable.inputs
    if len(tensors) != len(wanted) or any(tensor.dtype == torch.bfloat16 for tensor in tensors):
        return None
    path = os.path.join(folder, "inputs.npz")
    arrays = {item.name: tensor.numpy() for item, tensor in zip(wanted, tensors, strict=True)}
    np.savez(path, **arrays)
    return path
