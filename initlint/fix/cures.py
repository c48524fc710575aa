"""How each kind of fix that rules name is planned: the changes that it comes to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from initlint.fix.branches import FAR, open_branches, open_faint, residual_scaling
from initlint.fix.computed import open_factor
from initlint.fix.lsuv import SCALED
from initlint.fix.memory import open_memory
from initlint.fix.plan import Planner, Record
from initlint.fix.schemes import SCHEMES, default_value, find, law_std, preserving_std
from initlint.fix.slot import WEIGHT_ROLES, Slot
from initlint.fix.textbook import is_gate, sine_frequencies
from initlint.model import NORMALISERS, Layer, LayerGraph, Op, Param, Role

SINE_BAND = 1.5
"""Factor by which the first layer of a network of sines may differ from U(±1/fan_in) (Sitzmann et
al. 2020). Over two coordinates a framework's ±1/√fan_in is 1.4 times as wide and trained like the
paper's; 1.7 times too narrow and 6 times too wide did not (benchmarks/outcome: siren)."""

SINE_NARROW = 1.25
"""The same where it is too narrow, behind which frequencies are missing: a first layer 1.44 times
too narrow left 0.80 of the paper's progress (benchmarks/outcome: implicit)."""

SINE_HEAD = 4.0
"""Factor by which the last layer may be wider than the bound of the hidden ones: 3.3 trained like
the paper's, 8 made half of its progress (a network of three sines of frequency 8)."""

HUGE_TABLE = 3.0
"""Standard deviation of an embedding's elements that no framework or paper starts from: N(0, 1) is
the largest (torch.nn.Embedding). What such a table would have to keep up with is at fault."""

USUAL_TABLE = 1.0
"""Standard deviation of the widest embedding that a framework starts from, to which a wider one
that is too loud is brought at least."""

SAME = 2.0
"""Factor within which two weights are off by the same mistake; activations' gains differ by 1.6."""

OPEN = 3.0
"""Bias to which a gate may be held open or shut: its slope is still a fifth of the largest."""

Cure = Callable[[Planner, Record, dict[str, Any]], None]


def _to_std(
    planner: Planner, finding: Record, layer: Layer, param: Param, scheme: str, **more: Any
) -> None:
    """Bring a weight to the standard deviation of a scheme: rescaled if drawn, else drawn.

    In a deep plain stack it becomes orthogonal: rescaled draws would scatter as before.
    """
    deep = planner.network.deep_gain(layer, param)
    if deep is not None:
        planner.draw(finding, layer, param, "orthogonal", gain=deep)
        for bias in layer.with_role(Role.BIAS):
            held = (planner.measures.effective_std(bias) or 0.0) > 0
            if bias.trainable and held and not is_gate(planner.network, layer):
                planner.draw(finding, layer, bias, "zeros")
        return
    slot = planner.network.slot(layer, param)
    if planner.usable(param) and not planner.thorough:
        rms = planner.measures.effective_std(param)
        assert rms
        std = law_std(slot, scheme, more)
        planner.rescale(finding, layer, param, std / rms, _family(slot, scheme, std))
    else:
        planner.draw(finding, layer, param, scheme, **more)


def _family(slot: Slot, scheme: str, std: float) -> str:
    """What the scale is known as; the shape of the draws stays, so the law is not named."""
    if scheme.startswith(("he_", "xavier_", "lecun_")):
        return scheme.partition("_")[0]
    if scheme == "scale_preserving" and slot.fan_in:
        for name, power in (("he", 2.0), ("lecun", 1.0)):
            if math.isclose(std * std * slot.fan_in, power, rel_tol=1e-6):
                return name
    return scheme


def _preserving(planner: Planner, finding: Record, arguments: dict[str, Any]) -> None:
    """Scale-preserving weights; orthogonal in a deep stack of saturating units.

    There the Gaussian law's singular values, between 0 and 2, spread the gradient over decades
    within thirty layers, at whatever gain (Pennington, Schoenholz, Ganguli 2017): see `_to_std`.
    """
    named = list(planner.targets(finding, *WEIGHT_ROLES))
    for layer, param, excess in _beside(planner, named):
        if excess > 1:  # gates: too wide they stand still, too narrow they stand half open
            planner.rescale(finding, layer, param, 1 / excess)
    for layer, param in (*named, *planner.overlooked(named)):
        if param.role not in WEIGHT_ROLES:
            planner.draw(finding, layer, param, "constant", value=default_value(param.role))
        elif param.role is Role.RECURRENT_WEIGHT:
            planner.draw(finding, layer, param, "orthogonal", gain=1.0)
        else:
            _to_std(planner, finding, layer, param, "scale_preserving")
    _finish_by_running(planner, finding)


