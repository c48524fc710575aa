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
class Draws:
    """What builds of one target have in common; parameter names are those of `Param.name`.

    Attributes:
        seeds: the seeds it was built with; it was built once more with the first.
        insensitive: parameters that are not constant and yet equal for every seed.
        irreproducible: parameters that differ between two builds with the same seed.
        random: parameters that follow the seed.
    """

    seeds: tuple[int, ...]
    insensitive: tuple[str, ...] = ()
    irreproducible: tuple[Redrawn, ...] = ()
    random: tuple[str, ...] = ()
