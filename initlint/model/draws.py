"""What several builds of one target tell about its weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Redrawn:
    """A parameter that two builds with the same seed gave different values.

    Attributes:
        name: of the parameter.
        size: number of elements.
        rms: root mean square in either build.
    """

    name: str
    size: int
    rms: tuple[float, float]


@dataclass(frozen=True, slots=True)
class SeedScales:
    """The scale of a parameter that follows the seed.

    Attributes:
        name: of the parameter.
        size: number of elements.
        rms: root mean square for each seed, in the order of `Draws.seeds`.
        std_error: largest relative standard error of one of them by the draw's own spread.
    """

    name: str
    size: int
    rms: tuple[float, ...]
    std_error: float


@dataclass(frozen=True, slots=True)
class Draws:
    """What builds of one target have in common; parameter names are those of `Param.name`.

    Attributes:
        seeds: the seeds it was built with; it was built once more with the first.
        insensitive: parameters that are not constant and yet equal for every seed.
        irreproducible: parameters that differ between two builds with the same seed.
        random: parameters that follow the seed.
        scales: of those, how large each seed draws them.
    """

    seeds: tuple[int, ...]
    insensitive: tuple[str, ...] = ()
    irreproducible: tuple[Redrawn, ...] = ()
    random: tuple[str, ...] = ()
    scales: tuple[SeedScales, ...] = ()
