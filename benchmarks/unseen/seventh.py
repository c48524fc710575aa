"""Models of a seventh round that were judged wrongly at first."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.unseen.parts import Block, Built, clean, fault, ids, x


class Coupling(nn.Module):
    """One half of the features scales and shifts the other, by an exponent without a bound."""

    def __init__(self, std, flipped, width=16):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width // 2, 128), nn.ReLU(), nn.Linear(128, width))
        self.flipped = flipped
        nn.init.kaiming_normal_(self.net[0].weight)
        nn.init.normal_(self.net[2].weight, std=std)
        nn.init.zeros_(self.net[2].bias)

    def forward(self, v):
        one, other = v.chunk(2, 1)
        if self.flipped:
            one, other = other, one
        scale, shift = self.net(one).chunk(2, 1)
        other = other * scale.exp() + shift
        return torch.cat([other, one] if self.flipped else [one, other], 1)


def couplings(std: float) -> nn.Sequential:
    return nn.Sequential(*(Coupling(std, index % 2 == 1) for index in range(6)))


@fault("variance-profile", "forward-drift", at=("1.net", "2.net"))
def flow_that_overflows() -> Built:
    return couplings(0.3), x(16, 16)


@clean
def flow_of_small_exponents() -> Built:
    return couplings(0.003), x(16, 16)


def discriminator(centre: float, spread: float) -> nn.Sequential:
    """DCGAN's: convolutions of N(0, 0.02), and gains of batch norms that are drawn as well."""
    widths = (1, 32, 64, 96, 96)
    layers: list[nn.Module] = []
    for index, (a, b) in enumerate(pairwise(widths)):
        size, stride = (4, 2) if index < 2 else (3, 1)
        conv, norm = nn.Conv2d(a, b, size, stride, 1, bias=False), nn.BatchNorm2d(b)
        nn.init.normal_(conv.weight, 0.0, 0.02)
        nn.init.normal_(norm.weight, centre, spread)
        layers += [conv, norm, nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(96 * 16, 10)).eval()


@fault("epsilon-dominates", "norm-gain-off", at=("1", "4", "7", "10"))
def gains_drawn_around_zero() -> Built:
    return discriminator(0.0, 0.002), (torch.randn(16, 1, 16, 16),)


@clean
def gains_drawn_around_one() -> Built:
    return discriminator(1.0, 0.02), (torch.randn(16, 1, 16, 16),)


class Ensemble(nn.Module):
    """Five networks side by side, each layer one batched product; their outputs are averaged."""

    def __init__(self, helper):
        super().__init__()
        sizes = (64, 100, 100, 100, 100, 10)
        self.w, self.b = nn.ParameterList(), nn.ParameterList()
        for a, b in pairwise(sizes):
            weight = torch.empty(5, a, b)
            for matrix in (weight,) if helper else weight:
                nn.init.xavier_uniform_(matrix, 1.0 if helper else 2**0.5)
            self.w.append(nn.Parameter(weight))
            self.b.append(nn.Parameter(torch.zeros(5, 1, b)))

    def forward(self, v):
        v = v.unsqueeze(0).expand(5, -1, -1)
        for index, (w, b) in enumerate(zip(self.w, self.b, strict=True)):
            v = torch.baddbmm(b, v, w)
            v = F.silu(v) if index + 1 < len(self.w) else v
        return v.mean(0)


@fault("stacked-experts-fan", at=("w",))
def ensemble_by_the_helpers_fan() -> Built:
    return Ensemble(helper=True), x(16, 64)


@clean
def ensemble_of_true_fans() -> Built:
    return Ensemble(helper=False), x(16, 64)


class Encoder(nn.Module):
    """Post-norm blocks over tokens, all but queries and keys of one Xavier gain."""

    def __init__(self, depth, gain, d=48):
        super().__init__()
        self.emb = nn.Embedding(60, d)
        self.blocks = nn.ModuleList(Block(d, 4, post=True) for _ in range(depth))
        self.head = nn.Linear(d, 4)
        for block in self.blocks:
            for layer in (block.attn.v, block.attn.o, block.up, block.down):
                nn.init.xavier_normal_(layer.weight, gain)

    def forward(self, index):
        v = self.emb(index)
        for block in self.blocks:
            v = block(v)
        return self.head(v.mean(1))


@fault("post-norm-deep", at=("blocks",))
def post_norm_blocks_of_strong_branches() -> Built:
    return Encoder(24, 1.4), ids(60)


@clean
def post_norm_blocks_of_weaker_branches() -> Built:
    return Encoder(18, 0.7), ids(60)
