"""residual-branch-unscaled: a residual stream that grows with every block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite, log10, sqrt

from initlint.api import (
    NORMALISERS,
    SATURATING,
    Confidence,
    Context,
    Finding,
    Fix,
    LayerGraph,
    Need,
    Param,
    Residual,
    ResidualBranch,
    Role,
    Rule,
    Severity,
    Sink,
    Stage,
    drift_severity,
    record,
    residual_branches,
)

MIN_GAIN = 1e-3
"""Branches below this share of the trunk's power add less than 0.05 % to its rms: not counted."""

WIDE_OPEN = 2.0
"""Power of a branch over its trunk from which a multiplier at its end closes nothing: without one a
branch of He weights has 1, and the stream grows by 10^0.24 a block."""

GUILTY = 0.2
"""Part of the largest share of the growth from which a branch is named: branches of one law differ
by scatter, never by a factor of five."""

MIN_GROWTH = 0.7
"""Decades of growth of the residual stream from which harm was measured: ReLU nets lost a fifth of
their progress at +0.9 and diverged from +1.8."""

NORMALISED_INFO, NORMALISED_WARNING = 1.5, 3.5
"""The same where a normaliser takes the growth away before the outputs: what it divides the signal
by, it divides the gradient by. He-initialised blocks in front of a LayerNorm kept 0.99 of their
scaled twins' progress at +1.9, 0.95 at +2.9 and 0.75 at +5.7 (SGD and Adam, each at its best rate),
where without it SGD diverged from +1.9; 0.9 lies between +3 and +4."""


