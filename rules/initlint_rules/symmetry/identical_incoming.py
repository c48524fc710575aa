"""identical-incoming: rows of a weight that start equal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from initlint.api import (
    RECURRENT,
    Context,
    Finding,
    Fix,
    Need,
    Param,
    Role,
    Rule,
    Severity,
    Stage,
    SymmetricGroup,
    symmetric_units,
)
from initlint_rules._consequences import ODD_WEIGHTS, SIGNALS


class IdenticalIncoming(Rule):
    """Units of a layer have equal incoming weights: only what follows can separate them.

    What it does
    ------------
    Finds groups of hidden units whose incoming weights are equal while their outgoing weights, or
    their biases alone, differ.

    Why is this bad
    ---------------
    The units compute the same function at the start. Their gradients differ only by a factor, so
    the first update has rank one, and the copies part slowly: the ratio of the second to the first
    singular value was 0.03 after one step of SGD, 0.24 after ten, 0.83 after two hundred.

    How it decides
    --------------
    Exact: rows equal to 2 units in the last place. A warning, never more: of 12 networks with one
    such layer 9 trained like their twins, 2 with a single distinct row in a deep plain network were
    harmed, 1 failed; with three distinct rows or more none. Where nothing parts the copies,
    symmetric-units says so, and where they cost the signal, the rules of scale do. A batch or
    instance norm behind the layer takes its biases away.

    What it does not flag
    ---------------------
    Zero rows (they part in one step), thresholds of one input, sub-pixel (ICNR) kernels before
    a pixel shuffle, kernels of grouped convolutions that read different inputs, identity and
    Hadamard matrices, output layers, trained weights.

    Example
    -------
    ::

        from torch import nn

        def model():
            net = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 10))
            nn.init.constant_(net[0].weight, 0.1)
            nn.init.zeros_(net[0].bias)
            return net

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            net = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 10))
            nn.init.xavier_uniform_(net[0].weight)
            nn.init.zeros_(net[0].bias)
            return net

    References
    ----------
    - Goodfellow, Bengio, Courville 2016, Deep Learning, section 8.4.
    """

    code = "SYM102"
    name = "identical-incoming"
    formula = "w_i = w_j for all i, j  =>  the first update of W has rank one"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    local = True
    folds = (*SIGNALS, *ODD_WEIGHTS)

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding for each layer, or set of heads, with equal rows."""
        by_layer: dict[str, list[SymmetricGroup]] = {}
        for group in symmetric_units(context.model, context.measures):
            claimed = group.symmetric and group.followed
            if not (claimed or group.zero or group.output or group.shuffled):
                by_layer.setdefault(group.layer, []).append(group)
        graph = context.model.graph
        params = {param.key: param for _, param in graph.params}
        alike: dict[object, list[str]] = {}
        for layer, groups in by_layer.items():
            param = params.get(groups[0].param)
            if param is None or context.measures.stage(param) is not Stage.TRAINED:
                alike.setdefault(_likeness(context, param, groups), []).append(layer)
        for layers in alike.values():
            layer, groups = layers[0], by_layer[layers[0]]
            param = params.get(groups[0].param)
            size = groups[0].size
            lost = sum(group.lost for group in groups)
            name = param.name if param else layer
            of = "each of " if len(layers) > 1 else ""
            more = f" and {len(layers) - 3} more" if len(layers) > 3 else ""
            readers = tuple(_repeating_readers(context, layers, groups))
            members = tuple(key for item in layers for key in by_layer[item][0].layers or (item,))
            yield Finding(
                severity=Severity.WARNING,
                layer=layer,
                param=param.name if param else None,
                layers=members,
                culprits=(*members, *readers),
                message=f"{lost} of {size} units of {of}{', '.join(layers[:3])}{more} start as "
                "copies of others",
                evidence={
                    "units": size,
                    "distinct": size - lost,
                    "copies": lost,
                    "groups": len(groups),
                    "first_group": list(groups[0].units[:20]),
                },
                why="equal incoming weights give equal outputs; the first update has rank one and "
                "only the outgoing weights can part the copies",
                measured=f"{size - lost} distinct of {size} rows",
                expected=f"{size} distinct rows",
                fix=Fix(
                    "redraw_duplicates",
                    params=(
                        *dict.fromkeys(group.param for key in layers for group in by_layer[key]),
                        *(key for item in layers for key in _other_gates(context, item)),
                        *(weight.key for key in readers if (weight := graph[key].weight)),
                    ),
                    code=f"draw the rows of {name} at random, e.g. "
                    f"torch.nn.init.kaiming_normal_({name})",
                ),
            )


def _likeness(context: Context, param: Param | None, groups: Sequence[SymmetricGroup]) -> object:
    """Equal for layers that repeat the same units (heads copied as a whole) or hold one number."""
    moments = context.measures.moments(param) if param is not None else None
    if moments is not None and moments.constant:
        return moments.mean
    return groups[0].size, tuple(group.units for group in groups)


def _other_gates(context: Context, key: str) -> Iterator[str]:
    """Blocks of a recurrent layer whose rows repeat: a unit has one in every gate."""
    graph = context.model.graph
    if key in graph and graph[key].op in RECURRENT:
        for param in graph[key].with_role(Role.WEIGHT, Role.RECURRENT_WEIGHT):
            if context.measures.duplicates(param):
                yield param.key


def _repeating_readers(
    context: Context, layers: Sequence[str], groups: Sequence[SymmetricGroup]
) -> Iterator[str]:
    """The next layers, where their columns repeat as the units do."""
    graph, units = context.model.graph, list(groups[0].units)
    queue = [item for key in layers if key in graph for item in graph.consumers(key)]
    seen: set[str] = set()
    while queue:
        reader = queue.pop()
        if reader.id in seen:
            continue
        seen.add(reader.id)
        weight = reader.weight
        if weight is None:
            queue.extend(graph.consumers(reader.id))
        elif len(weight.shape) > 1 and weight.shape[1] == groups[0].size:
            values = context.measures.read(weight)
            if values is not None and (values[:, units] == values[:, units[:1]]).all():
                yield reader.id
