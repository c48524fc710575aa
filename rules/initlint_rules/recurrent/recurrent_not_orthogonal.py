"""recurrent-not-orthogonal: recurrent weights that lose or blow up the gradient over time."""

from __future__ import annotations

from collections.abc import Iterator
from math import log

from initlint.api import (
    RECURRENT,
    Confidence,
    Context,
    Finding,
    Fix,
    Layer,
    Need,
    Op,
    Option,
    Param,
    RecurrentResponse,
    Role,
    Rule,
    Severity,
    Stage,
    recurrent_harm,
    recurrent_weights,
    saturation_harm,
    severity_of,
    simulate_recurrent,
)

ORTHOGONAL = 5e-3
"""Largest ||W W^T - g^2 I|| / g^2 of a block that counts as orthogonal: 4e-7 in float32, up to
8e-4 after rounding to bfloat16, 0.18 and more for a Gaussian."""

OFF_SCALE = 0.05
"""|ln g| from which an orthogonal block of scale g is simulated too: over 50 steps it makes
0.05 * 50 / ln 10 = 1.1 decades, just below what is worth a warning."""


class RecurrentNotOrthogonal(Rule):
    """Recurrent weights are far from orthogonal, and the gradient through time shows it.

    What it does
    ------------
    Measures how far each gate's hidden-to-hidden block is from a multiple of an orthogonal matrix,
    then simulates the layer with its own weights and biases on white noise over the sequence length
    and carries a random tangent along: what a gradient at the last step is worth at the first.

    Why is this bad
    ---------------
    The gradient at step 0 is a product of T Jacobians. With singular values spread around a radius
    other than 1 it vanishes or explodes geometrically: PyTorch's default U(+-1/sqrt(hidden)) has
    spectral radius 0.58 and leaves 10^-15 of the gradient after 50 steps of a plain RNN. N(0, 1)
    recurrent weights drive gates into saturation or make the state chaotic.

    How it decides
    --------------
    Not orthogonal: ||W W^T - g^2 I|| > 0.005 g^2 for some gate, or g away from 1. The severity is
    the harm that the simulation shows over T steps. A plain RNN: gradient below 10^-4 warning,
    below 10^-7.2 (one float32 rounding error) error. Any cell: gradient above 10^1.5 warning, above
    10^3 error; saturated share above 0.3 warning, above 0.7 error. T is the graph's sequence length
    or `--sequence-length`; otherwise 50 is assumed, the message says so, and a vanishing gradient
    is reported one level lower.

    What it does not flag
    ---------------------
    Gated cells (LSTM, GRU) at any usual scale: the gates decide there. Identity recurrences with a
    ReLU (IRNN). Orthogonal blocks. Frozen reservoirs, trained weights.

    Example
    -------
    ::

        from torch import nn

        def model():
            lstm = nn.LSTM(32, 64, batch_first=True)
            nn.init.normal_(lstm.weight_hh_l0)
            return lstm

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            lstm = nn.LSTM(32, 64, batch_first=True)
            for gate in lstm.weight_hh_l0.chunk(4):
                nn.init.orthogonal_(gate)
            return lstm

    References
    ----------
    - Saxe, McClelland, Ganguli 2013, Exact solutions to the nonlinear dynamics of learning.
    - Le, Jaitly, Hinton 2015, A simple way to initialize recurrent networks of rectified linear
      units.
    """

    code = "REC406"
    name = "recurrent-not-orthogonal"
    formula = "|W W^T - g^2 1| > 0.005 g^2;  gradient over T steps: (rho(W) sqrt(E[phi'^2]))^T"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    local = True
    folds = (
        "saturation",
        "variance-profile",
        "forward-drift",
        "gradient-profile",
        "correlation-collapse",
    )
    options = {
        "max-hidden": Option(
            2048,
            "wider layers are not simulated: 50 steps of two sequences already cost 10^10 products",
        )
    }

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per recurrent layer whose gradient or gates suffer."""
        for layer in context.model.graph.weighted:
            if layer.op not in RECURRENT:
                continue
            blocks = [
                param
                for param in layer.with_role(Role.RECURRENT_WEIGHT)
                if param.trainable and param.tensor is not None
            ]
            if not blocks or any(
                param.quantised or context.measures.stage(param) is not Stage.FRESH
                for param in blocks
            ):
                continue
            if blocks[0].shape[0] > int(context.options["max-hidden"]):
                continue
            loose = {
                param.key: measured.residual
                for param in blocks
                if (measured := context.measures.orthogonality(param)) is not None
                and (measured.residual > ORTHOGONAL or abs(log(measured.gain)) > OFF_SCALE)
            }
            if loose:
                yield from self._layer(context, layer, blocks, loose)

    def _layer(
        self, context: Context, layer: Layer, blocks: list[Param], loose: dict[str, float]
    ) -> Iterator[Finding]:
        steps = context.sequence_length
        for direction in sorted({param.direction for param in blocks}):
            weights = recurrent_weights(layer, direction, context.measures.read)
            if weights is None:
                continue
            response = simulate_recurrent(weights, steps)
            harm = _harm(layer.op, response, steps, known=context.sequence_length_known)
            if harm is None:
                continue
            severity, measured, why = harm
            here = [param for param in blocks if param.direction == direction]
            worst = max(here, key=lambda param: loose.get(param.key, 0.0))
            residual = loose.get(worst.key, 0.0)
            assumed = "" if context.sequence_length_known else " (assumed)"
            yield Finding(
                severity=severity,
                confidence=Confidence.HIGH if context.sequence_length_known else Confidence.MEDIUM,
                layer=layer.id,
                param=worst.name,
                message=f"recurrent weights of {layer.id} are not orthogonal"
                + (" of scale 1" if residual <= ORTHOGONAL else "")
                + f": {measured} over {steps}{assumed} steps",
                evidence={
                    "orthogonality_residual": residual,
                    "gradient_decades": response.decades_at(steps),
                    "saturated_share": response.saturated,
                    "state_rms": response.state_rms,
                    "steps": steps,
                    "steps_known": context.sequence_length_known,
                },
                why=why,
                measured=f"||W W^T - g^2 I|| = {residual:.2g} g^2, {measured}",
                expected="orthogonal blocks: residual below 0.005, gradient within 10^+-1.5",
                fix=Fix(
                    "orthogonal",
                    params=tuple(param.key for param in here),
                    code=_code(worst.name, len(here)),
                ),
            )


def _harm(
    op: Op, response: RecurrentResponse, steps: int, *, known: bool
) -> tuple[Severity, str, str] | None:
    decades = response.decades_at(steps)
    found: list[tuple[Severity, str, str]] = []
    exploding = severity_of(recurrent_harm(decades)) if decades > 0 else None
    if exploding:
        found.append(
            (
                exploding,
                f"the gradient grows 10^{decades:.1f} times",
                "singular values above 1 multiply at every step: the state is chaotic and the "
                "gradient explodes",
            )
        )
    saturated = severity_of(saturation_harm(response.saturated))
    if saturated:
        found.append(
            (
                saturated,
                f"{response.saturated:.0%} of the gate units are saturated",
                "large recurrent weights push gates to 0 or 1, where their gradient vanishes",
            )
        )
    gated = op is not Op.RNN  # there the gates decide what is kept
    vanishing = severity_of(recurrent_harm(decades)) if decades < 0 and not gated else None
    if vanishing:
        if not known:
            vanishing = Severity.WARNING if vanishing is Severity.ERROR else Severity.INFO
        found.append(
            (
                vanishing,
                f"the gradient shrinks to 10^{decades:.1f}",
                "singular values below 1 multiply at every step: what happened early cannot be "
                "learned",
            )
        )
    return max(found, key=lambda item: item[0].rank, default=None)


def _code(name: str, gates: int) -> str:
    if gates == 1:
        return f"torch.nn.init.orthogonal_({name})"
    return f"for gate in {name}.chunk({gates}): torch.nn.init.orthogonal_(gate)"
