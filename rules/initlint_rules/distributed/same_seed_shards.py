"""same-seed-shards: tensor-parallel ranks drew the same numbers."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from initlint.api import (
    Context,
    Finding,
    Fix,
    Layer,
    Op,
    Param,
    Role,
    Rule,
    Severity,
    Stage,
    Tensor,
    record,
)

LEAST = 64
"""Elements that two draws must share: fewer could be a small constant table."""

SAMPLE = 4096
"""Leading elements compared: two float32 draws agree in one with probability below 2^-20."""

DEGREES = (16, 8, 4, 2)
"""Degrees of tensor parallelism looked for inside one matrix, largest first."""

LARGEST = 1 << 24
"""Elements up to which a merged matrix is searched for repetitions."""

NEARLY_ALL = 0.9
"""Share of the matrices' elements from which every partitioned matrix is a copy: what is left are
heads and tables drawn elsewhere."""


@record(frozen=True, slots=True)
class _Copies:
    """A merged matrix that repeats itself."""

    layer: Layer
    param: Param
    axis: int
    degree: int


class SameSeedShards(Rule):
    """Shards of one matrix on different tensor-parallel ranks hold the same random numbers.

    What it does
    ------------
    Compares the files of the ranks of a checkpoint (`mp_rank_00...`, `consolidated.00...`), and
    looks in a merged checkpoint without its module for matrices that repeat themselves two, four,
    eight or sixteen times along an axis.

    Why is this bad
    ---------------
    Each rank draws its part of a matrix with its own generator. With the same seed everywhere the
    parts are equal: the units of rank 1 copy those of rank 0, with the same inputs and, after the
    row-parallel matrix, the same outputs. They stay equal for ever, and the network has 1/ranks of
    its width.

    How it decides
    --------------
    Ranks: all matrices equal between ranks, or a matrix equal in one block whose counterparts
    differ in others. Error. Merged: a matrix that repeats along its outputs and one that repeats
    along its inputs, the same number of times; error, or warning when only one kind is there and
    two matrices have it.

    What it does not flag
    ---------------------
    Vectors, constants, and matrices that are equal in every block while others differ, such as a
    router or a position table that each rank holds whole. Trained merged matrices (repeated
    key/value heads, widened stems).

    Example
    -------
    ::

        from initlint.testing import Network, from_array, torch_default

        def model(seeds=(0, 0)):
            net = Network()
            draws = [torch_default(Network(seed=seed).rng, 64, 64) for seed in seeds]
            net.output(net.linear(net.input(64), draws[0], name="fc"))
            shards = [{"fc.weight": from_array("fc.weight", draw)} for draw in draws]
            return net.model(ranks=dict(enumerate(shards)), tensor_parallel=True)

    Use instead
    -----------
    ::

        from initlint.testing import Network, from_array, torch_default

        def model(seeds=(0, 1)):
            net = Network()
            draws = [torch_default(Network(seed=seed).rng, 64, 64) for seed in seeds]
            net.output(net.linear(net.input(64), draws[0], name="fc"))
            shards = [{"fc.weight": from_array("fc.weight", draw)} for draw in draws]
            return net.model(ranks=dict(enumerate(shards)), tensor_parallel=True)

    References
    ----------
    - Megatron-LM, tensor_parallel/random.py: the tensor-parallel seed is seed + 2718 + rank.
    - OLMo-core issue 307, InternLM issue 405.
    """

    code = "DST101"
    name = "same-seed-shards"
    formula = "W = [W_1; W_1; ...]:  effective width = width / ranks"
    stages = frozenset(Stage)
    folds = (
        "symmetric-units",
        "identical-incoming",
        "duplicate-layers",
        "zero-gradient",
        "rank-deficient-init",
    )

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding for the ranks, or one for the merged matrices."""
        ranks: Mapping[int, Mapping[str, Tensor]] = context.model.metadata.get("ranks", {})
        if ranks and context.model.metadata.get("tensor_parallel"):
            yield from _across(context, ranks)
            return
        if context.model.connected:
            return  # with a graph the copied units are found as what they are: symmetric-units
        found = [
            copies
            for layer, param in context.model.graph.params
            if (copies := _repeats(context, layer, param)) is not None
        ]
        yield from _merged(found)


