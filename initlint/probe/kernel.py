"""What an empirical tangent kernel says: size, contrast and rank."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from initlint.probe.result import Response

Array = NDArray[Any]


def summary(
    kernel: Array,
    *,
    parameters: int,
    output: float,
    silent: float = 0.0,
    depth_ratio: float = float("nan"),
    reach: float = float("nan"),
    sensitivity: float = float("nan"),
    copies: float = 0.0,
) -> Response:
    """The numbers of a kernel, shape (inputs, inputs); not-a-number where it is not finite."""
    inputs = len(kernel)
    with np.errstate(all="ignore"):
        size = float(np.trace(kernel)) / inputs
        middle = np.eye(inputs) - 1.0 / inputs
        centred = middle @ (kernel / size if size > 0 else kernel) @ middle
        trace, square = float(np.trace(centred)), float(np.square(centred).sum())
        # the mean over n inputs leaves (n-1)/n of the trace of unrelated gradients
        contrast = trace / (inputs - 1) if size > 0 else 0.0
        rank = trace**2 / square if square > 0 else 0.0
    return Response(
        inputs=inputs,
        size=size,
        parameters=parameters,
        contrast=contrast,
        rank=rank,
        output=output,
        silent=silent,
        depth_ratio=depth_ratio,
        reach=reach,
        sensitivity=sensitivity,
        copies=copies,
    )
