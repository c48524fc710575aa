"""How a module's weights depend on the seed: the same target built several times."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from initlint.load import LoadOptions
from initlint.load.torch_spec import build
from initlint.load.torch_weights import public_name, unwrap
from initlint.model import Draws, Redrawn, SeedScales
from initlint.model.record import record


@record(frozen=True, slots=True)
class _Digest:
    """A tensor's bytes in short."""

    content: str
    constant: bool
    size: int
    rms: float
    std_error: float


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
    random = tuple(name for name in first if name in varying and name not in redrawn)
    builds = (first, *others)
    return Draws(
        seeds=tuple(seeds),
        insensitive=tuple(
            name
            for name, digest in first.items()
            if not digest.constant and name not in varying and name not in redrawn
        ),
        irreproducible=tuple(redrawn.values()),
        random=random,
        scales=tuple(
            SeedScales(
                name,
                first[name].size,
                tuple(build[name].rms for build in builds),
                max(build[name].std_error for build in builds),
            )
            for name in random
            if all(name in build and build[name].size == first[name].size for build in builds)
        ),
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
    values = tensor.detach().cpu().to(torch.float32)
    rms = float(torch.linalg.vector_norm(values)) / max(flat.numel(), 1) ** 0.5
    digest = hashlib.blake2b(memoryview(raw), digest_size=16).hexdigest()
    return _Digest(digest, constant, flat.numel(), rms, _std_error(values, rms))


def _std_error(values: Any, rms: float) -> float:
    """Relative standard error of a tensor's rms, from the mean squares of its rows and columns.

    Clustered both ways (Cameron, Gelbach, Miller 2011, without the overlap, so from above): right
    for independent elements up to a factor of 1.4, and for repeated rows, outer products and other
    draws whose elements hang together.
    """
    if values.numel() < 2 or not 0.0 < rms < float("inf"):
        return 0.0
    squares = (values.reshape(len(values), -1) / rms) ** 2
    variance = 0.0
    for axis in (0, 1):
        means = squares.mean(axis)
        if means.numel() > 1:
            variance += float(means.var()) / means.numel()
    return float(0.5 * variance**0.5)
