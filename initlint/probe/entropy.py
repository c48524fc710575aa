"""Entropy of attention weights: how many keys a head really looks at."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

ENTROPY_SAMPLES, ENTROPY_ROWS, ENTROPY_HEADS = 4, 64, 256
"""Samples, queries and heads whose softmax rows are looked at: the mean of 256 entropies, each of
which scatters by a few per cent, is known to less than one."""

ROUNDING = 0.02
"""How far from one a row of half-precision weights may sum."""

MIN_KEYS = 4
"""Keys below which the entropy of a row tells nothing."""


def mean_entropy(runs: list[tuple[float, ...]]) -> tuple[float, ...]:
    """Entropies per head over several runs."""
    same = [run for run in runs if run and len(run) == len(runs[0])]
    return tuple(float(value) for value in np.mean(same, axis=0)) if same else ()


def attention_entropy(weights: Array) -> tuple[float, ...]:
    """Entropy of softmax rows over the logarithm of the number of keys they see, per head.

    1 is a uniform row, 0 one key alone. A key that has no weight in any sample or head is masked
    for that query; queries that see less than half as many keys as others (the first ones under a
    causal mask) are left out. Empty for fewer than four keys, and where rows do not sum to one (the
    softmax runs along another axis).

    Args:
        weights: ``(…, heads, queries, keys)``, or ``(batch, queries, keys)`` for one head.
    """
    data = weights[:ENTROPY_SAMPLES] if weights.ndim > 2 else weights[None]
    queries, keys = data.shape[-2:]
    if data.size == 0 or keys < MIN_KEYS:
        return ()
    data = data[..., spread(queries, ENTROPY_ROWS), :].astype(np.float64)
    heads = data.shape[-3] if data.ndim > 3 else 1
    data = data.reshape(-1, heads, data.shape[-2], keys)[:, :ENTROPY_HEADS]
    if not np.isfinite(data).all() or np.abs(data.sum(axis=-1) - 1.0).max() > ROUNDING:
        return ()
    seen = (data > 0).any(axis=(0, 1)).sum(axis=-1)
    chosen = seen >= max(MIN_KEYS, int(seen.max()) / 2)
    if not chosen.any():  # frozen on single keys: the smaller weights underflow
        seen, chosen = np.full_like(seen, keys), np.ones_like(chosen)
    rows = data[:, :, chosen]
    entropy = -(rows * np.log(np.where(rows > 0, rows, 1.0))).sum(axis=-1) / np.log(seen[chosen])
    return tuple(float(value) for value in entropy.mean(axis=(0, 2)))


def spread(size: int, count: int) -> Array:
    """At most ``count`` positions below ``size``, evenly spaced, the last one among them."""
    return np.unique(np.linspace(size - 1, 0, min(count, size)).round().astype(np.int64))
