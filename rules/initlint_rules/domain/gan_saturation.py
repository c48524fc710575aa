"""gan-saturation: a generator or a discriminator that starts on the flat part of its last unit."""

from __future__ import annotations

from collections.abc import Iterator
from math import erfc, exp, log, prod, sqrt

import numpy as np

from initlint.api import (
    Confidence,
    Context,
    Finding,
    Fix,
    Layer,
    LayerGraph,
    Need,
    Op,
    Rule,
    Severity,
    Stage,
    saturation_harm,
    severity_of,
)

FLAT = 2.09
"""|z| from which the slope of tanh is below 6 % of its peak; at an rms of 2.0 that is 30 % of a
Gaussian z, where saturation becomes worth a warning."""

WIDE_LOGITS = 2.0
"""Standard deviation of a discriminator's logits from which a third of them are surer than 88 to
12: for these fakes the saturating loss passes less than an eighth of its gradient."""

LEVELS = ((3.0, Severity.ERROR), (1.0, Severity.WARNING), (0.0, Severity.INFO))
"""Nats of the first cross-entropy above ln 2, as for any head: 1.0 is a std of 4, 3.0 one of 9."""

_LAST = frozenset({Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE})


class GanSaturation(Rule):
    """A generator's images, or a discriminator's verdicts, start on the flat ends of their unit.

    What it does
    ------------
    Finds networks that make a larger tensor from a smaller input and end in a tanh (generators,
    vocoders), and networks that make one verdict per sample or patch of an image and end in a
    sigmoid (discriminators). Compares the scale of what enters that last unit with its flat part.

    Why is this bad
    ---------------
    A generator whose pixels start at -1 and 1 gets 6 % of the discriminator's gradient or less, and
    its black-and-white noise is told from data at once. A discriminator that starts sure of itself
    does the same from its side: log(1 - D) has the slope D, which is zero for fakes that are
    found out, and the generator has nothing to follow.

    How it decides
    --------------
    Share of saturated tanh outputs above 30 % (an rms of 2 before the tanh): warning, above 70 %:
    error. Logits of a standard deviation above 2: info; from 1 nat above ln 2: warning, from 3:
    error. Measured, else predicted.

    What it does not flag
    ---------------------
    DCGAN's N(0, 0.02) with batch norm, equalised learning rates (the factor at run time counts,
    stored weights of 1 or of 100 in a mapping network do not), spectral norm, critics without a
    sigmoid, autoencoders' and policies' tanh (no larger than the input), trained weights.

    Example
    -------
    ::

        from torch import nn

        def model():
            net = nn.Sequential(
                nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 256), nn.Tanh()
            )
            nn.init.normal_(net[3].weight, std=0.8)
            return net

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            net = nn.Sequential(
                nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 256), nn.Tanh()
            )
            nn.init.normal_(net[3].weight, std=0.02)
            return net

    References
    ----------
    - Goodfellow et al. 2014, Generative adversarial networks, section 3: the saturating loss.
    - Radford, Metz, Chintala 2016, DCGAN; pytorch/examples, dcgan/main.py.
    - Karras et al. 2020, StyleGAN2: equalised learning rate.
    """

    code = "DOM101"
    name = "gan-saturation"
    formula = "tanh(z), z ~ N(0, s^2):  s > 2 puts 30 % of the units on the flat ends"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.THEORY})
    optional = frozenset({Need.PROBE})
    stages = frozenset({Stage.FRESH, Stage.MIXED})

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per saturated end."""
        graph = context.model.graph
        for output in graph.order:
            if output.op is not Op.OUTPUT:
                continue
            ends = graph.effective_producers(output.id)
            if len(ends) != 1 or ends[0].op not in (Op.TANH, Op.SIGMOID):
                continue
            last = graph.effective_producers(ends[0].id)
            if len(last) != 1 or last[0].op not in _LAST or not _drawn(context, last[0]):
                continue
            if ends[0].op is Op.TANH and _generates(graph, ends[0]):
                yield from _generator(context, ends[0], last[0])
            elif ends[0].op is Op.SIGMOID and _judges_images(graph, last[0]):
                yield from _discriminator(context, last[0])


def _drawn(context: Context, layer: Layer) -> bool:
    weight = layer.weight
    if weight is None or weight.quantised:
        return False
    return context.stage is Stage.FRESH or context.measures.stage(weight) is Stage.FRESH


def _side(shape: tuple[int | None, ...] | None) -> int | None:
    """Elements of one sample; None where an axis is not known."""
    if shape is None or any(side is None for side in shape[1:]):
        return None
    return prod(side for side in shape[1:] if side is not None)


def _sources(graph: LayerGraph, layer: Layer) -> list[Layer]:
    return [graph[key] for key in graph.upstream((layer.id,)) if graph[key].op is Op.INPUT]


def _generates(graph: LayerGraph, end: Layer) -> bool:
    """True when one sample of the output holds more numbers than all inputs together."""
    made = _side(end.output_shape)
    fed = [_side(layer.output_shape) for layer in _sources(graph, end)]
    known = [side for side in fed if side is not None]
    return made is not None and bool(fed) and len(known) == len(fed) and made > sum(known)


def _judges_images(graph: LayerGraph, head: Layer) -> bool:
    """True for one unit per sample or patch behind strided convolutions of an image."""
    weight = head.weight
    if weight is None or weight.shape[0] != 1:
        return False
    images = [layer for layer in _sources(graph, head) if len(layer.output_shape or ()) == 4]
    above = [graph[key] for key in graph.upstream((head.id,))]
    shrinks = any(
        layer.op is Op.CONV
        and max((int(s) for s in layer.attrs.get("stride", (1,))), default=1) > 1
        for layer in (*above, head)
    )
    grows = any(layer.op in (Op.CONV_TRANSPOSE, Op.RESIZE) for layer in above)
    return bool(images) and shrinks and not grows


def _spread(context: Context, key: str) -> tuple[float, float, bool] | None:
    """Rms and standard deviation of a layer's output, and whether they were measured."""
    stats = context.probe.outputs.get(key) if context.probe else None
    if stats is not None and stats.count and not stats.non_finite:
        return stats.rms, stats.std, True
    signal = context.theory.forward.get(key) if context.theory else None
    if signal is None or not -600 < signal.log_q < 600:
        return None
    rms = exp(0.5 * signal.log_q)
    return rms, rms * sqrt(max(1 - signal.mean_share, 0.0)), False


