"""Healthy networks, each with one batch of inputs and something to learn on it."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.unseen.parts import Decoder, Residual, Tagger, plain

Built = tuple[nn.Module, tuple[Tensor, ...]]

VOCABULARY = 40

TOLD, ASKED = 8, 24
"""Steps of a sequence that carry data, and steps until the answer: blank in between, so that a
recurrent network has to remember."""


def scaled(net: nn.Module, gain: float) -> nn.Module:
    """Every matrix and kernel at gain / sqrt(fan_in), biases zero."""
    for module in net.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv1d)):
            nn.init.normal_(module.weight, std=gain / math.sqrt(module.weight[0].numel()))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net


def cnn(norm: bool, depth: int) -> Built:
    layers: list[nn.Module] = []
    channels = 3
    for _ in range(depth):
        layers.append(nn.Conv2d(channels, 16, 3, padding=1))
        layers += [nn.BatchNorm2d(16), nn.ReLU()] if norm else [nn.ReLU()]
        channels = 16
    net = scaled(nn.Sequential(*layers), math.sqrt(2))
    head = scaled(nn.Linear(16, 10), 1.0)
    return nn.Sequential(*net, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head), images()


def images() -> tuple[Tensor]:
    return (torch.randn(16, 3, 8, 8) + torch.randn(16, 3, 1, 1),)


def residual(norm: bool) -> Built:
    def body() -> nn.Module:
        net = scaled(nn.Sequential(nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 48)), math.sqrt(2))
        if not norm:
            with torch.no_grad():
                net[2].weight.div_(math.sqrt(8))
        return net

    blocks = [Residual(body(), nn.LayerNorm(48) if norm else None) for _ in range(8)]
    ends = [scaled(nn.Linear(32, 48), 1.0), scaled(nn.Linear(48, 10), 1.0)]
    middle = [nn.LayerNorm(48)] if norm else []
    return nn.Sequential(ends[0], *blocks, *middle, ends[1]), (torch.randn(32, 32),)


def perceptron(depth: int, activation: type[nn.Module], gain: float) -> Built:
    net = plain(depth, width=64, activation=activation)
    scaled(net[:-1], gain)
    return net, (torch.randn(32, 32),)


def recurrent(kind: str) -> Built:
    made = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[kind](8, 48, batch_first=True)
    for name, param in made.named_parameters():
        if "weight_hh" in name:
            for block in param.data.chunk(len(param) // 48):
                nn.init.orthogonal_(block)
        elif "weight_ih" in name:
            nn.init.normal_(param, std=8**-0.5)
        else:
            nn.init.zeros_(param)
            if kind == "lstm" and "ih" in name:
                param.data[48:96] = 2.0
            if kind == "gru" and "ih" in name:
                param.data[48:96] = 2.0
    inputs = torch.randn(32, ASKED, 8)
    inputs[:, TOLD:] = 0.0
    return Tagger(made, 48), (inputs,)


def autoencoder() -> Built:
    sizes = [64, 48, 32, 12, 32, 48, 64]
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    net = scaled(nn.Sequential(*layers[:-1]), math.sqrt(2))
    return net, (torch.randn(32, 8) @ torch.randn(8, 64) / 3,)


def gpt() -> Built:
    net = Decoder(vocabulary=VOCABULARY, d=48, depth=4, std=0.1)
    for block in net.blocks:
        for layer in (block.attn.o, block.down):
            nn.init.normal_(layer.weight, std=0.1 / math.sqrt(8))
    nn.init.normal_(net.head.weight, std=0.02)
    return net, (torch.randint(0, VOCABULARY, (16, 12)),)


HEALTHY: dict[str, Callable[[], Built]] = {
    "mlp of 4 layers, ReLU": lambda: perceptron(4, nn.ReLU, math.sqrt(2)),
    "mlp of 16 layers, ReLU": lambda: perceptron(16, nn.ReLU, math.sqrt(2)),
    "mlp of 10 layers, tanh": lambda: perceptron(10, nn.Tanh, 1.3),
    "mlp of 8 layers, GELU": lambda: perceptron(8, nn.GELU, 1.45),
    "cnn of 8 layers": lambda: cnn(False, 8),
    "cnn of 6 layers, BatchNorm": lambda: cnn(True, 6),
    "residual net, LayerNorm": lambda: residual(True),
    "residual net without norm": lambda: residual(False),
    "decoder": gpt,
    "autoencoder": autoencoder,
    "LSTM": lambda: recurrent("lstm"),
    "GRU": lambda: recurrent("gru"),
    "RNN": lambda: recurrent("rnn"),
}


def targets(inputs: Tensor, outputs: Tensor) -> Tensor:
    """The input itself, another token for each token, or classes by a random projection."""
    if not inputs.is_floating_point():
        return (inputs * 7 + 3) % VOCABULARY
    if outputs.shape == inputs.shape:
        return inputs
    flat = inputs.flatten(1)
    generator = torch.Generator().manual_seed(5)
    return (flat @ torch.randn(flat.shape[1], 4, generator=generator)).argmax(1)


def loss_of(outputs: Tensor, wanted: Tensor) -> Tensor:
    """Squared error for numbers, cross-entropy for classes."""
    if wanted.is_floating_point():
        return functional.mse_loss(outputs, wanted)
    return functional.cross_entropy(outputs.flatten(0, -2), wanted.flatten())


def chance(wanted: Tensor) -> float:
    """Loss of the best guess that ignores the input."""
    if wanted.is_floating_point():
        return float(wanted.var(0, correction=0).mean())
    shares = torch.bincount(wanted.flatten()) / wanted.numel()
    return float(torch.special.entr(shares).sum())
