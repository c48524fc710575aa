"""Measurements of large stored tensors that need not be taken again.

They come from an earlier run that was interrupted, or from another machine that measured this part
of the checkpoint.

A measurement is named by where the tensor lies in its file and how it is seen. Whoever gives
measurements back has to know that the file is the same; here they are only data, checked for shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np

from initlint.measure.result import Family, Identification, Match, Moments
from initlint.model import Tensor

LEAST_KEPT = 1 << 18
"""Elements from which reading a tensor takes longer than passing its measurements on."""

Tell = Callable[[str, str, Any], None]
"""Told of each new measurement: the file, the measurement's name, its value as JSON."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Measurements known from elsewhere, and whom to tell of new ones.

    Attributes:
        known: values as JSON by name.
        tell: called for each measurement that was not known.
    """

    known: Mapping[str, Any] = field(default_factory=dict)
    tell: Tell | None = None

    @property
    def idle(self) -> bool:
        """True when nothing is known and nobody asks."""
        return not self.known and self.tell is None

    def moments(self, tensor: Tensor) -> Moments | None:
        """Moments that are known."""
        return _moments(self.known.get(name_of("moments", tensor) or "")) if self.known else None

    def identification(self, tensor: Tensor, use: Any) -> Identification | None:
        """What a tensor in this use is known to be drawn from."""
        return _identification(self.known.get(name_of("scheme", tensor, use) or ""))

    def keep_moments(self, tensor: Tensor, found: Moments) -> None:
        """Pass on new moments."""
        if self.tell is not None:
            self._keep(tensor, name_of("moments", tensor), list(astuple(found)))

    def keep_identification(self, tensor: Tensor, use: Any, found: Identification) -> None:
        """Pass on a new identification."""
        value = [
            found.family.value,
            [list(astuple(match)) for match in found.matches],
            found.n,
            found.std_error,
            found.std,
            found.bound,
            found.independent,
        ]
        self._keep(tensor, name_of("scheme", tensor, use), value)

    def _keep(self, tensor: Tensor, name: str | None, value: list[Any]) -> None:
        if self.tell is not None and name is not None and name not in self.known:
            self.tell(file_of(tensor), name, value)


def file_of(tensor: Tensor) -> str:
    """Name of the file that holds a tensor; empty for one that is not plainly stored in one."""
    return str(getattr(getattr(tensor.source, "file", None), "name", ""))


def name_of(kind: str, tensor: Tensor, use: Any = None) -> str | None:
    """Name of a measurement; None for a tensor that is small or not plainly stored in a file."""
    file, source = file_of(tensor), tensor.source
    offset, count = getattr(source, "offset", None), getattr(source, "count", None)
    arrays = any(isinstance(view.argument, np.ndarray) for view in tensor.views)
    if not file or offset is None or arrays or tensor.size < LEAST_KEPT:
        return None
    views = [(view.kind, view.argument) for view in tensor.views]
    stored = (tensor.dtype, tensor.stored_shape, getattr(source, "dtype", ""))
    text = repr((kind, file, offset, count, stored, views, use))
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _moments(value: Any) -> Moments | None:
    if not isinstance(value, list) or len(value) != len(Moments.__slots__):
        return None
    counts = (*value[:1], *value[7:])
    if not all(type(item) is int for item in counts):
        return None
    if not all(isinstance(item, (int, float)) for item in value):
        return None
    return Moments(*value)


def _identification(value: Any) -> Identification | None:
    try:
        family, matches, n, error, std, bound, independent = value
        found = tuple(Match(*match) for match in matches)
        named = all(isinstance(m.scheme, str) and isinstance(m.fan, str) for m in found)
        sizes = (error, std, bound, *(s for match in found for s in (match.gain, match.std)))
        if not named or type(n) is not int or type(independent) is not bool:
            return None
        if not all(isinstance(size, (int, float)) for size in sizes):
            return None
        return Identification(Family(family), found, n, error, std, bound, independent)
    except (TypeError, ValueError):
        return None