def _finish_by_running(planner: Planner, finding: Record) -> None:
    if planner.thorough:
        for layer, param in planner.targets(finding, *WEIGHT_ROLES):
            if planner.may_change(param):
                planner.scale_later(layer)


def drawn_as(scheme: str) -> Cure:
    """The cure of a fix that names a tensor scheme."""
    name = find(scheme).name
    scalable = name.startswith(("he_", "xavier_", "lecun_"))

    def cure(planner: Planner, finding: Record, arguments: dict[str, Any]) -> None:
        known = {key: arguments[key] for key in arguments if key in SCHEMES[name].arguments}
        named = list(planner.targets(finding, *WEIGHT_ROLES))
        for layer, param in (*named, *planner.overlooked(named)):
            if scalable:
                _to_std(planner, finding, layer, param, name, **known)
            else:
                planner.draw(finding, layer, param, name, **known)
        if scalable:
            _finish_by_running(planner, finding)

    return cure


def _copies(planner: Planner, finding: Record, arguments: dict[str, Any]) -> None:
    """Draw all but the first of each group of equal units, at the scale of the others."""
    named = list(planner.targets(finding, *WEIGHT_ROLES))
    for layer, param in (*named, *_same_constant(planner, named)):
        values = planner.measures.read(param)
        if values is None or param.role not in WEIGHT_ROLES or not planner.may_change(param):
            continue
        rows = values.reshape(values.shape[0], -1)
        _, first, group = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        copied = np.flatnonzero(first[group.reshape(-1)] != np.arange(len(rows)))
        if not copied.size or 2 * copied.size >= len(rows):  # little is left that was drawn
            if param.role is Role.RECURRENT_WEIGHT:
                planner.draw(finding, layer, param, "orthogonal", gain=1.0)
            else:
                planner.redraw(finding, layer, param)
            continue
        drawn = planner.network.draw("scale_preserving", layer, param).values
        scale = _spread(rows[np.sort(first)])
        wanted = preserving_std(planner.network.slot(layer, param))
        changed = np.array(values, dtype=np.float64)
        changed[copied] = drawn[copied] * ((scale or wanted) / wanted)
        arguments = {"units": int(copied.size)}
        planner.add(layer, param, changed, "redraw_duplicates", arguments, str(finding["name"]))


def _same_constant(
    planner: Planner, named: Sequence[tuple[Layer, Param]]
) -> Iterator[tuple[Layer, Param]]:
    """Weights of the one number that named ones hold: of a last layer no symmetry tells."""
    known = {param.key for _, param in named}
    held = [planner.measures.moments(param) for _, param in named]
    numbers = {found.mean for found in held if found and found.constant and found.max_abs > 0}
    for layer in planner.model.graph.weighted:
        param = layer.weight
        if param is None or param.key in known or not param.trainable or param.tied_to is not None:
            continue
        found = planner.measures.moments(param)
        if found is not None and found.constant and found.mean in numbers:
            yield layer, param


def _same_bias(
    planner: Planner, named: Sequence[tuple[Layer, Param]]
) -> Iterator[tuple[Layer, Param]]:
    """Biases and shifts of the number that named ones hold: one mistake, which some of them hide.

    Behind a bias that outweighs its layer's weights the signal is as large, and outweighs the next
    one's bias until the first is gone. What opens a gate is left: it is large on purpose.
    """
    known = {param.key for _, param in named}
    held = [planner.measures.moments(param) for _, param in named]
    numbers = {found.mean for found in held if found and found.constant and found.max_abs > 0}
    for layer in planner.model.graph if numbers else ():
        if layer.op not in NORMALISERS and (
            layer.op not in SCALED or is_gate(planner.network, layer)
        ):
            continue
        for bias in layer.with_role(Role.BIAS, Role.SHIFT):
            found = planner.measures.moments(bias) if bias.key not in known else None
            if found is not None and found.constant and found.mean in numbers:
                yield layer, bias


def _spread(rows: np.ndarray[Any, Any]) -> float:
    """Standard deviation within the rows that stay; 0 for constants, which tell no scale."""
    return float(np.sqrt(np.mean(np.var(rows, axis=1)))) if rows.shape[1] > 1 else 0.0


def _zeros(planner: Planner, finding: Record, arguments: dict[str, Any]) -> None:
    """Biases to zero; where they are, weights whose mean holds the units down are drawn again."""
    named = list(planner.targets(finding, Role.BIAS, Role.RECURRENT_BIAS))
    for key in finding["layers"]:
        norms = planner.normalisers(key)
        named += [(norm, shift) for norm in norms for shift in norm.with_role(Role.SHIFT)]
    for layer, param in (*named, *_same_bias(planner, named)):
        moments = planner.measures.moments(param)
        if param.trainable and moments is not None and moments.max_abs > 0:
            planner.draw(finding, layer, param, "zeros")
    for key in finding["layers"]:
        for layer in planner.weighted(key):
            weight = layer.weight
            if weight is not None and (planner.thorough or not planner.usable(weight)):
                planner.redraw(finding, layer, weight)


