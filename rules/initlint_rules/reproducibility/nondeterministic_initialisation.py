"""nondeterministic-initialisation: one seed, two builds, different weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf, log, sqrt

from initlint.api import Context, Draws, Finding, Fix, Need, Redrawn, Rule, Severity, Stage
from initlint_rules.reproducibility._places import layers_of, listed

STANDARD_ERRORS = 4.0
"""Standard errors between the scales of two draws from one distribution at most: by chance one
parameter in 16 000 exceeds them. The rms of n normal numbers has the relative standard error
1/sqrt(2n), the ratio of two such the sqrt(2)-fold: 1/sqrt(n)."""


class NondeterministicInitialisation(Rule):
    """The same seed gives different weights.

    What it does
    ------------
    Compares the parameters of two builds of one module with one seed (`--seeds`).

    Why is this bad
    ---------------
    A run that cannot be repeated cannot be debugged, and two runs that differ in one setting differ
    in their weights as well. Where even the scale differs, the values come from no distribution at
    all: memory that was never written (`torch.empty` without an initialisation after it), or
    statistics of data.

    How it decides
    --------------
    A parameter whose bytes differ between the two builds is reported: a warning. An error where the
    root mean square of one differs by more than 4 standard errors of two draws from one
    distribution, |ln(rms/rms')| > 4/sqrt(n), or is not finite.

    What it does not flag
    ---------------------
    Targets that were not built several times, and buffers.

    Example
    -------
    ::

        import random
        import torch
        from torch import nn
        from initlint.testing import drawn

        def build():
            torch.manual_seed(random.SystemRandom().getrandbits(32))
            return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

        def model():
            return drawn(build)

    Use instead
    -----------
    ::

        from torch import nn
        from initlint.testing import drawn

        def build():
            return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

        def model():
            return drawn(build)

    References
    ----------
    - PyTorch, "Reproducibility": torch.manual_seed, random.seed, numpy.random.seed.
    - Henderson et al. 2018, "Deep Reinforcement Learning that Matters" (arXiv:1709.06560): the
      spread over seeds is a result.
    """

    code = "REP101"
    name = "nondeterministic-initialisation"
    formula = "|ln(rms / rms')| > 4 / sqrt(n) for another scale"
    needs = frozenset({Need.WEIGHTS})
    stages = frozenset(Stage)

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield at most one finding for parameters with a stable scale and one for the others."""
        draws = context.model.metadata.get("draws")
        if not isinstance(draws, Draws):
            return
        unstable = [item for item in draws.irreproducible if _deviation(item) > STANDARD_ERRORS]
        stable = [item for item in draws.irreproducible if item not in unstable]
        for severity, group in ((Severity.ERROR, unstable), (Severity.WARNING, stable)):
            if group:
                yield _finding(context, draws, severity, group)


def _deviation(item: Redrawn) -> float:
    """Standard errors between the scales of two draws."""
    one, two = item.rms
    if not (0.0 < one < inf and 0.0 < two < inf):
        return 0.0 if one == two else inf
    return abs(log(one / two)) * sqrt(item.size)


def _finding(
    context: Context, draws: Draws, severity: Severity, group: Sequence[Redrawn]
) -> Finding:
    names = [item.name for item in group]
    layers = layers_of(context.model, names)
    scales = severity is Severity.ERROR
    what = "of different scales" if scales else "different"
    worst = max(group, key=_deviation)
    return Finding(
        severity=severity,
        layer=layers[0],
        param=names[0],
        layers=layers,
        message=f"two builds with seed {draws.seeds[0]} give {what} weights: {listed(names)}",
        evidence={
            "seed": draws.seeds[0],
            "parameters": len(names),
            "first": names[:20],
            "rms": list(worst.rms),
            "standard_errors": min(_deviation(worst), 1e9),
        },
        why="no seed repeats this run"
        + (
            ", and values without a distribution of their own are memory never written or data"
            if scales
            else ": something else than the seeded generators draws these weights"
        ),
        measured=f"{worst.name}: rms {worst.rms[0]:.4g} and {worst.rms[1]:.4g}",
        expected="the same bytes from the same seed",
        fix=Fix(
            "redraw",
            code="draw every weight with torch.nn.init and the generators that the seed sets",
        ),
    )
