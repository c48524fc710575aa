"""One number per fresh model: the predicted probability that training from here is harmed.

A logistic function of a sum of terms. Every term is zero on ordinary networks and grows by the
decades (or the share) by which one piece of evidence leaves the range that theory allows; every
weight is positive, so that more harm never lowers the risk. `WEIGHTS` and `OFFSET` are what
``python -m benchmarks.outcome fit`` prints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, inf, isfinite, isnan, log10, nan, sqrt

from initlint.model import RECURRENT, Layer, LayerGraph, Op, Role
from initlint.model.bypass import is_bypassed
from initlint.model.masks import masked
from initlint.model.structure import before_averaging, gates, residual_branches
from initlint.probe.result import Activations, ProbeStatus, Response
from initlint.theory.result import Prediction

CAP = 6.0
"""Decades after which more makes no difference: float32 has seven digits."""

CONTRAST = 0.02
"""Share of the gradient's power that must differ between inputs. A step of SGD at the largest
stable rate is set by the common part: with 2 % left, what tells inputs apart moves fifty times
slower. Uncentred activations with bounded means (a healthy sigmoid net) reach it."""

RANK = 2.0
"""Directions in which inputs must differ: units that are all alike leave one."""

STEEP = 4.5
"""Decades of the squared length of one output's gradient. The largest stable rate of gradient
descent is 2 over the kernel's largest eigenvalue (LeCun et al. 1991): beyond, rates of 1e-4 and
less are needed."""

ONCE = 1.0
"""Decades that count of a first step that is too large where the second is not: zeros before a
normaliser make it 1/sqrt(epsilon) times too large and end with it, and the normaliser takes away
how far it led."""

SENSITIVE = 1.2
"""Decades of the sensitivity to random relative changes of the weights. Each of L layers moves the
output by about its own size, so ordinary networks are near sqrt(L); 10^1.2 is sqrt(250). Beyond
the edge of chaos (Poole et al. 2016), and where saturated units flip, it grows with every layer and
step, and a gradient says nothing about where a step of ordinary size leads."""

QUIET = 0.1
"""Rms of the output below which it may multiply without harm: logits and standardised targets have
about 1, so a loss hardly sees outputs below a tenth of that move."""

FLAT = 0.0
"""Decades of the same: at a length of 1 a rate of 0.1, the usual largest, moves an output by a
tenth of its error in a step, and with momentum by all of it in ten; below, the bias of the head is
nearly all that moves."""

SHRINKS = -1.2
"""Decades between the gradients of the first and the last quarter of the layers: a drift of one
costs at most 9 % of the progress (benchmark of severity), and harm begins beyond."""

GROWS = 1.2
"""The same for growth."""

REACH = -2.5
"""Decades between the gradients of the least and the most heard step of a sequence: a memory of
that step is learnt three hundred times slower."""

MOSTLY = 0.5
"""Different weights per layer with weights below which a graph is a loop, written out."""

LOUD = 0.5
"""Decades of the output's rms s: a softmax over such logits starts s²/2 nats above chance, 5 at
10^0.5, where the loss of a guess among a hundred classes is 4.6."""

HUGE = 1.5
"""Decades of any layer's rms: activations above 10^1.5."""

PEAKED = 0.7
"""Sum of squared attention weights: one is a softmax that looks at a single key."""

SATURATED = 0.5
"""Share of a layer's elements in the flat of a bounded activation."""

WARNED = 0.25
"""What a warning counts of what an error does. Of the starts of the five held-out sets of
`benchmarks/outcome` that carry an error 91 to 99 % were harmed, of those with a warning alone 33 to
59 %, of the others 2 to 15 %: odds that differ by e^5 and e^2, most of which the terms of the same
starts explain."""

_HEADS = frozenset({Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE}) | RECURRENT
"""Layers whose input decides what can be read out."""

_RECIPROCAL = frozenset({Op.RECIPROCAL, Op.RECIPROCAL_SQRT})
"""Factors of a normaliser that is written in parts: large where a signal is small."""

_PICKING = frozenset({Op.GATHER, Op.REDUCE, Op.COMPARE})
"""What takes single shares of a softmax, as a router does whose other experts are masked: they
weigh nothing together."""

WEIGHTS: Mapping[str, float] = {
    "alike": 1.7,
    "one direction": 2.0,
    "steep": 1.8,
    "sensitive": 1.9,
    "flat": 1.5,
    "shrinks": 1.8,
    "grows": 1.6,
    "forgets": 1.3,
    "silent": 1.6,
    "copies": 1.7,
    "loud": 1.6,
    "huge": 1.5,
    "peaked": 1.5,
    "saturated": 1.6,
    "named": 2.0,
}
OFFSET = -2.3

