"""symmetric-units: hidden units that start equal on both sides and stay equal for ever."""

from __future__ import annotations

from collections.abc import Iterator

from initlint.api import (
    Confidence,
    Context,
    Finding,
    Fix,
    Need,
    Param,
    Rule,
    Severity,
    Stage,
    SymmetricGroup,
    is_bypassed,
    symmetric_units,
)
from initlint_rules._consequences import ODD_WEIGHTS, SIGNALS

HALF = 0.5
"""Share of a layer's units in groups of equal ones from which the layer is not what its width says:
an engineering choice; below it the finding is wasted capacity."""


class SymmetricUnits(Rule):
    """Units of a layer have equal incoming and equal outgoing weights and can never differ.

    What it does
    ------------
    Groups the units of each hidden layer by their incoming weights and biases, then compares the
    outgoing weights inside each group through every consumer: following reshapes, normalisers,
    concatenations, residual sums, and recurrent connections.

    Why is this bad
    ---------------
    Swapping two such units leaves the network unchanged, so their gradients are equal, and gradient
    descent, momentum, Adam and weight decay all keep them equal: the layer works with fewer units
    than it has, for ever.

    How it decides
    --------------
    Exact: rows equal to 2 units in the last place, outgoing columns likewise, refined until stable
    (coarsest equitable partition). Error when at least half of a layer's units are affected, else a
    warning; an info where dropout between the copies separates them.

    What it does not flag
    ---------------------
    Units that a random outgoing weight tells apart (see identical-incoming), units shown by an
    output (labels differ), sub-pixel kernels before a pixel shuffle, equal inputs of a repeated
    stem, zero heads, norm gains. Where an axis cannot be followed with certainty nothing is said.

    Example
    -------
    ::

        from torch import nn

        def model():
            net = nn.Sequential(
                nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)
            )
            nn.init.constant_(net[2].weight, 0.02)
            nn.init.zeros_(net[2].bias)
            nn.init.constant_(net[4].weight, 0.02)
            return net

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            net = nn.Sequential(
                nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)
            )
            for layer in (net[2], net[4]):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
            return net

    References
    ----------
    - Goodfellow, Bengio, Courville 2016, Deep Learning, section 8.4.
    """

    code = "SYM101"
    name = "symmetric-units"
    formula = "w_i = w_j and v_i = v_j  =>  their gradients are equal at every step"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    local = True
    folds = ("identical-incoming", *SIGNALS, *ODD_WEIGHTS)

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per layer, series of layers, or layers of one number, with copies."""
        by_layer: dict[str, list[SymmetricGroup]] = {}
        for group in symmetric_units(context.model, context.measures):
            if group.symmetric and group.followed and not (group.output or group.shuffled):
                by_layer.setdefault(group.layer, []).append(group)
        params = {param.key: param for _, param in context.model.graph.params}
        alike: dict[object, list[str]] = {}
        read: dict[object, object] = {}  # by reader and numbers of copies: the set of who is read
        for layer, groups in by_layer.items():
            param = params.get(groups[0].param)
            if param is None or context.measures.stage(param) is not Stage.TRAINED:
                copies = (groups[0].size, _lost(groups), _is_noisy(groups))
                constant = _constant(context, param)
                key = read.get((layer, copies), layer) if constant is None else constant
                alike.setdefault(key, []).append(layer)
                read.update(((reader, copies), key) for reader in groups[0].consumers)
        for layers in alike.values():
            layer, groups = layers[0], by_layer[layers[0]]
            param = params.get(groups[0].param)
            members = tuple(key for item in layers for key in by_layer[item][0].layers or (item,))
            readers = (key for item in layers for key in by_layer[item][0].consumers)
            of = "each of " if len(layers) > 1 else ""
            more = f" and {len(layers) - 3} more" if len(layers) > 3 else ""
            size, lost = groups[0].size, _lost(groups)
            noise = _is_noisy(groups)
            affected = sum(len(group.units) for group in groups)
            lost_width = affected >= HALF * size and not is_bypassed(context.model.graph, members)
            severity = Severity.ERROR if lost_width else Severity.WARNING
            first = groups[0].units
            listed = ", ".join(map(str, first[:4])) + (", …" if len(first) > 4 else "")
            yield Finding(
                severity=Severity.INFO if noise else severity,
                confidence=Confidence.MEDIUM if noise else Confidence.HIGH,
                layer=layer,
                param=param.name if param else None,
                layers=tuple(dict.fromkeys(members)),
                culprits=tuple(dict.fromkeys((*members, *readers, *_same(context, param)))),
                message=f"{lost} of {size} units of {of}{', '.join(layers[:3])}{more} are copies "
                "that can never differ",
                evidence={
                    "units": size,
                    "distinct": size - lost,
                    "copies": lost,
                    "groups": len(groups),
                    "first_group": list(first[:20]),
                    "consumers": list(groups[0].consumers[:20]),
                },
                why="units with equal incoming and outgoing weights receive equal gradients and "
                "stay equal" + (" (only dropout between them differs)" if noise else ""),
                measured=f"{size - lost} distinct of {size} units; units {listed} are equal",
                expected=f"{size} distinct units",
                fix=Fix(
                    "redraw_duplicates",
                    params=tuple(by_layer[key][0].param for key in layers),
                    code=f"draw the rows of {param.name if param else layer} at random, e.g. "
                    f"torch.nn.init.kaiming_normal_({param.name if param else layer})",
                ),
            )


def _lost(groups: list[SymmetricGroup]) -> int:
    return sum(group.lost for group in groups)


def _is_noisy(groups: list[SymmetricGroup]) -> bool:
    return all(group.noise for group in groups)


def _constant(context: Context, param: Param | None) -> float | None:
    """The one number that a weight holds; None where it holds several."""
    moments = context.measures.moments(param) if param is not None else None
    return moments.mean if moments is not None and moments.constant else None


def _same(context: Context, param: Param | None) -> Iterator[str]:
    """All layers whose weights hold the one number that these hold: one line of code drew them."""
    constant = _constant(context, param)
    if constant is not None:
        for layer in context.model.graph.weighted:
            if _constant(context, layer.weight) == constant:
                yield layer.id
