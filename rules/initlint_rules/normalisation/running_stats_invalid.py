"""running-stats-invalid: batch-norm statistics that inference cannot use."""

from __future__ import annotations

from collections.abc import Iterator

from initlint.api import (
    WEIGHTED,
    Context,
    Finding,
    Fix,
    Layer,
    Moments,
    Need,
    Op,
    Role,
    Rule,
    Severity,
    Stage,
)

EPSILON = 1e-5
"""Epsilon of torch and ONNX batch norms, where the layer does not tell its own."""


class RunningStatsInvalid(Rule):
    """The running mean and variance of a batch norm cannot be right.

    What it does
    ------------
    Looks at the statistics that batch norms use in inference: negative variances, variances that
    are all zero, and statistics still at their start although the network is trained.

    Why is this bad
    ---------------
    In inference a batch norm divides by sqrt(variance + epsilon). A negative variance gives NaN; a
    variance of zero everywhere multiplies by 316; a start of (0, 1) in a trained network means
    that no batch ever passed in training mode, or that the buffers were not loaded, and the
    outputs have another scale than the next layers were trained on.

    How it decides
    --------------
    Exact. Variance at or below minus epsilon in any channel, or zero in all: an error. Mean exactly
    0 and variance exactly 1 in every channel, while the weights that feed the layer are trained: a
    warning.

    What it does not flag
    ---------------------
    Fresh networks, where (0, 1) is right; single channels of zero variance (dead units); batch
    norms without running statistics; NaN, which non-finite reports.

    Example
    -------
    ::

        from torch import nn

        def model():
            net = nn.Sequential(
                nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10)
            )
            nn.init.zeros_(net[1].running_var)
            return net

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            return nn.Sequential(
                nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10)
            )

    References
    ----------
    - Ioffe, Szegedy 2015, Batch normalization, section 3.1.
    - torch/nn/modules/batchnorm.py: running_mean 0, running_var 1, num_batches_tracked 0.
    """

    code = "NRM603"
    name = "running-stats-invalid"
    formula = "y = (x - mean) / sqrt(var + eps):  not a number for var < -eps"
    needs = frozenset({Need.WEIGHTS})
    stages = frozenset(Stage)
    folds = ("variance-profile", "saturation", "dead-relu", "correlation-collapse")

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per kind of fault, naming all layers that have it."""
        broken: dict[str, list[tuple[Layer, float]]] = {}
        for layer in context.model.graph.order:
            if layer.op is Op.BATCH_NORM and (fault := _fault(context, layer)) is not None:
                broken.setdefault(fault[0], []).append((layer, fault[1]))
        for fault_name, items in broken.items():
            yield _finding(fault_name, items)


NEGATIVE, ZERO, UNTOUCHED = "negative", "zero", "untouched"

_MESSAGES = {
    NEGATIVE: "has a negative running variance: inference gives NaN",
    ZERO: "has a running variance of zero in every channel: inference multiplies by 1/sqrt(eps)",
    UNTOUCHED: "still has running mean 0 and variance 1, but its weights are trained",
}

_EXPECTED = {
    NEGATIVE: "variances of zero or more",
    ZERO: "the variance of each channel over the training data",
    UNTOUCHED: "statistics gathered in training, or loaded with the weights",
}


def _fault(context: Context, layer: Layer) -> tuple[str, float] | None:
    """What is wrong with a layer's statistics, and the number that shows it."""
    mean, variance = (
        _moments(context, layer, role) for role in (Role.RUNNING_MEAN, Role.RUNNING_VAR)
    )
    if variance is None or variance.non_finite:
        return None
    if variance.min <= -float(layer.attrs.get("eps") or EPSILON):
        return NEGATIVE, variance.min
    if variance.constant and variance.max == 0:
        return ZERO, 0.0
    at_start = variance.constant and variance.max == 1 and mean is not None and mean.max_abs == 0
    return (UNTOUCHED, 1.0) if at_start and _fed_by_trained(context, layer) else None


def _moments(context: Context, layer: Layer, role: Role) -> Moments | None:
    param = next(iter(layer.with_role(role)), None)
    return context.measures.moments(param) if param is not None else None


def _fed_by_trained(context: Context, layer: Layer) -> bool:
    """True when the network is trained, and so is what feeds the layer where that is known."""
    if context.stage is not Stage.TRAINED:
        return False
    feeders = [
        producer
        for producer in context.model.graph.effective_producers(layer.id)
        if producer.op in WEIGHTED and producer.weight is not None
    ]
    return all(
        context.measures.stage(weight) is Stage.TRAINED
        for producer in feeders
        if (weight := producer.weight) is not None
    )


def _finding(fault: str, items: list[tuple[Layer, float]]) -> Finding:
    layer, value = items[0]
    variance = next(iter(layer.with_role(Role.RUNNING_VAR)), None)
    more = f" (and {len(items) - 1} more)" if len(items) > 1 else ""
    return Finding(
        severity=Severity.WARNING if fault == UNTOUCHED else Severity.ERROR,
        layer=layer.id,
        param=variance.name if variance is not None else None,
        layers=tuple(item.id for item, _ in items),
        message=f"{layer.id}{more} {_MESSAGES[fault]}",
        evidence={"fault": fault, "variance": value, "layers": len(items)},
        why="inference divides by sqrt(running variance + epsilon)",
        measured=f"running variance {value:.3g}" + (" everywhere" if fault != NEGATIVE else ""),
        expected=_EXPECTED[fault],
        fix=Fix(
            "advice",
            code="run some training batches in training mode (momentum None gives the plain "
            "average), or load the buffers with the weights",
        ),
    )
