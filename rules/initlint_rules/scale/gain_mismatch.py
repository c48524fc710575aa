"""gain-mismatch: a known scheme with a gain that is not its activation's, where that does harm."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from math import log, log10, sqrt

from initlint.api import (
    RELU_FAMILY,
    Context,
    Finding,
    Fix,
    Layer,
    Match,
    Need,
    Op,
    Param,
    Rule,
    Severity,
    Share,
    Stage,
    drift_share,
    fan_mistakes,
    fans,
    forward_gain,
    gates,
    on_branches,
    record,
)
from initlint_rules._consequences import SIGNALS

LEAST_RATIO = 0.05
"""|ln(gain / wanted)| from which gains differ: half of what separates GELU's 1.53 from He's 1.41,
and 30 layers of it make 0.65 decades, the lower end of what is worth saying."""

MIN_LAYERS = 2
"""Factors compound from the second layer on."""

UNIT_GAIN = 0.02
"""Tolerance on the gain 1 that relu-after-xavier reports on its own."""

_SCHEMES = (
    "torch_default",
    "he_normal",
    "he_uniform",
    "lecun_normal",
    "lecun_uniform",
    "xavier_normal",
    "xavier_uniform",
    "orthogonal",
)
_FIXED = ("normal", "truncated_normal", "uniform")
"""Schemes with one scale for all widths."""

_GAINS = ("a=", "gain=", "tanh", "selu", "uncorrected")
"""What may stand in brackets behind a scheme: gains that initialisers offer. Others are guesses
that a custom gain meets by chance."""


@record(frozen=True, slots=True)
class _Mismatch:
    layer: Layer
    param: Param
    match: Match
    activation: str
    gain: float
    wanted: float


class GainMismatch(Rule):
    """Weights carry a known scheme whose gain is not what their activation needs.

    What it does
    ------------
    Finds layers drawn by a known scheme or at a fixed scale (PyTorch's default, He before tanh,
    sqrt(2) before GELU, N(0, 0.02) at any width) where the gain differs from that of the activation
    they feed, and the difference drives a drift of signal or gradient.

    Why is this bad
    ---------------
    A layer keeps the scale when fan_in times the variance is 1 / E[phi(z)^2]. PyTorch's default has
    1/3 where a ReLU needs 2, so each layer multiplies the signal by 0.41; a fixed scale of 0.02
    fits a width of 2500 and no other.

    How it decides
    --------------
    The scheme is identified from the weights. The severity is the layers' share of the drift,
    predicted or measured; without harm nothing is said, because behind a normaliser or in a short
    net the gain hardly matters.

    What it does not flag
    ---------------------
    Layers whose drift does no harm: in front of normalisers, short stretches, heads, small residual
    branches. Weights drawn with a wrong fan and Xavier before a ReLU, which have rules of their
    own. Scales that fit no scheme (forward-drift speaks of those). Trained weights.

    Example
    -------
    ::

        from torch import nn

        def model():
            layers = []
            for _ in range(20):
                layers += [nn.Linear(256, 256), nn.ReLU()]
            return nn.Sequential(*layers, nn.Linear(256, 10))

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            layers = []
            for _ in range(20):
                linear = nn.Linear(256, 256)
                nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
                nn.init.zeros_(linear.bias)
                layers += [linear, nn.ReLU()]
            return nn.Sequential(*layers, nn.Linear(256, 10))

    References
    ----------
    - He, Zhang, Ren, Sun 2015, Delving deep into rectifiers.
    - pytorch issue 57109: the default of nn.Linear keeps a formula from 2002.
    - torch.nn.init.calculate_gain has no entry for GELU, SiLU, Mish and ELU.
    """

    code = "SCL203"
    name = "gain-mismatch"
    formula = "wanted gain g = 1 / sqrt(E[phi(z)^2]), z ~ N(0, 1)"
    about_scale = True
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.THEORY})
    optional = frozenset({Need.PROBE})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    local = True
    folds = (*SIGNALS, "inconsistent-siblings")

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per scheme and activation whose layers drive a drift."""
        wrong = {item.param.key for item in fan_mistakes(context.model, context.measures)}
        groups: dict[tuple[str, str, bool], list[_Mismatch]] = defaultdict(list)
        gating = {gate.source for gate in gates(context.model.graph)}
        for layer in context.model.graph.weighted:
            found = _mismatch(context, layer) if layer.id not in gating else None
            if found is not None and found.param.key not in wrong:
                small = found.gain < found.wanted
                groups[found.match.scheme, found.activation, small].append(found)
        for mismatches in groups.values():
            causes = {item.layer.id: log10(item.gain / item.wanted) for item in mismatches}
            share = drift_share(context, causes)
            driving = frozenset(share.layers)
            inside = [item for item in mismatches if item.layer.id in driving]
            if share.severity is not None and len(inside) >= MIN_LAYERS:
                severity = on_branches(context, driving, share.decades, share.severity)
                yield _finding(severity, share, inside, _heads(context, inside[0].match))


