"""What `initlint.watch` costs: one loop in turn plain and watched, a row for each pair.

    python -m benchmarks.watch

A pair is the default interval long: one measured step and nine that are not. Times are processor
time of one thread, so that other work on the machine counts on neither side. The lint at step 0
happens once and is left out.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch
from torch import nn

import initlint

PAIRS, STEPS = 5, 10


def blocks() -> tuple[Any, Any]:
    layer = nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True, dropout=0.0)
    body = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    return nn.Sequential(body, nn.Linear(256, 10)), torch.randn(8, 64, 256)


def convolutions() -> tuple[Any, Any]:
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU()]
    for _ in range(8):
        layers += [nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 256, 10)), torch.randn(32, 3, 16, 16)


def small() -> tuple[Any, Any]:
    """The smallest step worth watching: the fixed costs show."""
    layers: list[nn.Module] = [nn.Linear(64, 256), nn.Tanh()]
    for _ in range(4):
        layers += [nn.Linear(256, 256), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(256, 10)), torch.randn(128, 64)


def loop(model: Any, inputs: Any, optimizer: Any, watch: Any) -> float:
    began = time.process_time()
    for _ in range(STEPS):
        loss = model(inputs).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if watch is not None:
            watch.loss(loss)
    return time.process_time() - began


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(f"{'net':<14}{'pair':>5}{'plain s':>10}{'watched s':>11}{'ratio':>8}", flush=True)
    for build in (blocks, convolutions, small):
        model, inputs = build()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        loop(model, inputs, optimizer, None)
        ratios = []
        for pair in range(PAIRS):
            # Each goes first in turn: the second of two runs finds a warmer or a busier machine.
            seconds = [0.0, 0.0]
            for watched in (pair % 2, 1 - pair % 2):
                if watched:
                    with initlint.watch(model, optimizer, lint=False) as watch:
                        seconds[1] = loop(model, inputs, optimizer, watch)
                else:
                    seconds[0] = loop(model, inputs, optimizer, None)
            ratios.append(seconds[1] / seconds[0])
            row = f"{build.__name__:<14}{pair + 1:>5}{seconds[0]:>10.2f}{seconds[1]:>11.2f}"
            print(f"{row}{ratios[-1]:>8.3f}", flush=True)
        print(f"{build.__name__:<14}{'median of the ratios':>26}{median(ratios):>8.3f}", flush=True)


if __name__ == "__main__":
    main()
