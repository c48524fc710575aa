"""half-precision-range: values that float16 cannot hold, or holds too coarsely."""

from __future__ import annotations

from collections.abc import Iterator

from initlint.api import (
    Context,
    Finding,
    Fix,
    Moments,
    Need,
    Option,
    OutputStats,
    Param,
    Rule,
    Severity,
    Stage,
    record,
)
from initlint_rules._consequences import SIGNALS

LARGEST = 65504.0
"""Largest finite float16: (2 - 2^-10) 2^15."""

HEADROOM = 8.0
"""Factor below the largest number at which there is no room left: six standard deviations, what a
billion Gaussian values reach, above an rms at a sixth of it."""

SPACING = 2.0**-24
"""Distance between the smallest float16 numbers: everything below 2^-14 is a multiple of it."""

COARSE = 2.0**-7
"""Relative step at which a tensor is stored more coarsely than in bfloat16, which networks bear:
the spacing of the smallest numbers over the tensor's rms."""


@record(frozen=True, slots=True)
class _Found:
    severity: Severity
    layer: str
    name: str
    said: str
    key: str | None = None


class HalfPrecisionRange(Rule):
    """Weights or activations leave the range of float16.

    What it does
    ------------
    For weights stored in float16 (or all, with `dtype = "float16"`), looks for magnitudes near the
    largest number 65504 and for tensors so small that float16 stores them more coarsely than
    bfloat16 would; with a probe, for activations near the largest number.

    Why is this bad
    ---------------
    One product above 65504 is an infinity and the next subtraction a NaN. Below 6e-5 numbers lose
    their bits one by one, and below 6e-8 they are zero: small weights and their updates disappear.

    How it decides
    --------------
    Largest weight at 65504 itself (clipped in the conversion): error; above 65504/8, or activations
    above 65504/8: warning. Float16's smallest step of 6e-8 above 1/128 of the tensor's rms:
    warning for weights, info for tensors of up to one axis.

    What it does not flag
    ---------------------
    bfloat16 and float32 models, unless the option asks what float16 would do. Masks of large
    negative numbers that are constants or buffers. Zeros. Infinities (see non-finite).

    Example
    -------
    ::

        import torch
        from torch import nn

        def model():
            net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
            nn.init.normal_(net[2].weight, std=1e-6)
            return net.half()

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        def model():
            net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
            nn.init.normal_(net[2].weight, std=1e-2)
            return net.half()

    References
    ----------
    - Micikevicius et al. 2018, Mixed precision training.
    """

    code = "NUM952"
    name = "half-precision-range"
    formula = "|w| > 65504 / 8  or  rms(w) < 128 * 6e-8 in float16"
    needs = frozenset({Need.WEIGHTS})
    optional = frozenset({Need.PROBE})
    stages = frozenset(Stage)
    folds = (*SIGNALS, "rank-deficient-init", "distribution-anomaly")
    options = {
        "dtype": Option(
            "stored",
            "stored: judge each tensor in its own dtype; float16: as if converted to float16",
        )
    }

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding that names every tensor out of range."""
        converted = str(context.options["dtype"]) == "float16"
        found = [
            item
            for layer, param in context.model.graph.params
            if (converted or param.dtype == "float16")
            and param.tied_to is None
            and (moments := context.measures.moments(param)) is not None
            and (item := _judge(layer.id, param, moments)) is not None
        ]
        found += _activations(context, converted)
        if not found:
            return
        worst = max(found, key=lambda item: item.severity.rank)
        others = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        would = " would" if converted else ""
        yield Finding(
            severity=worst.severity,
            layer=worst.layer,
            param=worst.name if worst.key else None,
            layers=tuple(dict.fromkeys(item.layer for item in found)),
            message=f"{worst.name}{would} leave the range of float16: {worst.said}{others}",
            evidence={"values": [f"{item.name}: {item.said}" for item in found[:20]]},
            why="float16 ends at 65504 and counts in steps of 6e-8 below 6e-5",
            measured=worst.said,
            expected="magnitudes between 1e-5 and 8e3",
            fix=Fix(
                "rescale",
                params=tuple(item.key for item in found if item.key),
                code="keep this tensor in float32 or bfloat16, or move its scale into its "
                "neighbour",
            ),
        )


def _judge(layer: str, param: Param, moments: Moments) -> _Found | None:
    if param.quantised or not param.trainable or moments.count == moments.zeros:
        return None
    top = moments.max_abs
    if top >= LARGEST:
        return _Found(Severity.ERROR, layer, param.name, f"|w| reaches {top:.0f}", param.key)
    if top > LARGEST / HEADROOM:
        return _Found(Severity.WARNING, layer, param.name, f"|w| reaches {top:.3g}", param.key)
    nonzero = max(moments.count - moments.zeros - moments.non_finite, 1)
    rms = (moments.second_moment * moments.count / nonzero) ** 0.5
    if rms < SPACING / COARSE:
        severity = Severity.WARNING if len(param.shape) > 1 else Severity.INFO
        return _Found(severity, layer, param.name, f"rms {rms:.1e}", param.key)
    return None


def _activations(context: Context, converted: bool) -> list[_Found]:
    """Layers whose outputs come near the largest number, in a model that computes in float16."""
    dtypes = {param.dtype for _, param in context.model.graph.params if param.trainable}
    if context.probe is None or not (converted or dtypes == {"float16"}):
        return []
    return [
        _Found(Severity.WARNING, key, f"outputs of {key}", f"|x| reaches {top:.3g}")
        for key, stats in context.probe.outputs.items()
        if (top := _reach(stats)) > LARGEST / HEADROOM
        and key in context.model.graph
        and context.model.graph.producers(key)
    ]


def _reach(stats: OutputStats) -> float:
    """Largest magnitude of a signal; 0 for masks, which are the same for every input.

    A lowest value near the end of the range is what a mask added to attention logits leaves there;
    a signal as large would show on the positive side too.
    """
    if not stats.row_std > 0:
        return 0.0
    return abs(stats.max) if stats.min <= -LARGEST / 2 else max(abs(stats.min), abs(stats.max))
