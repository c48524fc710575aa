"""recurrent-not-orthogonal: recurrent weights that lose or blow up the gradient over time."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite, log, sqrt

from initlint.api import (
    RECURRENT,
    Confidence,
    Context,
    Family,
    Finding,
    Fix,
    Layer,
    Need,
    Op,
    Option,
    Param,
    RecurrentResponse,
    RecurrentWeights,
    Role,
    Rule,
    Severity,
    Stage,
    Unrolled,
    record,
    recurrent_harm,
    recurrent_weights,
    saturation_harm,
    severity_of,
    simulate_recurrent,
    unrolled_recurrences,
    unrolled_weights,
)

ORTHOGONAL = 5e-3
"""Largest ||W W^T - g^2 I|| / g^2 of a block that counts as orthogonal: 4e-7 in float32, up to
8e-4 after rounding to bfloat16, 0.18 and more for a Gaussian."""

ONE_DIRECTION = 0.7
"""Share of what differs between sequences along one direction of the state from which the others
are lost. LSTMs and RNNs of 48 units with 0.05, 1 or U(0, 1) for a recurrent matrix have 0.85 to 1.0
and did not learn; GRUs (which kept learning) and matrices around zero of any scale 0.05 to 0.34."""

NOTHING = -300.0
"""Decades that stand for a gradient of exactly zero."""

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
    Not orthogonal: ||W W^T - g^2 I|| > 0.005 g^2 for some gate, or g away from 1; or orthogonal in
    an RNN of ReLUs, half of whose units stop the gradient at every step. The severity is the harm
    that the simulation shows over T steps. A plain RNN: gradient below 10^-4 warning,
    below 10^-7.2 (one float32 rounding error) error. Any cell: gradient above 10^1.5 warning, above
    10^3 error; saturated share of all gates, or of the candidate (the signal; what its bias
    saturates left out), above 0.3 warning, above 0.7 error; 70 % of what differs between
    sequences along one direction of the state, for weights whose mean outweighs their spread:
    warning. T is the graph's sequence length
    or `--sequence-length`; otherwise 50 is assumed, the message says so, and a vanishing gradient
    is reported one level lower. A loop over a cell, or over one matrix and a tanh or ReLU as
    exporters write plain RNNs, has as many steps as calls.

    What it does not flag
    ---------------------
    Gated cells (LSTM, GRU) at any usual scale: the gates decide there. Identity recurrences with a
    ReLU (IRNN). Orthogonal blocks, but for ReLUs over a long sequence. Frozen reservoirs, trained
    weights.

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
        "zero-gradient",
        "correlation-collapse",
        "gain-mismatch",
        "relu-after-xavier",
    )
    options = {
        "max-hidden": Option(
            2048,
            "wider layers are not simulated: 50 steps of two sequences already cost 10^10 products",
        )
    }

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per recurrence whose gradient or gates suffer."""
        graph = context.model.graph
        for recurrence in _recurrences(context):
            blocks = [param for param in recurrence.blocks if param.tensor is not None]
            if not blocks or blocks[0].shape[0] > int(context.options["max-hidden"]):
                continue
            if any(
                not param.trainable or param.quantised or not _drawn(context, param)
                for param in blocks
            ):
                continue
            loose = {
                param.key: measured.residual
                for param in blocks
                if (measured := context.measures.orthogonality(param)) is not None
                and (
                    measured.residual > ORTHOGONAL
                    or measured.gain == 0
                    or abs(log(measured.gain)) > OFF_SCALE
                    or recurrence.rectified
                )
            }
            if not loose:
                if recurrence.op is Op.RNN and _is_identity(context, blocks):
                    yield _identity(recurrence, blocks[0], _others(context, blocks[0]))
                continue
            for direction in sorted({param.direction for param in blocks}):
                weights = (
                    recurrent_weights(graph[recurrence.layers[0]], direction, context.measures.read)
                    if recurrence.unrolled is None
                    else unrolled_weights(
                        recurrence.unrolled, graph[recurrence.layers[0]], context.measures.read
                    )
                )
                if weights is not None and not _is_all_zero(weights):
                    here = [param for param in blocks if param.direction == direction]
                    yield from _findings(context, recurrence, weights, here, loose)


