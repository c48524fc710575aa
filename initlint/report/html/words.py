"""What the page says of its numbers when they are pointed at."""

from __future__ import annotations

STAGE = (
    "Fresh: the weights still fit the distribution they were drawn from. Trained: they no longer "
    "do. Rules about initialisation look at fresh weights only."
)
PARAMETERS = "Elements of all weights, shared ones counted once."
PROBE = (
    "The model was run once on a small batch, to measure what the weights alone cannot tell. "
    "Without it the findings rest on the weights and on theory."
)
ACCEPTED = "Findings that an allow entry, a comment or the baseline accepts. They do not count."
RISK = "Predicted probability that training from these weights is harmed."
CONFIDENCE = "How sure the rule is of what it saw, apart from how bad that is."
MEASURED = "What the weights or the run show."
EXPECTED = "What an initialisation that fits this place would show."
APPLICABILITY = {
    "safe": "Applying it leaves what the model computes as it is.",
    "unsafe": "Applying it draws new weights, so the model computes something else.",
}
RMS = "Root mean square of the layer's output: the size of the signal."
GRADIENT = (
    "Root mean square of the gradient at the layer's output, for a gradient of 1 at the model's "
    "outputs."
)
PREDICTED = "From mean-field theory: the moments of the weights, carried from layer to layer."
HEALTHY = "Range around the intended size within which trained networks lost no progress."
DEAD = "Units that were zero on every sample. They get no gradient and cannot learn."
DEAD_CHANCE = "Share of units expected to be zero on every sample by chance."
SATURATED = "Share of outputs where the activation's slope is below 6 % of its peak."
ZERO = "Share of outputs that are exactly zero."
CORRELATION = (
    "Mean cosine between the outputs for different inputs; near 1 they are told apart no more."
)
MEAN = "Mean of the weight's elements."
STD = "Standard deviation of the weight's elements."
SCHEME = "Initialisation schemes that the numbers do not contradict."
SHAPE = "Output units, input units, then the kernel."
FAN = "Inputs per output unit, and outputs per input unit: what schemes scale by."
VALUES = "Elements by value; the line is the density of the scheme that was identified."
SPECTRUM = (
    "Singular values, largest first; the band is where independent random weights have theirs."
)
PICTURE = (
    "Elements evenly spaced over the weight: red positive, blue negative, full shade at 3 rms."
)
OUTPUTS = "Outputs of the layer, behind its activation, over the probe's batch."
