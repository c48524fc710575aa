"""How a module's weights depend on the seed: the same target built several times."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from initlint.load import LoadOptions
from initlint.load.torch_spec import build
from initlint.load.torch_weights import public_name, unwrap
from initlint.model import Draws, Redrawn


@dataclass(frozen=True, slots=True)
class _Digest:
    """A tensor's bytes in short."""

    content: str
    constant: bool
    size: int
    rms: float


def compare_draws(spec: str, options: LoadOptions, seeds: Sequence[int]) -> Draws | None:
    """Build a spec once per seed, and once more with the first, and compare the weights.

    Args:
        spec: as `initlint.load.torch_module.load_spec` takes it.
        options: its seed is replaced.
        seeds: at least two different ones.

    Returns:
        None where the spec names one module that is there already, so that no seed reaches it.

    Raises:
        ValueError: fewer than two different seeds.
        LoadError: the spec cannot be built.
    """
    return compare_builds(lambda seed: build(spec, replace(options, seed=seed)).module, seeds)


def compare_builds(make: Callable[[int], Any], seeds: Sequence[int]) -> Draws | None:
    """As `compare_draws`, for a function from a seed to a module.

    Only digests are kept between builds.
    """
    if len(set(seeds)) < 2:
        raise ValueError("comparing draws needs at least two different seeds")
    module = make(seeds[0])
    first, known = _digests(module), weakref.ref(module)
    del module
    others = []
    for seed in (*seeds[1:], seeds[0]):
        module = make(seed)
        if module is known():
            return None
        others.append(_digests(module))
        del module
    again = others.pop()
    redrawn = {
        name: Redrawn(name, digest.size, (digest.rms, again[name].rms))
        for name, digest in first.items()
        if name in again and again[name].content != digest.content
    }
    varying = {
        name
        for name, digest in first.items()
        if any(name in other and other[name].content != digest.content for other in others)
    }
    return Draws(
        seeds=tuple(seeds),
        insensitive=tuple(
            name
            for name, digest in first.items()
            if not digest.constant and name not in varying and name not in redrawn
        ),
        irreproducible=tuple(redrawn.values()),
        random=tuple(name for name in first if name in varying and name not in redrawn),
    )


def _digests(module: Any) -> Mapping[str, _Digest]:
    """Digest of each parameter, by the name its user knows."""
    return {
        public_name(name): _digest(tensor)
        for name, tensor in unwrap(module)[0].named_parameters()
        if not torch.nn.parameter.is_lazy(tensor) and tensor.device.type != "meta"
    }


def _digest(tensor: Any) -> _Digest:
    flat = tensor.detach().cpu().contiguous().view(-1)
    raw = flat.view(torch.uint8).numpy()
    constant = flat.numel() < 2 or bool((flat == flat[0]).all())
    rms = float(torch.linalg.vector_norm(flat.to(torch.float32))) / max(flat.numel(), 1) ** 0.5
    digest = hashlib.blake2b(memoryview(raw), digest_size=16).hexdigest()
    return _Digest(digest, constant, flat.numel(), rms)
