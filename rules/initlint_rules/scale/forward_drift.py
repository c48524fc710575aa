"""forward-drift: the predicted signal leaves the range in which training works."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from math import isfinite, log, log10, sqrt

from initlint.api import (
    WEIGHTED,
    Confidence,
    Context,
    Finding,
    Fix,
    LayerGraph,
    Match,
    Need,
    Op,
    Param,
    Role,
    Rule,
    Segment,
    Severity,
    Sink,
    Stage,
    drift_severity,
    forward_gain,
    gates,
    input_rms,
    keeping_gates,
    measured_drift,
    segment_makers,
)

SAMPLED = 32
"""Culprits whose scheme is looked up: enough to name the two most frequent."""

TOP = 3
"""Layers named as the main contributors; the rest follow the same law."""

MIN_LAYERS = 2
"""Factors compound from the second layer on; the scale of one layer is a matter of its loss."""

GUILTY = 0.2
"""Part of the largest contribution from which a layer is named: layers of one law differ by their
widths and by scatter, never by a factor of five."""

OFF_SCALE = 0.5
"""Decades from which the scale of a learned table is a mistake and no choice: a factor of three."""

SAME_SCALE = 0.05
"""Decades within which tables are off by one factor."""

BY_BIAS = 0.5
"""Share of a layer's power from which its bias makes more of it than its weights do."""

AGREEMENT = 0.5
"""Decades by which a measured drift may fall short of a predicted one and still confirm it: the
severity bands are about half a decade wide at their lower end."""