def _is_identity(context: Context, blocks: list[Param]) -> bool:
    return all(context.measures.identify(param).family is Family.IDENTITY for param in blocks)


def _identity(recurrence: _Recurrence, block: Param, calls: tuple[str, ...]) -> Finding:
    """An identity behind a tanh: each unit hears itself alone, and what it sums saturates."""
    first = recurrence.layers[0]
    return Finding(
        severity=Severity.INFO,
        confidence=Confidence.HIGH,
        layer=first,
        layers=(first,),
        culprits=calls,
        param=block.name,
        message=f"recurrent weights of {first} are the identity, which suits a ReLU: a tanh bends "
        "what each unit sums, and no unit hears another",
        evidence={"steps": recurrence.steps, "steps_known": recurrence.steps_known},
        why="tanh networks with an identity that had to recall a symbol of 60 steps made half of "
        "the progress of those with an orthogonal matrix",
        measured="W = 1",
        expected="an orthogonal matrix, or a ReLU behind the identity",
        fix=Fix("orthogonal", params=(block.key,), code=_code(block.name, 1)),
    )


def _is_all_zero(weights: RecurrentWeights) -> bool:
    """True for a cell that nothing enters: that it cannot remember is no fault besides."""
    blocks = (*weights.recurrent.values(), *weights.inputs.values())
    return not any(block.any() for block in blocks)


def _drawn(context: Context, param: Param) -> bool:
    """Whether no step was taken from here: training leaves no matrix of one number.

    Where the whole model is fresh, a matrix that follows no known law (a few numbers among zeros)
    is so as well.
    """
    moments = context.measures.moments(param)
    constant = moments is not None and moments.constant
    stage = context.measures.stage(param)
    fresh = Stage.FRESH in (stage, context.stage) and stage is not Stage.TRAINED
    return constant or fresh


@record(frozen=True, slots=True)
class _Recurrence:
    """A recurrent layer, a cell with all its calls, or steps written out one by one."""

    layers: tuple[str, ...]
    op: Op
    blocks: tuple[Param, ...]
    steps: int
    steps_known: bool
    input_rms: float = 1.0
    unrolled: Unrolled | None = None
    rectified: bool = False


def _recurrences(context: Context) -> Iterator[_Recurrence]:
    graph = context.model.graph
    calls: dict[tuple[str, ...], list[Layer]] = {}
    for layer in graph.weighted:
        if layer.op in RECURRENT:
            names = tuple(param.key for param in layer.with_role(Role.RECURRENT_WEIGHT))
            calls.setdefault(names, []).append(layer)
    for layers in calls.values():
        cell = bool(layers[0].attrs.get("cell")) and len(layers) > 1
        yield _Recurrence(
            tuple(layer.id for layer in layers),
            layers[0].op,
            layers[0].with_role(Role.RECURRENT_WEIGHT),
            len(layers) if cell else context.sequence_length,
            cell or context.sequence_length_known,
            rectified=layers[0].attrs.get("nonlinearity") == "relu",
        )
    for found in unrolled_recurrences(graph):
        yield _Recurrence(
            found.steps,
            Op.RNN,
            (found.weight,),
            len(found.steps),
            True,
            _input_rms(context, found),
            found,
            found.activation is Op.RELU,
        )


def _input_rms(context: Context, found: Unrolled) -> float:
    """Mean rms of what the steps add, 1 where it was not observed."""
    seen = context.probe.outputs if context.probe is not None else {}
    squares = [seen[key].rms ** 2 for key in found.inputs if key in seen and seen[key].count]
    mean = sum(squares) / len(squares) if squares else 1.0
    return sqrt(mean) if isfinite(mean) and mean > 0 else 1.0


def _written_out(recurrence: _Recurrence) -> tuple[str, ...]:
    """The other layers of steps that are written out: a cell holds them inside."""
    found = recurrence.unrolled
    return found.inputs + found.others if found is not None else ()


def _others(context: Context, weight: Param) -> tuple[str, ...]:
    """All layers that read a weight, steps of another loop among them."""
    return context.model.graph.readers.get(weight.key, ())