def _rescale(planner: Planner, finding: Record, arguments: dict[str, Any]) -> None:
    """By the factor given, else to the scale that the activation behind wants."""
    factor = arguments.get("factor")
    if factor is None and planner.thorough:
        _preserving(planner, finding, arguments)
        return
    named = list(planner.targets(finding, *WEIGHT_ROLES))
    if factor is None:
        for layer, param, excess in _beside(planner, named):
            planner.rescale(finding, layer, param, 1 / excess)
    for layer, param in named:
        if factor is not None and layer.op is Op.EMBEDDING:
            _table(planner, finding, layer, param, float(factor))
        elif factor is not None:
            planner.rescale(finding, layer, param, float(factor))
        elif param.role in WEIGHT_ROLES:
            _to_std(planner, finding, layer, param, "scale_preserving")
    if factor is not None:
        _first_of_sines(planner, finding)


def _beside(
    planner: Planner, named: Sequence[tuple[Layer, Param]]
) -> Iterator[tuple[Layer, Param, float]]:
    """Weights that read what a named one reads, and are off by the same factor: one mistake.

    A finding names the layers where the harm shows. A gate beside them shows none by itself, and
    what is taken off them has to be taken off it; its own gain is nobody's but the user's.
    """
    graph, known = planner.model.graph, {layer.id for layer, _ in named}
    held = {param.key for _, param in named}
    for layer, param in named:
        excess = _excess(planner, layer, param)
        for other in _reading_the_same(graph, layer) if abs(excess) >= math.log(FAR) else ():
            weight = other.weight
            if other.id in known or other.op not in SCALED or weight is None:
                continue
            if not weight.trainable or weight.tied_to or weight.key in held:
                continue
            if abs(_excess(planner, other, weight) - excess) < math.log(SAME):
                known.add(other.id)
                held.add(weight.key)
                yield other, weight, math.exp(excess)


def _reading_the_same(graph: LayerGraph, layer: Layer) -> Iterator[Layer]:
    """What reads a tensor that a layer reads, joined with others or by itself."""
    sources = [edge.source for edge in graph.inputs(layer.id)]
    joined = [key for key in sources if graph[key].op is Op.CONCAT]
    sources += [edge.source for key in joined for edge in graph.inputs(key)]
    for source in sources:
        for other in graph.effective_consumers(source):
            if other.op is Op.CONCAT:
                yield from graph.effective_consumers(other.id)
            else:
                yield other


def _excess(planner: Planner, layer: Layer, param: Param) -> float:
    """Logarithm of a weight's scale over 1/sqrt(fan_in); 0 where none is known."""
    std = planner.measures.effective_std(param)
    if not std or param.role not in WEIGHT_ROLES:
        return 0.0
    return math.log(std * math.sqrt(planner.network.slot(layer, param).fan_in))


def _table(planner: Planner, finding: Record, layer: Layer, param: Param, factor: float) -> None:
    """A table rescaled; where its scale is a usual one, the residual branches that are to blame.

    Branches far below their scale are to blame for a table beside which they are lost, branches
    above it for one that drowns in them.
    """
    std = planner.measures.effective_std(param) or 0.0
    if factor < 1 and std <= HUGE_TABLE and open_faint(planner, finding):
        return
    if factor < 1 and std > USUAL_TABLE:  # what averages its rows is no reason for a wide one
        factor = min(factor, USUAL_TABLE / std)
    if factor < 1 or std * factor < HUGE_TABLE:
        planner.rescale(finding, layer, param, factor)
        return
    network = planner.network
    count = max(len(network.residuals), 1)
    for key in dict.fromkeys(key for branch in network.residuals for key in branch.writers):
        writer = network.graph[key]
        weight = writer.weight
        if weight is None or weight.role not in WEIGHT_ROLES or writer.op is Op.EMBEDDING:
            continue
        wanted = preserving_std(network.slot(writer, weight)) / math.sqrt(count)
        if (planner.measures.effective_std(weight) or 0.0) > HUGE_TABLE * wanted:
            _to_std(planner, finding, writer, weight, "scale_preserving")


