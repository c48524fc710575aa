"""unloaded-module: a whole module of a trained model still holds its initial draw."""

from __future__ import annotations

from collections.abc import Iterator

from initlint.api import (
    Confidence,
    Context,
    Finding,
    Fix,
    Kind,
    Role,
    Rule,
    Severity,
    Stage,
)
from initlint_rules._consequences import SIGNALS
from initlint_rules.checkpoint._untrained import (
    Untrained,
    bias_untouched,
    under,
    untrained_weights,
    whole_modules,
)


class UnloadedModule(Rule):
    """A whole module is at its initial draw while the rest of the model is trained.

    What it does
    ------------
    In a model of which some part is trained, finds module paths of which nearly all weights still
    fit the distributions that frameworks draw from: an encoder that was never loaded, a decoder
    that nobody trained.

    Why is this bad
    ---------------
    Weights are matched by name. When a prefix differs (`module.`, `model.`, `_orig_mod.`, a base
    model loaded from a task checkpoint), a lenient loader skips every tensor of it and leaves the
    module random. Nothing crashes; the predictions are noise.

    How it decides
    --------------
    Two weights or more, and nine tenths of the module's weight elements, pass the strict test of
    never-trained-layer, and the model is trained otherwise: as a whole, or some layer outside the
    module fits no initial distribution and its bias has moved as well. Error for an exported or
    stored model; warning when the module is the last one (a fresh head or decoder is how
    fine-tuning starts), and for a module in memory.

    What it does not flag
    ---------------------
    Frozen modules, models of which nothing is trained or only what is frozen (a new module on a
    frozen network, before its first step), single layers (see never-trained-layer), modules too
    small to tell.

    Example
    -------
    ::

        import torch
        from torch import nn

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.encoder = nn.Sequential(*[nn.Linear(128, 128) for _ in range(3)])
                self.decoder = nn.Sequential(*[nn.Linear(128, 128) for _ in range(3)])

            def forward(self, x):
                return self.decoder(self.encoder(x))

        def model():
            net = Net()
            with torch.no_grad():
                for layer in net.decoder:
                    layer.weight += torch.randn(128, 4) @ torch.randn(4, 128) / 50
                    layer.bias += 0.1 * torch.randn(128)
            return net

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.encoder = nn.Sequential(*[nn.Linear(128, 128) for _ in range(3)])
                self.decoder = nn.Sequential(*[nn.Linear(128, 128) for _ in range(3)])

            def forward(self, x):
                return self.decoder(self.encoder(x))

        def model():
            net = Net()
            with torch.no_grad():
                for layer in (*net.encoder, *net.decoder):
                    layer.weight += torch.randn(128, 4) @ torch.randn(4, 128) / 50
                    layer.bias += 0.1 * torch.randn(128)
            return net

    References
    ----------
    - transformers issue 48722: a base model loaded from a task checkpoint kept every weight random.
    """

    code = "CKP102"
    name = "unloaded-module"
    formula = "untrained elements / all elements of a module >= 0.9"
    stages = frozenset(Stage)
    folds = (*SIGNALS, "gain-mismatch", "relu-after-xavier")

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding that names every untrained module."""
        if context.model.fresh_hint:
            return
        trained = context.stage in (Stage.TRAINED, Stage.MIXED)
        untrained = untrained_weights(context)
        modules = [
            module
            for module in whole_modules(context, untrained)
            if trained or _rest_is_trained(context, module)
        ]
        if modules:
            members = [
                found
                for found in untrained
                if any(under(found.param.name, module) for module in modules)
            ]
            yield _finding(context, modules, members)


def _rest_is_trained(context: Context, module: str) -> bool:
    """True when some layer outside a module has left its initialiser, bias and all."""
    return any(
        param.role is Role.WEIGHT
        and not under(param.name, module)
        and not param.quantised
        and context.measures.stage(param) is Stage.TRAINED
        and not bias_untouched(context, layer, uniform=True)
        for layer, param in context.model.graph.params
    )


def _is_last(context: Context, members: list[Untrained]) -> bool:
    """True when no other weighted layer comes after a module."""
    mine = {member.layer.id for member in members}
    graph = context.model.graph
    if context.model.connected:
        later = {key for layer in mine for key in graph.descendants(layer)}
        return all(layer.id in mine or layer.id not in later for layer in graph.weighted)
    order = [layer.id for layer in graph if layer.weight is not None]
    start = min(order.index(key) for key in mine if key in order)
    return set(order[start:]) <= mine


def _finding(context: Context, modules: list[str], members: list[Untrained]) -> Finding:
    first = members[0]
    exact = all(member.uniform for member in members)
    elements = sum(member.param.size for member in members)
    schemes = sorted({member.match.scheme for member in members})
    last = _is_last(context, members)
    named = ", ".join(modules[:4]) + (f" and {len(modules) - 4} more" if len(modules) > 4 else "")
    holds = "holds its" if len(modules) == 1 else "hold their"
    lenient = context.model.kind is Kind.TORCH or (last and context.model.kind is not Kind.ONNX)
    return Finding(
        severity=Severity.WARNING if lenient else Severity.ERROR,
        confidence=Confidence.HIGH if exact or len(members) > 2 else Confidence.MEDIUM,
        layer=first.layer.id,
        param=first.param.name,
        layers=tuple(dict.fromkeys(member.layer.id for member in members)),
        message=f"all of {named} still {holds} initial draw ({', '.join(schemes)}) in a trained "
        "model",
        evidence={
            "module": modules[0],
            "modules": modules[:20],
            "schemes": schemes,
            "elements": elements,
            "exact_bound": exact,
            "last": last,
            "params": [member.param.name for member in members][:20],
        },
        why="the module was never loaded or never trained: what it computes is random",
        measured=f"{elements:,} weights of {len(members)} tensors fit {', '.join(schemes)}",
        expected="trained tensors, which leave their initial distribution after one step",
        fix=Fix(
            "reload",
            code=f"compare the names under {modules[0]} with the checkpoint's keys: a prefix "
            "(`module.`, `model.`, `_orig_mod.`) too many or too few leaves all of them random",
        ),
    )
