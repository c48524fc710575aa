"""dead-units: units of a trained layer without weights, or silent on all of the user's data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import isnan, sqrt

import numpy as np

from initlint.api import (
    RELU_FAMILY,
    Context,
    Finding,
    Fix,
    Layer,
    Need,
    Op,
    OutputStats,
    Param,
    Role,
    Rule,
    Severity,
    Stage,
    record,
)

NEGLIGIBLE = 1e-8
"""Size relative to the layer's rms below which a row is gone: under half a float32 rounding error
(6e-8) of what any other row contributes. Weight decay alone drives a dead unit's row there."""

LEVELS = ((0.5, Severity.WARNING), (0.05, Severity.INFO))
"""Shares of a layer's units. Training kills units in good models: up to a third of a convolution
and 43 % of a squeeze layer in published ones, so only more than half is worth a warning."""

MIN_UNITS = 16
"""Units a share needs: one of fifteen is 7 % and says nothing."""

LARGEST = 1 << 24
"""Elements up to which a layer is read: 64 MiB of float32."""


SILENT_LEVELS = ((0.5, Severity.ERROR), (0.2, Severity.WARNING), (0.05, Severity.INFO))
"""Shares of units that no given input makes fire: with half of them a layer has half its width."""

SAMPLES = 1024
"""Inputs needed: a unit that fires on 0.5 % of them stays silent on all with probability
0.995^1024 = 0.6 %. Positions of one input are alike, so that a share over fewer inputs, however
many positions they have, is an info at most."""

CHANCE_FACTOR = 2.0
STANDARD_ERRORS = 4.0
MARGIN = 0.02
"""As in dead-relu, from whose measurement they come: the chance of being silent is a formula over
the mean cosine, and real cosines spread."""


@record(frozen=True, slots=True)
class _Silent:
    layer: Layer
    stats: OutputStats
    share: float
    chance: float


@record(frozen=True, slots=True)
class _Dead:
    layer: Layer
    param: Param
    units: int
    dead: int
    first: tuple[int, ...]

    @property
    def share(self) -> float:
        return self.dead / self.units