def _first_of_sines(planner: Planner, finding: Record) -> None:
    """The layer before the first sine, where the sines behind it were off as well.

    Its scale is the band of frequencies that the network starts with, and a choice; beside hidden
    layers that were rescaled it is part of the same mistake.
    """
    sines = sine_frequencies(planner.network)
    if not any(key in sines and not sines[key][1] for key in finding["layers"]):
        return
    for key, (_, first) in sines.items():
        layer = planner.model.graph[key]
        weight = layer.weight
        std = planner.measures.effective_std(weight) if weight is not None and first else None
        if weight is None or not std:
            continue
        factor = 1 / (math.sqrt(3) * planner.network.slot(layer, weight).fan_in * std)
        if factor > SINE_NARROW or factor < 1 / SINE_BAND:
            planner.rescale(finding, layer, weight, factor, "siren_first")
    _heads_of_sines(planner, finding, {key: frequency for key, (frequency, _) in sines.items()})


def _heads_of_sines(planner: Planner, finding: Record, frequencies: Mapping[str, float]) -> None:
    """Last layers that read sines, by the bound of the hidden ones, as the paper draws them."""
    graph = planner.model.graph
    for layer in graph.weighted:
        behind = graph.effective_producers(layer.id)
        weight = layer.weight
        if weight is None or layer.op is not Op.LINEAR or not graph.is_head(layer.id):
            continue
        if layer.id in frequencies or not behind or any(sine.op is not Op.SIN for sine in behind):
            continue
        std = planner.measures.effective_std(weight)
        bound = math.sqrt(2 / planner.network.slot(layer, weight).fan_in)
        wanted = bound / max(1.0, *frequencies.values())
        if std and std > SINE_HEAD * wanted:
            planner.rescale(finding, layer, weight, wanted / std, "siren")


def _lsuv(planner: Planner, finding: Record, arguments: dict[str, Any]) -> None:
    """Layers scaled by running the network, with those that feed them.

    A profile is told relative to the layer that it starts from. Left as it is, that layer would
    keep a scale that the next one then makes up for with weights far too small, or too large.
    """
    named = list(planner.targets(finding, Role.WEIGHT))
    known = {layer.id for layer, _ in named}
    before = [layer for layer in planner.feeding(known) if layer.op in SCALED]
    first = [(layer, layer.weight) for layer in before if layer.weight is not None]
    for layer, param in (*first, *named):
        if not param.trainable or param.tied_to is not None or not planner.may_change(param):
            continue
        if planner.thorough or not planner.usable(param):
            planner.redraw(finding, layer, param)
        planner.scale_later(layer)


def _reinitialise(planner: Planner, finding: Record, arguments: dict[str, Any]) -> None:
    """Weights drawn, everything else at the value it starts from."""
    for layer, param in planner.targets(finding, *WEIGHT_ROLES):
        if open_factor(planner, finding, layer, param):
            continue
        if param.role is Role.RECURRENT_WEIGHT:
            planner.draw(finding, layer, param, "orthogonal", gain=1.0)
        elif param.role in WEIGHT_ROLES:
            planner.redraw(finding, layer, param)
        elif not _holds_a_gate(planner, layer, param):
            value = default_value(param.role)
            planner.draw(finding, layer, param, "constant", value=value)
            if param.role is Role.GAIN and layer.op in NORMALISERS:
                _other_gains(planner, finding)


def _holds_a_gate(planner: Planner, layer: Layer, param: Param) -> bool:
    """True for a gate's bias that leaves it a slope: how far it is open is a choice."""
    moments = planner.measures.moments(param)
    return (
        param.role is Role.BIAS
        and is_gate(planner.network, layer)
        and moments is not None
        and moments.max_abs <= OPEN
    )


def _other_gains(planner: Planner, finding: Record) -> None:
    """Gains of zeros in other norms: the same mistake, where they do not close a branch.

    A branch that begins with one learns from the second step on, and much slower than its twins.
    """
    closing = {branch.closing_norm for branch in planner.network.residuals}
    for layer in planner.model.graph:
        if layer.op not in NORMALISERS or layer.id in closing:
            continue
        for param in layer.with_role(Role.GAIN):
            moments = planner.measures.moments(param) if param.trainable else None
            if moments is not None and moments.max_abs == 0:
                planner.draw(finding, layer, param, "constant", value=default_value(Role.GAIN))


CURES: dict[str, Cure] = {
    "scale_preserving": _preserving,
    "residual_scaling": residual_scaling,
    "open_branches": open_branches,
    "redraw_duplicates": _copies,
    "zeros": _zeros,
    "rescale": _rescale,
    "lsuv": _lsuv,
    "reinitialise": _reinitialise,
    "redraw": _reinitialise,
    "ones": _reinitialise,
    "forget_bias": open_memory,
    "forget_gate_bias": open_memory,
}
"""How each kind of fix that rules name is planned; other names are tensor schemes."""
