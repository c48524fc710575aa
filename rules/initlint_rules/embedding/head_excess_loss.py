"""head-excess-loss: logits so wide that the first loss is far above that of a guess."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, hypot, inf, log, pi, sqrt

import numpy as np

from initlint.api import (
    TRANSPARENT,
    Confidence,
    Context,
    Finding,
    Fix,
    Layer,
    LayerGraph,
    Need,
    Op,
    Param,
    Rule,
    Severity,
    Stage,
    before_averaging,
    excess_loss,
    fans,
    record,
)

from ._temperature import hot_similarities

TRUNK_RMS = 2.0
"""Largest rms of the head's input at which the head itself answers for the logits: 10^0.3, where
growth of the signal becomes worth reporting as a drift of the layers before it."""

LEVELS = ((3.0, Severity.ERROR), (1.5, Severity.WARNING), (0.75, Severity.INFO))
"""Nats above a guess. On unit features a LeCun head costs s^2/2 = 0.5 and a He head 1.0, both
common and harmless, so 0.5 is silent and 1.0 an info; 1.5 (s = 1.7) is more than any scheme asks
for; at 3 the logits of 20 classes and fewer are frozen (s^2/2 = ln V)."""

HEAD_GAIN = 1.1 * sqrt(2)
"""sqrt(fan_in Var(W)) of a head, its bias included, up to which it is an ordinary He head, with
four standard errors for 800 weights. Behind features of rms up to `TRUNK_RMS` it may still cost 3
nats; each of the two is within what is harmless, and their product is no fault of the head: an
info. Of networks with He weights throughout, draws with s from 1.9 to 2.6 end 100 steps (SGD, Adam)
within 0.13 nats of their own start with a head of s = 0.5, some above it and some below, of 2.3 to
lose."""

WILD = 10.0
"""Logit std below which it is no error: the excess is unlearned by the head alone, whose gradient
is large. Of twelve networks (`benchmarks/outcome`) those at s = 5.5 and 7.1 lost progress for other
reasons or 1 % of it; those at 31 to 84 lost 16 % on average, up to half."""

FEW_CLASSES, DRAWS, MOST_DRAWN = 256, 4096, 1e3
"""Up to this many classes the excess is averaged over drawn logits: the closed form holds for many
classes only (it says 1.0 instead of 0.3 nats for two classes at s = 1.4). 4096 draws give it to
2 % of s. Beyond a standard deviation of a thousand the limits of the formulas are exact."""

FEWEST_SCORES = 3
"""Outputs from which a head of unknown purpose is taken for a classifier: two are as often a mean
and a variance, or coordinates."""

WANTED_STD = 0.5
"""Logit std that the fix aims at: an excess of s^2/2 = 0.12 nats, below every level reported."""


class HeadExcessLoss(Rule):
    """The head's logits start so wide that the first loss is far above an uninformed guess.

    What it does
    ------------
    Takes the standard deviation s of the logits that enter a softmax, a cross-entropy or a sigmoid
    at the output, measured or predicted, and works out how many nats the first loss lies above
    ln(classes), or above ln 2 for each sigmoid.

    Why is this bad
    ---------------
    Random logits are confident guesses. Their cross-entropy is ln V + s^2/2, and beyond
    s = sqrt(2 ln V) one class takes every sample: an N(0, 1) embedding of width 768 tied to the
    head gives s = 28 and a first loss of 118 instead of 10.8. The first hundreds of steps only
    unlearn this, through gradients that are far too large.

    How it decides
    --------------
    Excess s^2/2 below the frozen regime, s sqrt(2 ln V) - ln V in it, the average over drawn logits
    for few classes, E[ln(1 + e^z)] - ln 2 for a sigmoid: from 0.75 nats an info, from 1.5 a
    warning, from 3 and s = 10 an error. The head answers for it only while its input has an rms up
    to 2; behind a signal that has already grown, the layers before are to blame, and a head of no
    more than He's gain is an info. Where the loss is unknown, as it always is for a file, a linear
    head over classes or over the vocabulary is taken to feed a cross-entropy, and the finding says
    so; with nothing but a file's graph to go by everything is one level lower.

    What it does not flag
    ---------------------
    Heads behind a normalised feature or a learned temperature (cosine classifiers, ArcFace, CLIP)
    whose logits have a standard deviation below 10 (from there a warning, an error from 32), tied
    heads whose input is scaled by 1/sqrt(width) (T5), zero heads, small heads, regression outputs,
    trained weights.

    Example
    -------
    ::

        import torch
        from torch import nn

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.embed = nn.Embedding(1000, 64)
                self.norm = nn.LayerNorm(64)
                self.head = nn.Linear(64, 1000, bias=False)
                self.head.weight = self.embed.weight

            def forward(self, ids):
                return self.head(self.norm(self.embed(ids)))

        def model():
            return Model()

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.embed = nn.Embedding(1000, 64)
                nn.init.normal_(self.embed.weight, std=0.02)
                self.norm = nn.LayerNorm(64)
                self.head = nn.Linear(64, 1000, bias=False)
                self.head.weight = self.embed.weight

            def forward(self, ids):
                return self.head(self.norm(self.embed(ids)))

        def model():
            return Model()

    References
    ----------
    - Derrida 1981, Random-energy model: the frozen regime of a softmax.
    - pytorch/pytorch issue 3121; transformers, modeling_t5.py: the tied head is scaled by
      d_model ** -0.5.
    """

    code = "EMB802"
    name = "head-excess-loss"
    formula = "E[loss] - ln V = s^2/2 for s < s* = sqrt(2 ln V),  else s s* - ln V"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.THEORY})
    optional = frozenset({Need.PROBE})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    local = True
    folds = ("forward-drift", "variance-profile", "output-scale")

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per output whose logits are too wide."""
        outputs = [layer for layer in context.model.graph.order if layer.op is Op.OUTPUT]
        network = _network(context, outputs) if outputs else None
        for output in outputs:
            found = list(_examine(context, network, output)) if network else []
            yield from found or hot_similarities(context, output)


