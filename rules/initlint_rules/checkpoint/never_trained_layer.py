"""never-trained-layer: layers of a trained model that still hold their initial draw."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from initlint.api import (
    Confidence,
    Context,
    Family,
    Finding,
    Fix,
    Kind,
    Layer,
    Match,
    Need,
    Op,
    Param,
    Role,
    Rule,
    Severity,
    Stage,
)

MIN_UNIFORM = 256
"""Elements a uniform draw needs: the largest of n lies within 12/n of the bound with probability
1 - e^-12, so n = 256 pins the bound to 5 %, and one optimizer step moves about n*step/(2*bound)
weights outside: 1e-4 already put 47 of 65,536 there."""

MIN_NORMAL = 4096
"""Elements a normal draw needs: a normal has no edge to test, so the standard deviation must agree
with the named scheme to within 4/sqrt(2n) = 4.4 % and kurtosis to within 4 sqrt(24/n) = 0.3."""

WHOLE_PREFIX = 0.9
"""Share of a module's weight elements that must be untrained to name the module as a whole."""


@dataclass(frozen=True, slots=True)
class _Untrained:
    layer: Layer
    param: Param
    match: Match
    uniform: bool


class NeverTrainedLayer(Rule):
    """A layer is indistinguishable from its initialiser while the rest of the model is trained.

    What it does
    ------------
    In a model that is trained as a whole, finds weights that still fit the exact distribution a
    framework draws them from.

    Why is this bad
    ---------------
    The layer was never loaded (a renamed prefix, a new head that nobody fine-tuned), never received
    a gradient, or was left out of the optimizer. The checkpoint runs, and its predictions are
    partly random.

    How it decides
    --------------
    Uniform schemes: every value lies within the scheme's bound, and the largest comes within 12/n
    of it; one optimizer step of 1e-4 breaks this. Normal schemes: standard deviation within four
    standard errors of a named scheme, and kurtosis, skewness, row norms and the largest singular
    value as for independent draws; this is weaker (a low-rank update is invisible) and is said so.
    A bias, where there is one, must be at its initial value too. A module of which nine tenths are
    untrained is named as a whole. Error on the path to the output in an exported or bare
    checkpoint; a last layer alone is a warning (it may be the start of a fine-tuning run), and so
    are recurrent weights of a layer whose input weights are trained (it only ever saw one step).

    What it does not flag
    ---------------------
    Frozen parameters and fixed random features. Zero-initialised layers. Tensors too small to tell.
    Models of which nothing is trained.

    Example
    -------
    ::

        import torch
        from torch import nn

        def model():
            net = nn.Sequential(*[nn.Linear(128, 128) for _ in range(5)])
            with torch.no_grad():
                for index in (0, 1, 3, 4):
                    weight = net[index].weight
                    weight += torch.randn(128, 4) @ torch.randn(4, 128) / 50
                    net[index].bias += 0.1 * torch.randn(128)
            return net

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        def model():
            net = nn.Sequential(*[nn.Linear(128, 128) for _ in range(5)])
            with torch.no_grad():
                for layer in net:
                    layer.weight += torch.randn(128, 4) @ torch.randn(4, 128) / 50
                    layer.bias += 0.1 * torch.randn(128)
            return net

    References
    ----------
    - transformers issue 48722: a base model loaded from a task checkpoint kept every weight random.
    - Baik, Ben Arous, Peche 2005: the size a low-rank update needs to leave the random bulk.
    """

    code = "CKP101"
    name = "never-trained-layer"
    needs = frozenset({Need.WEIGHTS})
    stages = frozenset({Stage.TRAINED, Stage.MIXED})

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per untrained module or scheme."""
        untrained = [
            found
            for layer, param in context.model.graph.params
            if (found := _untrained(context, layer, param)) is not None
        ]
        groups: dict[str, list[_Untrained]] = defaultdict(list)
        prefixes = _whole_prefixes(context, untrained)
        for found in untrained:
            prefix = next((name for name in prefixes if _under(found.param.name, name)), "")
            groups[prefix or found.match.scheme].append(found)
        for key, members in sorted(groups.items()):
            yield self._finding(context, key if key in prefixes else None, members)

    def _finding(self, context: Context, prefix: str | None, members: list[_Untrained]) -> Finding:
        first = members[0]
        elements = sum(member.param.size for member in members)
        exact = all(member.uniform for member in members)
        heads = all(_is_last(context, member.layer) for member in members)
        severity = Severity.WARNING if heads or not exact else Severity.ERROR
        inert = all(_only_recurrent(context, member) for member in members)
        if inert or context.model.kind is Kind.TORCH:
            severity = Severity.WARNING
        schemes = sorted({member.match.scheme for member in members})
        subject = f"all of {prefix}" if prefix else first.layer.id
        layers = tuple(dict.fromkeys(member.layer.id for member in members))
        if not prefix and len(layers) > 1:
            subject += f" and {len(layers) - 1} more layers"
        if inert:
            subject = f"the recurrent weights of {subject}"
        verb = "still holds" if prefix or (len(layers) == 1 and not inert) else "still hold"
        return Finding(
            severity=severity,
            confidence=Confidence.HIGH if exact else Confidence.MEDIUM,
            layer=first.layer.id,
            param=first.param.name,
            layers=layers,
            message=f"{subject} {verb} the initial draw ({', '.join(schemes)}) in a trained model",
            evidence={
                "schemes": schemes,
                "elements": elements,
                "exact_bound": exact,
                "params": [member.param.name for member in members][:20],
            },
            why=_INERT
            if inert
            else "these weights were never loaded or never trained: their outputs are random",
            measured=f"{elements:,} weights fit {', '.join(schemes)}"
            + (" to the bound" if exact else " (a low-rank update would not show)"),
            expected="a trained tensor leaves its initial distribution after one step",
            fix=Fix(
                "reload",
                code="load the weights again and check for missing keys and renamed prefixes "
                "(`module.`, `model.`), or train the layer",
            ),
        )


def _untrained(context: Context, layer: Layer, param: Param) -> _Untrained | None:
    """The strict test on one weight and its bias."""
    if param.role not in (Role.WEIGHT, Role.RECURRENT_WEIGHT) or not param.trainable:
        return None
    if param.tied_to is not None or param.quantised or layer.op is Op.OTHER:
        return None
    if param.size < MIN_UNIFORM or context.measures.stage(param) is not Stage.FRESH:
        return None
    found = context.measures.identify(param)
    uniform = found.family is Family.UNIFORM
    if not uniform and (
        found.family not in (Family.NORMAL, Family.TRUNCATED_NORMAL) or param.size < MIN_NORMAL
    ):
        return None
    match = next((match for match in found.matches if match.true_fan), None)
    if match is None or not _bias_untouched(context, layer, uniform=uniform):
        return None
    return _Untrained(layer, param, match, uniform)


def _bias_untouched(context: Context, layer: Layer, *, uniform: bool) -> bool:
    """Biases are where initialisers leave them: zero, or within PyTorch's uniform bound."""
    for bias in layer.with_role(Role.BIAS, Role.RECURRENT_BIAS):
        moments = context.measures.moments(bias)
        if moments is None or moments.constant:
            continue
        weight = next(param for param in layer.params if param.role is not Role.BIAS)
        moved = context.measures.moments(weight)
        if not uniform or moved is None or moments.max_abs > moved.max_abs * 1.05:
            return False
    return True


_INERT = (
    "the rest of the layer is trained, so these saw no gradient: the state was zero, as in "
    "sequences of one step"
)


def _only_recurrent(context: Context, found: _Untrained) -> bool:
    """Hidden-to-hidden weights of a layer whose input weights are trained."""
    return found.param.role is Role.RECURRENT_WEIGHT and any(
        context.measures.stage(param) is Stage.TRAINED
        for param in found.layer.with_role(Role.WEIGHT)
    )


def _under(name: str, prefix: str) -> bool:
    return name.startswith(prefix + ".")


def _whole_prefixes(context: Context, untrained: list[_Untrained]) -> tuple[str, ...]:
    """Outermost module paths below the root of which nearly all weights are untrained."""
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
    return tuple(p for p in whole if not any(_under(p, other) for other in whole))


def _is_last(context: Context, layer: Layer) -> bool:
    """A head: where the graph is known, nothing weighted comes after it."""
    return context.model.connected and context.model.graph.is_head(layer.id)
