"""The two collections, and what their models are made of.

Every builder returns a module and its inputs. `FAULTS` maps its name to what a right finding looks
like: one of the rules, at a warning or error, holding one of the layers. Of the models of `CLEAN`
nothing may be said from a warning on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

Built = tuple[nn.Module, tuple[torch.Tensor, ...]]


@dataclass(frozen=True, slots=True)
class Fault:
    """What a right finding says: any of the rules, holding any of the layers (by prefix)."""

    build: Callable[[], Built]
    rules: tuple[str, ...]
    layers: tuple[str, ...]


FAULTS: dict[str, Fault] = {}


def fault(*rules: str, at: tuple[str, ...]) -> Callable[[Callable[[], Built]], Callable[[], Built]]:
    """Register a builder with the rules and layers of a right finding."""

    def register(function: Callable[[], Built]) -> Callable[[], Built]:
        FAULTS[function.__name__] = Fault(function, rules, at)
        return function

    return register


def plain(depth: int, width: int = 64, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """A plain perceptron whose weights are right for a ReLU."""
    layers: list[nn.Module] = [nn.Linear(32, width), activation()]
    for _ in range(depth - 2):
        layers += [nn.Linear(width, width), activation()]
    net = nn.Sequential(*layers, nn.Linear(width, 10))
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    nn.init.normal_(net[-1].weight, std=width**-0.5)
    return net


X = (32, 32)


def x(*shape: int) -> tuple[torch.Tensor]:
    """A batch of standard normal inputs."""
    return (torch.randn(*(shape or X)),)


class FunctionalMlp(nn.Module):
    """Matrices kept as parameters, the forward written out."""

    def __init__(self, sizes, gain, activation=F.relu):
        super().__init__()
        self.activation = activation
        pairs = pairwise(sizes)
        self.w = nn.ParameterList([nn.Parameter(torch.randn(a, b) * gain(a, b)) for a, b in pairs])
        self.b = nn.ParameterList([nn.Parameter(torch.zeros(b)) for b in sizes[1:]])

    def forward(self, v):
        for i, (w, b) in enumerate(zip(self.w, self.b, strict=True)):
            v = v @ w + b
            if i + 1 < len(self.w):
                v = self.activation(v)
        return v


class Residual(nn.Module):
    """x + f(x), with an optional norm in front."""

    def __init__(self, body, norm=None):
        super().__init__()
        self.body, self.norm = body, norm

    def forward(self, v):
        return v + self.body(v if self.norm is None else self.norm(v))


class Attention(nn.Module):
    """Split heads by hand."""

    def __init__(self, d, heads, scale=None):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(d, d, bias=False) for _ in range(4))
        self.heads, self.scale = heads, scale

    def forward(self, v):
        b, t, d = v.shape
        q, k, u = (
            f(v).view(b, t, self.heads, d // self.heads).transpose(1, 2)
            for f in (self.q, self.k, self.v)
        )
        s = q @ k.transpose(-2, -1)
        if self.scale is not None:
            s = s * self.scale
        return self.o((s.softmax(-1) @ u).transpose(1, 2).reshape(b, t, d))


class Block(nn.Module):
    """Pre- or post-norm transformer block."""

    def __init__(self, d=32, heads=4, post=False, scale=True):
        super().__init__()
        self.attn = Attention(d, heads, (d // heads) ** -0.5 if scale else None)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.n1, self.n2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.post = post

    def forward(self, v):
        if self.post:
            v = self.n1(v + self.attn(v))
            return self.n2(v + self.down(F.gelu(self.up(v))))
        v = v + self.attn(self.n1(v))
        return v + self.down(F.gelu(self.up(self.n2(v))))


class Decoder(nn.Module):
    """Token embedding, blocks, norm, head (tied or not)."""

    def __init__(self, vocabulary=100, d=32, depth=4, tied=False, std=0.02, **kw):
        super().__init__()
        self.emb = nn.Embedding(vocabulary, d)
        self.pos = nn.Parameter(torch.randn(1, 64, d) * 0.02)
        self.blocks = nn.ModuleList(Block(d, **kw) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, vocabulary, bias=False)
        for m in self.modules():
            if isinstance(m, (nn.Linear, nn.Embedding)):
                nn.init.normal_(m.weight, std=std)
                if getattr(m, "bias", None) is not None:
                    nn.init.zeros_(m.bias)
        if tied:
            self.head.weight = self.emb.weight

    def forward(self, ids: torch.Tensor):
        v = self.emb(ids) + self.pos[:, : ids.shape[1]]
        for block in self.blocks:
            v = block(v)
        return self.head(self.norm(v))


def ids(vocabulary: int = 100, length: int = 16) -> tuple[torch.Tensor]:
    """A batch of token ids."""
    return (torch.randint(0, vocabulary, (8, length)),)


class Tagger(nn.Module):
    """A recurrent layer and a head on its last step."""

    def __init__(self, cell, hidden=64):
        super().__init__()
        self.rnn, self.head = cell, nn.Linear(hidden, 5)

    def forward(self, v):
        return self.head(self.rnn(v)[0][:, -1])


CLEAN: dict[str, Callable[[], Built]] = {}


def clean(function: Callable[[], Built]) -> Callable[[], Built]:
    """Register a healthy model."""
    CLEAN[function.__name__] = function
    return function


def he(*shape: int) -> nn.Parameter:
    """A matrix (in, out) with He's scale."""
    return nn.Parameter(torch.randn(*shape) * math.sqrt(2 / shape[-2]))


class Named(nn.Module):
    """A module with a forward given as a function of itself."""

    def __init__(self, run, **parts):
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, v):
        return self.run(self, v)


def conv_norm(a: int, b: int, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)
    )


def head(width: int, classes: int = 10) -> list[nn.Module]:
    """Global average and a linear classifier."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]
