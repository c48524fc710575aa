"""zero-weight: an all-zero weight matrix that cuts the network."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from initlint.api import (
    NORMALISERS,
    RECURRENT,
    Context,
    Finding,
    Fix,
    Layer,
    LayerGraph,
    Need,
    Op,
    Param,
    Role,
    Rule,
    Severity,
    Stage,
    dominators,
    is_bypassed,
    passed_by,
    record,
    residual_branches,
    unlocking,
)
from initlint_rules._consequences import SIGNALS

CANDIDATES = frozenset({"", "cell", "new"})
"""The gates whose value enters the state: those of a plain RNN, an LSTM and a GRU."""

BLOCKED_SHARE = 0.05
"""Share of all trainable parameters that may stay without gradient before the whole suffers: an
engineering choice, about one block in twenty."""


class ZeroWeight(Rule):
    """A weight matrix is all zeros where that cuts signal or gradient.

    What it does
    ------------
    Finds weight matrices that are exactly zero and asks two questions of the layer graph: does
    every path from the input cross this layer, and which parameters will ever receive a gradient?

    Why is this bad
    ---------------
    On a plain path a zero matrix makes the output the same for every input and passes no gradient
    to anything before it; before a ReLU with zero bias it stays that way for ever. Two zero factors
    in series (both LoRA matrices, a zero gate on a zero layer) block each other: each one's
    gradient is proportional to the other.

    How it decides
    --------------
    Exact, on the graph. A Boolean fixpoint follows which parameters receive a gradient at step 0,
    1, 2…; a parameter that never does is blocked, and the zero weights on its ways are the cause:
    error when it lies on the trunk or more than 5 % of the parameters are blocked, else a warning.
    A layer that every path from input to output crosses and that is not the last, but that gets a
    gradient itself (a smooth activation or a random layer follows): warning, since the first step
    ends it. Such starts trained like their twins in 8 of 8 networks. Also a warning where a
    normaliser reads the zeros: it divides by sqrt(epsilon), and the first step is some 300 times
    too large (three such networks made 0.47 to 0.70 of their twins' progress). An embedding table
    that every path crosses: info, since its rows move at once, and all else waits for them.

    What it does not flag
    ---------------------
    Zero last layers and policy heads, zero-gamma and Fixup branches, ReZero and SkipInit gains,
    LoRA with one zero factor, adaLN-Zero, ControlNet's zero convolutions, zero query projections:
    all of these receive a gradient sooner or later. Tables of zeros that are added to others
    (positions). Predicted transforms that start at a bias of identity (spatial transformers,
    T-Nets). Frozen and trained weights.

    Example
    -------
    ::

        from torch import nn

        def model():
            net = nn.Sequential(
                nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
            )
            nn.init.zeros_(net[2].weight)
            nn.init.zeros_(net[2].bias)
            return net

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            net = nn.Sequential(
                nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
            )
            nn.init.kaiming_normal_(net[2].weight, nonlinearity="relu")
            nn.init.zeros_(net[4].weight)
            return net

    References
    ----------
    - Goodfellow, Bengio, Courville 2016, Deep Learning, section 8.4.
    - Zhang, Dauphin, Ma 2019, Fixup initialization; Bachlechner et al. 2021, ReZero; Hu et al.
      2022, LoRA; Peebles, Xie 2023, adaLN-Zero: zeros that work, and why.
    """

    code = "SYM108"
    name = "zero-weight"
    formula = "W = 0  =>  output = bias,  dL/dx = W^T delta = 0"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH})
    stages = frozenset({Stage.FRESH, Stage.MIXED, Stage.UNKNOWN})
    folds = (
        *SIGNALS,
        "symmetric-units",
        "identical-incoming",
        "residual-branch-unscaled",
        "blocked-parameters",
        "unchanged-between",
    )

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per group of zero weights that block together, and its repetitions."""
        zeros: dict[str, tuple[Layer, Param]] = {}
        for layer, param in context.model.graph.params:
            if param.role not in (Role.WEIGHT, Role.RECURRENT_WEIGHT) or not param.trainable:
                continue
            if not param.quantised and _is_zero(context, param):
                zeros.setdefault(param.key, (layer, param))
        if not zeros:
            return
        graph = context.model.graph
        trunk = frozenset(dominators(graph))
        closing = frozenset(branch.closing_norm for branch in residual_branches(graph))
        result = unlocking(context.model, lambda param: _is_zero(context, param))
        found: dict[tuple[object, ...], list[_Group]] = {}
        for keys, mine in result.blocked_by.groups(zeros):
            layers = [zeros[key][0] for key in keys]
            cutting = [
                layer
                for layer in layers
                if (layer.id in trunk or _is_normalised(context, layer, closing))
                if not graph.is_head(layer.id)
                if layer.op is not Op.EMBEDDING  # its rows move at once, and nothing is before it
                if layer.op not in RECURRENT or _ignores_input(context, layer)
                if not _is_a_transform(context, layer)
            ]
            if cutting or mine:
                effect = bool(mine), bool(cutting) and cutting[0].id in trunk
                kind = (*effect, *sorted(_place(zeros[key][1].name) for key in keys))
                found.setdefault(kind, []).append(_Group(keys, cutting, mine))
            elif any(layer.op is Op.EMBEDDING and layer.id in trunk for layer in layers):
                yield _table(zeros[keys[0]])
        params = {param.key: (layer, param) for layer, param in graph.params}
        trainable = sum(param.size for _, param in params.values() if param.trainable)
        for groups in found.values():
            yield _finding(graph, groups, zeros, _Whole(params, max(trainable, 1), trunk))


def _table(place: tuple[Layer, Param]) -> Finding:
    """A table that all of the signal comes from: its rows move at once, and late."""
    layer, param = place
    return Finding(
        severity=Severity.INFO,
        layer=layer.id,
        param=param.name,
        layers=(layer.id,),
        culprits=(layer.id,),
        message=f"the vectors of {layer.id} are all zero: what reads them gets no gradient in the "
        "first step, and every input looks the same",
        evidence={"zero_layers": [layer.id], "blocked_parameters": 0, "cuts_every_path": True},
        why="all inputs start as the same vector; its rows have to part before anything behind "
        "them can learn to tell inputs apart",
        measured=f"{param.size:,} of {param.size:,} weights are 0",
        expected="random vectors",
        fix=Fix(
            "reinitialise",
            params=(param.key,),
            code=f"torch.nn.init.normal_({param.name})",
        ),
    )


@record(frozen=True, slots=True)
class _Group:
    """Zero weights that block together, those of their layers that cut, and what they block."""

    keys: tuple[str, ...]
    cutting: list[Layer]
    blocked: frozenset[str]


@record(frozen=True, slots=True)
class _Whole:
    """What every finding is measured by: all parameters, how many values train, and the trunk."""

    params: Mapping[str, tuple[Layer, Param]]
    trainable: int
    trunk: frozenset[str]


def _place(name: str) -> str:
    """What a parameter is called in every block alike: the last two parts but numbers."""
    parts = [part for part in name.split(".") if not part.isdigit()]
    return ".".join(parts[-2:]) if parts[-1:] == ["weight"] else "".join(parts[-1:])


def _is_normalised(context: Context, layer: Layer, closing: Collection[str | None]) -> bool:
    """True when a normaliser reads the layer's zeros, other than at the end of a branch.

    It divides by sqrt(epsilon): the first step's gradient is some 300 times too large, and SGD
    leaves the finite numbers or the range in which a normaliser lets anything learn.
    """
    graph = context.model.graph
    if not all(_is_zero(context, bias) for bias in layer.with_role(Role.BIAS)):
        return False
    readers = graph.effective_consumers(layer.id)
    return any(item.op in NORMALISERS and item.id not in closing for item in readers)


def _ignores_input(context: Context, layer: Layer) -> bool:
    """True when no step of a recurrent layer adds anything: zero recurrent weights only forget."""
    inputs = layer.with_role(Role.WEIGHT)
    candidate = [
        param
        for param in (*inputs, *layer.with_role(Role.BIAS, Role.RECURRENT_BIAS))
        if (param.gate or "") in CANDIDATES
    ]
    return all(_is_zero(context, param) for param in inputs) or all(
        _is_zero(context, param) for param in candidate
    )


def _is_a_transform(context: Context, layer: Layer) -> bool:
    """True when the input goes around the layer into a product with its bias.

    A predicted transform that starts at the identity (spatial transformer, T-Net).
    """
    biases = layer.with_role(Role.BIAS)
    if not biases or all(_is_zero(context, bias) for bias in biases):
        return False
    return layer.id in passed_by(context.model.graph)


def _is_zero(context: Context, param: Param) -> bool:
    moments = context.measures.moments(param)
    return (
        moments is not None and moments.constant and moments.max_abs == 0 and not moments.non_finite
    )


def _finding(
    graph: LayerGraph,
    groups: Sequence[_Group],
    zeros: Mapping[str, tuple[Layer, Param]],
    whole: _Whole,
) -> Finding:
    params, trunk = whole.params, whole.trunk
    keys = tuple(key for group in groups for key in group.keys)
    cutting = [layer for group in groups for layer in group.cutting]
    blocked = {key for group in groups for key in group.blocked}
    layers = tuple(dict.fromkeys(zeros[key][0].id for key in keys))
    stuck = sum(params[key][1].size for key in blocked if key in params)
    share = stuck / whole.trainable
    on_trunk = any(params[key][0].id in trunk for key in blocked if key in params and key in zeros)
    harmful = (on_trunk or share > BLOCKED_SHARE) and not is_bypassed(graph, layers)
    first, param = (cutting[0], cutting[0].weight) if cutting else zeros[keys[0]]
    several = f" (and {len(layers) - 1} more)" if len(layers) > 1 else ""
    if blocked:
        effect = f"{share:.0%} of the parameters never receive a gradient"
    elif first.id in trunk:
        effect = (
            "until it has moved the output ignores the input and nothing before it gets a gradient"
        )
    else:
        effect = (
            "a normaliser reads the zeros, and the first step is 1/sqrt(epsilon) times too large"
        )
    names = dict.fromkeys(zeros[key][1].name for key in groups[0].keys)
    drawn = tuple(key for group in groups for key in group.keys[: max(len(group.keys) - 1, 1)])
    chain = " × ".join(list(names)[:4])
    return Finding(
        severity=Severity.ERROR if harmful else Severity.WARNING,
        layer=first.id,
        param=param.name if param else None,
        layers=layers,
        culprits=layers,
        message=f"the weights of {first.id}{several} are all zero: {effect}",
        evidence={
            "zero_layers": list(layers[:20]),
            "blocked_parameters": stuck,
            "blocked_share": share,
            "cuts_every_path": bool(cutting) and first.id in trunk,
        },
        why=f"each gradient here has a zero factor: {chain} = 0"
        if blocked
        else "every path from the input crosses a product with zero"
        if first.id in trunk
        else "a normaliser divides what it reads, and the gradient, by sqrt(variance + epsilon)",
        measured=f"{param.size if param else 0:,} of {param.size if param else 0:,} weights are 0",
        expected="random weights; at most the last factor of a branch may start at zero",
        fix=Fix(
            "scale_preserving",
            params=drawn,
            code=f"draw {param.name if param else first.id} at random, e.g. "
            f"torch.nn.init.kaiming_normal_({param.name if param else first.id}); keep at most the "
            "last factor of a branch at zero",
        ),
    )
