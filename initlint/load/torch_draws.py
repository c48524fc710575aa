"""How a module's weights depend on the seed: the same target built several times."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from initlint.load import LoadOptions
from initlint.load.torch_spec import build
from initlint.load.torch_weights import unwrap


@dataclass(frozen=True, slots=True)
class Draws:
    """What several builds of one target have in common.

    Attributes:
        seeds: the seeds it was built with.
        insensitive: parameters that are not constant and yet equal for every seed.
        irreproducible: parameters that differ between two builds with the same seed.
        random: parameters that follow the seed.
    """

    seeds: tuple[int, ...]
    insensitive: tuple[str, ...]
    irreproducible: tuple[str, ...]
    random: tuple[str, ...]


def compare_draws(spec: str, options: LoadOptions, seeds: Sequence[int]) -> Draws:
    """Build a spec once per seed, and once more with the first, and compare the weights.

    Only digests are kept between builds. A spec that names an instance is the same module every
    time, so all its weights are insensitive.

    Args:
        spec: as `initlint.load.torch_module.load_spec` takes it.
        options: its seed is replaced.
        seeds: at least two different ones.

    Raises:
        ValueError: fewer than two different seeds.
        LoadError: the spec cannot be built.
    """
    if len(set(seeds)) < 2:
        raise ValueError("comparing draws needs at least two different seeds")
    drawn = [_digests(spec, replace(options, seed=seed)) for seed in seeds]
    again = _digests(spec, replace(options, seed=seeds[0]))
    first = drawn[0]
    irreproducible = tuple(name for name in first if again.get(name) != first[name])
    varying = {name for name in first if any(other.get(name) != first[name] for other in drawn)}
    return Draws(
        seeds=tuple(seeds),
        insensitive=tuple(
            name for name, (_, constant) in first.items() if not constant and name not in varying
        ),
        irreproducible=irreproducible,
        random=tuple(name for name in first if name in varying and name not in irreproducible),
    )


def _digests(spec: str, options: LoadOptions) -> Mapping[str, tuple[str, bool]]:
    """Digest of each parameter's bytes, and whether it holds one value only."""
    module = unwrap(build(spec, options).module)[0]
    return {
        name: _digest(tensor)
        for name, tensor in module.named_parameters()
        if not torch.nn.parameter.is_lazy(tensor) and tensor.device.type != "meta"
    }


def _digest(tensor: Any) -> tuple[str, bool]:
    flat = tensor.detach().cpu().contiguous().view(-1)
    raw = flat.view(torch.uint8).numpy()
    constant = flat.numel() < 2 or bool((flat == flat[0]).all())
    return hashlib.blake2b(memoryview(raw), digest_size=16).hexdigest(), constant
