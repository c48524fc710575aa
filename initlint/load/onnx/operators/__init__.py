"""One function per operator family: from an ONNX node to layers of the closed vocabulary."""

from initlint.load.onnx.operators import (
    attention,
    convolution,
    elementwise,
    linear,
    normalisation,
    quantised,
    recurrent,
    sequences,
    shaping,
    traditional,
)
from initlint.load.onnx.operators.registry import HANDLERS, other

__all__ = [
    "HANDLERS",
    "attention",
    "convolution",
    "elementwise",
    "linear",
    "normalisation",
    "other",
    "quantised",
    "recurrent",
    "sequences",
    "shaping",
    "traditional",
]
