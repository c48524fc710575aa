"""never-trained-layer: layers of a trained model that still hold their initial draw."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from initlint.api import (
    Confidence,
    Context,
    Finding,
    Fix,
    Kind,
    Layer,
    Need,
    Role,
    Rule,
    Severity,
    Stage,
)
from initlint_rules.checkpoint._untrained import (
    Untrained,
    under,
    untrained_weights,
    whole_modules,
)


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
    value as for independent draws, and at most 0.1 wide; this is weaker (a low-rank update does not
    show), so it stays an info. A bias, where there is one, must be at its initial value too. Error
    on the path to the output in an exported or bare checkpoint; a last layer alone is a warning (it
    may be the start of a fine-tuning run), and so are recurrent weights of a layer whose input
    weights are trained (it only ever saw one step).

    What it does not flag
    ---------------------
    Frozen parameters and fixed random features. Zero-initialised layers, and what only they read
    (the first factor of an adapter at its start). Tensors too small to tell.
    Models of which nothing is trained, or only what is frozen (adapters and new layers on a frozen
    network, before their first step). Whole modules (see unloaded-module).

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
    formula = "bound (1 - 12/n) <= max|w| <= bound;  P(by chance) = e^-12"
    needs = frozenset({Need.WEIGHTS})
    stages = frozenset({Stage.TRAINED, Stage.MIXED})

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per scheme."""
        untrained = untrained_weights(context)
        modules = whole_modules(context, untrained)
        groups: dict[str, list[Untrained]] = defaultdict(list)
        for found in untrained:
            if not any(under(found.param.name, module) for module in modules):
                groups[found.match.scheme].append(found)
        for _, members in sorted(groups.items()):
            yield self._finding(context, members)

    def _finding(self, context: Context, members: list[Untrained]) -> Finding:
        first = members[0]
        elements = sum(member.param.size for member in members)
        exact = all(member.uniform for member in members)
        heads = all(_is_last(context, member.layer) for member in members)
        severity = Severity.WARNING if heads else Severity.ERROR
        inert = all(_only_recurrent(context, member) for member in members)
        if inert or context.model.kind is Kind.TORCH:
            severity = Severity.WARNING
        if not exact:
            severity = Severity.INFO
        schemes = sorted({member.match.scheme for member in members})
        subject = first.layer.id
        layers = tuple(dict.fromkeys(member.layer.id for member in members))
        if len(layers) > 1:
            subject += f" and {len(layers) - 1} more layers"
        if inert:
            subject = f"the recurrent weights of {subject}"
        verb = "still holds" if len(layers) == 1 and not inert else "still hold"
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


_INERT = (
    "the rest of the layer is trained, so these saw no gradient: the state was zero, as in "
    "sequences of one step"
)


def _only_recurrent(context: Context, found: Untrained) -> bool:
    """Hidden-to-hidden weights of a layer whose input weights are trained."""
    return found.param.role is Role.RECURRENT_WEIGHT and any(
        context.measures.stage(param) is Stage.TRAINED
        for param in found.layer.with_role(Role.WEIGHT)
    )


def _is_last(context: Context, layer: Layer) -> bool:
    """A head: where the graph is known, nothing weighted comes after it."""
    return context.model.connected and context.model.graph.is_head(layer.id)
