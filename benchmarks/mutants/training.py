"""What becomes of a mutant in training: the only measure of harm."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from math import isfinite
from statistics import mean

import torch
from torch import Tensor, nn
from torch.func import (
    functional_call,
    grad_and_value,
    replace_all_batch_norm_modules_,
    stack_module_state,
    vmap,
)

from benchmarks.mutants.faults import Mutant
from benchmarks.mutants.networks import chance, loss_of, targets

STEPS = 60
TAIL = 10
"""Last steps whose mean loss is the result of a run."""

RATES = (("sgd", 0.1), ("sgd", 0.01), ("adam", 0.01), ("adam", 0.001))
"""SGD with momentum 0.9 and Adam, as in `benchmarks.outcome`."""

_KINDS = ("sgd", "adam")

LEARNS = 0.3
"""An optimiser judges only where the original itself comes so far with it, relative to its best."""

FAILS, HARMED = 0.5, 0.9
"""Progress relative to the original below which a mutant fails, or is harmed."""

TOGETHER = 48
"""Starts trained in one stack."""

Losses = dict[str, float | None]


def train(mutants: Sequence[Mutant], original: Losses) -> dict[str, Losses]:
    """Last loss by optimiser and rate of mutants of one network; None where a run diverged.

    The other rates of an optimiser are tried only where the original's best does not show that
    nothing is lost.

    Args:
        mutants: of one draw of one network.
        original: what the healthy network reached; empty when it is trained itself.
    """
    best = set()
    for kind in _KINDS if original else ():
        reached = _of(original, kind)
        best.add(min(reached, key=lambda rate: reached[rate]))
    first = [rate for rate in RATES if not original or _key(rate) in best]
    rest = [rate for rate in RATES if rate not in first]
    losses = _runs(mutants, first)
    level = guess(mutants[0])
    doubtful = [
        mutant
        for mutant in mutants
        if rest and progress([(losses[mutant.key], original, level)]) < HARMED
    ]
    for name, found in _runs(doubtful, rest).items() if doubtful else ():
        losses[name] |= found
    return losses


def _key(rate: tuple[str, float]) -> str:
    return f"{rate[0]} {rate[1]:g}"


def _of(losses: Losses, kind: str) -> dict[str, float]:
    """Losses of one optimiser by rate; infinite where it diverged."""
    return {
        key: float("inf") if loss is None else loss
        for key, loss in losses.items()
        if key.startswith(kind)
    }


def _runs(mutants: Sequence[Mutant], rates: Sequence[tuple[str, float]]) -> dict[str, Losses]:
    built = [mutant.build()[0] for mutant in mutants]
    (inputs,) = built[0][1]
    with torch.no_grad():
        wanted = targets(inputs, built[0][0](inputs))
    jobs = [(net, rate) for net, _ in built for rate in rates]
    alone = any(isinstance(module, nn.RNNBase) for module in built[0][0].modules())
    together = 1 if alone else TOGETHER
    run = _alone if alone else _stacked
    ends: list[float | None] = []
    for start in range(0, len(jobs), together):
        part = jobs[start : start + together]
        found = run([deepcopy(net) for net, _ in part], [rate for _, rate in part], inputs, wanted)
        ends += [round(end, 5) if isfinite(end) else None for end in found]
    keys = [_key(rate) for rate in rates]
    return {
        mutant.key: dict(zip(keys, ends[n * len(keys) :], strict=False))
        for n, mutant in enumerate(mutants)
    }


def _alone(
    nets: Sequence[nn.Module], rates: Sequence[tuple[str, float]], inputs: Tensor, wanted: Tensor
) -> list[float]:
    """One run after the other, for layers that no stack can hold."""
    ends = []
    for net, (kind, rate) in zip(nets, rates, strict=True):
        params = [param for param in net.parameters() if param.requires_grad]
        step = (
            torch.optim.SGD(params, rate, momentum=0.9)
            if kind == "sgd"
            else torch.optim.Adam(params, rate)
        )
        values = []
        for _ in range(STEPS):
            loss = loss_of(net(inputs), wanted)
            values.append(float(loss.detach()))
            if not isfinite(values[-1]):
                break
            step.zero_grad()
            loss.backward()
            step.step()
        ends.append(mean(values[-TAIL:]))
    return ends


def _stacked(
    nets: Sequence[nn.Module], rates: Sequence[tuple[str, float]], inputs: Tensor, wanted: Tensor
) -> list[float]:
    """All runs side by side, on one stack of weights."""
    for net in nets:
        replace_all_batch_norm_modules_(net)
    weights, buffers = stack_module_state(list(nets))
    weights = {name: weight.detach() for name, weight in weights.items()}

    def loss(own: dict[str, Tensor], state: dict[str, Tensor]) -> Tensor:
        return loss_of(functional_call(nets[0], (own, state), (inputs,)), wanted)

    step = vmap(grad_and_value(loss))
    first = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    second = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    rate = torch.tensor([rate for _, rate in rates])
    adam = torch.tensor([kind == "adam" for kind, _ in rates])
    tail: list[Tensor] = []
    for number in range(1, STEPS + 1):
        gradients, values = step(weights, buffers)
        tail = [*tail[1 - TAIL :], values.detach()]
        for name, weight in weights.items():
            shape = (-1,) + (1,) * (weight.ndim - 1)
            is_adam, gradient = adam.view(shape), gradients[name]
            first[name].mul_(0.9).add_(gradient * torch.where(is_adam, 0.1, 1.0))
            second[name].mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            size = (second[name] / (1 - 0.999**number)).sqrt_().add_(1e-8)
            update = torch.where(is_adam, first[name] / (1 - 0.9**number) / size, first[name])
            weight.sub_(update * rate.view(shape))
    return [float(value) for value in torch.stack(tail).mean(0)]


def guess(mutant: Mutant) -> float:
    """Loss of the best guess that ignores the input."""
    (net, (inputs,)), _ = mutant.build()
    with torch.no_grad():
        return chance(targets(inputs, net(inputs)))


def progress(draws: Sequence[tuple[Losses, Losses, float]]) -> float:
    """What was gained on a guess, relative to the original: mean over the optimisers.

    Every optimiser's better rate counts; both gains are means over the draws.

    Args:
        draws: of each draw the losses of the mutant and of the original, and that of a guess.
    """
    gained = {kind: mean(_gain(own, kind, guess) for own, _, guess in draws) for kind in _KINDS}
    wanted = {kind: mean(_gain(full, kind, guess) for _, full, guess in draws) for kind in _KINDS}
    most = max(wanted.values())
    return mean(
        min(gained[kind] / wanted[kind], 1.2) for kind in _KINDS if wanted[kind] > LEARNS * most
    )


def _gain(losses: Losses, kind: str, guess: float) -> float:
    return max(guess - min(_of(losses, kind).values()), 0.0)