def _mismatch(context: Context, layer: Layer) -> _Mismatch | None:
    param = layer.weight
    if layer.op not in (Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE) or param is None:
        return None
    graph = context.model.graph
    if not param.trainable or param.quantised or graph.is_head(layer.id):
        return None
    if context.measures.stage(param) is not Stage.FRESH or graph.feeds_normaliser(layer.id):
        return None
    fan, std = fans(layer, param), context.measures.effective_std(param)
    activation = graph.activation(layer.id)
    if fan is None or not std or not (activation or _feeds_linear(context, layer)):
        return None
    matches = context.measures.identify(param).matches
    match = next((m for m in matches if m.true_fan and _is_offered(m.scheme)), None)
    if match is None or match.fan == "depth":
        return None
    wanted = forward_gain(activation.op, activation.attrs) if activation else 1.0
    gain = std * sqrt(fan.fan_in)
    if abs(log(gain / wanted)) < LEAST_RATIO or _is_relu_after_xavier(activation, match):
        return None
    return _Mismatch(layer, param, match, activation.op.value if activation else "", gain, wanted)


def _is_offered(scheme: str) -> bool:
    name, _, argument = scheme.partition("(")
    if name in _FIXED:
        return True
    return name in _SCHEMES and (not argument or argument.startswith(_GAINS))


def _feeds_linear(context: Context, layer: Layer) -> bool:
    """True in front of another matrix: sums, products and attention have other needs."""
    after = context.model.graph.effective_consumers(layer.id)
    return bool(after) and all(item.op in (Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE) for item in after)


def _is_relu_after_xavier(activation: Layer | None, match: Match) -> bool:
    return (
        activation is not None
        and activation.op in RELU_FAMILY
        and match.scheme.startswith(("xavier", "lecun"))
        and abs(match.gain - 1.0) < UNIT_GAIN
    )


def _heads(context: Context, match: Match) -> list[tuple[str, str]]:
    """Ids and weights of output layers drawn at the same fixed scale: one line of code drew all."""
    if not match.scheme.startswith(_FIXED):
        return []
    return [
        (layer.id, weight.key)
        for layer in context.model.graph.weighted
        if context.model.graph.is_head(layer.id)
        and (weight := layer.weight) is not None
        and any(found.scheme == match.scheme for found in context.measures.identify(weight).matches)
    ]


def _finding(
    severity: Severity, share: Share, mismatches: list[_Mismatch], heads: list[tuple[str, str]]
) -> Finding:
    first = mismatches[0]
    layers = tuple(item.layer.id for item in mismatches)
    feeds = first.activation or "no activation"
    what = "gradient" if share.backward else "signal"
    count = layers[0] if len(layers) == 1 else f"{len(layers)} layers"
    fan = fans(first.layer, first.param)
    wanted_std = first.wanted / sqrt(fan.fan_in) if fan else 0.0
    relu = abs(first.wanted - sqrt(2.0)) < 1e-6
    code = (
        f"torch.nn.init.kaiming_normal_({first.param.name}, nonlinearity='relu')"
        if relu
        else f"torch.nn.init.normal_({first.param.name}, std={first.wanted:.4g} / fan_in ** 0.5)"
    )
    return Finding(
        severity=severity,
        layer=first.layer.id,
        param=first.param.name,
        layers=layers,
        culprits=(*layers, *(key for key, _ in heads)),
        message=f"{first.match.scheme} weights of {count} have gain {first.gain:.2g}, "
        f"{feeds} wants {first.wanted:.3g}; {what} changes 10^{share.decades:+.1f} times",
        evidence={
            "scheme": first.match.scheme,
            "activation": first.activation or None,
            "gain": first.gain,
            "gain_wanted": first.wanted,
            "fan_in": fan.fan_in if fan else None,
            "std_wanted": wanted_std,
            "decades": share.decades,
            "backward": share.backward,
            "layers": len(layers),
        },
        why="each layer multiplies the rms by gain / wanted gain, and the factors compound",
        measured=f"gain {first.gain:.3g} (std * sqrt(fan_in))",
        expected=f"gain {first.wanted:.3g}: std {wanted_std:.3g} in {first.layer.id}",
        fix=Fix(
            "he_normal" if relu and not heads else "scale_preserving",
            params=(*(item.param.key for item in mismatches), *(key for _, key in heads)),
            code=code,
            arguments={"gain": first.wanted},
        ),
    )
