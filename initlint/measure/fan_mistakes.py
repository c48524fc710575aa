"""Weights whose scale fits a scheme only with a fan that is a known mistake."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log, sqrt
from weakref import WeakKeyDictionary

from initlint.measure.candidates import candidates
from initlint.measure.families import TRUNCATED_STD
from initlint.measure.measures import Measures
from initlint.measure.result import Family, Identification, Match, Stage
from initlint.measure.scheme import SCALE_SIGMAS, SCALE_SLACK
from initlint.model import Fans, Layer, LayerGraph, Model, Op, Param, Role, fans
from initlint.model.record import record

LEAST_RATIO = 0.2
"""|ln r| below which a wrong fan changes the scale by less than the differences between schemes
in common use (leaky ReLU's gain against ReLU's, a truncation that was not corrected)."""

EXACT_UNIFORM = 4096
"""Elements from which a uniform's bound alone is evidence: it is then known to 12/n = 0.3 %, and
the two dozen wrong bounds of a shape hit such a window by chance in about 1 of 100 custom draws.
Everything else needs two layers of different fans with the same mistake."""

_MATRICES = frozenset({Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE, Op.BILINEAR})
_RANDOM = frozenset({Family.UNIFORM, Family.NORMAL, Family.TRUNCATED_NORMAL})

_STACKED = "stacked"
"""A stack of matrices is its own repetition: each of its blocks must fit by itself, and the wrong
fan of a stack, in·out, is the same for both projections of an expert."""

_HELPER = frozenset({"ungrouped", "conv_transpose"})
"""Fans that the framework's own helper computes for these operators: what a plain call gives, and
so no guess that a custom scale would have to meet by chance."""

_SERIES = "t5_query"
"""A scheme with a free number, the head's width, which explains one layer too easily."""


@dataclass(frozen=True, slots=True)
class FanMistake:
    """One weight drawn with the wrong fan.

    Attributes:
        layer, param: which.
        match: the scheme with its wrong fan; ``match.fan`` names the mistake. ``transposed`` means
            a matrix stored ``(in, out)`` that was drawn as if stored ``(out, in)``.
        expected_std: what the scheme gives with the true fans.
        ratio: measured over expected standard deviation, as the schemes have them.
    """

    layer: Layer
    param: Param
    match: Match
    expected_std: float
    ratio: float


_found: WeakKeyDictionary[Measures, tuple[Model, tuple[FanMistake, ...]]] = WeakKeyDictionary()
"""What was found before: a rule for each kind of mistake asks about all of them."""


def fan_mistakes(model: Model, measures: Measures) -> tuple[FanMistake, ...]:
    """Every fresh weight matrix or kernel that fits a scheme with a wrong fan and none with a true.

    A single scale meets one of the many (scheme, wrong fan) pairs easily, so a mistake counts only
    where two layers of different fans make the same one, or a large uniform shows the exact bound.
    """
    before = _found.get(measures)
    if before is None or before[0] is not model:
        before = _found[measures] = model, _mistakes(model, measures)
    return before[1]


def _mistakes(model: Model, measures: Measures) -> tuple[FanMistake, ...]:
    groups: dict[tuple[str, str], list[_Suspect]] = defaultdict(list)
    deep = _has_sums(model)
    waves = _beside_waves(model.graph)
    for layer, param in model.graph.params:
        if not _is_candidate(layer, param) or measures.stage(param) is not Stage.FRESH:
            continue
        if layer.id in waves:
            continue
        found = measures.identify(param)
        if found.family in _RANDOM:
            for suspect in _suspects(layer, param, found, deep=deep):
                match = suspect.mistake.match
                groups[match.scheme, match.fan].append(suspect)
    evident = {key: members for key, members in groups.items() if _is_evident(members)}
    return _best([*evident.values(), *_followers(model, measures, evident)])


@record(frozen=True, slots=True)
class _Suspect:
    mistake: FanMistake
    exact: bool
    explanations: frozenset[str]


def _is_evident(members: Sequence[_Suspect]) -> bool:
    """Two scales or an exact bound, and no depth law or round number that fits every layer."""
    if frozenset.intersection(*(member.explanations for member in members)):
        return False
    if len(members) > 1 and all(member.mistake.match.fan in _HELPER for member in members):
        return True
    if any(member.exact for member in members):
        return True
    mistakes = [member.mistake for member in members]
    if mistakes[0].match.fan == _STACKED:
        return len(members) >= max(mistakes[0].param.packed, 2)
    return len({mistake.match.std for mistake in mistakes}) > 1