@record(frozen=True, slots=True)
class _Network:
    """What is asked of the whole network for each of its outputs.

    Attributes:
        first: id of the output that the loader gave first.
        scores: nothing but the shape of the graph speaks for a cross-entropy, and that does.
        tables: embeddings with their parameters.
    """

    first: str
    scores: bool
    tables: tuple[tuple[Layer, Param], ...]


def _network(context: Context, outputs: list[Layer]) -> _Network:
    graph = context.model.graph
    first = next(layer.id for layer in graph if layer.op is Op.OUTPUT)
    tables = tuple((layer, param) for layer, param in graph.params if layer.op is Op.EMBEDDING)
    return _Network(first, _looks_like_scores(context, outputs), tables)


def _excess(std: float, classes: int) -> float:
    """Expected cross-entropy above ln(classes) of logits drawn from N(0, std^2)."""
    if classes > FEW_CLASSES or std > MOST_DRAWN:
        return excess_loss(std, classes)
    logits = std * np.random.default_rng(0).standard_normal((DRAWS, classes))
    top = logits.max(axis=1)
    total = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return float((total - logits.mean(axis=1)).mean()) - log(classes)


def _excess_of_sigmoids(std: float) -> float:
    """Expected binary cross-entropy above ln 2 of logits drawn from N(0, std^2), labels apart."""
    if std > MOST_DRAWN:
        return std / sqrt(2 * pi)  # E[max(z, 0)]
    logits = std * np.random.default_rng(0).standard_normal(DRAWS)
    return float(np.logaddexp(0.0, logits).mean()) - log(2)


@record(frozen=True, slots=True)
class _Logits:
    """The tensor whose softmax or sigmoid the loss takes, and the layer that computes it.

    ``assumed`` when nothing but the shape of the graph speaks for a softmax.
    """

    at: str
    head: Layer
    weight: Param
    classes: int
    source: str
    assumed: bool
    binary: bool

    def excess(self, std: float) -> float:
        """Nats above a guess, for logits of this standard deviation."""
        return _excess_of_sigmoids(std) if self.binary else _excess(std, self.classes)


