"""input-statistics: the given inputs are far from mean 0 and standard deviation 1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import inf, log10

from initlint.api import (
    NORMALISERS,
    RECURRENT,
    Context,
    Finding,
    Fix,
    Layer,
    LayerGraph,
    Need,
    Op,
    OutputStats,
    Rule,
    Severity,
    Sink,
    Stage,
    drift_severity,
    record,
)

LARGEST_MEAN = 3.0
"""|mean| in standard deviations. The second moment that the first layer sees is 1 + (mean/std)^2
times what the schemes assume: at 3 the factor is 10, half a decade of rms, and the common direction
makes the layer's problem (1 + n mean^2/std^2) times worse conditioned for n features."""

STD_RANGE = (0.1, 10.0)
"""Standard deviations of the whole input: a decade either way, as far as a first layer's own scale
may be off before a network loses a tenth of its progress (drift of one decade)."""

FEATURE_RATIO = 1e3
"""Largest standard deviation of a feature over the smallest: the condition number of the first
layer's problem is its square, 10^6, beyond which float32 gradients of the small features drown in
the rounding of the large ones (2^-23 = 1.2e-7)."""

FEW = 16
"""Rows from which a constant feature is more than chance: a binary feature that is on in a fifth of
all rows is constant in 16 of them with probability 0.03."""

_READERS = frozenset({Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE, Op.BILINEAR}) | RECURRENT
"""Layers that take an input as it comes. What goes through a Fourier encoding or a mask that
multiplies first is not judged."""

_ARITHMETIC = frozenset({Op.ADD, Op.SUB, Op.MUL, Op.DIV})
"""With a fixed operand: the network's own normalisation of its input. Example inputs need not have
the scale that it is made for (noise for an image of 0 to 255 becomes small), so only what it blows
up is said, and as a warning at most."""


@record(frozen=True, slots=True)
class _Fault:
    what: str
    measured: str
    expected: str
    cure: str
    evidence: dict[str, float]
    severity: Severity


