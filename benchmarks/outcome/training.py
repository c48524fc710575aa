"""Real training of the zoo, and what became of every model.

All starts of one architecture are trained side by side, as one stack of weights: the variants, the
learning rates and the seeds cost little more than one of them, and see the same batches.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import inf, isfinite
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.outcome.models import Entry
from benchmarks.outcome.tasks import TASKS, chance

STEPS = 100
"""Steps in which the healthy twin shows what there is to gain; tasks that take longer to learn get
`LONG_STEPS`."""

LONG_STEPS = 200
PATIENCE = 2
"""Every start is trained so many times as long: what reaches the twin's loss a little later (a zero
head, a closed branch, an identity recurrence) is no harm, what needs twice the training is."""

LONG = frozenset(
    {
        "memory-30",
        "text",
        "parity",
        "picture",
        "generate",
        "points",
        "copied",
        "reversed",
        "recall-18",
        "first-said",
        "ordered",
        "wave-steps",
        "pictures-longer",
    }
)
BATCH = 32
WINDOWS = 5
"""Means that are kept of the loss over `STEPS`, `PATIENCE` times as many over a run."""

RATES: tuple[tuple[str, float], ...] = (
    ("sgd", 0.1),
    ("sgd", 0.02),
    ("sgd", 0.004),
    ("adam", 0.01),
    ("adam", 0.001),
)
"""Optimisers (SGD with momentum 0.9, Adam) and their learning rates."""

SEEDS = (0, 1)

Curve = list[float | None]
"""Mean loss of every window of steps; None where it was not finite."""

Losses = dict[str, Curve]
"""Curves by optimiser and learning rate (``sgd 0.1``)."""

FINE, HARMED, FAILS = "fine", "harmed", "fails"

FINE_PROGRESS = 0.9
"""Progress relative to the healthy twin from which a model counts as fine: what a drift of one
decade costs (rules of severity: at most 9 %)."""

FAILS_PROGRESS = 0.5
"""Below this it counts as failing: on average over the optimisers not half of what the twin does,
at the best learning rate of each."""

LEARNS = 0.3
"""An optimiser judges only where the twin itself comes so far with it, relative to its best."""

TOGETHER = 64
"""Starts trained in one stack."""

LOSSES = Path(__file__).resolve().parent / "losses.json"


class _Optimiser:
    """SGD with momentum and Adam on stacked weights, each with its learning rate."""

    def __init__(self, weights: Mapping[str, Tensor], rates: Sequence[tuple[str, float]]) -> None:
        self.first = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        self.second = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        self.rates = torch.tensor([rate for _, rate in rates])
        self.adam = torch.tensor([name == "adam" for name, _ in rates])
        self.decay = torch.where(self.adam, 0.1, 1.0)
        self.steps = 0

    def step(self, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> None:
        self.steps += 1
        for name, weight in weights.items():
            shape = (-1,) + (1,) * (weight.ndim - 1)
            gradient, first, second = gradients[name], self.first[name], self.second[name]
            first.mul_(0.9).add_(gradient * self.decay.view(shape))
            second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            size = (second / (1 - 0.999**self.steps)).sqrt_().add_(1e-8)
            adam = first / (1 - 0.9**self.steps) / size
            update = torch.where(self.adam.view(shape), adam, first)
            weight.sub_(update * self.rates.view(shape))


def runs(models: Sequence[nn.Module], rates: Sequence[tuple[str, float]], task: str) -> list[Curve]:
    """The loss of every model over the steps, window by window."""
    source = TASKS[task]
    weights, buffers = stack_module_state(list(models))
    trained = {
        name: weights[name].detach()
        for name, parameter in models[0].named_parameters()
        if parameter.requires_grad
    }
    frozen = {name: weights[name].detach() for name in weights if name not in trained}

    def loss(
        own: dict[str, Tensor],
        fixed: dict[str, Tensor],
        state: dict[str, Tensor],
        inputs: Tensor,
        targets: Tensor,
    ) -> Tensor:
        outputs = functional_call(models[0], ({**own, **fixed}, state), (inputs,))
        return source.loss(outputs, targets)

    step = vmap(grad_and_value(loss), in_dims=(0, 0, 0, None, None))
    optimiser = _Optimiser(trained, rates)
    generator = torch.Generator().manual_seed(1000)
    window = (LONG_STEPS if task in LONG else STEPS) // WINDOWS
    means = []
    for _ in range(WINDOWS * PATIENCE):
        total = torch.zeros(len(models))
        for _ in range(window):
            inputs, targets = source.draw(BATCH, generator)
            with sdpa_kernel(SDPBackend.MATH):  # the one that `vmap` can stack
                gradients, values = step(trained, frozen, buffers, inputs, targets)
            optimiser.step(trained, gradients)
            total += values.detach()
        means.append((total / window).tolist())
    return [
        [float(f"{value:.4g}") if isfinite(value) else None for value in curve]
        for curve in zip(*means, strict=True)
    ]


def train(entries: Sequence[Entry], seed: int) -> dict[str, Losses]:
    """Every optimiser and learning rate from the starts of one architecture, by entry name."""
    found = train_starts([(entry, seed) for entry in entries])
    return {entry.name: found[f"{entry.name}#{seed}"] for entry in entries}


def train_starts(starts: Sequence[tuple[Entry, int]]) -> dict[str, Losses]:
    """The same from entries of one architecture and seeds, by ``entry#seed``."""
    jobs = [(entry, seed, kind, rate) for entry, seed in starts for kind, rate in RATES]
    found: dict[str, Losses] = {f"{entry.name}#{seed}": {} for entry, seed in starts}
    for start in range(0, len(jobs), TOGETHER):
        part = jobs[start : start + TOGETHER]
        models = [entry.build(seed) for entry, seed, _, _ in part]
        rates = [(kind, rate) for _, _, kind, rate in part]
        curves = runs(models, rates, part[0][0].task)
        for (entry, seed, kind, rate), curve in zip(part, curves, strict=True):
            found[f"{entry.name}#{seed}"][f"{kind} {rate:g}"] = curve
    return found