def _generator(context: Context, end: Layer, last: Layer) -> Iterator[Finding]:
    spread = _spread(context, last.id)
    if spread is None or spread[0] <= 0.0:
        return
    rms, _, measured = spread
    stats = context.probe.outputs.get(end.id) if context.probe else None
    share = stats.saturated_share if stats is not None else erfc(FLAT / rms / sqrt(2))
    severity = severity_of(saturation_harm(share))
    if severity is None or last.weight is None:
        return
    std = context.measures.effective_std(last.weight) or 0.0
    yield Finding(
        severity=severity,
        confidence=Confidence.HIGH if measured else Confidence.MEDIUM,
        layer=last.id,
        param=last.weight.name,
        layers=(last.id, end.id),
        message=f"{share:.0%} of what the generator makes starts at -1 or 1: the rms before "
        f"{end.id} is {rms:.2g}",
        evidence={"rms_before_tanh": rms, "saturated_share": share, "std": std},
        why="a saturated tanh passes almost none of the discriminator's gradient to the generator",
        measured=f"rms {rms:.2g} before the tanh, {share:.0%} saturated",
        expected="rms below 2; 0.5 to 1 is usual",
        fix=Fix(
            "rescale",
            params=(last.weight.key,),
            arguments={"factor": 0.5 / rms},
            code=f"torch.nn.init.normal_({last.weight.name}, std={std * 0.5 / rms:.2g})",
        ),
    )


def _excess(std: float) -> float:
    """Expected binary cross-entropy above ln 2 of logits N(0, std^2) against either label."""
    grid = np.linspace(-6, 6, 2001)
    weights = np.exp(-0.5 * grid * grid)
    loss = np.logaddexp(0.0, std * grid)
    return float((loss * weights).sum() / weights.sum()) - log(2)


def _discriminator(context: Context, head: Layer) -> Iterator[Finding]:
    spread = _spread(context, head.id)
    if spread is None or head.weight is None or not WIDE_LOGITS < spread[1] < 1e300:
        return
    _, std, measured = spread
    excess = _excess(std)
    severity = next(level for limit, level in LEVELS if excess >= limit)
    wanted = 0.5 / std
    weight = context.measures.effective_std(head.weight) or 0.0
    yield Finding(
        severity=severity,
        confidence=Confidence.HIGH if measured else Confidence.MEDIUM,
        layer=head.id,
        param=head.weight.name,
        message=f"the verdicts of {head.id} start sure of themselves: logits of std {std:.2g}, a "
        f"first loss of about {excess + log(2):.1f} instead of 0.7",
        evidence={"logit_std": std, "excess_nats": excess, "weight_std": weight},
        why="the generator's gradient through a sigmoid is zero for samples that are judged with "
        "certainty, and the first steps only unlearn random verdicts",
        measured=f"logit std {std:.2g}",
        expected="below 1",
        fix=Fix(
            "rescale",
            params=(head.weight.key,),
            arguments={"factor": wanted},
            code=f"torch.nn.init.normal_({head.weight.name}, std={weight * wanted:.2g})",
        ),
    )
