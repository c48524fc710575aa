"""frozen-by-rounding: parameters too large for one step to change them in their dtype."""

from __future__ import annotations

from collections.abc import Iterator
from math import frexp

import numpy as np

from initlint.api import Context, Finding, Fix, Option, Param, Role, Rule, Severity, Stage

MANTISSA = {"bfloat16": 8, "float16": 11}
"""Significant bits, the leading one included: a number in [2^e, 2^(e+1)) is followed by the next at
a distance of 2^(e+1-bits)."""

STUCK_SHARE = 0.5
"""Share of a parameter's elements that must be out of reach. A gain of ones is stuck as a whole; of
random weights some always are, and move on average when the step direction persists."""

ASSUMED = 1e-3
"""Adam's default learning rate in PyTorch and in Keras."""

_JUDGED = frozenset({Role.GAIN, Role.SHIFT, Role.BIAS, Role.RECURRENT_BIAS, Role.SLOPE})


class FrozenByRounding(Rule):
    """Half-precision parameters whose spacing is wider than a step of the optimizer: they stay.

    What it does
    ------------
    For gains and biases stored in bfloat16 or float16, compares the distance to the next number
    with the size of one step of Adam.

    Why is this bad
    ---------------
    Adam changes every parameter by about the learning rate. Around 1, bfloat16 numbers are 2^-7
    apart above and 2^-8 below, and a change of less than half of that is rounded away: of a
    thousand gains of 1 none had moved after a hundred steps at 10^-3. The parameter is frozen
    without anyone having said so.

    How it decides
    --------------
    More than half of the elements are more than twice the learning rate apart from their nearest
    neighbour. The learning rate is the option `lr`; unset, 10^-3 is assumed and the finding is an
    info. With it, a warning.

    What it does not flag
    ---------------------
    float32 parameters, so also mixed precision with float32 masters. Zeros, which any step leaves.
    Frozen parameters, weight matrices, trained models.

    Example
    -------
    ::

        import torch
        from torch import nn

        def model():
            net = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 8))
            return net.to(torch.bfloat16)

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            return nn.Sequential(
                nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 8)
            )

    References
    ----------
    - Zamirai, Zhang, Aberger, De Sa 2021, Revisiting bfloat16 training: nearest rounding cancels
      small updates.
    """

    code = "NUM953"
    name = "frozen-by-rounding"
    formula = "lr < |w| 2^-9 (bfloat16):  w - lr rounds to w"
    stages = frozenset({Stage.FRESH})
    options = {
        "lr": Option(
            0.0,
            "learning rate of an Adam-like optimizer; 0: unknown, 1e-3 is assumed and the finding "
            "stays an info",
        )
    }

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding that names every stuck parameter."""
        given = float(context.options["lr"])
        step = given or ASSUMED
        found = [
            (layer, param)
            for layer, param in context.model.graph.params
            if param.role in _JUDGED
            and param.trainable
            and param.dtype in MANTISSA
            and _stuck_share(context, param, step) > STUCK_SHARE
        ]
        if not found:
            return
        layer, param = found[0]
        moments = context.measures.moments(param)
        assert moments is not None
        gap = _gap_below(moments.max_abs, param.dtype)
        others = f" and {len(found) - 1} more" if len(found) > 1 else ""
        assumed = "" if given else " (assumed)"
        yield Finding(
            severity=Severity.WARNING if given else Severity.INFO,
            layer=layer.id,
            param=param.name,
            layers=tuple(dict.fromkeys(layer.id for layer, _ in found)),
            message=f"{param.name}{others} cannot move by {step:g}{assumed} in {param.dtype}: the "
            f"next number is {gap:.1e} away",
            evidence={
                "lr": step,
                "lr_known": bool(given),
                "spacing": gap,
                "params": [param.name for _, param in found][:20],
            },
            why="a change of less than half the distance to the next number is rounded away",
            measured=f"values of {moments.max_abs:.2g} are {gap:.1e} from their neighbour",
            expected=f"a learning rate above {gap / 2:.1e}, or float32 parameters",
            fix=Fix(
                "float32",
                params=tuple(param.key for _, param in found),
                code="keep these parameters in float32, or round stochastically",
            ),
        )


def _gap_below(value: float, dtype: str) -> float:
    """Distance from a positive number of the dtype to the next one towards zero."""
    mantissa, exponent = frexp(value)
    power_of_two = mantissa == 0.5
    return float(2.0 ** (exponent - MANTISSA[dtype] - power_of_two))


def _stuck_share(context: Context, param: Param, step: float) -> float:
    values = context.measures.read(param)
    if values is None or not values.size:
        return 0.0
    mantissa, exponent = np.frexp(np.abs(values.astype(np.float64)))
    gap = np.exp2(exponent - MANTISSA[param.dtype] - (mantissa == 0.5))
    return float(np.mean((values != 0) & np.isfinite(values) & (gap > 2.0 * step)))
