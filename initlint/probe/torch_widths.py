"""How the scale of a network's signal, and of its first update, depends on its width."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from initlint.load.torch_functions import map_tensors, tensors_in
from initlint.load.torch_run import TorchRunnable
from initlint.load.torch_state import Saved, borrowed
from initlint.load.torch_tracer import Call, Tracer, tracing
from initlint.model import WEIGHTED, LoadError, Model, WidthScaling
from initlint.probe.torch_gradients import gradients, leaves
from initlint.probe.torch_loss import choose
from initlint.probe.torch_observe import rms

LEARNING_RATE = 1e-3
"""Adam's default: its first step moves every weight by this much, whatever the gradient's size."""


def measure_widths(
    load: Callable[[int], Model],
    argument: str,
    widths: Sequence[int],
    *,
    seed: int = 0,
    loss: str | None = None,
) -> WidthScaling:
    """Build a module with each width and measure it at initialisation and after one step of Adam.

    Args:
        load: the model with a width.
        argument: name of the argument that sets it.
        widths: its values, ascending.
        seed: seeds noise and targets.
        loss: as for `initlint.probe.torch.probe_torch`.

    Raises:
        LoadError: a width with which the module cannot be built or run.
    """
    before: list[Mapping[str, float]] = []
    changes: list[Mapping[str, float]] = []
    for width in widths:
        model = load(width)
        runnable = model.runnable
        if not isinstance(runnable, TorchRunnable):
            raise LoadError("--widths: the module cannot be run")
        with borrowed(runnable.module, seed, frozen_norms=runnable.frozen_norms) as saved:
            first, second = _two_forwards(model, runnable, saved, seed, loss)
        before.append({key: rms(value) for key, value in first.items()})
        changes.append(
            {key: rms(second[key] - value) for key, value in first.items() if key in second}
        )
    return WidthScaling(argument, tuple(widths), _joined(before), _joined(changes))


def _joined(parts: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, ...]]:
    """Values of the layers that every width has."""
    shared = [key for key in parts[0] if all(key in part for part in parts)]
    return {key: tuple(part[key] for part in parts) for key in shared}


def _two_forwards(
    model: Model, runnable: TorchRunnable, saved: Saved, seed: int, loss: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Outputs of the weighted layers before and after one step."""
    names = {name for leaf in leaves(model.graph, runnable).values() for name in leaf.sources}
    tensors = {name: runnable.names.tensors[name] for name in sorted(names)}
    first, result = _forward(model, runnable, saved)
    chosen = choose(result, model.graph, seed, loss)
    if chosen is None or not tensors:
        return first, {}
    found = gradients(chosen.value, tensors)
    with torch.no_grad():
        for name, gradient in found.items():
            if gradient is not None:
                saved.keep(tensors[name])
                dense = gradient.to_dense() if gradient.is_sparse else gradient
                tensors[name].data.add_(torch.nan_to_num(dense).sign(), alpha=-LEARNING_RATE)
    return first, _forward(model, runnable, saved)[0]


def _forward(model: Model, runnable: TorchRunnable, saved: Saved) -> tuple[dict[str, Any], Any]:
    outputs: dict[str, Any] = {}

    def on_call(call: Call) -> None:
        layer = runnable.layers.get(call.key)
        if layer is None or model.graph[layer].op not in WEIGHTED:
            return
        tensor = next(tensors_in(call.result), None)
        if tensor is not None and tensor.is_floating_point():
            outputs[layer] = tensor.detach().clone()

    tracer = Tracer(runnable.names, on_call, before_write=saved.keep, keep_dropout=False)
    args, kwargs = map_tensors(
        (runnable.args, dict(runnable.kwargs)), lambda tensor: tensor.detach().clone()
    )
    with torch.enable_grad(), tracing(tracer):
        return outputs, runnable.module(*args, **kwargs)
