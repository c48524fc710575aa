"""Weights that still hold their initial draw: the strict test that rules on checkpoints share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from initlint.api import Context, Family, Layer, Match, Op, Param, Role, Stage, record

MIN_UNIFORM = 256
"""Elements a uniform draw needs: the largest of n lies within 12/n of the bound with probability
1 - e^-12, so n = 256 pins the bound to 5 %, and one optimizer step moves about n*step/(2*bound)
weights outside: 1e-4 already put 47 of 65,536 there."""

MIN_NORMAL = 4096
"""Elements a normal draw needs: a normal has no edge to test, so the standard deviation must agree
with the named scheme to within 4/sqrt(2n) = 4.4 % and kurtosis to within 4 sqrt(24/n) = 0.3."""

WIDEST_NORMAL = 0.1
"""Standard deviation up to which a normal draw is judged. Training moves a weight by some 0.01 to
0.1 (Adam at 1e-3 over 10^2 to 10^4 steps of alternating sign); against an embedding drawn with
std 1 that changes the standard deviation by less than 0.5 %, and nothing shows."""

WHOLE_PREFIX = 0.9
"""Share of a module's weight elements that must be untrained to name the module as a whole."""

BOUND_MARGIN = 1.05
"""How far beyond the weight's largest value a default bias may reach: both have the same bound, and
the largest of 256 weights comes within 5 % of it."""


@record(frozen=True, slots=True)
class Untrained:
    """One weight that fits the exact distribution of a named scheme."""

    layer: Layer
    param: Param
    match: Match
    uniform: bool


def untrained_weights(context: Context) -> list[Untrained]:
    """Every trainable weight that passes the strict test, in the order of the graph.

    None where all that is trained is frozen: what trains there (adapters, a new decoder) is at its
    first step, and not one optimizer step has been taken that a weight could have missed.
    """
    found = [
        weight
        for layer, param in context.model.graph.params
        if (weight := _untrained(context, layer, param)) is not None
    ]
    return found if found and _has_stepped(context) else []


def _has_stepped(context: Context) -> bool:
    """True unless every trained weight is frozen."""
    trained = [
        param.trainable
        for _, param in context.model.graph.params
        if context.measures.stage(param) is Stage.TRAINED
    ]
    return not trained or any(trained)


def _untrained(context: Context, layer: Layer, param: Param) -> Untrained | None:
    if param.role not in (Role.WEIGHT, Role.RECURRENT_WEIGHT) or not param.trainable:
        return None
    if param.tied_to is not None or param.quantised or layer.op is Op.OTHER:
        return None
    if param.size < MIN_UNIFORM or context.measures.stage(param) is not Stage.FRESH:
        return None
    found = context.measures.identify(param)
    uniform = found.family is Family.UNIFORM
    if not uniform and (
        found.family not in (Family.NORMAL, Family.TRUNCATED_NORMAL)
        or param.size < MIN_NORMAL
        or found.std > WIDEST_NORMAL
    ):
        return None
    match = next((match for match in found.matches if match.true_fan), None)
    if match is None or not bias_untouched(context, layer, uniform=uniform):
        return None
    return None if _is_unread(context, layer) else Untrained(layer, param, match, uniform)


def _is_unread(context: Context, layer: Layer) -> bool:
    """True where all that reads a layer multiplies it by zero weights, as LoRA's second factor.

    What the draw holds then changes no output, and it waits for the zeros to move.
    """
    pending = list(context.model.graph.effective_consumers(layer.id))
    found = bool(pending)
    while pending and found:
        reader = pending.pop()
        if reader.op in (Op.MUL, Op.DIV) and "constant" in reader.attrs:
            further = context.model.graph.effective_consumers(reader.id)
            pending += further
            found = bool(further)
            continue
        moments = context.measures.moments(reader.weight) if reader.weight is not None else None
        found = moments is not None and moments.zeros == moments.count
    return found


def bias_untouched(context: Context, layer: Layer, *, uniform: bool) -> bool:
    """Biases are where initialisers leave them: zero, or within PyTorch's uniform bound."""
    for bias in layer.with_role(Role.BIAS, Role.RECURRENT_BIAS):
        moments = context.measures.moments(bias)
        if moments is None or moments.constant:
            continue
        weight = next(param for param in layer.params if param.role is not Role.BIAS)
        drawn = context.measures.moments(weight)
        if not uniform or drawn is None or moments.max_abs > drawn.max_abs * BOUND_MARGIN:
            return False
    return True


def under(name: str, prefix: str) -> bool:
    """True for a name inside a module path."""
    return name.startswith(prefix + ".")


def whole_modules(context: Context, untrained: Sequence[Untrained]) -> tuple[str, ...]:
    """Outermost module paths of which nearly all weights, two or more, are untrained."""
    if len(untrained) < 2:
        return ()
    total: dict[str, int] = defaultdict(int)
    fresh: dict[str, int] = defaultdict(int)
    layers: dict[str, int] = defaultdict(int)
    mine = {found.param.key for found in untrained}
    for _, param in context.model.graph.params:
        if param.role not in (Role.WEIGHT, Role.RECURRENT_WEIGHT):
            continue
        parts = param.name.split(".")[:-2]
        for end in range(1, len(parts) + 1):
            prefix = ".".join(parts[:end])
            total[prefix] += param.size
            if param.key in mine:
                fresh[prefix] += param.size
                layers[prefix] += 1
    whole = [
        prefix
        for prefix in sorted(total)
        if layers[prefix] > 1 and fresh[prefix] >= WHOLE_PREFIX * total[prefix]
    ]
    return tuple(p for p in whole if not any(under(p, other) for other in whole))
