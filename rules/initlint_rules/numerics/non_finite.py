"""non-finite: NaN or infinity among the weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from initlint.api import Context, Finding, Fix, Layer, Need, Op, Param, Role, Rule, Severity, Stage


class NonFinite(Rule):
    """A parameter or buffer holds NaN or infinity.

    What it does
    ------------
    Counts NaN and infinite elements of every floating parameter and buffer, and of fixed factors.

    Why is this bad
    ---------------
    One NaN spreads to every output that depends on it, and to every gradient. The usual causes are
    a parameter left at `torch.empty` (a new head, a module without `reset_parameters` that was
    built on the meta device), a log or division in a hand-written initialiser, and overflow when a
    checkpoint was cast to half precision.

    How it decides
    --------------
    Exact: at least one element is not finite. Always an error.

    What it does not flag
    ---------------------
    Minus infinity in a mask or bias table (a causal attention mask, a logit mask): an additive
    table, not trainable or not a weight, whose non-finite elements are all minus infinity.

    Example
    -------
    ::

        import torch
        from torch import nn

        def model():
            net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
            with torch.no_grad():
                net[0].weight[3, 5] = float("nan")
            return net

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        def model():
            net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
            nn.init.kaiming_normal_(net[0].weight, nonlinearity="relu")
            return net

    References
    ----------
    - transformers issue 46002: heads missing from a checkpoint came back as NaN in half precision.
    """

    code = "NUM951"
    name = "non-finite"
    formula = "w is NaN or infinite"
    needs = frozenset({Need.WEIGHTS})
    stages = frozenset(Stage)
    folds = (
        "uninitialised-memory",
        "forward-drift",
        "variance-profile",
        "gradient-profile",
        "correlation-collapse",
        "zero-gradient",
    )

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per parameter with non-finite elements."""
        for layer, param in context.model.graph.params:
            if param.tied_to is None:
                yield from self._param(context, layer, param)
        for param in context.model.loose:
            yield from self._param(context, None, param)
        for layer in context.model.graph:
            if layer.op in (Op.MUL, Op.DIV, Op.ADD, Op.SUB):
                yield from _operand(layer)

    def _param(self, context: Context, layer: Layer | None, param: Param) -> Iterator[Finding]:
        moments = context.measures.moments(param)
        values = context.measures.read(param) if moments and moments.non_finite else None
        if moments is None or values is None or _is_mask(param, values):
            return
        bad = np.flatnonzero(~np.isfinite(values.reshape(-1)))
        index = np.unravel_index(int(bad[0]), param.shape) if param.shape else ()
        kinds = " and ".join(
            f"{count:,} {kind}"
            for count, kind in ((moments.nan, "NaN"), (moments.inf, "infinite"))
            if count
        )
        place = ", ".join(str(int(axis)) for axis in index)
        yield Finding(
            severity=Severity.ERROR,
            layer=layer.id if layer else param.name,
            param=param.name,
            message=f"{kinds} of {moments.count:,} values of {param.name} are not finite",
            evidence={
                "nan": moments.nan,
                "inf": moments.inf,
                "count": moments.count,
                "first_index": [int(axis) for axis in index],
                "dtype": param.dtype,
            },
            why="a non-finite weight makes every output and gradient that depends on it non-finite",
            measured=f"{kinds}, first at [{place}]",
            expected="finite numbers",
            fix=Fix("reinitialise", params=(param.key,), code=_advice(layer, param)),
        )


def _operand(layer: Layer) -> Iterator[Finding]:
    """A fixed operand, such as a buffer that a forward pass multiplies by.

    What is added may hold infinities: masks do, and distances that a minimum ignores.
    """
    constant = layer.attrs.get("constant")
    values = np.asarray(constant) if constant is not None else np.zeros(0)
    if values.dtype.kind != "f":
        return
    infinite = np.isinf(values) if layer.op is Op.MUL else np.zeros(values.shape, dtype=bool)
    bad = int((np.isnan(values) | infinite).sum())
    if bad:
        yield Finding(
            severity=Severity.ERROR,
            layer=layer.id,
            message=f"{bad:,} of {values.size:,} values of the fixed operand of {layer.id} are "
            "not finite",
            evidence={"bad": bad, "count": int(values.size)},
            why="whatever comes in, the output is not finite there, and neither is the gradient",
            measured=f"{bad:,} not finite",
            expected="finite numbers",
            fix=Fix("advice", code="compute the buffer again, or load it again"),
        )


def _is_mask(param: Param, values: np.ndarray) -> bool:
    """An additive table of which only minus infinity is not finite (a logit mask)."""
    if param.role in (Role.WEIGHT, Role.RECURRENT_WEIGHT, Role.BIAS, Role.GAIN):
        return False
    return bool(np.all(np.isneginf(values[~np.isfinite(values)])))


def _advice(layer: Layer | None, param: Param) -> str:
    owner = layer.id if layer else param.name
    return f"re-initialise {owner}: call its reset_parameters(), or load the tensor again"