def best(losses: Losses, kind: str, windows: int) -> float:
    """Lowest loss of one optimiser over its learning rates and the first windows.

    Infinite when all runs left the finite numbers at once.
    """
    curves = [
        curve[:windows] if isinstance(curve, list) else [curve]  # a run whose end alone was kept
        for key, curve in losses.items()
        if key.startswith(kind)
    ]
    return min((loss for curve in curves for loss in curve if loss is not None), default=inf)


def progress(losses: Losses, twin: Losses, task: str) -> float:
    """What was gained on chance, relative to what the healthy twin gains in a part of the steps.

    The start is given `PATIENCE` times the twin's steps. Every optimiser's best learning rate and
    window count, between 0 and 1.2; mean over the optimisers with which the twin learns.
    """
    guess = chance(task)
    kinds = dict.fromkeys(kind for kind, _ in RATES)
    gained = {kind: guess - best(losses, kind, WINDOWS * PATIENCE) for kind in kinds}
    twins = {kind: guess - best(twin, kind, WINDOWS) for kind in kinds}
    most = max(twins.values())
    return mean(
        min(max(gained[kind] / twins[kind], 0.0), 1.2)
        for kind in kinds
        if twins[kind] > LEARNS * most
    )


def outcome(score: float) -> str:
    """What a mean relative progress is called."""
    return FINE if score >= FINE_PROGRESS else HARMED if score >= FAILS_PROGRESS else FAILS


def scores(record: Mapping[str, Losses], entries: Sequence[Entry]) -> dict[str, float]:
    """Mean relative progress over the seeds that were trained, by entry name."""
    found = {}
    for entry in entries:
        seeds = [
            progress(
                record[f"{entry.name}#{seed}"], record[f"{entry.twin.name}#{seed}"], entry.task
            )
            for seed in SEEDS
            if f"{entry.name}#{seed}" in record and f"{entry.twin.name}#{seed}" in record
        ]
        if seeds:
            found[entry.name] = mean(seeds)
    return found


def complete(losses: Losses | None) -> bool:
    """True when whole curves were kept, not the ends of shorter runs alone."""
    return losses is not None and all(isinstance(curve, list) for curve in losses.values())


def load(path: Path = LOSSES) -> dict[str, Losses]:
    """The losses of all runs so far, by ``entry#seed``."""
    found: dict[str, Losses] = json.loads(path.read_text()) if path.exists() else {}
    return found


def save(record: Mapping[str, Losses], path: Path = LOSSES) -> None:
    """Write the losses, one start per line, beside what another run has written meanwhile."""
    record = {**load(path), **record}
    lines = [f"{json.dumps(key)}: {json.dumps(record[key])}" for key in sorted(record)]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
