"""framework-default-left: a custom initialiser was used, and some layers never met it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from math import log, log10

from initlint.api import (
    WEIGHTED,
    Context,
    Family,
    Finding,
    Fix,
    Identification,
    Layer,
    Need,
    Op,
    Param,
    Rule,
    Severity,
    Stage,
    drift_share,
    record,
)

DEFAULT = "torch_default"

LEAST = 256
"""Elements a weight needs: the largest of 256 uniform numbers lies within 12/256 = 5 % of its bound
with probability 1 - e^-12, so the default's bound 1/sqrt(fan_in) is told from any other by then."""

CUSTOM_SHARE = 0.3
"""Share of a kind's layers that must hold one custom scheme before the others count as missed: two
of ten are special layers of their own, three of ten are what an initialiser went over."""

LEAST_CUSTOM = 3
"""Layers that must hold it: one or two are special cases."""

LEAST_SIBLINGS = 3
"""Layers with the same role in other blocks that hold the custom scheme, before one that does not
was missed for sure."""

_KINDS = frozenset({Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE})
_RANDOM = frozenset({Family.UNIFORM, Family.NORMAL, Family.TRUNCATED_NORMAL, Family.ORTHOGONAL})
_KEEPS_ITS_OWN = "NonDynamicallyQuantizableLinear"
"""The output projection of torch.nn.MultiheadAttention, which keeps the default by design."""


@record(frozen=True, slots=True)
class _Drawn:
    layer: Layer
    param: Param
    found: Identification

    @property
    def schemes(self) -> frozenset[str]:
        return frozenset(match.scheme for match in self.found.matches if match.true_fan)