class ForwardDrift(Rule):
    """The signal that reaches the end of an un-normalised stretch is predicted far from its scale.

    What it does
    ------------
    Follows the second moment of the signal through the layer graph with the weights as they are
    (mean-field theory) and compares it, at the end of each stretch without a normaliser, with what
    the stretch would deliver if every layer kept the scale.

    Why is this bad
    ---------------
    Factors multiply over layers. In a 30-layer net a per-layer factor of 0.58 (PyTorch's default
    before a ReLU is 0.41) leaves 10^-7 of the signal, and as little of the gradient; a factor of 2
    makes activations 10^9.

    How it decides
    --------------
    Drift in decades of rms beyond the finite-width band. Vanishing: 0.7 info, 1.5 warning, 4 error
    (where plain SGD learned nothing at any learning rate; a loss that one or two layers make up is
    a warning, since training grows these back within tens of steps). Exploding into an output or
    through ReLUs: 0.3 info, 0.7 warning, 1.5 error. If the probe ran and did not confirm the drift,
    nothing is said.

    What it does not flag
    ---------------------
    Stretches that end in a normaliser, a small last layer, small residual branches on a trunk that
    carries the signal, what a gate of a written-out cell lets in at one step, anything behind an
    operator whose effect is unknown.

    Example
    -------
    ::

        from torch import nn

        def model():
            layers = []
            for _ in range(20):
                layers += [nn.Linear(256, 256), nn.ReLU()]
            net = nn.Sequential(*layers, nn.Linear(256, 10))
            for layer in net[::2]:
                nn.init.normal_(layer.weight, std=0.6 / 16)
                nn.init.zeros_(layer.bias)
            return net

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
    - Schoenholz, Gilmer, Ganguli, Sohl-Dickstein 2017, Deep information propagation.
    """

    code = "SCL201"
    name = "forward-drift"
    formula = "q_l = fan_in Var(W) E[phi(sqrt(q_{l-1}) z)^2] + Var(b);  D = 0.5 log10(q_L / wanted)"
    about_scale = True
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.THEORY})
    optional = frozenset({Need.PROBE})
    stages = frozenset({Stage.FRESH})
    folds = (
        "variance-profile",
        "saturation",
        "gradient-profile",
        "correlation-collapse",
        "gain-mismatch",  # of a few layers that meet some scheme by chance
    )

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per stretch that drifts."""
        if context.theory is None:
            return
        kept = {gate.bias.key for gate in keeping_gates(context.model.graph)}
        for segment in context.theory.segments:
            severity = self._severity(context, segment)
            if severity is not None and not _by_gates(context, segment, kept):
                yield self._finding(context, segment, severity)

    def _severity(self, context: Context, segment: Segment) -> Severity | None:
        if segment.normalised or len(segment.layers) < MIN_LAYERS:
            return None
        if segment.drift > 0 and segment.sink is Sink.SATURATION:
            return None
        layers = segment_makers(segment)
        severity = drift_severity(segment.drift, segment.band, segment.sink, layers)
        if severity is Severity.ERROR and _is_of_its_head(context.model.graph, segment):
            severity = Severity.WARNING
        if severity is None or context.probe is None:
            return severity
        measured = _measured(context, segment)
        if measured is None:
            return severity
        if abs(measured - segment.drift) <= segment.band + AGREEMENT:
            return severity
        seen = drift_severity(measured, 0.0, segment.sink, layers)
        if seen is None or measured * segment.drift < 0:
            return None
        return min(severity, seen)

    def _finding(self, context: Context, segment: Segment, severity: Severity) -> Finding:
        sign = -1 if segment.drift < 0 else 1
        most = max((value * sign for value in segment.contributions.values()), default=0.0)
        same_way = [key for key in segment.layers if segment.contributions.get(key, 0.0) * sign > 0]
        guilty = [key for key in same_way if segment.contributions[key] * sign > GUILTY * most]
        minor = [key for key in same_way if segment.contributions[key] * sign <= GUILTY * most]
        culprits = tuple(guilty) or segment.layers
        ranked = sorted(guilty, key=lambda key: -sign * segment.contributions[key])
        gating = {gate.source for gate in gates(context.model.graph)}
        tables = _tables(context, culprits, sign)
        biased = [k for k in culprits if (sign > 0 or k in gating) and _by_bias(context, k)]
        wide = _wide_gains(context, culprits) if sign > 0 else []
        schemes = _schemes(context, culprits)
        top = [(key, round(segment.contributions[key], 3)) for key in ranked[:TOP]]
        measured = _measured(context, segment)
        word = "vanishes" if segment.drift < 0 else "explodes"
        drawn = f" (drawn as {', '.join(schemes)})" if schemes else ""
        if biased:
            more = f" and {len(biased) - 1} more" if len(biased) > 1 else ""
            drawn = f" (by the bias of {biased[0]}{more})"
        if wide:
            more = f" and {len(wide) - 1} more" if len(wide) > 1 else ""
            drawn = f" (by the gain {wide[0][1].name}{more})"
        if tables:
            drawn = f" (by the scale of {', '.join(param.name for _, param, _ in tables)})"
        return Finding(
            severity=severity,
            confidence=Confidence.HIGH if measured is not None else Confidence.MEDIUM,
            layer=tables[0][0] if tables else wide[0][0] if wide else culprits[0],
            layers=(*(key for key, _, _ in tables), *(key for key, _ in wide), *culprits),
            culprits=(*culprits, *minor),
            message=f"signal {word}: 10^{segment.drift:+.1f} times its scale after "
            f"{len(segment.layers)} layers{drawn}",
            evidence={
                "drift_decades": segment.drift,
                "band_decades": segment.band,
                "measured_decades": measured,
                "backward_drift_decades": segment.backward_drift,
                "largest_contributions": [f"{key}: {value:+.2f}" for key, value in top],
                "sink": segment.sink.value,
                "end": segment.path[-1] if segment.path else None,
            },
            why="each layer multiplies the rms by the same factor, and the factors compound; the "
            "gradient suffers alike"
            + (
                "; the loss is flat at first, which early stopping takes for a plateau" * (sign < 0)
            ),
            measured=f"{segment.drift:+.1f} decades predicted"
            + (f", {measured:+.1f} measured" if measured is not None else ""),
            expected="within -0.7 and +0.3 decades",
            fix=_unit_tables(tables)
            if tables
            else _unit_gains([param for _, param in wide])
            if wide
            else _zero_biases(context, biased)
            if biased
            else _fix(context, culprits),
            shares={(key,): sign * value for key, value in segment.contributions.items()},
        )


def _by_gates(context: Context, segment: Segment, kept: Collection[str]) -> bool:
    """True where most of a loss is what the gate of a written-out cell lets in at one step.

    The state is the sum over all steps, and how open its gate is has rules of its own.
    """
    graph = context.model.graph
    lost = sum(
        value
        for key, value in segment.contributions.items()
        if (bias := graph[key].bias) is not None and bias.key in kept
    )
    return segment.drift < 0 and lost < segment.drift / 2


def _head(graph: LayerGraph, segment: Segment) -> str:
    """The last layer; of several heads side by side the one that does most to the signal."""
    sign = -1 if segment.drift < 0 else 1
    several = [key for key in segment.layers if graph.is_head(key)]
    if len(several) < 2 or segment.layers[-1] not in several:
        return segment.layers[-1]
    return max(several, key=lambda key: sign * segment.contributions.get(key, 0.0))


def _is_of_its_head(graph: LayerGraph, segment: Segment) -> bool:
    """True when the last layer makes most of a growth: its own first steps take that back."""
    return 0.0 < segment.drift < 2.0 * segment.contributions.get(_head(graph, segment), 0.0)


def _measured(context: Context, segment: Segment) -> float | None:
    """Decades between what enters the first layer and what leaves the last one, where that grows.

    What a head takes away is a choice, as in the prediction: then what enters it counts.
    """
    if context.probe is None:
        return None
    graph = context.model.graph
    last = _head(graph, segment)
    beside = {key for key in segment.layers if graph.is_head(key)} if graph.is_head(last) else set()
    before = tuple(key for key in segment.layers if key != last and key not in beside)
    drift = measured_drift((*before, last), graph, context.probe)
    if drift is None or min(segment.drift, segment.contributions.get(last, 0.0)) <= 0:
        return drift  # a head's bias makes up for nothing that was lost before
    entering, leaving = input_rms(last, graph, context.probe), context.probe.outputs.get(last)
    if not entering or leaving is None or not leaving.rms > entering:
        return drift
    return drift + log10(leaving.rms / entering) if isfinite(leaving.rms) else drift


def _by_bias(context: Context, key: str) -> bool:
    """True when most of the power behind a layer is its bias."""
    bias = context.model.graph[key].bias
    moments = context.measures.moments(bias) if bias is not None else None
    signal = context.theory.forward.get(key) if context.theory else None
    if moments is None or signal is None or not moments.second_moment > 0:
        return False
    return log(moments.second_moment) > signal.log_q + log(BY_BIAS)


def _tables(context: Context, keys: Sequence[str], sign: int) -> list[tuple[str, Param, float]]:
    """Learned tables that alone feed layers (a hypernetwork's codes), where their scale is off.

    Each with its standard deviation. A layer keeps the scale of what it reads, and where that is no
    data it is nobody's but the table's.
    """
    graph = context.model.graph
    inputs = [layer.id for layer in graph if layer.op is Op.INPUT]
    fed = graph.downstream(inputs)
    above = graph.upstream(key for key in keys if key not in fed)
    found = []
    for name in sorted(above, key=graph.position.__getitem__):
        for param in graph[name].with_role(Role.TABLE):
            std = context.measures.effective_std(param) if param.trainable else None
            if std and sign * log10(std) > OFF_SCALE:
                found.append((name, param, std))
    return found


def _wide_gains(context: Context, keys: Sequence[str]) -> list[tuple[str, Param]]:
    """Gains far above 1 right behind layers, where they are behind most: layer and parameter."""
    found = []
    for key in keys:
        for layer in context.model.graph.effective_consumers(key):
            param = next(iter(layer.with_role(Role.GAIN)), None)
            moments = context.measures.moments(param) if param is not None else None
            if layer.op is not Op.MUL or param is None or moments is None or not param.trainable:
                continue
            if moments.second_moment > 0 and 0.5 * log10(moments.second_moment) > OFF_SCALE:
                found.append((layer.id, param))
    return found if 2 * len(found) >= len(keys) else []


def _unit_gains(params: Sequence[Param]) -> Fix:
    return Fix(
        "ones",
        params=tuple(param.key for param in params),
        code=f"torch.nn.init.ones_({params[0].name}), or less: such gains start at 1e-6 to 1",
    )


def _unit_tables(tables: Sequence[tuple[str, Param, float]]) -> Fix:
    _, param, std = tables[0]
    same = all(abs(log10(other / std)) < SAME_SCALE for _, _, other in tables)
    return Fix(
        "rescale",
        params=tuple(item.key for _, item, _ in tables) if same else (param.key,),
        code=f"torch.nn.init.normal_({param.name})",
        arguments={"factor": 1 / std},
    )


def _zero_biases(context: Context, keys: Sequence[str]) -> Fix:
    biases = [bias for key in keys if (bias := context.model.graph[key].bias) is not None]
    return Fix(
        "zeros",
        params=tuple(bias.key for bias in biases),
        code=f"torch.nn.init.zeros_({biases[0].name})",
    )


def _schemes(context: Context, keys: tuple[str, ...]) -> list[str]:
    """The scheme names of the culprits, most frequent first, at most two."""
    counts: dict[str, int] = {}
    for key in keys[:: max(len(keys) // SAMPLED, 1)]:
        weight = context.model.graph[key].weight
        if weight is not None:
            found = context.measures.identify(weight).matches
            matches = [match for match in found if not _is_elsewhere(context, match)]
            if matches:
                counts[matches[0].scheme] = counts.get(matches[0].scheme, 0) + 1
    return sorted(counts, key=lambda name: (-counts[name], name))[:2]


def _is_elsewhere(context: Context, match: Match) -> bool:
    """True for a law of residual depth, or of queries, in a network that has neither."""
    if match.fan == "depth":
        return context.theory is not None and not context.theory.residuals
    queries = (Op.ATTENTION, Op.SOFTMAX)
    return match.scheme.startswith("t5_query") and not any(
        layer.op in queries for layer in context.model.graph
    )


def _fix(context: Context, keys: tuple[str, ...]) -> Fix | None:
    """Redraw the culprits with the gain their activation wants."""
    params: list[str] = []
    code = ""
    for key in keys:
        layer = context.model.graph[key]
        weight = layer.weight
        if layer.op not in WEIGHTED or weight is None:
            continue
        params.append(weight.key)
        if not code:
            activation = context.model.graph.activation(key)
            gain = forward_gain(activation.op, activation.attrs) if activation else 1.0
            code = (
                f"torch.nn.init.kaiming_normal_({weight.name}, nonlinearity='relu')"
                if abs(gain - sqrt(2)) < 1e-6
                else f"draw {weight.name} with std {gain:.3g} / sqrt(fan_in)"
            )
    if not params:
        return None
    return Fix("scale_preserving", params=tuple(params), code=code)
