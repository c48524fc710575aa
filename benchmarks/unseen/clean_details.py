"""Healthy models with one unusual detail: sharing, positions, masks, pooling, loops."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.unseen.parts import (
    Block,
    Built,
    Residual,
    clean,
    conv_norm,
    head,
    ids,
    plain,
    x,
)


@clean
def albert_shared_layer() -> Built:
    class Albert(nn.Module):
        def __init__(self):
            super().__init__()
            self.emb, self.proj = nn.Embedding(100, 16), nn.Linear(16, 32)
            self.block, self.out = Block(), nn.Linear(32, 4)
            nn.init.normal_(self.emb.weight, std=0.02)

        def forward(self, i: torch.Tensor):
            v = self.proj(self.emb(i))
            for _ in range(6):
                v = self.block(v)
            return self.out(v.mean(1))

    return Albert(), ids()


@clean
def stn() -> Built:
    class Stn(nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = nn.Sequential(nn.Conv2d(1, 8, 7), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten())
            self.fc = nn.Sequential(nn.Linear(8 * 25, 32), nn.ReLU(), nn.Linear(32, 6))
            nn.init.zeros_(self.fc[2].weight)
            self.fc[2].bias.data = torch.tensor([1.0, 0, 0, 0, 1, 0])
            self.net = nn.Sequential(conv_norm(1, 16, 2), *head(16))

        def forward(self, v):
            theta = self.fc(self.loc(v)).view(-1, 2, 3)
            grid = F.affine_grid(theta, list(v.shape), align_corners=False)
            return self.net(F.grid_sample(v, grid, align_corners=False))

    return Stn(), x(4, 1, 16, 16)


@clean
def relative_position_zero_bias() -> Built:
    class Rel(nn.Module):
        def __init__(self, d=32, h=4, t=16):
            super().__init__()
            self.qkv, self.o = nn.Linear(d, 3 * d), nn.Linear(d, d)
            self.table = nn.Parameter(torch.zeros(2 * t - 1, h))
            index = torch.arange(t)[:, None] - torch.arange(t) + t - 1
            self.register_buffer("pairs", index)
            self.norm, self.h, self.out = nn.LayerNorm(d), h, nn.Linear(d, 5)

        def forward(self, v):
            b, t, d = v.shape
            q, k, u = self.qkv(self.norm(v)).view(b, t, 3, self.h, -1).permute(2, 0, 3, 1, 4)
            bias = self.table[self.pairs.view(-1)].view(t, t, -1).permute(2, 0, 1)
            a = (q @ k.transpose(-1, -2) / math.sqrt(d // self.h) + bias).softmax(-1)
            return self.out(v + self.o((a @ u).transpose(1, 2).reshape(b, t, d)))

    return Rel(), x(4, 16, 32)


@clean
def t5_style_attention() -> Built:
    class T5(nn.Module):
        def __init__(self, d=64, h=4):
            super().__init__()
            e = d // h
            self.q, self.k, self.v, self.o = (nn.Linear(d, d, bias=False) for _ in range(4))
            nn.init.normal_(self.q.weight, std=(d * e) ** -0.5)
            for m in (self.k, self.v):
                nn.init.normal_(m.weight, std=d**-0.5)
            nn.init.normal_(self.o.weight, std=d**-0.5)
            self.wi, self.wo = nn.Linear(d, 128, bias=False), nn.Linear(128, d, bias=False)
            nn.init.normal_(self.wi.weight, std=d**-0.5)
            nn.init.normal_(self.wo.weight, std=128**-0.5)
            self.n1, self.n2, self.h = nn.RMSNorm(d), nn.RMSNorm(d), h

        def forward(self, v):
            b, t, d = v.shape
            z = self.n1(v)
            q, k, u = (
                f(z).view(b, t, self.h, -1).transpose(1, 2) for f in (self.q, self.k, self.v)
            )
            a = (q @ k.transpose(-1, -2)).softmax(-1) @ u
            v = v + self.o(a.transpose(1, 2).reshape(b, t, d))
            return v + self.wo(F.relu(self.wi(self.n2(v))))

    return nn.Sequential(T5(), T5(), nn.RMSNorm(64), nn.Linear(64, 5)), x(4, 12, 64)


@clean
def arc_face_head() -> Built:
    class Arc(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(conv_norm(3, 16, 2), *head(16, 32))
            self.w = nn.Parameter(torch.randn(50, 32) * 0.01)

        def forward(self, v):
            return 16.0 * F.linear(F.normalize(self.body(v)), F.normalize(self.w))

    return Arc(), x(8, 3, 16, 16)


@clean
def quantisation_aware() -> Built:
    class Ste(torch.autograd.Function):
        @staticmethod
        def forward(ctx, v):
            return v.round()

        @staticmethod
        def backward(ctx, g):
            return g

    class Quant(nn.Linear):
        def forward(self, v):
            s = self.weight.detach().abs().max() / 7
            w = self.weight + ((self.weight / s).round() * s - self.weight).detach()
            return F.linear(v, w, self.bias)

    net = nn.Sequential(Quant(32, 64), nn.ReLU(), Quant(64, 64), nn.ReLU(), Quant(64, 10))
    return net, x()


@clean
def pruned_at_initialisation() -> Built:
    net = plain(4, width=128)
    for layer in net:
        if isinstance(layer, nn.Linear):
            mask = (torch.rand_like(layer.weight) < 0.5).float()
            layer.weight.data.mul_(mask * math.sqrt(2))
    return net, x()


@clean
def martens_sparse() -> Built:
    net = plain(4, width=128, activation=nn.Tanh)
    for layer in net[:-1]:
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.weight)
            for row in layer.weight.data:
                row[torch.randperm(len(row))[:15]] = torch.randn(15) / math.sqrt(15)
    return net, x()


@clean
def inflated_stem() -> Built:
    net = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(),
                        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 4))  # fmt: skip
    flat = torch.randn(8, 1, 1, 3, 3) * math.sqrt(2 / 9)
    net[0].weight.data.copy_(flat.repeat(1, 1, 3, 1, 1) / 3)
    return net, x(4, 1, 8, 8, 8)


@clean
def relu_bias_of_a_tenth() -> Built:
    net = plain(5)
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.constant_(layer.bias, 0.1)
    return net, x()


@clean
def learned_temperature_pooling() -> Built:
    class Pool(nn.Module):
        def __init__(self, d=32):
            super().__init__()
            self.query = nn.Parameter(torch.zeros(1, 4, d))
            self.kv, self.norm, self.out = nn.Linear(d, 2 * d), nn.LayerNorm(d), nn.Linear(4 * d, 5)
            nn.init.normal_(self.query, std=0.02)

        def forward(self, v):
            k, u = self.kv(self.norm(v)).chunk(2, -1)
            q = self.query.expand(len(v), -1, -1)
            a = (torch.bmm(q, k.transpose(1, 2)) / math.sqrt(k.shape[-1])).softmax(-1)
            return self.out(torch.bmm(a, u).flatten(1))

    return Pool(), x(4, 12, 32)


@clean
def conv_mixer() -> Built:
    def block(d=32):
        return nn.Sequential(
            Residual(nn.Sequential(nn.Conv2d(d, d, 5, padding=2, groups=d), nn.GELU(),
                                   nn.BatchNorm2d(d))),
            nn.Conv2d(d, d, 1), nn.GELU(), nn.BatchNorm2d(d),
        )  # fmt: skip

    stem = [nn.Conv2d(3, 32, 4, 4), nn.GELU(), nn.BatchNorm2d(32)]
    return nn.Sequential(*stem, block(), block(), block(), *head(32)), x(4, 3, 32, 32)


@clean
def wave_net() -> Built:
    class Layer(nn.Module):
        def __init__(self, c, d):
            super().__init__()
            self.f = nn.Conv1d(c, 2 * c, 2, dilation=d)
            self.r, self.s, self.d = nn.Conv1d(c, c, 1), nn.Conv1d(c, c, 1), d

        def forward(self, v):
            a, b = self.f(F.pad(v, (self.d, 0))).chunk(2, 1)
            h = torch.tanh(a) * torch.sigmoid(b)
            return v + self.r(h), self.s(h)

    class Wave(nn.Module):
        def __init__(self, c=32):
            super().__init__()
            self.inp = nn.Conv1d(1, c, 1)
            self.layers = nn.ModuleList(Layer(c, 2**i) for i in range(5))
            self.o1, self.o2 = nn.Conv1d(c, c, 1), nn.Conv1d(c, 16, 1)

        def forward(self, v):
            v, total = self.inp(v), 0.0
            for layer in self.layers:
                v, s = layer(v)
                total = total + s
            return self.o2(F.relu(self.o1(F.relu(total))))

    return Wave(), x(4, 1, 64)


@clean
def noisy_linear_layers() -> Built:
    class Noisy(nn.Module):
        def __init__(self, a, b):
            super().__init__()
            bound = 1 / math.sqrt(a)
            self.mean = nn.Parameter(torch.empty(b, a).uniform_(-bound, bound))
            self.spread = nn.Parameter(torch.full((b, a), 0.5 * bound))
            self.bias = nn.Parameter(torch.empty(b).uniform_(-bound, bound))
            self.register_buffer("noise", torch.randn(b, a))

        def forward(self, v):
            return F.linear(v, self.mean + self.spread * self.noise, self.bias)

    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), Noisy(64, 64), nn.ReLU(), Noisy(64, 4)), x(
        16, 8
    )


@clean
def attention_pooling_of_sets() -> Built:
    class Pool(nn.Module):
        def __init__(self):
            super().__init__()
            self.each = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
            self.seeds = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, 2, 64)))
            self.pool = nn.MultiheadAttention(64, 4, batch_first=True)
            self.out = nn.Linear(128, 4)

        def forward(self, v):
            h = self.each(v)
            return self.out(self.pool(self.seeds.repeat(len(v), 1, 1), h, h)[0].flatten(1))

    return Pool(), x(4, 30, 3)


@clean
def table_of_zeros() -> Built:
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.hidden = nn.Embedding(50, 32), nn.Linear(32, 64)
            self.out = nn.Linear(64, 5)
            nn.init.zeros_(self.words.weight)

        def forward(self, v):
            return self.out(torch.tanh(self.hidden(self.words(v).mean(1))))

    return Bag(), ids(50)


@clean
def identity_recurrence_in_a_loop() -> Built:
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.inp, self.state = nn.Linear(8, 32), nn.Linear(32, 32)
            self.out = nn.Linear(32, 3)
            nn.init.eye_(self.state.weight)
            nn.init.zeros_(self.state.bias)

        def forward(self, v):
            h = v.new_zeros(len(v), 32)
            for t in range(v.shape[1]):
                h = F.relu(self.inp(v[:, t]) + self.state(h))
            return self.out(h)

    return Loop(), x(4, 30, 8)