class FrameworkDefaultLeft(Rule):
    """Some layers keep the framework's default while the others of their kind were re-initialised.

    What it does
    ------------
    Finds layers that still hold PyTorch's default draw in a model whose other layers of the same
    kind hold one custom scheme.

    Why is this bad
    ---------------
    An initialiser that goes over the modules by type misses what it does not know: a linear layer
    of another class, a bare parameter, a layer that is added after `apply`. PyTorch's default has
    a third of the variance of LeCun's scheme and a sixth of He's, so the missed layers are quieter
    than all others, and nothing says so.

    How it decides
    --------------
    Uniform weights whose largest value meets the bound 1/sqrt(fan_in) to within the sampling error,
    where at least 30 % (and three) of the layers of the same kind hold one other named scheme. An
    info; a warning where three layers with the same role in other blocks hold the custom scheme, or
    by the missed layers' share of the drift that is predicted or measured.

    What it does not flag
    ---------------------
    Heads, layers that read the input (patch embeddings, stems), the output projection of
    `nn.MultiheadAttention`, the down-projection of a LoRA pair, kinds of layers that all keep
    the default, first and last blocks, weights below 256 elements, trained weights.

    Example
    -------
    ::

        from torch import nn

        class Projection(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.weight = nn.Parameter(nn.Linear(width, width, bias=False).weight.detach())

            def forward(self, x):
                return nn.functional.linear(x, self.weight)

        def he(module):
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)

        def model():
            layers = []
            for index in range(9):
                layer = Projection(64) if index == 4 else nn.Linear(64, 64)
                layers += [layer, nn.LayerNorm(64), nn.ReLU()]
            return nn.Sequential(*layers, nn.Linear(64, 10)).apply(he)

    Use instead
    -----------
    ::

        from torch import nn

        class Projection(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.weight = nn.Parameter(nn.Linear(width, width, bias=False).weight.detach())

            def forward(self, x):
                return nn.functional.linear(x, self.weight)

        def he(module):
            if isinstance(module, (nn.Linear, Projection)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

        def model():
            layers = []
            for index in range(9):
                layer = Projection(64) if index == 4 else nn.Linear(64, 64)
                layers += [layer, nn.LayerNorm(64), nn.ReLU()]
            return nn.Sequential(*layers, nn.Linear(64, 10)).apply(he)

    References
    ----------
    - PyTorch, torch/nn/modules/linear.py, `Linear.reset_parameters`: kaiming_uniform_(a=sqrt(5)).
    - Modalities issue 460: a wrapper's prefix kept an initialiser from its parameters.
    """

    code = "PRV101"
    name = "framework-default-left"
    formula = (
        "max|w| = 1 / sqrt(fan_in), Var = 1 / (3 fan_in), against He: 2 / fan_in, LeCun: 1 / fan_in"
    )
    needs = frozenset({Need.WEIGHTS, Need.GRAPH})
    optional = frozenset({Need.THEORY, Need.PROBE})
    stages = frozenset({Stage.FRESH})
    local = True
    folds = (
        "inconsistent-siblings",
        "gain-mismatch",
        "forward-drift",
        "backward-drift",
        "variance-profile",
    )

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per kind of layer and custom scheme."""
        by_kind: dict[Op, list[_Drawn]] = defaultdict(list)
        for layer in context.model.graph.weighted:
            drawn = _drawn(context, layer)
            if drawn is not None:
                by_kind[layer.op].append(drawn)
        for members in by_kind.values():
            custom = _custom(members)
            if custom is None:
                continue
            left = [
                item
                for item in members
                if DEFAULT in item.schemes
                and custom not in item.schemes
                and not _keeps_default(context, item)
            ]
            if left:
                yield _finding(context, custom, members, left)


def _drawn(context: Context, layer: Layer) -> _Drawn | None:
    param = layer.weight
    if layer.op not in _KINDS or param is None or not param.trainable or param.quantised:
        return None
    if param.tied_to is not None or param.size < LEAST:
        return None
    found = context.measures.identify(param)
    if found.family not in _RANDOM or context.measures.stage(param) is not Stage.FRESH:
        return None
    return _Drawn(layer, param, found)


def _custom(members: Sequence[_Drawn]) -> str | None:
    """The scheme, other than the default, that enough layers of a kind hold."""
    count = Counter(
        scheme for item in members if DEFAULT not in item.schemes for scheme in item.schemes
    )
    if not count:
        return None
    scheme, held = max(count.items(), key=lambda pair: (pair[1], pair[0]))
    return scheme if held >= max(LEAST_CUSTOM, CUSTOM_SHARE * len(members)) else None


def _keeps_default(context: Context, item: _Drawn) -> bool:
    """True for layers that are drawn in their own way on purpose."""
    graph = context.model.graph
    if graph.is_head(item.layer.id) or (item.param.module or "").endswith(_KEEPS_ITS_OWN):
        return True
    if any(layer.op is Op.INPUT for layer in graph.effective_producers(item.layer.id)):
        return True
    after = graph.effective_consumers(item.layer.id)
    return bool(after) and all(_is_zero(context, layer) for layer in after)


def _is_zero(context: Context, layer: Layer) -> bool:
    weight = layer.weight if layer.op in WEIGHTED else None
    moments = context.measures.moments(weight) if weight is not None else None
    return moments is not None and moments.max_abs == 0.0


def _role(param: Param) -> str:
    return re.sub(r"\d+", "#", param.name)


def _missed_siblings(custom: str, members: Sequence[_Drawn], left: Sequence[_Drawn]) -> bool:
    """True when a layer inside a stack differs from the same layer of the other blocks."""
    for item in left:
        family = [other for other in members if _role(other.param) == _role(item.param)]
        inside = item not in (family[0], family[-1])
        held = sum(
            custom in other.schemes and other.param.shape == item.param.shape for other in family
        )
        if inside and "#" in _role(item.param) and held >= LEAST_SIBLINGS:
            return True
    return False


def _std(members: Sequence[_Drawn], custom: str, item: _Drawn) -> float | None:
    """What the custom scheme gives a layer: by the fans it was drawn with elsewhere."""
    scales = [
        other.found.std * (other.param.size / other.param.shape[0]) ** 0.5
        for other in members
        if custom in other.schemes
    ]
    if not scales:
        return None
    scales.sort()
    if custom.startswith("normal("):
        return next(other.found.std for other in members if custom in other.schemes)
    return float(scales[len(scales) // 2] / (item.param.size / item.param.shape[0]) ** 0.5)


def _finding(
    context: Context, custom: str, members: Sequence[_Drawn], left: Sequence[_Drawn]
) -> Finding:
    held = sum(custom in item.schemes for item in members)
    causes = {
        item.layer.id: log(item.found.std / std) / log(10.0)
        for item in left
        if (std := _std(members, custom, item))
    }
    share = drift_share(context, causes)
    severity = share.severity or Severity.INFO
    if _missed_siblings(custom, members, left):
        severity = max(severity, Severity.WARNING)
    first = left[0]
    expected = _std(members, custom, first) or first.found.std
    kind = first.layer.op.value.replace("_", " ")
    more = f" and {len(left) - 1} more" if len(left) > 1 else ""
    return Finding(
        severity=severity,
        layer=first.layer.id,
        param=first.param.name,
        layers=tuple(dict.fromkeys(item.layer.id for item in left)),
        message=f"{first.param.name}{more} of {len(members)} {kind} weights still hold PyTorch's "
        f"default; {held} were drawn with {custom}",
        evidence={
            "left": len(left),
            "layers_of_kind": len(members),
            "custom": custom,
            "custom_layers": held,
            "std": first.found.std,
            "std_of_custom": expected,
            "decades": log10(first.found.std / expected),
            "drift_share_decades": share.decades,
        },
        why="an initialiser that goes over modules by type misses classes it does not know, bare "
        "parameters, and layers added after it ran; before a normaliser the missed layers learn at "
        f"{(expected / first.found.std) ** 2:.2g} times the effective rate lr/|w|^2 of the others",
        measured=f"largest weight {first.found.bound:.4g}, the default's bound; std "
        f"{first.found.std:.3g}",
        expected=f"{custom}, std {expected:.3g}",
        fix=Fix(
            "rescale",
            params=tuple(item.param.key for item in left),
            arguments={"factor": expected / first.found.std},
            code=f"draw {first.param.name}{more} with {custom} too",
        ),
    )
