"""uninitialised-memory: a tensor that holds whatever was in memory."""

from __future__ import annotations

from collections.abc import Iterator
from math import log10

import numpy as np

from initlint.api import Context, Finding, Fix, Need, Param, Rule, Severity, Stage, median
from initlint_rules._consequences import ODD_WEIGHTS, SIGNALS

SPREAD_DECADES = 10.0
"""log10(max|w| / median|w|) beyond which no distribution anyone draws from remains.

For a normal of n values the ratio is at most sqrt(2 ln n)/0.674: one decade at n = 10^12. Trained
outliers reach three or four decades. Ten decades need the exponent bits to be arbitrary."""

SUBNORMAL_SHARE = 0.01
"""Share of subnormal values beyond which chance is excluded: a float32 drawn at scale s is
subnormal with probability below 1.2e-38/s. Pointers and small integers read as float are."""

EXTREME = 1e10
"""Magnitude that no weight has: 10^10 times the activations it multiplies. Its reciprocal,
``1e-30`` below, is under the square root of float32's smallest number."""

MIN_COUNT = 16


class UninitialisedMemory(Rule):
    """A tensor looks like raw memory, not like an initialisation.

    What it does
    ------------
    Recognises tensors that were allocated and never filled (`torch.empty`, `to_empty`, a custom
    module without `reset_parameters`).

    Why is this bad
    ---------------
    The values are whatever the allocator returned: often zeros on a fresh process, and 1e37, NaN or
    denormals in the next one. The model may train today and not tomorrow.

    How it decides
    --------------
    Two or more of: magnitudes that span more than ten decades between median and maximum; at least
    1 % subnormal numbers; a mixture of exact zeros with values above 1e10 or below 1e-30; values
    above 1e10 in the presence of ordinary ones; NaN with more than one bit pattern. Any one alone
    can have an honest reason. Always an error.

    What it does not flag
    ---------------------
    Integer tensors, hash tables, one-hot buffers, trained outlier channels (three or four decades),
    tensors that are all zeros (see zero-weight).

    Example
    -------
    ::

        import torch
        from torch import nn

        def model():
            net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
            stale = torch.randint(-2**31, 2**31 - 1, (64, 64), dtype=torch.int64).to(torch.int32)
            stale[::3] = torch.arange(64, dtype=torch.int32)
            with torch.no_grad():
                net[0].weight.copy_(stale.view(torch.float32).nan_to_num(1e37, 1e37, -1e37))
            return net

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
            net[0].reset_parameters()
            return net

    References
    ----------
    - pytorch issue 90465, transformers issues 45050 and 30953: parameters materialised by
      `to_empty` and never initialised.
    """

    code = "NUM954"
    name = "uninitialised-memory"
    formula = "log10(max|w| / median|w|) > 10,  subnormals >= 1 %,  ..."
    needs = frozenset({Need.WEIGHTS})
    stages = frozenset(Stage)
    folds = (
        *SIGNALS,
        *ODD_WEIGHTS,
        "identical-incoming",
        "symmetric-units",
        "half-precision-range",
        "norm-gain-off",
        "never-trained-layer",
    )

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per tensor that holds raw memory."""
        entries = [(layer.id, param) for layer, param in context.model.graph.params]
        entries += [(param.name, param) for param in context.model.loose]
        for owner, param in entries:
            moments = context.measures.moments(param)
            if moments is None or param.tied_to is not None or param.quantised:
                continue
            if moments.count < MIN_COUNT or moments.constant or _is_computed(param):
                continue
            wild = moments.max_abs > EXTREME
            if not wild and moments.subnormals < SUBNORMAL_SHARE * moments.count:
                continue
            values = context.measures.read(param)
            signs = _signs(values, moments.subnormals) if values is not None else []
            if len(signs) < 2:
                continue
            yield Finding(
                severity=Severity.ERROR,
                layer=owner,
                param=param.name,
                message=f"{param.name} looks like raw memory: {signs[0]}, {signs[1]}",
                evidence={
                    "max_abs": moments.max_abs,
                    "subnormals": moments.subnormals,
                    "zeros": moments.zeros,
                    "nan": moments.nan,
                    "count": moments.count,
                },
                why="the tensor was allocated and never filled; its values change with each run",
                measured="; ".join(signs),
                expected="values of one scale",
                fix=Fix(
                    "reinitialise",
                    params=(param.key,),
                    code=f"call reset_parameters() of {owner} after to_empty()/torch.empty",
                ),
            )


def _is_computed(param: Param) -> bool:
    """True for a result, whose subnormal numbers an exponential may have made."""
    return param.tensor is not None and bool(param.tensor.operands)


def _signs(values: np.ndarray, subnormals: int) -> list[str]:
    """The independent signs of raw memory that a tensor shows, in words."""
    flat = np.abs(values.reshape(-1).astype(np.float64))
    finite = flat[np.isfinite(flat)]
    nonzero = finite[finite > 0]
    signs: list[str] = []
    if nonzero.size:
        spread = log10(float(nonzero.max())) - log10(median(nonzero))
        if spread > SPREAD_DECADES:
            signs.append(f"the largest value is 10^{spread:.0f} times the median")
        extreme = (nonzero > EXTREME) | (nonzero < EXTREME**-3)
        if np.mean(extreme) > 0.5 and finite.size - nonzero.size > 0.5 * finite.size:
            signs.append("mostly zeros, the rest of extreme magnitude")
        ordinary = np.mean((nonzero > 1e-6) & (nonzero < 1e3))
        if np.mean(nonzero > EXTREME) > 1e-3 and ordinary < 0.9:
            signs.append(f"values up to {float(nonzero.max()):.0e}")
    if subnormals >= SUBNORMAL_SHARE * flat.size:
        signs.append(f"{subnormals / flat.size:.0%} subnormal numbers")
    if flat.size - finite.size and np.isnan(flat).any():
        signs.append("NaN among them")
    return signs
