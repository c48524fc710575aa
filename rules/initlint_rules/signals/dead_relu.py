"""dead-relu: units that never fire on the probe."""

from __future__ import annotations

from collections.abc import Iterator
from math import isnan, sqrt

from initlint.api import (
    RELU_FAMILY,
    Context,
    Finding,
    Fix,
    Layer,
    Need,
    Op,
    OutputStats,
    Rule,
    Severity,
    Stage,
    is_bypassed,
)

LEVELS = ((0.9, Severity.ERROR), (0.5, Severity.WARNING), (0.2, Severity.INFO))
"""Share of silent units: at 0.9 a tenth of the width is left, at 0.5 half."""

MIN_ROWS = 16
"""Rows needed to judge: a unit that fires on half of independent rows is silent on all of 16 with
probability 2^-16."""

MARGIN = 0.02
STANDARD_ERRORS = 4.0
CHANCE_FACTOR = 2.0
"""The chance formula takes all pairs of inputs as equally alike. In a real net cosines spread, and
the observed share is up to 1.8 times the formula (30 He layers of width 128, 64 rows)."""


class DeadRelu(Rule):
    """More ReLU units are silent on every row of the probe than chance explains.

    What it does
    ------------
    Counts the units of each ReLU-family layer that give zero on every row of the probe batch.

    Why is this bad
    ---------------
    A unit that never fires has zero output and zero gradient: it cannot recover by itself. Common
    causes are a large negative bias, weights or inputs of one sign, and a scale that pushes the
    pre-activation away from zero.

    How it decides
    --------------
    In deep nets inputs become alike and whole units fall silent by chance: with cosine c between
    inputs and N rows, the expected share is the integral of pdf(t) Phi(-t sqrt(c/(1-c)))^N dt. The
    observed share must exceed twice that by four standard errors plus 2 %. Then: above 20 % info,
    above 50 % warning, above 90 % error; fewer than 16 rows are not judged.

    What it does not flag
    ---------------------
    Units that read zeros alone: nothing holds them below zero, and they fire as soon as what makes
    the zeros moves (`zero-weight` and `blocked-parameters` say where it never does).
    A flat 40 % in a deep He-initialised net, which chance explains. Units of trained models beyond
    an info: training kills units in well-known nets. Sparse top-k and mixture-of-experts layers.

    Example
    -------
    ::

        from torch import nn

        def model():
            net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
            nn.init.constant_(net[0].bias, -5.0)
            return net

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
            nn.init.zeros_(net[0].bias)
            return net

    References
    ----------
    - Lu, Shin, Su, Karniadakis 2019, Dying ReLU and initialization.
    """

    code = "PRB103"
    name = "dead-relu"
    formula = "chance = integral of pdf(t) Phi(-t sqrt(c / (1 - c)))^N dt"
    needs = frozenset({Need.GRAPH, Need.PROBE})
    stages = frozenset(Stage)
    folds = (
        "forward-drift",
        "variance-profile",
        "zero-gradient",
        "gradient-profile",
        "correlation-collapse",
    )

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding that names all layers with too many silent units."""
        if context.probe is None:
            return
        found: list[tuple[Severity, float, Layer, OutputStats]] = []
        for layer in context.model.graph.order:
            stats = context.probe.outputs.get(layer.id)
            if layer.op not in RELU_FAMILY - {Op.LEAKY_RELU, Op.PRELU} or stats is None:
                continue
            if stats.rows < MIN_ROWS or stats.units < 2 or not stats.count or stats.non_finite:
                continue
            if _reads_zeros(context, layer):
                continue
            share = stats.dead_units / stats.units
            chance = 0.0 if isnan(stats.dead_chance) else stats.dead_chance
            error = sqrt(max(chance * (1 - chance), 1 / stats.units) / stats.units)
            if share < CHANCE_FACTOR * chance + STANDARD_ERRORS * error + MARGIN:
                continue
            severity = next((level for bound, level in LEVELS if share > bound), None)
            if severity is not None:
                found.append((severity, share, layer, stats))
        if not found:
            return
        worst = max(found, key=lambda item: (item[0].rank, item[1]))
        severity = Severity.INFO if context.stage is Stage.TRAINED else worst[0]
        if is_bypassed(context.model.graph, tuple(item[2].id for item in found)):
            severity = min(severity, Severity.WARNING)
        _, share, layer, stats = worst
        chance = 0.0 if isnan(stats.dead_chance) else stats.dead_chance
        feeding = [maker.id for maker in _makers(context, layer)]
        makers = (maker.id for item in found for maker in _makers(context, item[2]))
        more = f"{len(found) - 1} more layer{'s' * (len(found) > 2)}"
        others = f" (and {more})" if len(found) > 1 else ""
        yield Finding(
            severity=severity,
            layer=layer.id,
            layers=tuple(dict.fromkeys((*(item[2].id for item in found), *makers))),
            message=f"{stats.dead_units} of {stats.units} units of {layer.id} never fire{others}",
            evidence={
                "dead_units": stats.dead_units,
                "units": stats.units,
                "share": share,
                "chance": chance,
                "rows": stats.rows,
            },
            why="a unit that gives zero on every input has zero gradient and cannot recover",
            measured=f"{share:.0%} silent on {stats.rows} rows",
            expected=f"about {chance:.0%}, by chance at the measured similarity of inputs",
            fix=Fix(
                "zeros",
                code=f"set the bias of {', '.join(feeding) or layer.id} to 0; check that its "
                "weights and inputs have both signs; later in training, draw silent units again",
            ),
        )


def _makers(context: Context, layer: Layer) -> list[Layer]:
    """What a unit reads; of a sum the term that is lowest, which holds it down."""
    assert context.probe is not None
    graph, outputs = context.model.graph, context.probe.outputs
    found = []
    for producer in graph.effective_producers(layer.id):
        terms = graph.effective_producers(producer.id) if producer.op is Op.ADD else ()
        makers = [term for term in terms if term.params and term.id in outputs]
        found.append(min(makers, key=lambda term: outputs[term.id].mean, default=producer))
    return found


def _reads_zeros(context: Context, layer: Layer) -> bool:
    """True when what enters is exactly zero everywhere: behind a dead layer or a zero factor."""
    assert context.probe is not None
    entering = [
        context.probe.outputs.get(producer.id)
        for producer in context.model.graph.effective_producers(layer.id)
    ]
    return bool(entering) and all(stats is not None and stats.rms == 0.0 for stats in entering)
