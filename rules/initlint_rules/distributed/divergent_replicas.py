"""divergent-replicas: parameters that all ranks should hold alike differ between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from initlint.api import (
    NORMALISERS,
    Context,
    Finding,
    Fix,
    Role,
    Rule,
    Severity,
    Stage,
    Tensor,
    record,
)

MOSTLY = 0.5
"""Share of the compared elements that must agree for files of unknown kind to count as replicas:
shards of one model agree in constants alone."""

TOLERANCE = 1e-6
"""Relative difference that sums in another order leave in float32."""

LARGEST = 1 << 24
"""Elements compared per tensor."""

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""What batch normalisation keeps per process unless it is told to synchronise."""


@record(frozen=True, slots=True)
class _Difference:
    name: str
    size: int
    relative: float


class DivergentReplicas(Rule):
    """Parameters that every rank holds a copy of are not the same on every rank.

    What it does
    ------------
    Compares the files of the ranks of one checkpoint: of data-parallel replicas all parameters, of
    tensor-parallel ranks the norms that each rank holds whole.

    Why is this bad
    ---------------
    Replicas apply the same averaged gradient, so a difference at the start never closes: each rank
    trains another network, and the gradient they share belongs to none of them. Usual causes are a
    seed per rank without a broadcast, initialisation on rank 0 alone, and gradients of norms that
    were not reduced over the tensor-parallel group.

    How it decides
    --------------
    Files named by rank, in one folder. Tensor-parallel ranks: gains and shifts of the most common
    width differ by more than 10^-6 of their size. Other ranks: at least half of all elements agree
    (they are replicas, not shards) and some do not. Error in a freshly initialised model, warning
    later.

    What it does not flag
    ---------------------
    Shards (most elements differ), batch statistics, which are kept per process, tensors of
    different shapes, single files.

    Example
    -------
    ::

        import os
        import tempfile

        import torch
        from torch import nn

        from initlint.load.checkpoint import load_checkpoint

        def model():
            state = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).state_dict()
            other = {**state, "2.weight": torch.randn(8, 64) / 8}
            with tempfile.TemporaryDirectory() as folder:
                for rank, tensors in enumerate((state, other)):
                    torch.save(tensors, os.path.join(folder, f"rank_{rank}.pt"))
                return load_checkpoint(os.path.join(folder, "rank_0.pt"))

    Use instead
    -----------
    ::

        import os
        import tempfile

        import torch
        from torch import nn

        from initlint.load.checkpoint import load_checkpoint

        def model():
            state = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).state_dict()
            with tempfile.TemporaryDirectory() as folder:
                for rank in range(2):
                    torch.save(state, os.path.join(folder, f"rank_{rank}.pt"))
                return load_checkpoint(os.path.join(folder, "rank_0.pt"))

    References
    ----------
    - torch.nn.parallel.DistributedDataParallel broadcasts the parameters of rank 0 when it is
      constructed.
    - Megatron-LM: gradients of layer norms are reduced over the tensor-parallel group when
      sequence parallelism is on.
    """

    code = "DST102"
    name = "divergent-replicas"
    formula = "max|theta_i - theta_0| > 0 at the start,  > 1e-6 |theta| later"
    stages = frozenset(Stage)

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield at most one finding that names every tensor that differs."""
        ranks: Mapping[int, Mapping[str, Tensor]] = context.model.metadata.get("ranks", {})
        if not ranks:
            return
        parallel = bool(context.model.metadata.get("tensor_parallel"))
        names = _replicated_norms(context) if parallel else _all_names(ranks)
        first, *others = ranks.values()
        equal, differing = 0, []
        for name in names:
            tensors = [rank[name] for rank in (first, *others) if name in rank]
            relative = _difference(tensors) if len(tensors) == len(ranks) else None
            if relative is None:
                continue
            if relative > TOLERANCE:
                differing.append(_Difference(name, first[name].size, relative))
            else:
                equal += first[name].size
        apart = sum(item.size for item in differing)
        if differing and (parallel or equal >= MOSTLY * (equal + apart)):
            yield _finding(context, len(ranks), differing)


def _all_names(ranks: Mapping[int, Mapping[str, Tensor]]) -> list[str]:
    return [name for name in next(iter(ranks.values())) if not name.endswith(_BUFFERS)]


def _replicated_norms(context: Context) -> list[str]:
    """Gains and shifts of the width that most norms have: narrower ones may be partitioned."""
    found = [
        param
        for layer, param in context.model.graph.params
        if layer.op in NORMALISERS and param.role in (Role.GAIN, Role.SHIFT) and param.stored_name
    ]
    if not found:
        return []
    width = Counter(param.size for param in found).most_common(1)[0][0]
    return [param.stored_name for param in found if param.size == width]


def _difference(tensors: list[Tensor]) -> float | None:
    """Largest difference from the first rank, relative to its largest element."""
    if len({tensor.shape for tensor in tensors}) > 1 or not tensors[0].size:
        return None
    count = min(tensors[0].size, LARGEST)
    own = tensors[0].source.read(0, count).astype(np.float64)
    scale = float(np.abs(own).max())
    worst = 0.0
    for tensor in tensors[1:]:
        other = tensor.source.read(0, count)
        worst = max(worst, float(np.abs(own - other).max()))
    if not np.isfinite(scale) or not np.isfinite(worst):
        return None
    return worst / scale if scale > 0 else (np.inf if worst > 0 else 0.0)


def _finding(context: Context, ranks: int, differing: list[_Difference]) -> Finding:
    owners = {param.stored_name: layer.id for layer, param in context.model.graph.params}
    worst = max(differing, key=lambda item: item.relative)
    layers = tuple(dict.fromkeys(owners.get(item.name, item.name) for item in differing))
    fresh = context.stage is Stage.FRESH
    others = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
    return Finding(
        severity=Severity.ERROR if fresh else Severity.WARNING,
        layer=owners.get(worst.name, worst.name),
        param=worst.name,
        layers=layers,
        message=f"{worst.name}{others} differ between the {ranks} ranks that should hold copies",
        evidence={
            "ranks": ranks,
            "differing": [item.name for item in differing[:20]],
            "largest_relative_difference": worst.relative,
            "elements": sum(item.size for item in differing),
        },
        why="replicas that start apart stay apart: they apply the same gradient to other weights",
        measured=f"{worst.name} differs by {worst.relative:.1e} of its size",
        expected="equal on every rank",
        fix=Fix(
            "broadcast",
            code="broadcast the parameters of rank 0 after construction "
            "(torch.distributed.broadcast, or DistributedDataParallel)",
        ),
    )
