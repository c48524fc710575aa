"""nondeterministic-initialisation: one seed, two builds, different weights; scales that vary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf, log, sqrt

from initlint.api import (
    Context,
    Draws,
    Finding,
    Fix,
    Need,
    Option,
    Redrawn,
    Rule,
    SeedScales,
    Severity,
    Stage,
)
from initlint_rules._consequences import SIGNALS
from initlint_rules.reproducibility._places import layers_of, listed

STANDARD_ERRORS = 4.0
"""Standard errors between the scales of two draws from one distribution at most: by chance one
parameter in 16 000 exceeds them. The rms of n normal numbers has the relative standard error
1/sqrt(2n), the ratio of two such the sqrt(2)-fold: 1/sqrt(n)."""

CHANCE = 1e-4
"""Probability that any parameter of a model exceeds the limit by chance. Of m comparisons the
largest stays below sqrt(2 ln(m / CHANCE)) standard errors with the rest of it (Bonferroni, and
2 Q(z) <= exp(-z^2 / 2)): 5.7 for a thousand, where 4 would be exceeded now and then."""

LEAST = 256
"""Elements a parameter needs before its standard error is known well enough."""

LEAST_RATIO = 0.1
"""|ln ratio| between seeds that matters: schemes that fit their weights to data (LSUV) stay within
it on layers of some width."""

OTHER_SCALE = log(2.0)
"""|ln ratio| of an error: 0.3 decades, where the harm of one layer's drift begins."""


class NondeterministicInitialisation(Rule):
    """The same seed gives different weights, or different seeds give them different scales.

    What it does
    ------------
    Compares the parameters of two builds of one module with one seed, and the scales that several
    seeds give them (`--seeds`).

    Why is this bad
    ---------------
    A run that cannot be repeated cannot be debugged, and two runs that differ in one setting differ
    in their weights as well. Where even the scale differs, the values come from no distribution at
    all: memory that was never written (`torch.empty` without an initialisation after it), or
    statistics of data. Where the scale follows the seed, some runs start well and others do not.

    How it decides
    --------------
    A parameter whose bytes differ between the two builds is reported: a warning. An error where the
    root mean square of one differs by more than 4 standard errors of two draws from one
    distribution, |ln(rms/rms')| > 4/sqrt(n), or is not finite. Between seeds the largest and the
    smallest rms must differ by 10 % and by 4 standard errors of the difference (more where many
    parameters are compared): a warning, an error from a factor of two on.

    What it does not flag
    ---------------------
    Targets that were not built several times, and buffers. Schemes that read data, once you declare
    them with `data_dependent`: their scale may follow the seed, a build must still repeat.

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
    formula = (
        "|ln(rms / rms')| > 4 / sqrt(n) for another scale in two builds with one seed\n"
        "|ln(max rms / min rms)| > max(0.1, z sqrt(2) SE) over the seeds, z >= 4"
    )
    needs = frozenset({Need.WEIGHTS})
    stages = frozenset(Stage)
    folds = (*SIGNALS, "gain-mismatch", "relu-after-xavier")
    options = {
        "data_dependent": Option(
            False,
            "true: the initialiser reads data (LSUV, ActNorm, weight normalisation), so that "
            "scales may follow the seed; two builds with one seed must still be the same",
        )
    }

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
        if not context.options["data_dependent"]:
            yield from _scales(context, draws)


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
    what = "weights of different scales" if scales else "different weights"
    worst = max(group, key=_deviation)
    return Finding(
        severity=severity,
        layer=layers[0],
        param=names[0],
        layers=layers,
        message=f"two builds with seed {draws.seeds[0]} give {what}: {listed(names)}",
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


def _scales(context: Context, draws: Draws) -> Iterator[Finding]:
    """At most one finding for parameters whose scale follows the seed."""
    judged = [item for item in draws.scales if item.size >= LEAST]
    pairs = len(judged) * len(draws.seeds) * (len(draws.seeds) - 1) // 2
    if not pairs:
        return
    errors = max(STANDARD_ERRORS, sqrt(2.0 * log(pairs / CHANCE))) * sqrt(2.0)
    found = [item for item in judged if _spread(item) > max(LEAST_RATIO, errors * item.std_error)]
    if not found:
        return
    worst = max(found, key=_spread)
    names = [item.name for item in found]
    layers = layers_of(context.model, names)
    low, high = min(worst.rms), max(worst.rms)
    yield Finding(
        severity=Severity.ERROR if _spread(worst) >= OTHER_SCALE else Severity.WARNING,
        layer=layers[0],
        param=names[0],
        layers=layers,
        message=f"the scale of the weights follows the seed: {listed(names)}",
        evidence={
            "seeds": list(draws.seeds),
            "parameters": len(names),
            "first": names[:20],
            "rms": list(worst.rms),
            "std_error": worst.std_error,
        },
        why="runs that differ in their seed alone start at different scales: some train, some not",
        measured=f"{worst.name}: rms between {low:.4g} and {high:.4g} over "
        f"{len(draws.seeds)} seeds",
        expected=f"one scale, within {errors * worst.std_error:.1%} by chance",
        fix=Fix(
            "redraw",
            code="draw with a fixed standard deviation; for a scheme that reads data, declare "
            "data_dependent = true and feed every seed the same data",
        ),
    )


def _spread(item: SeedScales) -> float:
    """Logarithm of the largest scale over the smallest."""
    low, high = min(item.rms), max(item.rms)
    return log(high / low) if low > 0.0 and high < inf else 0.0