class InputStatistics(Rule):
    """The given inputs are far from mean 0 and standard deviation 1.

    What it does
    ------------
    Measures the inputs of the probe, when they are yours: `--input FILE.npz`, a module's
    `example_inputs()`, or the arguments of `initlint.check(module, x)`.

    Why is this bad
    ---------------
    All schemes assume inputs of unit second moment. Inputs from 0 to 255 multiply the first layer's
    output by 150, and every later one's with it; a mean of several standard deviations makes one
    direction stronger than all others together, so that the units start nearly equal; features of
    very different scale learn at very different speed.

    How it decides
    --------------
    Over the batch: |mean| above three standard deviations, a standard deviation below 0.1 or above
    10, NaN or infinity, and for tables of features a ratio above 1000 between the standard
    deviations of two features, or features that are constant. An input that arithmetic with
    constants scales first (a mean subtracted, a division) is judged after it, where it has become
    more than ten times too large. Warning where no normaliser follows,
    info where one does; an error where the rms is off by more than the bound of an exploding signal
    (a factor of 32) and no normaliser follows, and for values that are not finite.

    What it does not flag
    ---------------------
    Inputs that initlint made up, token ids, inputs that a normaliser reads first, or arithmetic
    that does not blow them up (subtraction of a mean, division by 255, Fourier features, masks,
    times), images in [0, 1] or
    otherwise within the bounds, pixels that are constant, trained models.

    Example
    -------
    ::

        import torch
        from torch import nn

        class Net(nn.Sequential):
            def example_inputs(self):
                return torch.randint(0, 256, (32, 64)).float()

        def model():
            return Net(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10, bias=False))

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        class Net(nn.Sequential):
            def example_inputs(self):
                return (torch.randint(0, 256, (32, 64)).float() - 127.5) / 73.9

        def model():
            return Net(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10, bias=False))

    References
    ----------
    - LeCun, Bottou, Orr, Mueller 1998, Efficient BackProp, section 4.3: normalizing the inputs.
    """

    code = "PRB107"
    name = "input-statistics"
    formula = "E[x^2] = std^2 (1 + (mean / std)^2),  wanted: 1"
    needs = frozenset({Need.GRAPH, Need.PROBE})
    stages = frozenset({Stage.FRESH})
    folds = ("forward-drift", "variance-profile", "saturation", "head-excess-loss")

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per input and fault."""
        probe, graph = context.probe, context.model.graph
        if probe is None or not probe.given:
            return
        for layer in graph.order:
            stats = probe.outputs.get(layer.id)
            if layer.op is not Op.INPUT or stats is None or not stats.rows:
                continue
            readers = graph.effective_consumers(layer.id)
            yield from _blown_up(context, layer, readers)
            if not any(reader.op in _READERS for reader in readers):
                continue
            fault = _fault(graph, layer, stats, readers)
            if fault is not None:
                yield _finding(layer, readers, stats, fault)


def _blown_up(context: Context, layer: Layer, readers: tuple[Layer, ...]) -> Iterator[Finding]:
    """An input that fixed arithmetic makes far too large for the layer behind."""
    graph, last = context.model.graph, None
    while len(readers) == 1 and readers[0].op in _ARITHMETIC and not readers[0].params:
        last = readers[0]
        if len(graph.inputs(last.id)) != 1:
            return
        readers = graph.effective_consumers(last.id)
    stats = context.probe.outputs.get(last.id) if context.probe and last is not None else None
    normalised = any(graph[key].op in NORMALISERS for key in graph.downstream((layer.id,)))
    if stats is None or normalised or not any(reader.op in _READERS for reader in readers):
        return
    activation = graph.activation(readers[0].id)
    if not STD_RANGE[1] < stats.rms < inf or (activation and activation.op is Op.SIN):
        return  # the frequency of a sine is its own matter
    assert last is not None
    fault = _Fault(
        f"reaches {readers[0].id} with mean {stats.mean:.3g} and standard deviation "
        f"{stats.std:.3g}, after {last.id}",
        f"{stats.mean:.3g} +- {stats.std:.3g}",
        "0 +- 1",
        f"compute the constants of {last.id} from the data: (x - mean) / std is then 0 +- 1",
        {"decades": log10(stats.rms)},
        Severity.WARNING,
    )
    finding = _finding(layer, readers, stats, fault)
    yield replace(finding, layers=(layer.id, last.id), culprits=(layer.id, last.id))


def _fault(
    graph: LayerGraph, layer: Layer, stats: OutputStats, readers: tuple[Layer, ...]
) -> _Fault | None:
    normalised = any(graph[key].op in NORMALISERS for key in graph.downstream((layer.id,)))
    usual = Severity.INFO if normalised else Severity.WARNING
    if stats.non_finite:
        return _Fault(
            f"holds {stats.non_finite} values that are not finite",
            f"{stats.non_finite} NaN or infinite values",
            "finite numbers",
            "find where the NaN comes from, or fill the gaps with the mean of the feature",
            {"non_finite": stats.non_finite},
            Severity.ERROR,
        )
    table = all(reader.op not in (Op.CONV, Op.CONV_TRANSPOSE) for reader in readers)
    if stats.std == 0.0:
        return None if stats.units == 1 or stats.rows < FEW else _constant(stats, usual)
    low, high = STD_RANGE
    decades = log10(stats.rms)
    if not low <= stats.std <= high or abs(stats.mean) > LARGEST_MEAN * stats.std:
        harm = drift_severity(decades, 0.0, Sink.OUTPUT) if decades > 0 else None
        image = stats.min >= 0.0 and stats.max <= 1.0
        severity = Severity.INFO if image else usual if normalised else max(usual, harm or usual)
        return _Fault(
            f"has mean {stats.mean:.3g} and standard deviation {stats.std:.3g}",
            f"{stats.mean:.3g} +- {stats.std:.3g}, from {stats.min:.3g} to {stats.max:.3g}",
            "0 +- 1",
            f"feed (x - {stats.mean:.4g}) / {stats.std:.4g}, or fold both into the first layer",
            {"decades": decades},
            severity,
        )
    small, large = stats.unit_std
    if table and stats.units > 1 and large > FEATURE_RATIO * small:
        return _Fault(
            f"has features whose standard deviations differ by a factor of {large / small:.2g}",
            f"standard deviations from {small:.2g} to {large:.2g}",
            "about 1 for every feature",
            "normalise each feature by its own mean and standard deviation",
            {"smallest": small, "largest": large},
            usual,
        )
    if table and stats.rows >= FEW and stats.constant_units > 0:
        return _constant(stats, Severity.INFO)
    return None


def _constant(stats: OutputStats, severity: Severity) -> _Fault:
    return _Fault(
        f"has {stats.constant_units} of {stats.units} features that never change",
        f"{stats.constant_units} constant features over {stats.rows} rows",
        "features that vary",
        "leave constant features out: their weights learn what a bias can",
        {"constant_features": stats.constant_units},
        severity,
    )


def _finding(
    layer: Layer, readers: tuple[Layer, ...], stats: OutputStats, fault: _Fault
) -> Finding:
    return Finding(
        severity=fault.severity,
        layer=layer.id,
        layers=(layer.id,),
        culprits=(layer.id,),
        message=f"the input {layer.id} {fault.what}",
        evidence={
            "mean": stats.mean,
            "std": stats.std,
            "min": stats.min,
            "max": stats.max,
            "rows": stats.rows,
            **fault.evidence,
        },
        why=f"{readers[0].id} and every scheme for its weights assume inputs of unit second "
        "moment; augmentation and pre-processing change this number and nothing else here",
        measured=fault.measured,
        expected=fault.expected,
        fix=Fix("normalise_input", code=fault.cure),
    )