def _sums_the_state(context: Context, param: Param) -> bool:
    """True when the mean of the weights feeds the sum of the state back, and outweighs the rest."""
    moments = context.measures.moments(param)
    if moments is None:
        return False
    common, width = abs(moments.mean) * param.shape[-1], param.shape[-1]
    return common > max(1.0, 2.0 * moments.std * sqrt(width))


def _findings(
    context: Context,
    recurrence: _Recurrence,
    weights: RecurrentWeights,
    here: list[Param],
    loose: dict[str, float],
) -> Iterator[Finding]:
    steps, known = recurrence.steps, recurrence.steps_known
    response = simulate_recurrent(weights, steps, input_rms=recurrence.input_rms)
    alike = any(_sums_the_state(context, param) for param in here)
    harm = _harm(recurrence.op, response, steps, known=known, alike=alike)
    if harm is None:
        return
    severity, measured, why = harm
    first = recurrence.layers[0]
    worst = max(here, key=lambda param: loose.get(param.key, 0.0))
    residual = loose.get(worst.key, 0.0)
    yield Finding(
        severity=severity,
        confidence=Confidence.HIGH if known else Confidence.MEDIUM,
        layer=first,
        layers=(first,),  # the other steps are calls of it
        culprits=recurrence.layers + _written_out(recurrence) + _others(context, worst),
        param=worst.name,
        message=f"recurrent weights of {first} {_what(recurrence, weights, residual)}: {measured} "
        f"over {steps}{'' if known else ' (assumed)'} steps",
        evidence={
            "orthogonality_residual": residual if isfinite(residual) else None,
            "gradient_decades": response.decades_at(steps),
            "saturated_share": response.saturated,
            "candidate_saturated_share": response.candidate_saturated,
            "state_rms": response.state_rms,
            "one_direction": response.one_direction,
            "steps": steps,
            "steps_known": known,
        },
        why=why,
        measured=f"||W W^T - g^2 I|| = {residual:.2g} g^2, {measured}"
        if isfinite(residual)
        else f"W = 0, {measured}",
        expected="the identity: behind a ReLU it sums, and keeps the gradient"
        if recurrence.rectified
        else "orthogonal blocks: residual below 0.005, gradient within 10^+-1.5",
        fix=Fix(
            "identity" if recurrence.rectified else "orthogonal",
            params=tuple(param.key for param in here),
            code=f"torch.nn.init.eye_({worst.name})"
            if recurrence.rectified
            else _code(worst.name, len(here)),
        ),
    )


def _harm(
    op: Op, response: RecurrentResponse, steps: int, *, known: bool, alike: bool
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
    share = max(response.saturated, response.candidate_saturated)
    saturated = severity_of(saturation_harm(share))
    if saturated:
        what = "gate units" if share == response.saturated else "candidate's values"
        found.append(
            (
                saturated,
                f"{share:.0%} of the {what} are saturated",
                "large recurrent weights push units to their ends, where their gradient vanishes",
            )
        )
    if alike and response.one_direction >= ONE_DIRECTION:
        found.append(
            (
                Severity.WARNING,
                f"{response.one_direction:.0%} of what differs between sequences lies in one "
                "direction of the state",
                "weights around another number than zero feed the sum of the state back to every "
                "unit, until all of them follow it",
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
                f"the gradient shrinks to 10^{decades:.1f}"
                if decades > NOTHING
                else "no gradient passes a step",
                "singular values below 1 multiply at every step: what happened early cannot be "
                "learned",
            )
        )
    return max(found, key=lambda item: item[0].rank, default=None)


def _what(recurrence: _Recurrence, weights: RecurrentWeights, residual: float) -> str:
    """What is wrong with the blocks, in words."""
    if all(not block.any() for block in weights.recurrent.values()):
        return "are all zero"
    if residual > ORTHOGONAL:
        return "are not orthogonal"
    squares = [float((block**2).sum() / len(block)) for block in weights.recurrent.values()]
    if recurrence.rectified and all(abs(log(square)) < 2 * OFF_SCALE for square in squares):
        return "are orthogonal, which a ReLU undoes at every step"
    return "are not orthogonal of scale 1"


def _code(name: str, gates: int) -> str:
    if gates == 1:
        return f"torch.nn.init.orthogonal_({name})"
    return f"for gate in {name}.chunk({gates}): torch.nn.init.orthogonal_(gate)"
