"""What a probe run measures: plain frozen records, the same from onnxruntime and from torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

ATTENTION_WEIGHTS = "\0weights"
"""Behind the id of a fused attention: its softmax, while the probe's answer travels."""


class ProbeStatus(str, Enum):
    """How a probe ended; the values are those of the JSON report."""

    OK = "ok"
    SKIPPED = "skipped"
    FAILED = "failed"
    TIMEOUT = "timeout"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class OutputStats:
    """Statistics of one layer's output over the probe batch.

    Attributes:
        count: elements seen.
        rows: samples times positions per unit: how often each unit was seen.
        samples: distinct inputs in the batch.
        units: size of the channel axis.
        rms, mean, std, min, max: over finite elements.
        non_finite: NaN or infinite elements.
        zero_share: share of exact zeros.
        dead_units: units that are zero (ReLU family: not positive) on every row.
        dead_chance: share of units expected dead by chance for the measured correlation
            (`dead_chance`); NaN where it does not apply.
        saturated_share: share of elements where the activation's derivative is below 0.06 of
            its maximum; 0 for activations that do not saturate.
        correlation: mean uncentred cosine between the outputs of different samples; NaN with
            fewer than two samples.
        constant_units: units whose value does not change over the rows.
        row_std: root mean square over units of the standard deviation across samples: the part
            of the signal that depends on the input.
        unit_std: smallest and largest standard deviation of a unit over its rows, of the units
            that vary on most rows; for network inputs only, else NaN.
        histogram: 32 bins over ``histogram_range``.
        histogram_range: lowest and highest bin edge.
        entropy: of a softmax or a fused attention, the entropy of its rows over the logarithm of
            the number of keys they see, per head (see `attention_entropy`); empty elsewhere.
    """

    count: int
    rows: int
    samples: int
    units: int
    rms: float
    mean: float
    std: float
    min: float
    max: float
    non_finite: int = 0
    zero_share: float = 0.0
    dead_units: int = 0
    dead_chance: float = float("nan")
    saturated_share: float = 0.0
    correlation: float = float("nan")
    constant_units: int = 0
    row_std: float = float("nan")
    unit_std: tuple[float, float] = (float("nan"), float("nan"))
    histogram: tuple[int, ...] = ()
    histogram_range: tuple[float, float] = (0.0, 0.0)
    entropy: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class GradientStats:
    """Gradient of the probe loss for one parameter.

    Attributes:
        rms: root mean square of the gradient.
        zero_share: share of elements with exactly zero gradient.
        zero_units: output units (rows) whose gradient is exactly zero.
        weight_rms: rms of the parameter itself.
        unlocks: for a parameter with all-zero gradient: True when it receives a gradient after
            one small optimizer step on the other parameters, False when it still does not;
            None when the gradient was not zero.
        reached: False when the forward pass never used the parameter.
    """

    rms: float
    zero_share: float
    zero_units: int
    weight_rms: float
    unlocks: bool | None = None
    reached: bool = True


@dataclass(frozen=True, slots=True)
class Response:
    """How a network's output answers to small changes of its weights, over a few inputs.

    With g(i) = ∂⟨u, f(xᵢ)⟩/∂θ for one random cotangent u of unit variance, the same for all inputs,
    K(i, j) = ⟨g(i), g(j)⟩ is the empirical neural tangent kernel (Jacot et al. 2018), projected.

    Attributes:
        inputs: how many.
        size: mean of K(i, i) over the inputs, per output element: squared length of one output's
            gradient.
        parameters: trainable elements.
        contrast: share of the kernel's trace that is left when the mean gradient over the inputs
            is taken off: near 0 when all inputs pull the weights the same way.
        rank: effective rank (tr K)²/tr K² of what is left, up to ``inputs`` - 1.
        output: root mean square of the output.
        silent: share of the trainable elements in tensors that no input gives a gradient.
        depth_ratio: length of the gradient in the first quarter of the layers over the length in
            the last quarter before the output, decades; NaN where it was not measured.
        reach: smallest over largest gradient of a step of the sequences that a recurrent layer
            reads, decades; NaN without one.
        sensitivity: how far the outputs would move, relative to their rms, if every weight moved
            at random by the rms of its tensor: about the root of the number of layers for ordinary
            networks of any width.
        copies: share of the trainable elements in rows of a matrix that equal another of its rows,
            in their weights and in their gradients.
    """

    inputs: int
    size: float
    parameters: int
    contrast: float
    rank: float
    output: float
    silent: float = 0.0
    depth_ratio: float = float("nan")
    reach: float = float("nan")
    sensitivity: float = float("nan")
    copies: float = 0.0


@dataclass(frozen=True, slots=True)
class Activations:
    """Everything one probe run measured.

    Attributes:
        status: how it ended; anything but OK leaves the maps empty or partial.
        detail: one line for the user: why it was skipped or failed, else what was fed.
        seconds: wall-clock time.
        samples: batch size used.
        outputs: statistics per layer id (the layer's first output).
        gradients: per parameter name (``Param.key``); empty without a backward pass.
        backward: gradient rms at each layer's output, per layer id; empty without backward.
        loss: the probe loss and what it was (``cross_entropy over 10 classes``), when one ran.
        chance: the loss of an uninformed guess for that loss, when known.
        train_mode: True when normalisers used batch statistics, as training would.
        inputs: what was fed, by input name: ``float32[8,3,224,224] N(0,1)``.
        invalid: True when the graph contradicts itself, so that no runtime could run it.
        responses: at the start, and after two small sign steps on noise; empty when it would have
            taken too long or could not be measured.
        given: True when the inputs are the user's; False when they were made up from the graph.
    """

    status: ProbeStatus
    detail: str = ""
    seconds: float = 0.0
    samples: int = 0
    outputs: Mapping[str, OutputStats] = field(default_factory=dict)
    gradients: Mapping[str, GradientStats] = field(default_factory=dict)
    backward: Mapping[str, float] = field(default_factory=dict)
    loss: float | None = None
    loss_name: str = ""
    chance: float | None = None
    train_mode: bool = False
    inputs: Mapping[str, str] = field(default_factory=dict)
    invalid: bool = False
    responses: tuple[Response, ...] = ()
    given: bool = False