class ResidualBranchUnscaled(Rule):
    """Residual branches without normalisation add full-scale signal to the trunk at every block.

    What it does
    ------------
    Adds up, over the residual additions of a net, what each branch contributes to the trunk.

    Why is this bad
    ---------------
    With branch power r times the trunk's, the stream's second moment grows by (1 + r) per block:
    He-initialised branches have r = 1 and double it, 10^3.6 in rms after 24 blocks. Gradients of
    early blocks grow alike, and the first step diverges.

    How it decides
    --------------
    Growth D = sum of 0.5 log10(1 + r) over the additions of one stream, from one normaliser on it
    to the next, whose branch has no normaliser and no closing gain (one that leaves it twice the
    trunk's power closes nothing, and is what to scale). D of 0.7 decades at the outputs is a
    warning, 1.5 an error. Where a normaliser stands before the outputs, D of 3.5 decades is a
    warning and 1.5 an info. The probe's measured rms at the additions replaces the prediction where
    it ran.

    What it does not flag
    ---------------------
    Zero-initialised last layers (Fixup), ReZero, SkipInit and LayerScale gains, branches scaled by
    1/sqrt(L), pre-norm and post-norm blocks (there growth is linear), sums that go straight into a
    tanh or sigmoid (steps of an unrolled recurrent layer), dense concatenation, short nets.

    Example
    -------
    ::

        import torch
        from torch import nn

        class Block(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.fc1, self.fc2 = nn.Linear(width, width), nn.Linear(width, width)
                for layer in (self.fc1, self.fc2):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                    nn.init.zeros_(layer.bias)

            def forward(self, x):
                return x + self.fc2(torch.relu(self.fc1(torch.relu(x))))

        def model():
            return nn.Sequential(nn.Linear(64, 128), *[Block(128) for _ in range(24)],
                                 nn.Linear(128, 10))

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        class Block(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.fc1, self.fc2 = nn.Linear(width, width), nn.Linear(width, width)
                nn.init.kaiming_normal_(self.fc1.weight, nonlinearity="relu")
                nn.init.zeros_(self.fc1.bias)
                nn.init.zeros_(self.fc2.weight)
                nn.init.zeros_(self.fc2.bias)

            def forward(self, x):
                return x + self.fc2(torch.relu(self.fc1(torch.relu(x))))

        def model():
            return nn.Sequential(nn.Linear(64, 128), *[Block(128) for _ in range(24)],
                                 nn.Linear(128, 10))

    References
    ----------
    - Zhang, Dauphin, Ma 2019, Fixup initialization.
    - De, Smith 2020, Batch normalization biases residual blocks towards the identity function.
    """

    code = "RES501"
    name = "residual-branch-unscaled"
    formula = "q_{l+1} = q_l (1 + r_l);  D = sum of 0.5 log10(1 + r_l)"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.THEORY})
    optional = frozenset({Need.PROBE})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    folds = (
        "forward-drift",
        "variance-profile",
        "saturation",
        "relu-after-xavier",
        "dead-relu",
        "gradient-profile",
        "correlation-collapse",
    )

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding that names the last layer of every unscaled branch."""
        if context.theory is None:
            return
        found = {item.add: item for item in residual_branches(context.model.graph)}
        skips = {add: item.skip for add, item in found.items()}
        gates = {add: item.gate for add, item in found.items()}
        loose = [
            (branch, gain)
            for branch in context.theory.residuals
            if not (branch.normalised or branch.post_norm)
            and not _resets(context, skips.get(branch.add, ()))
            and not _bounded(context, branch)
            and branch.last is not None
            and _fresh(context, branch)
            and (gain := _gain(context, branch, found.get(branch.add))) is not None
            and gain > (WIDE_OPEN if branch.gated else MIN_GAIN)
        ]
        by_addition = {branch.add: (branch, gain) for branch, gain in loose}
        stream = _stream(context.model.graph, by_addition)
        severity = _severity(stream)
        loose = [(branch, gain) for branch, gain in loose if branch.add in stream.additions]
        if severity is None or len(loose) < 2:
            return
        growth = stream.peak
        most = max(log10(1 + gain) for _, gain in loose)
        named = [branch for branch, gain in loose if log10(1 + gain) > GUILTY * most]
        lasts = tuple(branch.last for branch in named if branch.last is not None)
        gains = sorted(gain for _, gain in loose)
        blocks = len(loose)
        few = f"{len(named)} of " if len(named) < blocks else ""
        params = tuple(
            param.key
            for branch in named
            if (param := _closing(context, branch, gates.get(branch.add))) is not None
        )
        gated = all(branch.gated for branch in named)
        factor = 1 / sqrt(blocks * (max(gains[blocks // 2], 1.0) if gated else 1.0))
        first = context.model.graph[lasts[0]].weight
        yield Finding(
            severity=severity,
            confidence=Confidence.HIGH,
            layer=lasts[0],
            param=first.name if first else None,
            layers=lasts,
            culprits=tuple(key for branch, _ in loose for key in (*branch.layers, branch.add)),
            message=f"{few}{blocks} residual branches without normalisation or scaling: the signal "
            f"grows 10^{growth:.1f} times",
            evidence={
                "growth_decades": growth,
                "blocks": blocks,
                "branch_gain_median": gains[blocks // 2],
                "branch_gain_max": gains[-1],
            },
            why="every block multiplies the second moment of the stream by 1 + r, with r the power "
            "of its branch over the trunk's"
            + (
                ""
                if stream.arriving >= MIN_GROWTH
                else "; a normaliser ends it, but the later a block is, the less it adds"
            ),
            measured=f"median r = {gains[blocks // 2]:.2g} over {blocks} blocks",
            expected=f"r of about 1/{blocks}, or a zero last layer",
            fix=Fix(
                "residual_scaling",
                params=params,
                arguments={"factor": factor},
                code=f"multiply the last layer of each branch by 1/sqrt({blocks}), or start it at "
                "zero (Fixup)",
            ),
            shares={branch.layers: 0.5 * log10(1 + gain) for branch, gain in loose},
        )


@record(frozen=True, slots=True)
class _Stream:
    """How much the signal grows between normalisers.

    Attributes:
        peak: decades, where they are most.
        arriving: decades that no normaliser takes away before an output.
        additions: where streams grow that reach the least worth saying.
    """

    peak: float
    arriving: float
    additions: frozenset[str]


def _stream(graph: LayerGraph, loose: Mapping[str, tuple[ResidualBranch, float]]) -> _Stream:
    """Growth along the paths of a graph; branches in parallel do not add up, those in a row do."""
    grown: dict[str, float] = {}
    before: dict[str, str] = {}
    for layer in graph.order:
        sources = [edge.source for edge in graph.inputs(layer.id)]
        if layer.id in loose:
            sources = [loose[layer.id][0].trunk]
        most = max(sources, key=lambda key: grown.get(key, 0.0), default="")
        if layer.op in NORMALISERS or not grown.get(most, 0.0):
            grown[layer.id] = 0.0
        else:
            grown[layer.id], before[layer.id] = grown[most], most
        if layer.id in loose:
            grown[layer.id] += 0.5 * log10(1 + loose[layer.id][1])
    ends = [grown[layer.id] for layer in graph.order if not graph.consumers(layer.id)]
    peak, arriving = max(grown.values(), default=0.0), max(ends, default=0.0)
    least = min(max(peak, 0.0), MIN_GROWTH if arriving >= MIN_GROWTH else NORMALISED_INFO)
    ahead = [key for key in loose if grown[key] >= least]
    on_path: set[str] = set()
    while ahead:
        key = ahead.pop()
        if key not in on_path:
            on_path.add(key)
            ahead.extend([before[key]] if key in before else [])
    return _Stream(peak, arriving, frozenset(on_path & loose.keys()))


def _severity(stream: _Stream) -> Severity | None:
    if stream.arriving >= MIN_GROWTH:
        return drift_severity(stream.arriving, 0.0, Sink.OUTPUT)
    if stream.peak >= NORMALISED_WARNING:
        return Severity.WARNING
    return Severity.INFO if stream.peak >= NORMALISED_INFO else None


def _bounded(context: Context, branch: ResidualBranch) -> bool:
    """The sum is squashed at once, so that nothing grows from one addition to the next."""
    activation = context.model.graph.activation(branch.add)
    return activation is not None and activation.op in SATURATING


def _closing(context: Context, branch: ResidualBranch, gate: str | None) -> Param | None:
    """What to scale: the multiplier that closes a branch, else its last weight."""
    graph = context.model.graph
    if branch.gated and gate is not None:
        multipliers = [param for param in graph[gate].with_role(Role.GAIN) if param.trainable]
        if multipliers:
            return multipliers[0]
    return graph[branch.last].weight if branch.last is not None else None


def _fresh(context: Context, branch: ResidualBranch) -> bool:
    """No layer of the branch is trained."""
    return not any(
        context.measures.stage(param) is Stage.TRAINED
        for key in branch.layers
        for param in context.model.graph[key].params
    )


def _resets(context: Context, skip: tuple[str, ...]) -> bool:
    """True when a normaliser stands on the skip path: a modulation, no stream that could grow."""
    return any(context.model.graph[key].op in NORMALISERS for key in skip)


def _gain(context: Context, branch: ResidualBranch, item: Residual | None) -> float | None:
    """Power of the branch over the trunk's: measured behind a plain skip path, else predicted.

    What a branch is multiplied by at its end (a cross layer by the input) answers for its own size.
    """
    outputs = context.probe.outputs if context.probe else {}
    gain = branch.gain
    trunk, total = outputs.get(branch.trunk), outputs.get(branch.add)
    plain = item is not None and item.skip == ()
    if plain and trunk is not None and total is not None and trunk.rms > 0 and isfinite(total.rms):
        gain = max((total.rms / trunk.rms) ** 2 - 1, 0.0)
    if gain is None or item is None or item.gate is None:
        return gain
    inside = {*item.branch, item.add}
    factors = (edge.source for edge in context.model.graph.inputs(item.gate))
    sizes = [outputs[key].rms for key in factors if key not in inside and key in outputs]
    size = max((size for size in sizes if isfinite(size)), default=1.0)
    return gain / max(size, 1.0) ** 2