REASONS: Mapping[str, str] = {
    "alike": "all inputs pull the weights the same way",
    "one direction": "the gradient sees one direction of the inputs",
    "steep": "a small step changes the output too much",
    "sensitive": "small changes of the weights overturn the output",
    "flat": "a step hardly changes the output",
    "shrinks": "the gradient shrinks on its way to the first layers",
    "grows": "the gradient grows on its way to the first layers",
    "forgets": "some steps of the sequence have no say in the output",
    "silent": "parameters without a gradient, after two steps, too",
    "copies": "units that start as copies of others and stay so",
    "loud": "the output is large",
    "huge": "activations are large",
    "peaked": "attention looks at single keys",
    "saturated": "units are saturated",
    "named": "what the findings name",
    "not finite": "values that are not finite",
}


@dataclass(frozen=True, slots=True)
class Risk:
    """The number, what it rests on, and why.

    Attributes:
        value: predicted probability of harm.
        terms: every term that is not zero, weighted, largest first.
        basis: the evidence used, in words.
    """

    value: float
    terms: Mapping[str, float] = field(default_factory=dict)
    basis: str = ""

    @property
    def reasons(self) -> tuple[str, ...]:
        """The largest terms in words; what the findings say already only where nothing else is."""
        own = [name for name in self.terms if name != "named"]
        return tuple(REASONS[name] for name in own or self.terms)[:3]


def risk(
    graph: LayerGraph,
    probe: Activations | None,
    theory: Prediction | None = None,
    estimate: Callable[[], Response | None] | None = None,
) -> Risk | None:
    """The risk of a fresh model; None without a probe that ran to its end.

    Args:
        graph: its layers.
        probe: what running it measured.
        theory: what is predicted of it.
        estimate: works out the tangent kernel layer by layer, where none was measured.
    """
    if probe is None or probe.status is not ProbeStatus.OK or not probe.outputs:
        return None
    if any(stats.non_finite for key, stats in probe.outputs.items() if graph[key].op is Op.OUTPUT):
        return Risk(1.0, {"not finite": inf}, "one forward pass")
    terms, basis = evidence(graph, probe, theory, estimate)
    return None if terms is None else score(terms, basis)


def score(terms: Mapping[str, float], basis: str = "") -> Risk:
    """Risk of what was seen."""
    weighted = {name: WEIGHTS[name] * value for name, value in terms.items() if value > 0.0}
    order = sorted(weighted.items(), key=lambda item: (-item[1], item[0]))
    return Risk(_chance(weighted), dict(order), basis)


def with_findings(found: Risk, errors: int, warnings: int) -> Risk:
    """The risk in the light of what rules found: faults of single layers that no total shows.

    Units that stay equal, a gate that forgets, a head alone too wide leave the terms of the whole
    network as they are.
    """
    named = _named(errors, warnings)
    if not named or not all(map(isfinite, found.terms.values())):
        return found
    weighted = {**found.terms, "named": named}
    return Risk(_chance(weighted), weighted, found.basis)


def without_findings(value: float, errors: int, warnings: int) -> float:
    """What `with_findings` started from: the risk that no named fault explains."""
    if not 0.0 < value < 1.0:
        return value
    return 1.0 / (1.0 + (1.0 - value) / value * exp(_named(errors, warnings)))


def _named(errors: int, warnings: int) -> float:
    return WEIGHTS["named"] * (1.0 if errors else WARNED if warnings else 0.0)


def _chance(weighted: Mapping[str, float]) -> float:
    return 1.0 / (1.0 + exp(-(OFFSET + sum(weighted.values()))))


def evidence(
    graph: LayerGraph,
    probe: Activations,
    theory: Prediction | None = None,
    estimate: Callable[[], Response | None] | None = None,
) -> tuple[Mapping[str, float] | None, str]:
    """The terms, unweighted, and in words what they rest on.

    Where the kernel was measured again after two small steps, that is the state from which training
    goes on: what they mend (a zero head, a zero gain) is no harm, what they break is. None when
    nothing is known of the gradient or of the head's input.
    """
    common, ratio = _forward(graph, probe), _depth_ratio(graph, probe, theory)
    repeats = _repeats(graph)
    if probe.responses:
        first, last = probe.responses[0], probe.responses[-1]
        more = {
            "huge": 0.0,  # seen in what it does: a normaliser or a tanh makes up for it
            "sensitive": max(map(_sensitive, probe.responses)),  # no step mends chaos
            "steep": max(min(_steep(first), ONCE), _steep(last)),
        }
        terms = {**common, **_terms(last, ratio, repeats), **more}
        return terms, "tangent kernel at the start and after two small steps"
    local = estimate() if estimate is not None and not probe.backward else None
    if local is not None:
        more = {"steep": _steep(local), "sensitive": _sensitive(local)}
        terms = {**common, **_terms(local, ratio, repeats), **more}
        return terms, "one forward pass and the gradient predicted layer by layer"
    contrast = _head_contrast(graph, probe)
    if contrast is None or isnan(ratio):  # nothing is known of the gradient
        return None, ""
    terms = {**common, "alike": _under(contrast, CONTRAST), **_along_depth(ratio, repeats)}
    if probe.backward:
        return terms, "one forward and one backward pass"
    return terms, "one forward pass and the predicted gradient"


