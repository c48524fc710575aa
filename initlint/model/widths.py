"""What building one target with several widths tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WidthScaling:
    """Scales of a network's layers by its width.

    Attributes:
        argument: the constructor's argument that was varied.
        widths: its values, ascending.
        activations: rms of each weighted layer's output by layer id, one per width.
        updates: rms of what one step of Adam changes there, likewise.
    """

    argument: str
    widths: tuple[int, ...]
    activations: Mapping[str, tuple[float, ...]]
    updates: Mapping[str, tuple[float, ...]]
