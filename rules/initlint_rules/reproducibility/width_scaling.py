"""width-scaling: the scale of the signal, or of its first update, depends on the width."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite, log2

from initlint.api import Context, Finding, Fix, Need, Rule, Severity, Stage, WidthScaling

STEEPEST = 0.15
"""Power of the width that chance explains: over three widths, each twice the last, and 64 rows the
slope of log2(rms) has a standard error of 0.05 (ReLU networks of width 64 to 256, ten draws)."""


class WidthScalingRule(Rule):
    """The signal, or what one step changes in it, grows or shrinks with the width.

    What it does
    ------------
    Builds a module with several widths (`--widths hidden=64,128,256`), measures the rms behind
    every weighted layer and what one step of Adam changes there, and fits a power of the width.

    Why is this bad
    ---------------
    Hyperparameters found on a small model hold for a large one only when signal and update do not
    depend on the width. A standard deviation that ignores the fan multiplies the signal by the
    square root of the width in every layer; the standard parametrisation with Adam has updates
    that grow with the width, so that the best learning rate falls with it.

    How it decides
    --------------
    Slope of log2(rms) over log2(width) outside -0.15 to 0.15, three standard errors. Always an
    info: the standard parametrisation is a choice.

    What it does not flag
    ---------------------
    Networks that were built with one width, layers that not every width has, slopes within chance,
    signals of exactly zero (zero heads and gates).

    Example
    -------
    ::

        from initlint.api import WidthScaling
        from initlint.testing import Network, he_normal

        def model():
            net = Network()
            net.output(net.linear(net.input(64), he_normal(net.rng, 64, 64), name="fc"))
            measured = WidthScaling(
                "hidden", (64, 128, 256), {"fc": (0.16, 0.23, 0.32)}, {"fc": (0.01, 0.01, 0.01)}
            )
            return net.model(widths=measured)

    Use instead
    -----------
    ::

        from initlint.api import WidthScaling
        from initlint.testing import Network, he_normal

        def model():
            net = Network()
            net.output(net.linear(net.input(64), he_normal(net.rng, 64, 64), name="fc"))
            measured = WidthScaling(
                "hidden", (64, 128, 256), {"fc": (1.41, 1.40, 1.43)}, {"fc": (0.01, 0.01, 0.01)}
            )
            return net.model(widths=measured)

    References
    ----------
    - Yang, Hu et al. 2021, Tensor Programs V: tuning large neural networks via zero-shot
      hyperparameter transfer; the coordinate check of the package mup.
    """

    code = "REP103"
    name = "width-scaling"
    formula = "slope = d log2 rms / d log2 width;  wanted: 0"
    needs = frozenset({Need.WEIGHTS})
    stages = frozenset(Stage)

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding for the signal and one for its update."""
        found = context.model.metadata.get("widths")
        if not isinstance(found, WidthScaling):
            return
        yield from _finding(context, found, found.activations, update=False)
        yield from _finding(context, found, found.updates, update=True)


def _slope(widths: Sequence[int], values: Sequence[float]) -> float | None:
    """Least-squares slope of log2(values) over log2(widths)."""
    if not all(isfinite(value) and value > 0 for value in values):
        return None
    across = [log2(width) for width in widths]
    up = [log2(value) for value in values]
    middle = sum(across) / len(across)
    spread = sum((x - middle) ** 2 for x in across)
    return sum((x - middle) * y for x, y in zip(across, up, strict=True)) / spread


def _finding(
    context: Context,
    found: WidthScaling,
    rms: Mapping[str, tuple[float, ...]],
    *,
    update: bool,
) -> Iterator[Finding]:
    slopes = {
        key: slope
        for key, values in rms.items()
        if (slope := _slope(found.widths, values)) is not None and abs(slope) > STEEPEST
    }
    if not slopes:
        return
    worst = max(slopes, key=lambda key: abs(slopes[key]))
    what = "what one step of Adam changes behind" if update else "the rms behind"
    more = f" (and {len(slopes) - 1} more layers)" if len(slopes) > 1 else ""
    weights = (layer.weight for layer in context.model.graph.weighted if layer.id == worst)
    weight = next(weights, None)
    yield Finding(
        severity=Severity.INFO,
        layer=worst,
        param=weight.name if weight is not None and not update else None,
        layers=tuple(slopes),
        message=f"{what} {worst} goes as {found.argument}^{slopes[worst]:+.2f}{more}",
        evidence={
            "argument": found.argument,
            "widths": list(found.widths),
            "rms": list(rms[worst]),
            "slope": slopes[worst],
            "slopes": [f"{key}: {slope:+.2f}" for key, slope in list(slopes.items())[:20]],
        },
        why="the best learning rate then depends on the width: divide it by the width for hidden "
        "matrices under Adam, as muP does"
        if update
        else "a scale that ignores the fan multiplies the signal by sqrt(width) in every layer, "
        "and what was tuned on a small model does not hold for a large one",
        measured=", ".join(
            f"{width}: {value:.3g}" for width, value in zip(found.widths, rms[worst], strict=True)
        ),
        expected="the same at every width",
        fix=Fix(
            "width_scaling",
            code="scale the learning rate of hidden matrices by 1/width (muP)"
            if update
            else "draw with a standard deviation of gain/sqrt(fan_in)",
        ),
    )
