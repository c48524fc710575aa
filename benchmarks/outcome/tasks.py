"""What the small networks learn: digits, sequences, pictures. The same in every run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import log

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """A source of batches and a loss.

    Attributes:
        draw: a batch of inputs and targets, from a generator.
        loss: mean loss of outputs against targets.
        chance: loss of the best guess that ignores the input.
    """

    draw: Callable[[int, torch.Generator], Batch]
    loss: Callable[[Tensor, Tensor], Tensor]
    chance: float


@cache
def digits() -> Batch:
    """The 1,797 pictures of 8 by 8 pixels, standardised as a whole, and their classes."""
    data = load_digits()
    pixels = torch.tensor(data.data, dtype=torch.float32)
    return (pixels - pixels.mean()) / pixels.std(), torch.tensor(data.target)


def _some(size: int, generator: torch.Generator) -> Batch:
    pixels, classes = digits()
    chosen = torch.randint(0, len(pixels), (size,), generator=generator)
    return pixels[chosen], classes[chosen]


def _shaped(*shape: int) -> Callable[[int, torch.Generator], Batch]:
    def draw(size: int, generator: torch.Generator) -> Batch:
        pixels, classes = _some(size, generator)
        return pixels.reshape(size, *shape), classes

    return draw


def _reconstruct(*shape: int) -> Callable[[int, torch.Generator], Batch]:
    def draw(size: int, generator: torch.Generator) -> Batch:
        pixels = _some(size, generator)[0].reshape(size, *shape)
        return pixels, pixels

    return draw


def _denoise(size: int, generator: torch.Generator) -> Batch:
    pixels = _some(size, generator)[0].reshape(size, 1, 8, 8)
    return pixels + 0.5 * torch.randn(pixels.shape, generator=generator), pixels


@cache
def _codes() -> Tensor:
    """A fixed random projection of pictures to 16 numbers of unit variance."""
    generator = torch.Generator().manual_seed(7)
    codes = digits()[0] @ torch.randn(64, 16, generator=generator)
    codes = codes - codes.mean(0)
    return codes / codes.std(0)


def _generate(size: int, generator: torch.Generator) -> Batch:
    chosen = torch.randint(0, len(digits()[0]), (size,), generator=generator)
    return _codes()[chosen], digits()[0][chosen].reshape(size, 1, 8, 8)


def _picture(size: int, generator: torch.Generator) -> Batch:
    """Points of a 16 by 16 mosaic of four digits, interpolated, with their grey value."""
    points = torch.rand(size, 2, generator=generator) * 2 - 1
    tiles = digits()[0][:4].reshape(4, 8, 8)
    mosaic = torch.cat([torch.cat([tiles[0], tiles[1]], 1), torch.cat([tiles[2], tiles[3]], 1)], 0)
    values = functional.grid_sample(
        mosaic[None, None], points[None, None], align_corners=True, padding_mode="border"
    )
    return points, values.reshape(size, 1)


VOCABULARY = 32


@cache
def _transitions() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    logits = 3.0 * torch.randn(VOCABULARY, VOCABULARY, generator=generator)
    return torch.softmax(logits, -1)


def _text(length: int) -> Callable[[int, torch.Generator], Batch]:
    """Sequences of a Markov chain; the target is the next symbol."""

    def draw(size: int, generator: torch.Generator) -> Batch:
        symbols = [torch.randint(0, VOCABULARY, (size,), generator=generator)]
        for _ in range(length):
            following = torch.multinomial(_transitions()[symbols[-1]], 1, generator=generator)
            symbols.append(following.squeeze(1))
        text = torch.stack(symbols, 1)
        return text[:, :-1], text[:, 1:]

    return draw


def _memory(length: int) -> Callable[[int, torch.Generator], Batch]:
    """Four classes shown in the first two steps, noise after them: name the class at the end."""

    def draw(size: int, generator: torch.Generator) -> Batch:
        classes = torch.randint(0, 4, (size,), generator=generator)
        steps = torch.randn(size, length, 8, generator=generator)
        steps[:, :2, :4] = 2.0 * functional.one_hot(classes, 4).float()[:, None]
        return steps, classes

    return draw


def _sums(length: int) -> Callable[[int, torch.Generator], Batch]:
    """The scaled sum of the first feature over all steps."""

    def draw(size: int, generator: torch.Generator) -> Batch:
        steps = torch.randn(size, length, 4, generator=generator)
        return steps, steps[:, :, :1].sum(1) / length**0.5

    return draw


def _parity(size: int, generator: torch.Generator) -> Batch:
    """Parity of the first three of 16 signs."""
    signs = torch.randint(0, 2, (size, 16), generator=generator).float() * 2 - 1
    return signs, (signs[:, :3].prod(1) > 0).long()


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs.reshape(-1, outputs.shape[-1]), targets.reshape(-1))


@cache
def _variance(name: str) -> float:
    """Mean square of what is left of targets when their mean is taken off."""
    targets = TASKS[name].draw(1797, torch.Generator().manual_seed(0))[1]
    return float(targets.sub(targets.mean(0)).square().mean())


def chance(name: str) -> float:
    """Loss of the best guess that ignores the input."""
    return TASKS[name].chance or _variance(name)


TASKS = {
    "digits": Task(_shaped(64), cross_entropy, log(10)),
    "digit-pictures": Task(_shaped(1, 8, 8), cross_entropy, log(10)),
    "digit-patches": Task(_shaped(16, 4), cross_entropy, log(10)),
    "digit-rows": Task(_shaped(8, 8), cross_entropy, log(10)),
    "parity": Task(_parity, cross_entropy, log(2)),
    "text": Task(_text(12), cross_entropy, log(VOCABULARY)),
    "memory-30": Task(_memory(30), cross_entropy, log(4)),
    "sum-16": Task(_sums(16), functional.mse_loss, 1.0),
    "reconstruct": Task(_reconstruct(64), functional.mse_loss, 0.0),
    "denoise": Task(_denoise, functional.mse_loss, 0.0),
    "generate": Task(_generate, functional.mse_loss, 0.0),
    "picture": Task(_picture, functional.mse_loss, 0.0),
}
