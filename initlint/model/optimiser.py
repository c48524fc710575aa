"""What a checkpoint's optimiser remembers of each parameter's gradient."""

from __future__ import annotations

from dataclasses import dataclass

from initlint.model.tensor import CHUNK_ELEMENTS, Tensor


@dataclass(frozen=True, slots=True)
class GradientMemory:
    """An optimiser's running statistics of one parameter's gradient.

    Attributes:
        index: place of the parameter in the optimiser's groups.
        name: of the parameter; None where the file cannot tell.
        kind: ``exp_avg_sq`` (Adam), ``square_avg`` (RMSprop), ``sum`` (Adagrad) or
            ``momentum_buffer`` (SGD); empty where the optimiser holds nothing for it.
        values: the statistics; None where there are none. Zero exactly where every gradient was.
        step: optimiser steps; None where the file does not count them.
    """

    index: int
    name: str | None
    kind: str = ""
    values: Tensor | None = None
    step: float | None = None

    def zero_share(self, limit: float = 1.0) -> float:
        """Share of exact zeros; reading stops once it must lie below ``limit``.

        Raises:
            LoadError: the file does not hold what its header says.
        """
        if self.values is None or not self.values.size:
            return 0.0
        size, other = self.values.size, 0
        for start in range(0, size, CHUNK_ELEMENTS):
            piece = self.values.source.read(start, min(start + CHUNK_ELEMENTS, size))
            other += int((piece != 0).sum())
            if 1.0 - other / size < limit:
                break
        return 1.0 - other / size


@dataclass(frozen=True, slots=True)
class OptimiserState:
    """One optimiser's memory, by the order of its parameters."""

    parameters: tuple[GradientMemory, ...]