def _examine(context: Context, network: _Network, output: Layer) -> Iterator[Finding]:
    logits = _logits(context, network, output)
    if logits is None or context.measures.stage(logits.weight) is not Stage.FRESH:
        return
    std, entering = _std(context, logits.at), _rms(context, logits.head)
    if std is None or entering is None or entering > TRUNK_RMS:
        return
    excess = logits.excess(std)
    below = [level for limit, level in LEVELS if excess >= limit]
    rest = [level for _, level in LEVELS[len(LEVELS) - len(below) + logits.assumed :]]
    severity = rest[0] if rest else None
    if severity is Severity.ERROR and std < WILD:
        severity = Severity.WARNING
    if severity is Severity.WARNING and _gain(context, logits.head) <= HEAD_GAIN:
        severity = Severity.INFO
    if severity is not None:
        tied = _tied(network, logits.weight)
        yield _finding(context, logits, tied, std, excess, severity)


def _gain(context: Context, head: Layer) -> float:
    """Std of the logits that features of unit rms give; infinite where it is not known."""
    weight, bias = head.weight, head.bias
    std = context.measures.effective_std(weight) if weight is not None else None
    fan = fans(head, weight) if weight is not None else None
    moments = context.measures.moments(bias) if bias is not None else None
    if std is None or fan is None:
        return inf
    return hypot(std * sqrt(fan.fan_in), moments.std if moments is not None else 0.0)


def _finding(
    context: Context,
    logits: _Logits,
    tied: Layer | None,
    std: float,
    excess: float,
    severity: Severity,
) -> Finding:
    guess = log(logits.classes)
    table = f", tied to {tied.id}," if tied is not None else ""
    measured = context.probe is not None and logits.at in context.probe.outputs
    factor = WANTED_STD / std
    return Finding(
        severity=severity,
        confidence=Confidence.HIGH if measured and not logits.assumed else Confidence.MEDIUM,
        layer=logits.head.id,
        param=logits.weight.name,
        layers=(logits.head.id, *((tied.id,) if tied is not None else ())),
        culprits=(logits.head.id,),
        message=f"logits of {logits.head.id}{table} start with std {std:.2g}: the first loss is "
        f"about {guess + excess:.1f} instead of {guess:.1f}",
        evidence={
            "logit_std": std,
            "excess_nats": excess,
            "classes": logits.classes,
            "loss_of_a_guess": guess,
            "sink": logits.source,
            "weight_std": context.measures.effective_std(logits.weight),
        },
        why="random wide logits are confident wrong guesses: "
        + (
            "E[loss] = ln 2 + s^2/8, and 0.4 s for large s"
            if logits.binary
            else "E[cross-entropy] = ln V + s^2/2, and more once one class dominates"
        ),
        measured=f"logit std {std:.2g} ({logits.source}): {excess:.1f} nats above a guess",
        expected=f"logit std below 1: a first loss near ln {logits.classes} = {guess:.2f}",
        fix=Fix(
            "rescale",
            params=(logits.weight.key,),
            arguments={"factor": factor},
            code=f"multiply {logits.weight.name} by {factor:.2g}, or draw it with std "
            f"{(context.measures.effective_std(logits.weight) or 0.0) * factor:.2g}",
        ),
    )


def _logits(context: Context, network: _Network, output: Layer) -> _Logits | None:
    """Where an output's logits are, when it is known to end in a softmax or a cross-entropy."""
    graph = context.model.graph
    end = _before(graph, output)
    if end is None:
        return None
    source, assumed, binary = "", False, end.op is Op.SIGMOID
    if binary:
        source = f"{end.op.value} at the output"
        end = _before(graph, end)
    elif end.op in (Op.SOFTMAX, Op.LOG_SOFTMAX):
        axis, shape = end.attrs.get("axis", -1), end.output_shape
        if shape is None or axis not in (-1, end.channel_axis % len(shape), len(shape) - 1):
            return None
        source = f"{end.op.value} at the output"
        end = _before(graph, end)
    elif output.id == network.first and _judged_by_cross_entropy(context):
        source = "cross-entropy, assumed from the head"
    elif network.scores:
        source, assumed = "cross-entropy, assumed from the graph", True
    if end is None:
        return None
    head = _head(graph, end)
    weight = head.weight if head is not None else None
    if head is None or weight is None or weight.quantised or not weight.shape:
        return None
    classes = 2 if binary else weight.shape[0]
    if end.output_shape is not None and weight.shape[0] not in end.output_shape:
        return None  # averaged over the classes themselves
    if not source and (_tied(network, weight) is not None or _is_vocabulary(network, classes)):
        source, assumed = "a head over the vocabulary, taken to feed a cross-entropy", False
    if not source or classes < 2:
        return None
    return _Logits(end.id, head, weight, classes, source, assumed, binary)


