"""duplicate-layers: different layers that start with the same numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from initlint.api import (
    TRANSPARENT,
    WEIGHTED,
    Context,
    Family,
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
    content_key,
    record,
)

LEAST = 64
"""Elements from which equality is no chance: two float32 draws agree with probability 2^-23 per
element."""

COPIES = ("ema", "target", "teacher", "momentum", "averaged", "shadow")
"""Words in the names of networks that are kept as copies on purpose. Most of them are frozen and
stay out by that; these are the ones whose authors forgot."""

_MEETING = frozenset({Op.ADD, Op.MAXIMUM, Op.MINIMUM})
_RANDOM = frozenset({Family.UNIFORM, Family.NORMAL, Family.TRUNCATED_NORMAL, Family.ORTHOGONAL})


@record(frozen=True, slots=True)
class _Member:
    layer: Layer
    param: Param


class DuplicateLayers(Rule):
    """Layers at different places start as copies of each other.

    What it does
    ------------
    Finds random weights of different layers that are equal element by element, though nothing ties
    them: blocks made by ``copy.deepcopy`` of one block, as ``nn.TransformerEncoder`` makes them.

    Why is this bad
    ---------------
    Depth helps because layers differ. A stack of L copies applies one map L times, so its Jacobian
    starts as a power of one matrix: directions it stretches grow exponentially, the others die.
    Parallel copies that read the same tensor and meet in a sum get equal gradients and stay equal.

    How it decides
    --------------
    Equality bit by bit of at least 64 values that look drawn at random. Copies one behind the other
    are a warning. Copies side by side are an error where they read the same tensor and meet in a
    sum, a maximum or a minimum without anything different on the way; a warning where they meet
    behind something that tells them apart (the gates of experts, the columns of a matrix), because
    the first updates of all copies are alike; else an info.

    What it does not flag
    ---------------------
    Tied weights and shared modules, frozen copies and those called target, teacher or ema, constant
    and deterministic weights, trained weights (copied layers are a way to grow a trained model).

    Example
    -------
    ::

        import copy
        from torch import nn

        def model():
            block = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU())
            return nn.Sequential(*[copy.deepcopy(block) for _ in range(4)], nn.Linear(64, 10))

    Use instead
    -----------
    ::

        from torch import nn

        def model():
            blocks = [
                nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU()) for _ in range(4)
            ]
            return nn.Sequential(*blocks, nn.Linear(64, 10))

    References
    ----------
    - torch.nn.TransformerEncoder: "all layers in the TransformerEncoder are initialized with the
      same parameters. It is recommended to manually initialize the layers."
    - pytorch issues 72253, 86274, 120396.
    """

    code = "SYM104"
    name = "duplicate-layers"
    formula = "W_1 = ... = W_L = W  =>  Jacobian W^L: its top direction grows exponentially"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    folds = ("shared-random-stream", "zero-gradient", "correlation-collapse")

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding for each way in which copies stand to each other."""
        groups = _groups(context)
        partner = {member.layer.id: number for number, g in enumerate(groups) for member in g}
        origins: dict[tuple[str, str], bool] = {}
        kinds: dict[Severity, list[Sequence[_Member]]] = defaultdict(list)
        for group in groups:
            kinds[_severity(context, group, partner, origins)].append(group)
        worst = kinds[Severity.ERROR]
        for severity in (Severity.WARNING, Severity.INFO):
            copied, kinds[severity] = _parted(context.model.graph, kinds[severity], worst)
            worst += copied
        for severity, found in kinds.items():
            if found:
                yield _finding(context.model.graph, severity, found)


def _parted(
    graph: LayerGraph, groups: Sequence[Sequence[_Member]], worst: Sequence[Sequence[_Member]]
) -> tuple[list[Sequence[_Member]], list[Sequence[_Member]]]:
    """Groups that go with one of the worst, and the others."""
    copied: set[int] = set()
    for other in worst if groups else ():
        lines = [_line(graph, item) for item in other]
        for number, group in enumerate(groups):
            if number not in copied and _goes_with(group, lines):
                copied.add(number)
    return (
        [group for number, group in enumerate(groups) if number in copied],
        [group for number, group in enumerate(groups) if number not in copied],
    )


