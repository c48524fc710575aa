"""What theory predicts: plain frozen records, natural logarithms of second moments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from enum import Enum
from functools import cached_property

from initlint.model.record import record


@record(frozen=True, slots=True)
class Signal:
    """The predicted state of one tensor at initialisation.

    Attributes:
        log_q: ln E[z^2].
        mean_share: E[z]^2 / E[z^2], between 0 and 1 (a ReLU output has 1/pi).
        correlation: uncentred cosine p/q between two different samples at this tensor.
        log_variance: predicted variance of ln q over draws of the weights (finite width).
    """

    log_q: float
    mean_share: float = 0.0
    correlation: float = 0.0
    log_variance: float = 0.0


class Sink(str, Enum):
    """What a segment ends in: it decides which drift does harm."""

    NORMALISER = "normaliser"
    OUTPUT = "output"
    SOFTMAX = "softmax"
    SATURATION = "saturation"
    UNKNOWN = "unknown"


@record(frozen=True, slots=True)
class Segment:
    """A stretch of the network in which scale errors multiply: between two resets of scale.

    Attributes:
        layers: ids of the weighted layers on the stretch, in order.
        path: ids of all layers on its worst path, in order, weighted or not.
        sink: what it ends in.
        drift: forward drift in decades of rms: log10(predicted / intended) at the sink; 0 for a
            sink that resets scale.
        backward_drift: decades of gradient rms at the first layer relative to the last, without
            what means over positions take.
        band: half-width of the finite-width uncertainty of ``drift``, in decades.
        contributions: decades of ``drift`` (forward) that each weighted layer adds.
        backward_contributions: likewise for ``backward_drift``.
        averaged: decades of gradient that means over positions take on the stretch, 0 or less.
        normalised: True when a normaliser stands directly behind each weighted layer.
        residual: True when a skip path runs along the stretch.
    """

    layers: tuple[str, ...]
    path: tuple[str, ...]
    sink: Sink
    drift: float
    backward_drift: float
    band: float
    contributions: Mapping[str, float] = field(default_factory=dict)
    backward_contributions: Mapping[str, float] = field(default_factory=dict)
    averaged: float = 0.0
    normalised: bool = False
    residual: bool = False


@record(frozen=True, slots=True)
class ResidualBranch:
    """One residual addition and what its branch adds to the trunk.

    Attributes:
        add: id of the `Op.ADD` layer.
        trunk: id of the layer that feeds the skip path.
        last: id of the last weighted layer of the branch (the one to scale), or None.
        layers: ids of the weighted layers of the branch, in order.
        gain: predicted q_branch / q_trunk; None where theory ended.
        normalised: True when a normaliser stands on the branch or right behind the addition.
        gated: True when a LayerScale, ReZero or SkipInit multiplier closes the branch.
        post_norm: True when the sum feeds a normaliser that all later layers read through.
    """

    add: str
    trunk: str
    last: str | None
    layers: tuple[str, ...]
    gain: float | None
    normalised: bool = False
    gated: bool = False
    post_norm: bool = False


class Prediction:
    """Mean-field prediction over a layer graph; absent keys are unknown.

    What follows from the forward pass is worked out when it is first asked for: few rules ask
    about a trained network, and the graph and its measured weights do not change meanwhile.

    Attributes:
        ended_at: ids of the layers where the prediction ended (operators without a rule).
    """

    def __init__(
        self,
        ended_at: tuple[str, ...] = (),
        *,
        forward: Callable[[], Mapping[str, Signal]] = dict,
        backward: Callable[[], Mapping[str, float]] = dict,
        segments: Callable[[], tuple[Segment, ...]] = tuple,
        residuals: Callable[[], tuple[ResidualBranch, ...]] = tuple,
    ) -> None:
        """Keep how to work out each part."""
        self.ended_at = ended_at
        self._forward = forward
        self._backward = backward
        self._segments = segments
        self._residuals = residuals

    @cached_property
    def forward(self) -> Mapping[str, Signal]:
        """Signal at the first output of each layer."""
        return self._forward()

    @cached_property
    def backward(self) -> Mapping[str, float]:
        """Ln E[delta^2] of the gradient at each layer's output.

        For a unit-variance gradient at the graph's outputs.
        """
        return self._backward()

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The stretches between resets of scale."""
        return self._segments()

    @cached_property
    def residuals(self) -> tuple[ResidualBranch, ...]:
        """Residual branches in topological order."""
        return self._residuals()

    def __eq__(self, other: object) -> bool:
        """Equal in all parts."""
        if not isinstance(other, Prediction):
            return NotImplemented
        return self._parts() == other._parts()

    __hash__ = None  # type: ignore[assignment]  # as of all that holds mappings

    def _parts(self) -> tuple[object, ...]:
        return self.ended_at, self.forward, self.backward, self.segments, self.residuals