def _judged_by_cross_entropy(context: Context) -> bool:
    """True when the probe took the first output for scores over classes."""
    return context.probe is not None and context.probe.loss_name.startswith("cross-entropy")


def _looks_like_scores(context: Context, outputs: list[Layer]) -> bool:
    """True where no loss is known, for one linear head of another width than the inputs.

    The same signs by which a probe with gradients chooses its loss.
    """
    graph = context.model.graph
    inputs = [layer for layer in graph if layer.op is Op.INPUT]
    end = _before(graph, outputs[0])
    shape = end.output_shape if end is not None else None
    while end is not None and _scales(end):
        end = _before(graph, end)
    if len(outputs) > 1 or end is None or shape is None or not _is_linear(graph, end):
        return False
    if context.probe is not None and context.probe.loss_name:
        return False
    if len(shape) == 3:
        return any(str(layer.attrs.get("dtype", "")).startswith("int") for layer in inputs)
    wide = shape[-1] is not None and shape[-1] >= FEWEST_SCORES
    return wide and all((item.output_shape or (0,))[-1] != shape[-1] for item in inputs)


def _is_linear(graph: LayerGraph, end: Layer) -> bool:
    """True for a linear layer, or scores of classes at positions, which are averaged."""
    scores = graph[before_averaging(graph, end.id)]
    return scores.op is Op.LINEAR or (scores.op is Op.CONV and scores.id != end.id)


def _before(graph: LayerGraph, layer: Layer) -> Layer | None:
    """The single producer, seen through operators that pass values on."""
    found = graph.effective_producers(layer.id)
    return found[0] if len(found) == 1 else None


def _head(graph: LayerGraph, layer: Layer) -> Layer | None:
    """The linear layer behind the logits, unless a temperature or a unit vector belongs to it.

    Its scores may be averaged over positions.
    """
    layer = graph[before_averaging(graph, layer.id)]
    while layer.op in (Op.MUL, Op.DIV, Op.ADD) and len(graph.inputs(layer.id)) == 1:
        if layer.params and layer.op is not Op.ADD:
            return None
        layer = graph[graph.inputs(layer.id)[0].source]
        while layer.op in TRANSPARENT and len(graph.inputs(layer.id)) == 1:
            layer = graph[graph.inputs(layer.id)[0].source]
    if layer.op not in (Op.LINEAR, Op.CONV):
        return None
    entering = graph.effective_producers(layer.id)
    return None if any(producer.op is Op.LP_NORM for producer in entering) else layer


def _scales(layer: Layer) -> bool:
    """True for a fixed temperature."""
    constant = layer.attrs.get("constant")
    return layer.op in (Op.MUL, Op.DIV) and not layer.params and isinstance(constant, int | float)


def _is_vocabulary(network: _Network, classes: int) -> bool:
    """True when an embedding has as many rows: the head scores the same vocabulary."""
    return classes >= 2 and any(
        layer.weight is not None and layer.weight.shape[0] == classes for layer, _ in network.tables
    )


def _tied(network: _Network, weight: Param) -> Layer | None:
    """The embedding that shares the head's table, on purpose."""
    for layer, param in network.tables:
        if weight.tied_to == param.name or param.tied_to == weight.name:
            return layer
    return None


def _std(context: Context, key: str) -> float | None:
    """Standard deviation of a tensor: measured, else predicted."""
    stats = context.probe.outputs.get(key) if context.probe else None
    if stats is not None and stats.count:
        return stats.std
    signal = context.theory.forward.get(key) if context.theory else None
    if signal is None or not -600 < signal.log_q < 600:
        return None
    return sqrt(exp(signal.log_q) * max(1 - signal.mean_share, 0.0))


def _rms(context: Context, head: Layer) -> float | None:
    """Root mean square of what enters the head: measured, else predicted."""
    edges = context.model.graph.inputs(head.id)
    if not edges:
        return None
    source = edges[0].source
    stats = context.probe.outputs.get(source) if context.probe else None
    if stats is not None and stats.count:
        return stats.rms
    signal = context.theory.forward.get(source) if context.theory else None
    if signal is None or not -600 < signal.log_q < 600:
        return None
    return float(sqrt(exp(signal.log_q)))
