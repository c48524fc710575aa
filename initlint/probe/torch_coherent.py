"""Noise whose positions belong together, as those of data do."""

from __future__ import annotations

from math import prod, sqrt
from typing import Any

import torch

INDEPENDENT = 2.0
"""Variance of the means along one axis, relative to what independent positions leave, up to which
positions count as independent: an F ratio. Noise has 1 and a standard error of 0.2 at 50 means;
pictures and recordings have tens to thousands."""


def coherent(tensor: Any, generator: Any) -> Any:
    """Noise in which what stands in one row, column or channel of a sample has a part in common.

    Averages over many independent positions are the same for every sample, whatever the network;
    averages over those of a picture, a sequence or a text are not. Half of the variance of float
    noise comes to be shared along the axes; of integers, half of a sample's positions hold the
    sample's first one. Values whose positions are not independent are left as they are.

    Args:
        tensor: floats or indices, samples first; with fewer than two further axes (one for
            indices), or samples that are all the same, it is left as it is.
        generator: a ``torch.Generator`` on the CPU.
    """
    floating = tensor.is_floating_point()
    if tensor.dtype is torch.bool or tensor.ndim < (3 if floating else 2) or not tensor.numel():
        return tensor
    if tensor.shape[0] < 2 or bool((tensor == tensor[:1]).all()):
        return tensor
    if not floating:
        if _repeats(tensor):
            return tensor
        repeated = torch.rand(tensor.shape, generator=generator).to(tensor.device) < 0.5
        return torch.where(repeated, tensor[(slice(None), *[slice(1)] * (tensor.ndim - 1))], tensor)
    if not _independent(tensor):
        return tensor
    mean, spread = tensor.mean(), tensor.std()
    shared: Any = 0
    for axis in range(1, tensor.ndim):
        sides = [1] * tensor.ndim
        sides[0], sides[axis] = tensor.shape[0], tensor.shape[axis]
        shared = shared + torch.randn(sides, generator=generator).to(tensor)
    shared = mean + spread / sqrt(tensor.ndim - 1) * shared
    return mean + (tensor + shared - 2 * mean) / sqrt(2.0)


def _independent(tensor: Any) -> bool:
    """True when the means along every axis differ between samples no more than by chance."""
    values = tensor.detach().double()
    values = values - values.mean(0)
    total = float(values.square().mean())
    if not total > 0.0:
        return False
    for axis in range(1, tensor.ndim):
        others = [other for other in range(1, tensor.ndim) if other != axis]
        count = prod(tensor.shape[other] for other in others)
        if float(values.mean(others).square().mean()) * count > INDEPENDENT * total:
            return False
    return True


def _repeats(tensor: Any) -> bool:
    """True when a sample repeats its first index more often than the other samples do it."""
    first = tensor.flatten(1)[:, :1]
    rest = tensor.flatten(1)[:, 1:]
    own = int((rest == first).sum())
    others = int((rest == first.roll(1, 0)).sum())
    return own > INDEPENDENT * (others + 1)
