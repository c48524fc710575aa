"""What was seen of the first steps of a training run: plain numbers, no framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ParameterHistory:
    """One parameter over the measured steps.

    Attributes:
        path: its name in ``named_parameters()``.
        shape: its shape.
        trained: some optimizer holds it.
        gradients: rms of its gradient; None where there was none.
        updates: ‖Δw‖ / ‖w‖ of the step, on at most `SAMPLE` elements; None where the weights were
            all zero or the step was skipped.
        silent: indices of units (rows) whose gradient was exactly zero in every measured step.
        started_at_zero: it was all zeros at the first measured step.
    """

    path: str
    shape: tuple[int, ...]
    trained: bool
    gradients: tuple[float | None, ...]
    updates: tuple[float | None, ...]
    silent: tuple[int, ...] = ()
    started_at_zero: bool = False

    @property
    def layer(self) -> str:
        """Path of the module that holds it."""
        return self.path.rpartition(".")[0]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "path": self.path,
            "shape": list(self.shape),
            "trained": self.trained,
            "gradients": list(self.gradients),
            "updates": list(self.updates),
            "silent_units": len(self.silent),
        }


@dataclass(frozen=True, slots=True)
class History:
    """The first steps of a run.

    Attributes:
        steps: optimizer steps that were taken while watched.
        measured: indices of those that were measured.
        losses: one per step, where the loop told it.
        chance: loss of an uninformed guess; None where it is not known.
        parameters: every trainable parameter, in the model's order.
        saturated: share of saturated outputs by path of the activation, one per measured forward.
        adaptive: the optimizer divides a gradient by its own size (Adam and its kin).
    """

    steps: int
    measured: tuple[int, ...]
    losses: tuple[float, ...]
    chance: float | None
    parameters: tuple[ParameterHistory, ...]
    saturated: Mapping[str, Sequence[float]] = field(default_factory=dict)
    adaptive: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "steps": self.steps,
            "measured": list(self.measured),
            "losses": list(self.losses),
            "chance": self.chance,
            "parameters": [parameter.to_dict() for parameter in self.parameters],
            "saturated": {path: list(shares) for path, shares in sorted(self.saturated.items())},
        }
