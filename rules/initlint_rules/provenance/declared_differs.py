"""declared-differs: weights are not drawn as the configuration says."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite, log, sqrt
from typing import Any

from initlint.api import (
    WEIGHTED,
    Context,
    Family,
    Finding,
    Fix,
    Identification,
    Kind,
    Layer,
    Op,
    Option,
    Param,
    Role,
    Rule,
    Severity,
    Stage,
    record,
)

SIGMAS = 4.0
"""Standard errors: by chance one of 16,000 weights is further off."""

TOLERANCE = 0.01
"""|ln ratio| on top: half-precision storage and a zero padding row change a standard deviation by
less than one percent."""

LEAST = 1024
"""Elements a weight needs: 4/sqrt(2 * 1024) = 9 %, below any difference that someone declares."""

TRUNCATED = 0.87962566103423978
"""Standard deviation of a normal cut at two standard deviations: libraries differ in whether a
declared standard deviation means before or after the cut."""

HALF = 0.5
"""Share of the normal draws that must be off before the declaration as a whole counts as unmet."""

_NORMAL = frozenset({Family.NORMAL, Family.TRUNCATED_NORMAL})
_RANDOM = _NORMAL | {Family.UNIFORM, Family.ORTHOGONAL, Family.SPARSE}


@record(frozen=True, slots=True)
class _Drawn:
    layer: Layer
    param: Param
    found: Identification

    def is_within(self, std: float) -> bool:
        """True when the measured standard deviation may be ``std``."""
        margin = SIGMAS * self.found.std_error + TOLERANCE
        return self.found.std > 0 and abs(log(self.found.std / std)) <= margin


class DeclaredDiffers(Rule):
    """Weights are not drawn as the model's configuration, or you, declare.

    What it does
    ------------
    Compares freshly drawn weights with a declaration: the `initializer_range` in the `config.json`
    of a Hugging Face folder or in the `config` of a module, or the scheme you name with `--expect`.

    Why is this bad
    ---------------
    The declaration is what papers report and what others repeat. When the code draws otherwise,
    because a later call overwrote the scheme, or the option is never read, experiments are compared
    under the wrong name.

    How it decides
    --------------
    `initializer_range` s means N(0, s^2): a finding when more than half of the normally drawn
    weight matrices share one other standard deviation, beyond four standard errors and 1 %. With
    `--expect`, every weight matrix of a linear or convolutional layer must have the named scheme
    among those that its numbers allow.

    What it does not flag
    ---------------------
    Projections into the residual stream that are scaled down with depth, truncated draws with or
    without the correction for the cut, embeddings and norms, schemes by fan beside a declared
    range (a model family's own initialiser), heads (with `--expect`), weights below 1024 elements,
    trained weights, configurations that also have an `initializer_factor` (CLIP).

    Example
    -------
    ::

        from dataclasses import replace

        from initlint.testing import Network, normal

        def model():
            net = Network()
            x = net.input(64)
            for _ in range(4):
                x = net.layer_norm(net.linear(x, normal(net.rng, 64, 64, std=0.04)))
            net.output(x)
            return net.model(fresh_hint=True, config={"initializer_range": 0.02})

    Use instead
    -----------
    ::

        from initlint.testing import Network, normal

        def model():
            net = Network()
            x = net.input(64)
            for _ in range(4):
                x = net.layer_norm(net.linear(x, normal(net.rng, 64, 64, std=0.02)))
            net.output(x)
            return net.model(fresh_hint=True, config={"initializer_range": 0.02})

    References
    ----------
    - Hugging Face transformers, modeling_utils.py, `_init_weights`: N(0, initializer_range^2).
    """

    code = "PRV103"
    name = "declared-differs"
    formula = "|ln(std / declared)| > 4 SE + 0.01,  SE = sqrt((kurtosis - 1) / 4n)"
    stages = frozenset({Stage.FRESH})
    options = {
        "expect": Option(
            "",
            "scheme that weight matrices are meant to have, such as he_normal or normal(0.02); "
            "empty: none is declared, and only a configuration is compared",
        )
    }

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per declaration."""
        drawn = [
            item
            for layer, param in context.model.graph.params
            if (item := _drawn(context, layer, param)) is not None
        ]
        config = context.model.metadata.get("config")
        declared = _declared_range(config) if isinstance(config, Mapping) else None
        if declared is not None:
            source = "config.json" if context.model.kind is Kind.HUGGINGFACE else "its config"
            yield from _against_range(drawn, declared, source)
        expected = str(context.options["expect"])
        if expected:
            yield from _against_scheme(context, drawn, expected)


def _drawn(context: Context, layer: Layer, param: Param) -> _Drawn | None:
    if param.role is not Role.WEIGHT or layer.op not in WEIGHTED or layer.op is Op.EMBEDDING:
        return None
    if param.tied_to is not None or param.quantised or param.size < LEAST or not param.trainable:
        return None
    found = context.measures.identify(param)
    if found.family not in _RANDOM or context.measures.stage(param) is not Stage.FRESH:
        return None
    return _Drawn(layer, param, found)


def _declared_range(config: Mapping[str, Any]) -> float | None:
    """The declared standard deviation; None where a second number shares in the declaration.

    With an ``initializer_factor`` (CLIP and its kin) the factor sets the linear layers, by fan and
    depth, and the range little else.
    """
    if config.get("initializer_factor") is not None:
        return None
    value = config.get("initializer_range")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if isfinite(value) and value > 0 else None


def _by_fan(item: _Drawn) -> bool:
    """True for a weight whose scale a scheme by fan explains: the family's own initialiser."""
    return any(match.fan.startswith("fan") for match in item.found.matches)


def _against_range(drawn: Sequence[_Drawn], declared: float, source: str) -> Iterator[Finding]:
    normal = [item for item in drawn if item.found.family in _NORMAL]
    meant = (declared, declared * TRUNCATED)
    off = [
        item
        for item in normal
        if not any(item.is_within(std) for std in meant) and not _by_fan(item)
    ]
    if len(off) < len(normal):  # the range is used: what is narrower was scaled down with depth
        off = [item for item in off if item.found.std > declared]
    if not off:
        return
    groups: dict[str, list[_Drawn]] = defaultdict(list)
    for item in off:
        groups[re.sub(r"\d+", "#", item.param.name)].append(item)
    largest = max(off, key=lambda item: item.found.n)
    same = [item for item in off if item.is_within(largest.found.std)]
    if len(same) <= HALF * len(normal):
        return
    std = largest.found.std
    more = f" and {len(same) - 1} more" if len(same) > 1 else ""
    yield Finding(
        severity=Severity.WARNING,
        layer=same[0].layer.id,
        param=same[0].param.name,
        layers=tuple(dict.fromkeys(item.layer.id for item in same)),
        message=f"{source} declares initializer_range {declared:g}, but "
        f"{same[0].param.name}{more} start with std {std:.3g}",
        evidence={
            "declared": declared,
            "std": std,
            "ratio": std / declared,
            "off": len(same),
            "compared": len(normal),
            "roles": len(groups),
        },
        why="the declared range is what others will repeat; the weights were drawn otherwise",
        measured=f"std {std:.3g} in {len(same)} of {len(normal)} normally drawn matrices",
        expected=f"N(0, {declared:g}^2)",
        fix=Fix(
            "rescale",
            params=tuple(item.param.key for item in same),
            arguments={"factor": declared / std},
            code=f"draw with std {declared:g}, or declare initializer_range {std:.3g}",
        ),
    )


def _against_scheme(context: Context, drawn: Sequence[_Drawn], expected: str) -> Iterator[Finding]:
    graph = context.model.graph
    judged = [
        item for item in drawn if not (context.model.connected and graph.is_head(item.layer.id))
    ]
    off = [item for item in judged if not _has_scheme(item, expected)]
    if not off:
        return
    first = off[0]
    more = f" and {len(off) - 1} more" if len(off) > 1 else ""
    yield Finding(
        severity=Severity.WARNING,
        layer=first.layer.id,
        param=first.param.name,
        layers=tuple(dict.fromkeys(item.layer.id for item in off)),
        message=f"{first.param.name}{more} of {len(judged)} weights are not {expected}, as "
        f"declared: {first.found.scheme}",
        evidence={
            "expected": expected,
            "found": first.found.scheme,
            "std": first.found.std,
            "off": len(off),
            "compared": len(judged),
        },
        why="the declared scheme was overwritten, or never reached these layers",
        measured=f"{first.found.scheme}, std {first.found.std:.3g}",
        expected=expected,
        fix=Fix(
            "reinitialise",
            params=tuple(item.param.key for item in off),
            code=f"draw {first.param.name}{more} with {expected}, or declare what they are",
        ),
    )


def _has_scheme(item: _Drawn, expected: str) -> bool:
    """True when the numbers allow the scheme; a plain ``normal(s)`` is compared by its s."""
    if expected in item.found.names() or expected == str(item.found.family):
        return True
    plain = re.fullmatch(r"(truncated_)?normal\(([0-9.e+-]+)\)|uniform\(([0-9.e+-]+)\)", expected)
    if plain is None:
        return False
    try:
        value = float(plain[2] or plain[3])
    except ValueError:
        return False
    if value <= 0:
        return False
    if plain[3]:
        return item.found.family is Family.UNIFORM and item.is_within(value / sqrt(3.0))
    cut = TRUNCATED if plain[1] else 1.0
    return item.found.family in _NORMAL and (item.is_within(value * cut) or item.is_within(value))