def _followers(
    model: Model, measures: Measures, evident: Mapping[tuple[str, str], Sequence[_Suspect]]
) -> Iterator[list[_Suspect]]:
    """Small layers of the same kind that fit an evident mistake, and by chance something else."""
    for layer, param in model.graph.params if evident else ():
        if not _is_candidate(layer, param) or measures.stage(param) is not Stage.FRESH:
            continue
        found, true = measures.identify(param), fans(layer, param)
        made = candidates(layer, param).all + candidates(layer, param, rare=True).all
        for candidate in made:
            match = candidate.match
            like = evident.get((match.scheme, match.fan), ())
            if not like or true is None or found.family not in candidate.families:
                continue
            limit = SCALE_SIGMAS * found.std_error + SCALE_SLACK["bfloat16"]
            expected = _expected_std(true, match)
            near = found.std > 0.0 and abs(log(found.std / match.std)) <= limit
            kin = any(suspect.mistake.layer.op is layer.op for suspect in like)
            if near and kin and expected and abs(log(match.std / expected)) > LEAST_RATIO:
                mistake = FanMistake(layer, param, match, expected, match.std / expected)
                yield [_Suspect(mistake, False, frozenset())]
                break


def _best(groups: Sequence[Sequence[_Suspect]]) -> tuple[FanMistake, ...]:
    """One mistake per weight: the one that most other weights share."""
    chosen: dict[str, FanMistake] = {}
    for members in sorted(groups, key=lambda members: -len(members)):
        for member in members:
            chosen.setdefault(member.mistake.param.key, member.mistake)
    return tuple(chosen.values())


def _is_candidate(layer: Layer, param: Param) -> bool:
    return (
        layer.op in _MATRICES
        and param.role is Role.WEIGHT
        and param.trainable
        and param.tied_to is None
        and not param.quantised
    )


def is_stored_transposed(param: Param) -> bool:
    """True for a matrix that the file or module holds as ``(in, out)``."""
    tensor = param.tensor
    return (
        tensor is not None
        and len(tensor.stored_shape) == 2
        and any(view.kind == "transpose" for view in tensor.views)
    )


def _beside_waves(graph: LayerGraph) -> frozenset[str]:
    """Layers that feed or read a sine, whose frequency divides their scale beside the fan.

    sqrt(6 / n) / ω (Sitzmann et al. 2020, section 3.2) is a mistaken square of the fan for ω = √n.
    """
    found: set[str] = set()
    for layer in graph:
        if layer.op is not Op.SIN:
            continue
        found.update(reader.id for reader in graph.effective_consumers(layer.id))
        above = graph.effective_producers(layer.id)
        while len(above) == 1 and above[0].op is Op.MUL:
            above = graph.effective_producers(above[0].id)
        found.update(producer.id for producer in above)
    return frozenset(found)


def _has_sums(model: Model) -> bool:
    """True where activations are added: laws of depth are about the branches of a sum."""
    graph = model.graph
    sums = (layer for layer in graph if layer.op in (Op.ADD, Op.SUB))
    return any(len(graph.inputs(layer.id)) > 1 for layer in sums)


def _suspects(
    layer: Layer, param: Param, found: Identification, *, deep: bool
) -> Iterator[_Suspect]:
    transposed = is_stored_transposed(param) and layer.op is Op.LINEAR
    wrong: list[Match] = []
    explanations: set[str] = set()
    for match in found.matches:
        if transposed and match.fan in ("fan_out", "swapped"):
            wrong.append(replace(match, fan="transposed", true_fan=False))
        elif layer.op is Op.CONV_TRANSPOSE and match.fan == "fan_out":
            wrong.append(replace(match, fan="conv_transpose", true_fan=False))
        elif not match.true_fan:
            wrong.append(match)
        elif match.fan in ("", "depth") or match.scheme.startswith(_SERIES):
            if deep or match.fan != "depth":
                explanations.add(match.scheme)
        else:
            return
    true = fans(layer, param)
    exact = found.family is Family.UNIFORM and found.n >= EXACT_UNIFORM
    for match in wrong:
        expected = _expected_std(true, match)
        if true is not None and expected and abs(log(match.std / expected)) > LEAST_RATIO:
            mistake = FanMistake(layer, param, match, expected, match.std / expected)
            yield _Suspect(mistake, exact, frozenset(explanations))


def _expected_std(true: Fans | None, match: Match) -> float | None:
    if true is None or match.std <= 0.0:
        return None
    fan = true.fan_in
    if match.scheme.startswith("xavier"):
        fan = (true.fan_in + true.fan_out) / 2.0
    if fan <= 0.0:
        return None
    factor = TRUNCATED_STD if "uncorrected" in match.scheme else 1.0
    return factor * match.gain / sqrt(fan)