def _terms(look: Response, fallback: float, repeats: bool) -> dict[str, float]:
    """What one kernel says."""
    decades = log10(look.size) if look.size > 0 else -inf
    ratio = fallback if isnan(look.depth_ratio) else look.depth_ratio
    return {
        "alike": _under(look.contrast, CONTRAST),
        "one direction": max(RANK - look.rank, 0.0),
        "flat": _clipped(FLAT - decades),
        **_along_depth(ratio, repeats, look.reach),
        "silent": look.silent,
        "copies": sqrt(look.copies),  # the share of the units: their matrices have its square
        "loud": _clipped(log10(look.output) - LOUD) if look.output > 0 else 0.0,
    }


def _steep(look: Response) -> float:
    return _clipped(log10(look.size) - STEEP) if look.size > 0.0 else 0.0


def _sensitive(look: Response) -> float:
    moved = look.sensitivity * min(look.output / QUIET, 1.0)
    return _clipped(log10(moved) - SENSITIVE) if moved > 0.0 else 0.0


def _along_depth(ratio: float, repeats: bool, reach: float = nan) -> dict[str, float]:
    """What the gradient loses and gains along the layers.

    Where layers repeat, the first are early steps of a sequence, whose weights learn from the last
    ones: what is lost is reach.
    """
    if isnan(ratio):
        return {"forgets": _lost(reach)}
    if repeats:
        return {"forgets": max(_lost(reach), _lost(ratio)), "grows": _clipped(ratio - GROWS)}
    return {
        "forgets": _lost(reach),
        "shrinks": _clipped(SHRINKS - ratio),
        "grows": _clipped(ratio - GROWS),
    }


def _lost(reach: float) -> float:
    return 0.0 if isnan(reach) else _clipped(REACH - reach)


def _repeats(graph: LayerGraph) -> bool:
    """True when most layers with weights are one used again, as in a loop over a cell."""
    uses = [weight.key for layer in graph.weighted if (weight := layer.weight) is not None]
    return len(set(uses)) < MOSTLY * len(uses)


def _forward(graph: LayerGraph, probe: Activations) -> dict[str, float]:
    """What the forward pass says of every layer: the worst layer counts."""
    huge = peaked = saturated = 0.0
    shaped, masks, beside = _shaped(graph), masked(graph), _beside(graph)
    apart = masks | _unheard(graph, probe) | _totals(graph)
    for name, stats in probe.outputs.items():
        op = graph[name].op
        if name not in shaped or op is Op.OUTPUT:
            continue
        if stats.rms > 0.0 and name not in apart and op not in _RECIPROCAL:
            huge = max(huge, log10(stats.rms) - HUGE)
        if name not in beside and not any(edge.source in masks for edge in graph.inputs(name)):
            saturated = max(saturated, (stats.saturated_share - SATURATED) / (1.0 - SATURATED))
        keys = _keys(graph[name], stats.units) if op is Op.SOFTMAX else 0
        if keys > 1 and any(item.op not in _PICKING for item in graph.consumers(name)):
            squares = keys * stats.rms**2
            peaked = max(peaked, (squares - PEAKED) / (1.0 - PEAKED))
    return {"huge": _clipped(huge), "saturated": max(saturated, 0.0), "peaked": max(peaked, 0.0)}


def _keys(layer: Layer, units: int) -> int:
    """How many entries a softmax shares one between: those of its axis, where that is known."""
    axis, shape = layer.attrs.get("axis"), layer.output_shape or ()
    if isinstance(axis, int) and -len(shape) <= axis < len(shape):
        return shape[axis] or units
    return units


