"""Statistics of every layer's output, and of the gradient there, while a module runs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count
from math import prod, sqrt
from typing import Any

import torch

from initlint.load.torch_functions import tensors_in
from initlint.load.torch_run import TorchRunnable
from initlint.load.torch_tracer import Call
from initlint.model import TRANSPARENT, Layer, LayerGraph, Op
from initlint.probe.activations import output_stats
from initlint.probe.entropy import ENTROPY_ROWS, ENTROPY_SAMPLES, attention_entropy, spread
from initlint.probe.result import OutputStats

ELEMENTS = 1 << 15
"""Elements looked at per output: positions are dropped, samples and units never.

The relative sampling error of an rms is √((κ−1)/4n) for kurtosis κ: 1.5 % at 2^15 for κ = 30, far
below any threshold, and the statistics then cost a fraction of the run.
"""

DEAD_ELEMENTS = 1 << 17
"""The same for ReLU-like outputs, where rare activity decides whether a unit is dead."""

FORBIDDEN = -1e3
"""Values of an additive mask below which a key is out of reach: exp(-1000) is zero in float64."""

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
        work: multiplications with weights: their elements times positions.
    """

    runnable: TorchRunnable
    graph: LayerGraph
    samples: int
    seed: int
    whole: bool = False
    outputs: dict[str, OutputStats] = field(default_factory=dict)
    backward: dict[str, float] = field(default_factory=dict)
    work: int = 0

    def on_call(self, call: Call) -> None:
        """Measure the first output of a call that is a layer of the graph."""
        found, level = None, call.key
        for number in count(1):
            if level not in self.runnable.layers:
                break
            found, level = self.runnable.layers[level], f"{call.key}+{number}"
        if found is None:
            return
        layer = self.graph[found]
        if layer.op in _NOT_OBSERVED:
            return
        tensor = next(tensors_in(call.result), None)
        if tensor is None or not tensor.is_floating_point() or not tensor.numel():
            return
        stats = self.measure(layer, tensor.detach())
        if layer.op in (Op.ATTENTION, Op.SOFTMAX):
            stats = replace(stats, entropy=_entropy(layer.op, call))
        self.outputs[found] = stats
        if layer.params and tensor.ndim:
            units = int(tensor.shape[layer.channel_axis]) if tensor.ndim > 1 else 1
            self.work += sum(param.size for param in layer.params) * tensor.numel() // max(units, 1)
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
            if gradient is not None:  # a backward pass of one's own may hand on none
                self.backward[name] = rms(gradient)

        return hook


def _entropy(op: Op, call: Call) -> tuple[float, ...]:
    """Entropies of a softmax, of a fused attention, or of the weights that a product mixes by."""
    if call.name == "scaled_dot_product_attention":
        return _fused_entropy(call)
    for tensor in tensors_in(call.args if op is Op.ATTENTION else call.result):
        if tensor.ndim > 2 and tensor.is_floating_point() and tensor.device.type != "meta":
            whole = tensor.detach()[:ENTROPY_SAMPLES].float().cpu().numpy()
            found = attention_entropy(whole)
            if found:
                return found
    return ()


def _fused_entropy(call: Call) -> tuple[float, ...]:
    """Entropies of a fused attention, from its queries and keys.

    Of a mask only what it forbids counts: position biases (ALiBi) are narrow on purpose.
    """
    query, key = call.arg(0, "query"), call.arg(1, "key")
    if query.ndim < 3 or query.device.type == "meta":
        return ()
    with torch.no_grad():
        query, key = (item[:ENTROPY_SAMPLES].detach().float() for item in (query, key))
        if query.ndim > 3 and key.shape[-3] and query.shape[-3] != key.shape[-3]:
            key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
        scale = call.arg(6, "scale")
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        rows = torch.as_tensor(spread(query.shape[-2], ENTROPY_ROWS), device=query.device)
        logits = scale * query[..., rows, :] @ key.transpose(-1, -2)
        mask = call.arg(3, "attn_mask")
        if mask is not None:
            banned = ~mask if mask.dtype is torch.bool else mask < FORBIDDEN
            banned = banned[..., rows, :] if banned.shape[-2] > 1 else banned
            if banned.ndim == logits.ndim and banned.shape[0] > 1:
                banned = banned[:ENTROPY_SAMPLES]
            logits = logits.masked_fill(banned, float("-inf"))
        if call.arg(5, "is_causal", False):
            keys = torch.arange(key.shape[-2], device=key.device)
            logits = logits.masked_fill(keys > rows[:, None], float("-inf"))
        return attention_entropy(torch.softmax(logits, dim=-1).cpu().numpy())


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