def _line(graph: LayerGraph, member: _Member) -> frozenset[str]:
    """All layers before a copy and behind it."""
    return graph.upstream((member.layer.id,)) | graph.downstream((member.layer.id,))


def _goes_with(group: Sequence[_Member], lines: Sequence[frozenset[str]]) -> bool:
    """True when each layer of a group stands in one line with its own layer of another group.

    Then whole branches were copied, and what becomes of one of their layers becomes of all.
    """
    if len(group) != len(lines):
        return False
    partners = [
        {number for number, line in enumerate(lines) if member.layer.id in line} for member in group
    ]
    return all(len(found) == 1 for found in partners) and len(set.union(*partners)) == len(lines)


def _groups(context: Context) -> list[list[_Member]]:
    """Equal random weights of different layers, in the order of the graph."""
    by_shape: dict[object, list[_Member]] = defaultdict(list)
    stored: set[object] = set()
    for layer, param in context.model.graph.params:
        storage = (param.stored_name or param.name, param.gate, param.direction)
        if storage in stored:
            continue
        stored.add(storage)
        if _can_be_copy(context, layer, param):
            moments = context.measures.moments(param)
            key = (layer.op, param.role, param.gate, param.direction, param.shape)
            by_shape[key, moments.std if moments else 0.0].append(_Member(layer, param))
    groups: dict[object, list[_Member]] = defaultdict(list)
    for shape, members in by_shape.items():
        if len(members) < 2:
            continue
        for member in members:
            array = context.measures.leading(member.param)
            if array is not None:
                groups[shape, content_key(array)].append(member)
    return [g for g in groups.values() if len({member.layer.id for member in g}) > 1]


def _can_be_copy(context: Context, layer: Layer, param: Param) -> bool:
    if layer.op not in WEIGHTED or param.role not in (Role.WEIGHT, Role.RECURRENT_WEIGHT):
        return False
    if not param.trainable or param.tied_to is not None or param.quantised or param.size < LEAST:
        return False
    words = param.name.lower().replace(".", "_").split("_")
    if any(word in COPIES for word in words):
        return False
    if context.measures.stage(param) is not Stage.FRESH:
        return False
    return context.measures.identify(param).family in _RANDOM


def _severity(
    context: Context,
    group: Sequence[_Member],
    partner: dict[str, int],
    origins: dict[tuple[str, str], bool],
) -> Severity:
    graph = context.model.graph
    first = group[0].layer.id
    if graph.leads_to_any(first, [member.layer.id for member in group[1:]]):
        return Severity.WARNING
    source = [edge.source for edge in graph.inputs(first)]
    for member in group[1:]:
        same_input = [edge.source for edge in graph.inputs(member.layer.id)] == source
        if same_input and _meet(context, first, member.layer.id, partner):
            return Severity.ERROR
    together = all(
        _same_origin(graph, first, member.layer.id, partner, origins)
        and graph.meet_later(first, member.layer.id)
        for member in group[1:]
    )
    return Severity.WARNING if together else Severity.INFO


def _same_origin(
    graph: LayerGraph,
    left: str,
    right: str,
    partner: dict[str, int],
    known: dict[tuple[str, str], bool],
) -> bool:
    """True when two copies read one tensor, or tensors that a chain of copies made from one.

    What is known of a pair holds for the pairs whose chain leads to it.
    """
    chain: dict[tuple[str, str], None] = {}
    while (left, right) not in known:
        if (left, right) in chain:
            known[left, right] = False
            break
        chain[left, right] = None
        one, other = graph.inputs(left), graph.inputs(right)
        if [edge.source for edge in one] == [edge.source for edge in other]:
            known[left, right] = True
            break
        above = (one[0].source, other[0].source) if len(one) == len(other) == 1 else None
        if above is None or not _alike(graph, *above, partner):
            known[left, right] = False
            break
        left, right = above
    found = known[left, right]
    known.update(dict.fromkeys(chain, found))
    return found


