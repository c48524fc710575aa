"""output-prior: a sigmoid head whose bias ignores how rare its class is."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, log, log1p

from initlint.api import (
    Confidence,
    Context,
    Finding,
    Fix,
    Layer,
    LayerGraph,
    Need,
    Op,
    Option,
    Param,
    Role,
    Rule,
    Severity,
    Stage,
    record,
)

RARE = 0.05
"""Prior from which a class is rare (or, above 1 - RARE, nearly certain): an uninformed bias of 0
then costs 0.5 nats more per label than the prior's own entropy of 0.2."""

OFF = 1.0
"""Difference of log-odds that matters: e times too many or too few expected positives."""

WASTE = 0.9
"""Share of the first loss that the right bias alone would save; above, the first steps learn the
prior and nothing else. At a prior of 0.01 a bias of 0 wastes 92 % (0.693 against 0.056 nats)."""

DETECTION_PRIOR = 0.01
"""RetinaNet's prior for a foreground class per anchor."""

DENSE = 50
"""Classes times anchors per position from which a dense sigmoid head is mostly negatives."""


@record(frozen=True, slots=True)
class _Head:
    layer: Layer
    bias: Param | None
    detector: bool


class OutputPrior(Rule):
    """The bias of a sigmoid head ignores the known share of positives.

    What it does
    ------------
    Compares the bias of a sigmoid head with the log-odds of the class prior: the one that you give
    (``--class-prior``, or ``class-prior`` under ``[tool.initlint.rules.output-prior]``), or 0.01
    for the class head of a dense detector.

    Why is this bad
    ---------------
    With a bias of 0 every label starts as an even guess. At one positive in a hundred the loss is
    0.69 nats per label where the prior alone gives 0.06: nine tenths of the first loss, and all of
    its gradient, come from negatives. Focal-loss detectors diverge from there. The bias
    log(p / (1 - p)) costs nothing: -4.6 for p = 0.01.

    How it decides
    --------------
    Only for a prior below 5 % or above 95 %. The mean bias is more than 1 off the log-odds: info;
    where the right bias would save more than 90 % of the first loss: warning. A detector is
    recognised by a convolution with 50 or more sigmoid outputs per position beside one with four
    numbers (a box) per anchor.

    What it does not flag
    ---------------------
    Heads whose prior is not known; softmax heads with a hard-negative loss (SSD); a bias that is
    already near the log-odds (RetinaNet's -4.595); gates; trained weights.

    Example
    -------
    ::

        import torch
        from torch import nn

        class Detector(nn.Module):
            def __init__(self):
                super().__init__()
                self.trunk = nn.Conv2d(3, 16, 3, padding=1)
                self.classes = nn.Conv2d(16, 9 * 20, 3, padding=1)
                self.boxes = nn.Conv2d(16, 9 * 4, 3, padding=1)
                for head in (self.classes, self.boxes):
                    nn.init.normal_(head.weight, std=0.01)
                    nn.init.zeros_(head.bias)

            def forward(self, x):
                x = torch.relu(self.trunk(x))
                return torch.sigmoid(self.classes(x)), self.boxes(x)

        def model():
            return Detector()

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        class Detector(nn.Module):
            def __init__(self):
                super().__init__()
                self.trunk = nn.Conv2d(3, 16, 3, padding=1)
                self.classes = nn.Conv2d(16, 9 * 20, 3, padding=1)
                self.boxes = nn.Conv2d(16, 9 * 4, 3, padding=1)
                for head in (self.classes, self.boxes):
                    nn.init.normal_(head.weight, std=0.01)
                    nn.init.zeros_(head.bias)
                nn.init.constant_(self.classes.bias, -4.595)

            def forward(self, x):
                x = torch.relu(self.trunk(x))
                return torch.sigmoid(self.classes(x)), self.boxes(x)

        def model():
            return Detector()

    References
    ----------
    - Lin, Goyal, Girshick, He, Dollar 2017, Focal loss for dense object detection, section 3.3.
    - torchvision, models/detection/retinanet.py.
    """

    code = "BIA902"
    name = "output-prior"
    formula = "loss per negative = -ln(1 - s(b));  wanted: b = ln(p / (1 - p))"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    options = {
        "class-prior": Option(
            0.0,
            "share of positives among the labels of a sigmoid head; 0: unknown, and only dense "
            "detectors are judged (by RetinaNet's 0.01)",
        ),
    }

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per head."""
        told = float(context.options.get("class-prior", 0.0))
        for head in _heads(context.model.graph):
            prior = told if 0.0 < told < 1.0 else DETECTION_PRIOR if head.detector else None
            if prior is None or RARE <= prior <= 1.0 - RARE:
                continue
            bias = 0.0
            if head.bias is not None:
                moments = context.measures.moments(head.bias)
                if moments is None or context.measures.stage(head.bias) is Stage.TRAINED:
                    continue
                bias = moments.mean
            weight = head.layer.weight
            if weight is None or context.measures.stage(weight) is Stage.TRAINED:
                continue
            wanted = log(prior / (1 - prior))
            if abs(bias - wanted) > OFF:
                yield _finding(head, bias, wanted, prior, told=prior == told)


def _heads(graph: LayerGraph) -> Iterator[_Head]:
    """Heads that end in a sigmoid, and single logits that are the only output."""
    outputs = [layer for layer in graph.order if layer.op is Op.OUTPUT]
    for output in outputs:
        ends = graph.effective_producers(output.id)
        if len(ends) != 1:
            continue
        head = ends[0]
        squashed = head.op is Op.SIGMOID
        if squashed:
            above = graph.effective_producers(head.id)
            if len(above) != 1:
                continue
            head = above[0]
        weight = head.weight
        if head.op not in (Op.LINEAR, Op.CONV) or weight is None or weight.quantised:
            continue
        if not squashed and (weight.shape[0] != 1 or len(outputs) != 1):
            continue
        bias = next(iter(head.with_role(Role.BIAS)), None)
        yield _Head(head, bias, squashed and _is_detector(graph, head, weight))


def _is_detector(graph: LayerGraph, head: Layer, weight: Param) -> bool:
    """True for a dense class head with a sibling that gives four numbers per anchor."""
    if head.op is not Op.CONV or weight.shape[0] < DENSE or _positions(head) == 1:
        return False
    for other in graph.weighted:
        boxes = other.weight
        if other.op is not Op.CONV or boxes is None or not graph.is_head(other.id):
            continue
        anchors, rest = divmod(boxes.shape[0], 4)
        alike = (other.output_shape or ())[2:] == (head.output_shape or ())[2:]
        if not rest and anchors and not weight.shape[0] % anchors and alike:
            classes = weight.shape[0] // anchors
            if classes > 1 and other.id != head.id:
                return True
    return False


def _positions(layer: Layer) -> int | None:
    sides = (layer.output_shape or ())[2:]
    return 1 if sides and all(side == 1 for side in sides) else None


def _loss(logit: float, prior: float) -> float:
    """Expected binary cross-entropy of one logit for labels of this prior."""
    softplus = max(logit, 0.0) + log1p(exp(-abs(logit)))
    return softplus - prior * logit


def _finding(head: _Head, bias: float, wanted: float, prior: float, *, told: bool) -> Finding:
    first, best = _loss(bias, prior), _loss(wanted, prior)
    saved = 1.0 - best / first
    name = head.bias.name if head.bias is not None else f"{head.layer.id}.bias"
    source = "as you said" if told else "assumed for the class head of a detector"
    return Finding(
        severity=Severity.WARNING if saved > WASTE else Severity.INFO,
        confidence=Confidence.HIGH if told else Confidence.MEDIUM,
        layer=head.layer.id,
        param=name if head.bias is not None else None,
        message=f"{name} starts at {bias:.2g} for a class prior of {prior:g} ({source}): the "
        f"first loss is {first:.2g} per label instead of {best:.2g}",
        evidence={
            "bias": bias,
            "bias_wanted": wanted,
            "prior": prior,
            "first_loss": first,
            "loss_of_the_prior": best,
            "saved_share": saved,
        },
        why="until the bias has reached the log-odds of the prior, the common label makes all of "
        "the gradient",
        measured=f"bias {bias:.2g}",
        expected=f"log(p / (1 - p)) = {wanted:.2f}",
        fix=Fix(
            "constant",
            params=(head.bias.key,) if head.bias is not None else (),
            arguments={"value": wanted},
            code=f"torch.nn.init.constant_({name}, {wanted:.3f})",
        ),
    )