class DeadUnits(Rule):
    """Units of a trained layer have no weights left, or never fire on the inputs you give.

    What it does
    ------------
    In trained models, counts the output units whose row of weights is zero, or so small that it
    vanishes in the rounding of the others. With inputs of your own (`--input`), it also counts the
    ReLU units that are zero on all of them.

    Why is this bad
    ---------------
    Such a unit gives the same output for every input. It died early (a ReLU that stopped firing
    gets no gradient, and weight decay does the rest), and the model pays for units that it cannot
    use. A large share points at an initialisation or learning rate that killed them.

    How it decides
    --------------
    A row counts when its largest weight is below 10^-8 of the layer's rms. More than 5 % of a
    layer's units is an info, more than half a warning; a layer must have 16 units. The same share
    in several layers is what structured pruning leaves, and an info at most. Silent
    ReLU units count where 1024 rows were seen and their share exceeds twice the chance level (see
    dead-relu) by four standard errors plus 2 %: above 5 % info, 20 % warning, 50 % error; with
    fewer than 1024 inputs an info at most.

    What it does not flag
    ---------------------
    Layers that are all zero (zero-weight speaks about those), embeddings, single-channel heads,
    quantised weights, unstructured sparsity, fresh models. Units that fire rarely; units silent on
    inputs that the linter made up.

    Example
    -------
    ::

        import torch
        from torch import nn

        def model():
            net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())
            with torch.no_grad():
                for layer in (net[0], net[2]):
                    inputs = layer.in_features
                    layer.weight += torch.randn(128, 4) @ torch.randn(4, inputs) / 20
                    layer.bias += 0.1 * torch.randn(128)
                net[2].weight[30:110] = 0
            return net

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        def model():
            net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())
            with torch.no_grad():
                for layer in (net[0], net[2]):
                    inputs = layer.in_features
                    layer.weight += torch.randn(128, 4) @ torch.randn(4, inputs) / 20
                    layer.bias += 0.1 * torch.randn(128)
            return net

    References
    ----------
    - Lu, Shin, Su, Karniadakis 2019, Dying ReLU and initialization.
    - Sokar, Agarwal, Castro, Evci 2023, The dormant neuron phenomenon in deep reinforcement
      learning: re-initialising them.
    """

    code = "CKP104"
    name = "dead-units"
    formula = (
        "max_j |w_ij| <= 1e-8 rms(W) for a dead unit i\n"
        "silent share > 2 chance + 4 standard errors + 0.02, on N >= 1024 given inputs"
    )
    optional = frozenset({Need.GRAPH, Need.PROBE})
    stages = frozenset({Stage.TRAINED, Stage.MIXED})
    folds = ("dead-relu",)

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding for all units without weights, and one for all that never fire."""
        found = [
            dead
            for layer, param in context.model.graph.params
            if (dead := _dead(context, layer, param)) is not None
        ]
        silent = _silent(context, {dead.layer.id for dead in found})
        if silent:
            yield _silent_finding(context, silent)
        if not found:
            return
        worst = max(found, key=lambda dead: dead.share)
        severity = next(level for bound, level in LEVELS if worst.share > bound)
        shares = Counter(round(dead.share, 2) for dead in found)
        pruned = shares[round(worst.share, 2)] > 1
        others = f" (and {len(found) - 1} more layers have some)" if len(found) > 1 else ""
        yield Finding(
            severity=Severity.INFO if pruned else severity,
            layer=worst.layer.id,
            param=worst.param.name,
            layers=tuple(dict.fromkeys(dead.layer.id for dead in found)),
            message=f"{worst.dead} of {worst.units} units of {worst.layer.id} have no weights left"
            f"{others}",
            evidence={
                "dead": worst.dead,
                "units": worst.units,
                "share": worst.share,
                "first": list(worst.first),
                "same_share_elsewhere": pruned,
                "dead_by_layer": [f"{dead.layer.id}: {dead.dead}" for dead in found[:20]],
            },
            why="a unit without weights answers the same to every input and gets no gradient",
            measured=f"{worst.share:.0%} of the rows below 1e-8 of the layer's rms",
            expected="every unit with weights of about the same size",
            fix=Fix(
                "reinitialise",
                params=tuple(dead.param.key for dead in found),
                code="remove the units, or draw their rows again and train on",
            ),
        )


def _dead(context: Context, layer: Layer, param: Param) -> _Dead | None:
    if param.role is not Role.WEIGHT or layer.op is Op.EMBEDDING or param.quantised:
        return None
    if len(param.shape) < 2 or param.shape[0] < MIN_UNITS or param.tied_to is not None:
        return None
    if param.size > min(LARGEST, context.measures.whole_elements) or not param.trainable:
        return None
    moments = context.measures.moments(param)
    if moments is None or moments.max_abs == 0 or moments.non_finite:
        return None
    values = context.measures.read(param)
    assert values is not None
    largest = np.abs(values.reshape(param.shape[0], -1)).max(axis=1)
    dead = np.flatnonzero(largest <= NEGLIGIBLE * moments.second_moment**0.5)
    if dead.size <= LEVELS[-1][0] * param.shape[0]:
        return None
    first = tuple(int(index) for index in dead[:8])
    return _Dead(layer, param, param.shape[0], int(dead.size), first)


def _silent(context: Context, told: set[str]) -> list[_Silent]:
    """ReLU layers with silent units, but for those whose units are known to have no weights."""
    probe, graph = context.probe, context.model.graph
    if probe is None or not probe.given:
        return []
    found = []
    for layer in graph.order:
        stats = probe.outputs.get(layer.id)
        if layer.op not in RELU_FAMILY - {Op.LEAKY_RELU, Op.PRELU} or stats is None:
            continue
        if stats.rows < SAMPLES or stats.units < MIN_UNITS or stats.non_finite or not stats.count:
            continue
        if any(producer.id in told for producer in graph.effective_producers(layer.id)):
            continue
        share = stats.dead_units / stats.units
        chance = 0.0 if isnan(stats.dead_chance) else stats.dead_chance
        error = sqrt(max(chance * (1 - chance), 1 / stats.units) / stats.units)
        limit = CHANCE_FACTOR * chance + STANDARD_ERRORS * error + MARGIN
        if share > max(limit, SILENT_LEVELS[-1][0]):
            found.append(_Silent(layer, stats, share, chance))
    return found


def _silent_finding(context: Context, found: list[_Silent]) -> Finding:
    worst = max(found, key=lambda item: item.share)
    severity = next(level for bound, level in SILENT_LEVELS if worst.share > bound)
    if worst.stats.samples < SAMPLES:
        severity = Severity.INFO
    feeding = context.model.graph.effective_producers(worst.layer.id)
    others = f" (and in {len(found) - 1} more layers some)" if len(found) > 1 else ""
    return Finding(
        severity=severity,
        layer=worst.layer.id,
        layers=tuple(item.layer.id for item in found),
        culprits=tuple(layer.id for layer in feeding) + tuple(item.layer.id for item in found),
        message=f"{worst.stats.dead_units} of {worst.stats.units} units of {worst.layer.id} never "
        f"fire on the given inputs{others}",
        evidence={
            "silent": worst.stats.dead_units,
            "units": worst.stats.units,
            "share": worst.share,
            "chance": worst.chance,
            "rows": worst.stats.rows,
            "samples": worst.stats.samples,
            "silent_by_layer": [f"{item.layer.id}: {item.stats.dead_units}" for item in found[:20]],
        },
        why="a unit that is zero on all data adds nothing and gets no gradient: it stays so",
        measured=f"{worst.share:.0%} silent on {worst.stats.samples} inputs, "
        f"{worst.stats.rows} rows",
        expected=f"about {worst.chance:.0%}, by chance at the measured similarity of inputs",
        fix=Fix(
            "reinitialise",
            params=tuple(layer.weight.key for layer in feeding if layer.weight is not None),
            code="draw the incoming weights of silent units again and set the outgoing ones to 0 "
            "(ReDo), then train on; or remove the units",
        ),
    )