def _beside(graph: LayerGraph) -> frozenset[str]:
    """Gates, which may start open or shut, and residual branches that a trunk leads around.

    The values of a gate are shares of another signal; a tanh in a product is that signal.
    """
    inner = {key for item in residual_branches(graph) if not item.projection for key in item.branch}
    around = inner if is_bypassed(graph, inner) else set()
    gating = {gate.activation for gate in gates(graph) if graph[gate.activation].op is not Op.TANH}
    return frozenset(around | gating)


def _shaped(graph: LayerGraph) -> frozenset[str]:
    """Layers that weights had a part in: what stands before them is the data's own scale."""
    found: set[str] = set()
    for layer in graph.order:
        weighted = layer.op is not Op.INPUT and bool(layer.params)
        if weighted or any(edge.source in found for edge in graph.inputs(layer.id)):
            found.add(layer.id)
    return frozenset(found)


def _unheard(graph: LayerGraph, probe: Activations) -> frozenset[str]:
    """Layers that weights lead to and no gradient comes back from: choices, indices, labels."""
    if not probe.backward:
        return frozenset()
    trained: set[str] = set()
    for layer in graph.order:
        own = any(param.trainable for param in layer.params)
        if own or any(edge.source in trained for edge in graph.inputs(layer.id)):
            trained.add(layer.id)
    return frozenset(trained - probe.backward.keys())


def _totals(graph: LayerGraph) -> frozenset[str]:
    """Sums over elements behind the last weights, as a loss takes them: no activations."""
    before: set[str] = set()
    for layer in reversed(graph.order):
        if layer.params or any(edge.target in before for edge in graph.outputs(layer.id)):
            before.add(layer.id)
    return frozenset(
        layer.id for layer in graph if layer.op is Op.REDUCE and layer.id not in before
    )


def _head_contrast(graph: LayerGraph, probe: Activations) -> float | None:
    """Contrast of the last weighted layer's own kernel: ⟨x, x'⟩, and one for its bias.

    A signal that has vanished leaves the bias alone, whose gradient is the same for all inputs.
    """
    for layer in reversed(graph.order):
        if layer.op not in _HEADS:
            continue
        bias = 1.0 if layer.with_role(Role.BIAS) else 0.0
        for edge in graph.inputs(layer.id):
            stats = probe.outputs.get(before_averaging(graph, edge.source))
            if stats is None or not isfinite(stats.row_std):
                continue
            units = 1 if layer.op in (Op.CONV, Op.CONV_TRANSPOSE) else max(stats.units, 1)
            power = units * stats.rms**2 + bias
            return units * stats.row_std**2 / power if power > 0.0 else 0.0
    return None


def _depth_ratio(graph: LayerGraph, probe: Activations, theory: Prediction | None) -> float:
    """Decades between the gradients of early and late layers with weights, measured or predicted.

    As `initlint.probe.torch_response` measures it: the length over all elements of a sample, the
    largest of each quarter, the last layer left out.
    """
    if probe.backward:
        sizes: Mapping[str, float] = probe.backward
    elif theory is not None:
        sizes = {
            name: exp(max(value, -600.0) / 2) if value > -inf else 0.0
            for name, value in theory.backward.items()
        }
    else:
        return nan
    ends = {
        above.id for layer in graph if layer.op is Op.OUTPUT for above in graph.producers(layer.id)
    }
    order = [
        (layer.op in _HEADS, sizes[layer.id] * (stats.count / max(stats.samples, 1)) ** 0.5)
        for layer in graph.order
        if layer.id in sizes
        and (layer.op in _HEADS or layer.op is Op.ADD)
        and layer.id not in ends
        and (stats := probe.outputs.get(layer.id)) is not None
    ]
    weighted = [size for has_weight, size in order if has_weight]
    if len(weighted) < 2:
        inner = [layer for layer in graph.order if layer.op in _HEADS and layer.id not in ends]
        return 0.0 if sizes and len(inner) < 2 else nan  # one layer has no depth to lose it in
    ratio = _quarters(weighted)
    # Branches that a zero closes hide the trunk between them, which the sums show.
    return _quarters([size for _, size in order]) if isnan(ratio) else ratio


def _quarters(order: Sequence[float]) -> float:
    """Decades between the largest of the first quarter and that of the last."""
    quarter = max(len(order) // 4, 1)
    early, late = max(order[:quarter]), max(order[-quarter:])
    if not late > 0.0 or not isfinite(early) or not isfinite(late):
        return nan
    return log10(max(early, 1e-45)) - log10(late)


def _under(value: float, limit: float) -> float:
    return CAP if not value > 0.0 else _clipped(log10(limit / value))


def _clipped(value: float) -> float:
    return 0.0 if isnan(value) else min(max(value, 0.0), CAP)