def _across(context: Context, ranks: Mapping[int, Mapping[str, Tensor]]) -> Iterator[Finding]:
    first, *others = ranks.values()
    equal: dict[str, bool] = {}
    for name, tensor in first.items():
        shards = [other[name] for other in others if name in other]
        if len(tensor.shape) < 2 or tensor.size < LEAST or len(shards) < len(others):
            continue
        verdict = _same([tensor, *shards])
        if verdict is not None:
            equal[name] = verdict
    copies = [name for name, same in equal.items() if same]
    total = sum(first[name].size for name in equal)
    if sum(first[name].size for name in copies) < NEARLY_ALL * max(total, 1):
        kinds: dict[str, set[bool]] = defaultdict(set)
        for name, same in equal.items():
            kinds[_numberless(name)].add(same)
        copies = [name for name in copies if kinds[_numberless(name)] == {True, False}]
    if not copies:
        return
    owners = {param.stored_name: layer.id for layer, param in context.model.graph.params}
    layers = tuple(dict.fromkeys(owners.get(name, name) for name in copies))
    yield Finding(
        severity=Severity.ERROR,
        layer=layers[0],
        param=copies[0],
        layers=layers,
        message=f"{len(copies)} of {len(equal)} matrices hold the same numbers on all "
        f"{len(ranks)} tensor-parallel ranks",
        evidence={"ranks": list(ranks), "equal": copies[:20], "compared": len(equal)},
        why=_WHY,
        measured=f"{copies[0]} is equal on ranks {', '.join(map(str, ranks))}",
        expected="different draws on every rank for every partitioned matrix",
        fix=_FIX,
    )


_WHY = "equal shards are copies of the same units: the width counts once, not once per rank"

_FIX = Fix(
    "reinitialise",
    code="seed the generator of partitioned parameters with seed + rank and draw them again",
)


def _numberless(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _same(tensors: Sequence[Tensor]) -> bool | None:
    """True when all hold the same elements; None when that says nothing (shape, constants)."""
    if len({tensor.shape for tensor in tensors}) > 1:
        return None
    count = min(tensors[0].size, SAMPLE)
    heads = [tensor.source.read(0, count) for tensor in tensors]
    if np.ptp(heads[0]) == 0 or not np.isfinite(heads[0]).all():
        return None
    return all(np.array_equal(heads[0], head) for head in heads[1:])


def _repeats(context: Context, layer: Layer, param: Param) -> _Copies | None:
    """How often a freshly drawn matrix repeats along an axis, if it does."""
    if param.role is not Role.WEIGHT or layer.op not in (Op.LINEAR, Op.EMBEDDING):
        return None
    if len(param.shape) != 2 or param.quantised or context.stage is Stage.TRAINED:
        return None
    moments = context.measures.moments(param)
    if moments is None or moments.constant or context.measures.stage(param) is Stage.TRAINED:
        return None
    if param.size > min(LARGEST, context.measures.whole_elements):
        return None
    values = context.measures.read(param)
    assert values is not None
    for axis in (0, 1):
        for degree in DEGREES:
            side = param.shape[axis]
            if side % degree or param.size // degree < LEAST:
                continue
            if _is_tiled(values if axis == 0 else values.T, degree):
                return _Copies(layer, param, axis, degree)
    return None


def _is_tiled(values: np.ndarray, degree: int) -> bool:
    if values[0, 0] != values[len(values) // degree, 0]:
        return False  # nearly every matrix is refused by one element
    blocks = np.split(values, degree)
    varies = np.ptp(blocks[0], axis=0).max() > 0
    line = all(np.array_equal(blocks[0][0], block[0]) for block in blocks[1:])
    if not (varies and line):
        return False
    return all(np.array_equal(blocks[0], block) for block in blocks[1:])


def _merged(found: Sequence[_Copies]) -> Iterator[Finding]:
    by_degree: dict[int, list[_Copies]] = defaultdict(list)
    for copies in found:
        by_degree[copies.degree].append(copies)
    for degree, members in sorted(by_degree.items()):
        both = len({member.axis for member in members}) == 2
        if len(members) < 2:
            continue
        first = members[0]
        yield Finding(
            severity=Severity.ERROR if both else Severity.WARNING,
            layer=first.layer.id,
            param=first.param.name,
            layers=tuple(dict.fromkeys(member.layer.id for member in members)),
            message=f"{len(members)} matrices repeat the same numbers {degree} times, as shards "
            "drawn with the same seed",
            evidence={
                "degree": degree,
                "params": [member.param.name for member in members][:20],
                "along_inputs": sum(member.axis == 1 for member in members),
            },
            why=_WHY,
            measured=f"{first.param.name} is {degree} equal blocks",
            expected="independent draws in all blocks",
            fix=Fix(_FIX.scheme, code=_FIX.code, params=tuple(m.param.key for m in members)),
        )