def _alike(graph: LayerGraph, left: str, right: str, partner: dict[str, int]) -> bool:
    """True for two layers that do one thing: calls of one function, or copies."""
    one_function = _stored(graph[left]) == _stored(graph[right])
    copies = partner.get(left) is not None and partner.get(left) == partner.get(right)
    return graph[left].op is graph[right].op and (one_function or copies)


def _stored(layer: Layer) -> list[str]:
    """Names of a layer's parameters: the same for two calls of one module, none for a plain one."""
    return [param.stored_name or param.name for param in layer.params]


def _meet(context: Context, left: str, right: str, partner: dict[str, int]) -> bool:
    """True when two paths of equal layers end in the same symmetric operator.

    A sum of several is written as a chain of additions, at any of which the two may come in.
    """
    graph = context.model.graph
    for _ in range(len(graph)):
        after, other = graph.outputs(left), graph.outputs(right)
        if len(after) != 1 or len(other) != 1:
            return False
        left, right = after[0].target, other[0].target
        one, two = graph[left], graph[right]
        if one.op is not two.op:
            return False
        if one.op in _MEETING:
            return _last_of_chain(graph, left) == _last_of_chain(graph, right)
        if left == right:
            return False
        copies = partner.get(left) is not None and partner.get(left) == partner.get(right)
        plain = not one.params and not two.params and one.op is not Op.DROPOUT
        passing = one.op in TRANSPARENT - {Op.DROPOUT}
        if not (copies or plain or passing or _are_equal(context, one, two)):
            return False
    return False


def _last_of_chain(graph: LayerGraph, key: str) -> str:
    """The last of several operators of one kind in a row, each read by the next alone."""
    while True:
        after = graph.outputs(key)
        if len(after) != 1 or graph[after[0].target].op is not graph[key].op:
            return key
        key = after[0].target


def _are_equal(context: Context, one: Layer, two: Layer) -> bool:
    """True when two layers hold the same values, too few of them to be counted as copies."""
    if len(one.params) != len(two.params):
        return False
    pairs = [(context.measures.read(a), context.measures.read(b)) for a, b in _pairs(one, two)]
    return all(a is not None and b is not None and np.array_equal(a, b) for a, b in pairs)


def _pairs(one: Layer, two: Layer) -> Iterator[tuple[Param, Param]]:
    """Parameters of two layers that do the same."""
    for param in one.params:
        for other in two.params:
            if (param.role, param.gate, param.direction) == (
                other.role,
                other.gate,
                other.direction,
            ):
                yield param, other


def _finding(graph: LayerGraph, severity: Severity, groups: Sequence[Sequence[_Member]]) -> Finding:
    members = [member for group in groups for member in group]
    layers = tuple(dict.fromkeys(member.layer.id for member in members))
    first = groups[0]
    names = ", ".join(member.layer.id for member in first[:3])
    more = f" and {len(first) - 3} more" if len(first) > 3 else ""
    rest = f"; {len(groups) - 1} other groups alike" if len(groups) > 1 else ""
    why = {
        Severity.WARNING: "copies do one thing where the architecture has several (in a stack, the "
        "Jacobian is a power of one map), and the first updates of all point the same way",
        Severity.ERROR: "copies with the same input and the same use get the same gradient and "
        "stay equal",
        Severity.INFO: "the copies part only as far as their inputs and losses differ",
    }[severity]
    return Finding(
        severity=severity,
        layer=first[0].layer.id,
        param=first[0].param.name,
        layers=layers,
        culprits=(*layers, *(item.id for key in layers for item in graph.effective_consumers(key))),
        message=f"{names}{more} start with the same weights{rest}",
        evidence={
            "groups": len(groups),
            "copies": sum(len(group) - 1 for group in groups),
            "elements": sum((len(group) - 1) * group[0].param.size for group in groups),
            "first_group": [member.param.name for member in first[:20]],
        },
        why=why,
        measured=f"{len(layers)} layers, {len(groups)} different weights",
        expected="every layer drawn by itself",
        fix=Fix(
            "redraw",
            params=tuple(member.param.key for group in groups for member in group[1:]),
            code="build each block by itself, or call reset_parameters() on every layer of the "
            "copies",
        ),
    )
