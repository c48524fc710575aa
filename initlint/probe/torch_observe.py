"""Statistics of every layer's output, and of the gradient there, while a module runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod, sqrt
from typing import Any

import torch

from initlint.load.torch_functions import tensors_in
from initlint.load.torch_run import TorchRunnable
from initlint.load.torch_tracer import Call
from initlint.model import TRANSPARENT, Layer, LayerGraph, Op
from initlint.probe.activations import output_stats
from initlint.probe.result import OutputStats

ELEMENTS = 1 << 15
"""Elements looked at per output: positions are dropped, samples and units never.

The relative sampling error of an rms is √((κ−1)/4n) for kurtosis κ: 1.5 % at 2^15 for κ = 30, far
below any threshold, and the statistics then cost a fraction of the run.
"""

DEAD_ELEMENTS = 1 << 17
"""The same for ReLU-like outputs, where rare activity decides whether a unit is dead."""

_NOT_OBSERVED = TRANSPARENT | {Op.SHAPE, Op.COMPARE, Op.CONSTANT}
"""Operators whose values are those of their producer, or no signal."""

_RELU_LIKE = frozenset({Op.RELU, Op.RELU6, Op.THRESHOLDED_RELU})


@dataclass(slots=True)
class Observer:
    """Told of every call; keeps numbers, never tensors.

    Attributes:
        whole: look at every element, to count those that are not finite.
        outputs: statistics by layer id.
        backward: root mean square of the gradient at each layer's output, by layer id, filled
            while the backward pass runs.
    """

    runnable: TorchRunnable
    graph: LayerGraph
    samples: int
    seed: int
    whole: bool = False
    outputs: dict[str, OutputStats] = field(default_factory=dict)
    backward: dict[str, float] = field(default_factory=dict)

    def on_call(self, call: Call) -> None:
        """Measure the first output of a call that is a layer of the graph."""
        levels = [call.key, *(f"{call.key}+{n}" for n in range(1, 64))]
        found = None
        for key in levels:
            if key not in self.runnable.layers:
                break
            found = self.runnable.layers[key]
        if found is None:
            return
        layer = self.graph[found]
        if layer.op in _NOT_OBSERVED:
            return
        tensor = next(tensors_in(call.result), None)
        if tensor is None or not tensor.is_floating_point() or not tensor.numel():
            return
        self.outputs[found] = self.measure(layer, tensor.detach())
        if tensor.requires_grad:
            tensor.register_hook(self._gradient(found))

    def measure(self, layer: Layer, tensor: Any) -> OutputStats:
        """Statistics of one tensor, on a sample of its positions."""
        if not self.whole:
            cap = DEAD_ELEMENTS if layer.op in _RELU_LIKE else ELEMENTS
            tensor = thinned(tensor, layer.channel_axis, cap)
        if tensor.dtype not in (torch.float32, torch.float64):
            tensor = tensor.float()
        return output_stats(
            tensor.cpu().numpy(),
            layer.op,
            samples=self.samples,
            channel_axis=layer.channel_axis,
            attrs=layer.attrs,
            seed=self.seed,
        )

    def _gradient(self, name: str) -> Any:
        def hook(gradient: Any) -> None:
            self.backward[name] = rms(gradient)

        return hook


def thinned(tensor: Any, channel_axis: int, cap: int) -> Any:
    """Evenly spaced positions of a tensor, so that about ``cap`` elements are left.

    The first axis (samples) and the channel axis are kept whole.
    """
    if tensor.numel() <= cap or tensor.ndim < 3:
        return tensor
    unit = channel_axis % tensor.ndim if -tensor.ndim <= channel_axis < tensor.ndim else -1
    axes = [axis for axis in range(1, tensor.ndim) if axis != unit]
    surplus = tensor.numel() / cap
    for rank, axis in enumerate(sorted(axes, key=lambda axis: tensor.shape[axis])):
        side = int(tensor.shape[axis])
        share = surplus ** (1 / (len(axes) - rank))
        step = max(min(int(share), side), 1)
        if step > 1:
            index = [slice(None)] * tensor.ndim
            index[axis] = slice(step // 2, None, step)
            tensor = tensor[tuple(index)]
            surplus /= step
    return tensor


def rms(tensor: Any) -> float:
    """Root mean square of a tensor; NaN or infinite where it holds such elements."""
    if not tensor.numel():
        return 0.0
    wide = tensor.dtype if tensor.dtype == torch.float64 else torch.float32
    norm = float(torch.linalg.vector_norm(tensor.detach(), dtype=wide))
    if norm == 0.0 and wide is torch.float32:  # squares below 1e-45 vanish
        peak = float(tensor.detach().abs().max())
        if peak > 0.0:
            norm = peak * float(torch.linalg.vector_norm(tensor.detach().double() / peak))
    elif norm == float("inf") and bool(torch.isfinite(tensor).all()):
        norm = float(torch.linalg.vector_norm(tensor.detach().double()))
    return norm / sqrt(prod(tensor.shape))
