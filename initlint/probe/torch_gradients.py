"""Gradients of a module's parameters, and which zero gradients end after a step."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from initlint.load.torch_run import TorchRunnable
from initlint.model import LayerGraph, Param, View
from initlint.probe.result import GradientStats
from initlint.probe.torch_observe import rms

STEP = 1e-3
"""Size of a step relative to a tensor's rms (absolute for a zero tensor): a first step of Adam at
its default learning rate. Small enough to stay a perturbation; any size ends a structural zero."""

TINY = 0.1
"""Size of a matrix, relative to the step that one at zero is given, below which it counts as zero:
a hundredth of an ordinary weight, which one step of Adam at its default rate moves by its size, and
some ten steps to a tenth of an ordinary one. A gain takes a hundred steps there."""

STEPS = 3
"""Steps after which a gradient that is still zero is taken to stay so. Zero tensors in a chain end
one per step; the longest known deliberate chain (a zero-initialised block entered and left through
zero projections, behind a zero gate) ends after two."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """What a `Param` is made of: trainable tensors, and the steps from the one to the block."""

    param: Param
    sources: tuple[str, ...]
    views: tuple[View, ...]


def leaves(graph: LayerGraph, runnable: TorchRunnable) -> dict[str, Leaf]:
    """Every trainable parameter block of the graph, by its key."""
    found: dict[str, Leaf] = {}
    for _, param in graph.params:
        sources = runnable.sources.get(param.key, ())
        trainable = tuple(name for name in sources if runnable.names.tensors[name].requires_grad)
        if not trainable or param.key in found:
            continue
        views = param.tensor.views if param.tensor is not None else ()
        whole = len(sources) > 1 or not param.stored_name
        found[param.key] = Leaf(param, trainable, () if whole else views)
    return found


def block(tensor: Any, views: tuple[View, ...]) -> Any:
    """A tensor seen through the steps to canonical orientation."""
    for view in views:
        if view.kind == "reshape":
            tensor = tensor.reshape(view.argument)
        elif view.kind == "transpose":
            tensor = tensor.permute(view.argument)
        elif view.kind == "slice":
            axis, start, stop = view.argument
            tensor = tensor.narrow(axis, start, stop - start)
    return tensor


def gradients(loss: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Gradient of a loss by parameter name; None where the loss does not depend on it."""
    names = list(tensors)
    found = torch.autograd.grad(loss, [tensors[name] for name in names], allow_unused=True)
    return dict(zip(names, found, strict=True))


def statistics(leaf: Leaf, tensors: Mapping[str, Any], found: Mapping[str, Any]) -> GradientStats:
    """Statistics of one block's gradient; ``reached`` is False without a path to the loss."""
    values = [block(tensors[name].detach(), leaf.views) for name in leaf.sources]
    largest = max(values, key=lambda value: value.numel())
    pieces = [
        block(found[name], leaf.views) for name in leaf.sources if found.get(name) is not None
    ]
    if not pieces:
        units = int(largest.shape[0]) if largest.ndim else 1
        return GradientStats(0.0, 1.0, units, rms(largest), reached=False)
    gradient = max(pieces, key=lambda piece: piece.numel())
    if gradient.is_sparse:
        gradient = gradient.to_dense()
    size = rms(gradient)
    zeros = gradient.numel() - int(torch.count_nonzero(gradient))
    units = 0
    if zeros:
        rows = gradient.reshape(gradient.shape[0], -1) if gradient.ndim else gradient.reshape(1, 1)
        units = int((rows == 0).all(dim=1).sum())
    if len(pieces) > 1 and size == 0.0:
        size = max(rms(piece) for piece in pieces)
    return GradientStats(size, zeros / max(gradient.numel(), 1), units, rms(largest))


def sign_step(
    tensors: Mapping[str, Any],
    found: Mapping[str, Any],
    opened: Mapping[str, float] | None = None,
    closing: Container[str] = (),
) -> None:
    """Move every parameter with a gradient a little against its sign, as Adam's first step does.

    ``opened`` are steps for tensors of zeros, and for those that are as good as zero, by name; for
    those of ``closing``, as long as they are smaller than that.
    """
    with torch.no_grad():
        for name, gradient in found.items():
            if gradient is None:
                continue
            if gradient.is_sparse:
                gradient = gradient.to_dense()
            gradient = torch.nan_to_num(gradient, 0.0, 0.0, 0.0)
            tensor = tensors[name]
            scale = rms(tensor)
            step, wide = STEP * scale, (opened or {}).get(name)
            least = 1.0 if name in closing else TINY if tensor.ndim > 1 else 0.0
            if wide is not None and (scale == 0.0 or scale < least * wide):
                step = wide
            elif not scale > 0.0 or scale == float("inf"):
                step = STEP
            tensor.data.add_(gradient.sign(), alpha=-step)


def still_zero(keys: Mapping[str, Leaf], stats: Mapping[str, GradientStats]) -> Iterator[str]:
    """Keys of parameters on the path to the loss whose gradient is exactly zero."""
    for key in keys:
        if stats[key].reached and stats[key].rms == 0.0:
            yield key
