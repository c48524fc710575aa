"""What `initlint.watch` costs: interleaved runs of one loop, watched and not.

    python -m benchmarks.watch

Prints the ratio of the medians for a transformer block stack and for a small net. The lint at
step 0 happens once and is left out.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch
from torch import nn

import initlint

ROUNDS, STEPS = 5, 20


def blocks() -> tuple[Any, Any]:
    layer = nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True, dropout=0.0)
    body = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    return nn.Sequential(body, nn.Linear(256, 10)), torch.randn(8, 64, 256)


def convolutions() -> tuple[Any, Any]:
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU()]
    for _ in range(8):
        layers += [nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 256, 10)), torch.randn(32, 3, 16, 16)


def loop(model: Any, inputs: Any, optimizer: Any, watch: Any) -> float:
    began = time.perf_counter()
    for _ in range(STEPS):
        loss = model(inputs).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if watch is not None:
            watch.loss(loss)
    return time.perf_counter() - began


def main() -> None:
    torch.manual_seed(0)
    for build in (blocks, convolutions):
        model, inputs = build()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        loop(model, inputs, optimizer, None)
        plain, watched = [], []
        for _ in range(ROUNDS):
            plain.append(loop(model, inputs, optimizer, None))
            with initlint.watch(model, optimizer, lint=False) as watch:
                watched.append(loop(model, inputs, optimizer, watch))
        ratios = [b / a for a, b in zip(plain, watched, strict=True)]
        print(f"{build.__name__}: watched / plain = {median(ratios):.3f} (every 10 steps)")


if __name__ == "__main__":
    main()
