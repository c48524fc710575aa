"""Healthy models whose zeros work: heads, gains, gates, adapters."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.unseen.parts import (
    Block,
    Built,
    Decoder,
    Residual,
    clean,
    conv_norm,
    head,
    ids,
    plain,
    x,
)

# --- zeros that work


@clean
def zero_head() -> Built:
    net = plain(4)
    nn.init.zeros_(net[-1].weight)
    return net, x()


@clean
def zero_gamma_resnet() -> Built:
    def body(c):
        net = nn.Sequential(
            nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c), nn.ReLU(),
            nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c),
        )  # fmt: skip
        nn.init.zeros_(net[-1].weight)
        return net

    parts = [nn.Sequential(Residual(body(16)), nn.ReLU()) for _ in range(4)]
    return nn.Sequential(conv_norm(3, 16), *parts, *head(16)), x(8, 3, 16, 16)


@clean
def lora_in_attention() -> Built:
    class LoraLinear(nn.Linear):
        def __init__(self, a, b, r=4, bias=True):
            super().__init__(a, b, bias=bias)
            self.weight.requires_grad_(False)
            self.down, self.up = nn.Linear(a, r, bias=False), nn.Linear(r, b, bias=False)
            nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
            nn.init.zeros_(self.up.weight)

        def forward(self, v):
            return super().forward(v) + self.up(self.down(F.dropout(v, 0.1, self.training))) * 2.0

    net = Decoder(d=32, depth=2)
    for block in net.blocks:
        block.attn.q, block.attn.v = LoraLinear(32, 32, bias=False), LoraLinear(32, 32, bias=False)
    return net, ids()


@clean
def dora() -> Built:
    class Dora(nn.Module):
        def __init__(self, base, r=4):
            super().__init__()
            self.base = base.requires_grad_(False)
            self.m = nn.Parameter(base.weight.norm(dim=1, keepdim=True))
            self.a = nn.Parameter(torch.randn(r, base.in_features) / math.sqrt(base.in_features))
            self.b = nn.Parameter(torch.zeros(base.out_features, r))

        def forward(self, v):
            w = self.base.weight + self.b @ self.a
            return F.linear(v, self.m * w / w.norm(dim=1, keepdim=True), self.base.bias)

    return nn.Sequential(Dora(nn.Linear(32, 64)), nn.GELU(), Dora(nn.Linear(64, 10))), x()


@clean
def control_net() -> Built:
    class Control(nn.Module):
        def __init__(self):
            super().__init__()
            self.base, self.copy = conv_norm(8, 8), conv_norm(8, 8)
            self.zin, self.zout = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
            for m in (self.zin, self.zout):
                nn.init.zeros_(m.weight)
                nn.init.zeros_(m.bias)
            self.stem, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

        def forward(self, v, hint):
            s = self.stem(v)
            return self.out(self.base(s) + self.zout(self.copy(s + self.zin(hint))))

    return Control(), (torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16))


@clean
def dit_ada_ln_zero() -> Built:
    class Dit(nn.Module):
        def __init__(self, d=32):
            super().__init__()
            self.norm1 = nn.LayerNorm(d, elementwise_affine=False)
            self.norm2 = nn.LayerNorm(d, elementwise_affine=False)
            self.attn = nn.MultiheadAttention(d, 4, batch_first=True)
            self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))
            self.ada = nn.Sequential(nn.SiLU(), nn.Linear(d, 6 * d))
            nn.init.zeros_(self.ada[1].weight)
            nn.init.zeros_(self.ada[1].bias)

        def forward(self, v, c):
            s1, k1, g1, s2, k2, g2 = self.ada(c).unsqueeze(1).chunk(6, dim=-1)
            h = self.norm1(v) * (1 + k1) + s1
            v = v + g1 * self.attn(h, h, h, need_weights=False)[0]
            return v + g2 * self.mlp(self.norm2(v) * (1 + k2) + s2)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inp, self.t = nn.Linear(8, 32), nn.Linear(16, 32)
            self.blocks = nn.ModuleList(Dit() for _ in range(3))
            self.out = nn.Linear(32, 8)
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

        def forward(self, v, t):
            h, c = self.inp(v), self.t(t)
            for b in self.blocks:
                h = b(h, c)
            return self.out(h)

    return Model(), (torch.randn(4, 10, 8), torch.randn(4, 16))


@clean
def rezero() -> Built:
    class Re(nn.Module):
        def __init__(self, d=64):
            super().__init__()
            self.a, self.b = nn.Linear(d, d), nn.Linear(d, d)
            self.resweight = nn.Parameter(torch.zeros(()))

        def forward(self, v):
            return v + self.resweight * self.b(F.relu(self.a(v)))

    return nn.Sequential(nn.Linear(32, 64), *[Re() for _ in range(16)], nn.Linear(64, 10)), x()


@clean
def fixup_resnet() -> Built:
    depth = 8

    class Fix(nn.Module):
        def __init__(self, c=16):
            super().__init__()
            self.c1 = nn.Conv2d(c, c, 3, padding=1, bias=False)
            self.c2 = nn.Conv2d(c, c, 3, padding=1, bias=False)
            self.b1a, self.b1b, self.b2a, self.b2b = (
                nn.Parameter(torch.zeros(1)) for _ in range(4)
            )
            self.scale = nn.Parameter(torch.ones(1))
            nn.init.normal_(self.c1.weight, std=math.sqrt(2 / (c * 9)) * depth**-0.5)
            nn.init.zeros_(self.c2.weight)

        def forward(self, v):
            h = F.relu(self.c1(v + self.b1a) + self.b1b)
            h = self.c2(h + self.b2a) * self.scale + self.b2b
            return F.relu(h + v)

    stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, nonlinearity="relu")
    net = nn.Sequential(stem, nn.ReLU(), *[Fix() for _ in range(depth)], *head(16))
    nn.init.zeros_(net[-1].weight)
    nn.init.zeros_(net[-1].bias)
    return net, x(4, 3, 16, 16)


@clean
def skip_init_and_scaled_conv() -> Built:
    class ScaledConv(nn.Conv2d):
        def __init__(self, *a, **k):
            super().__init__(*a, **k)
            self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))
            nn.init.kaiming_normal_(self.weight)

        def forward(self, v):
            w = self.weight
            mean = w.mean((1, 2, 3), keepdim=True)
            var = w.var((1, 2, 3), keepdim=True, unbiased=False)
            fan = w[0].numel()
            w = (w - mean) * torch.rsqrt(torch.clamp(var * fan, min=1e-4)) * self.gain
            return F.conv2d(v, w, self.bias, self.stride, self.padding)

    class Nf(nn.Module):
        def __init__(self, c, beta):
            super().__init__()
            self.c1 = ScaledConv(c, c, 3, padding=1)
            self.c2 = ScaledConv(c, c, 3, padding=1)
            self.beta, self.skip = beta, nn.Parameter(torch.zeros(()))

        def forward(self, v):
            h = F.relu(v / self.beta) * 1.7139588594436646
            h = self.c2(F.relu(self.c1(h)) * 1.7139588594436646)
            return v + 0.2 * self.skip * h

    blocks = [Nf(16, math.sqrt(1 + 0.04 * i)) for i in range(6)]
    return nn.Sequential(ScaledConv(3, 16, 3, padding=1), *blocks, *head(16)), x(4, 3, 16, 16)


@clean
def layer_scale_vit() -> Built:
    class Cait(nn.Module):
        def __init__(self, d=32):
            super().__init__()
            self.n1, self.n2 = nn.LayerNorm(d), nn.LayerNorm(d)
            self.attn = nn.MultiheadAttention(d, 4, batch_first=True)
            self.fc1, self.fc2 = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
            self.g1 = nn.Parameter(1e-5 * torch.ones(d))
            self.g2 = nn.Parameter(1e-5 * torch.ones(d))

        def forward(self, v):
            h = self.n1(v)
            v = v + self.g1 * self.attn(h, h, h)[0]
            return v + self.g2 * self.fc2(F.gelu(self.fc1(self.n2(v))))

    class Vit(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch = nn.Conv2d(3, 32, 4, 4)
            self.cls = nn.Parameter(torch.zeros(1, 1, 32))
            self.pos = nn.Parameter(torch.zeros(1, 17, 32))
            nn.init.trunc_normal_(self.pos, std=0.02)
            self.blocks = nn.Sequential(*[Cait() for _ in range(6)])
            self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

        def forward(self, v):
            v = self.patch(v).flatten(2).transpose(1, 2)
            v = torch.cat([self.cls.expand(len(v), -1, -1), v], 1) + self.pos
            return self.head(self.norm(self.blocks(v))[:, 0])

    return Vit(), x(4, 3, 16, 16)


@clean
def flamingo_gates() -> Built:
    class Cross(nn.Module):
        def __init__(self, d=32):
            super().__init__()
            self.norm = nn.LayerNorm(d)
            self.attn = nn.MultiheadAttention(d, 4, batch_first=True)
            self.ff = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 64), nn.GELU(), nn.Linear(64, d))
            self.ga, self.gf = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

        def forward(self, v, m):
            v = v + self.ga.tanh() * self.attn(self.norm(v), m, m)[0]
            return v + self.gf.tanh() * self.ff(v)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.cross, self.block = nn.ModuleList(Cross() for _ in range(2)), Block()
            self.out = nn.Linear(32, 10)

        def forward(self, v, m):
            for c in self.cross:
                v = self.block(c(v, m))
            return self.out(v)

    return Net(), (torch.randn(4, 6, 32), torch.randn(4, 5, 32))


@clean
def trxl_gated_residual() -> Built:
    class Gate(nn.Module):
        def __init__(self, d):
            super().__init__()
            self.w, self.u = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, 2 * d, bias=False)
            self.ug = nn.Linear(d, d, bias=False)
            self.bias = nn.Parameter(torch.full((d,), 2.0))
            for m in (self.w, self.u, self.ug):
                nn.init.xavier_uniform_(m.weight)

        def forward(self, v, y):
            wr, wz, wg = self.w(y).chunk(3, -1)
            ur, uz = self.u(v).chunk(2, -1)
            r, z = torch.sigmoid(wr + ur), torch.sigmoid(wz + uz - self.bias)
            return (1 - z) * v + z * torch.tanh(wg + self.ug(r * v))

    class Layer(nn.Module):
        def __init__(self, d=32):
            super().__init__()
            self.n1, self.n2 = nn.LayerNorm(d), nn.LayerNorm(d)
            self.attn = nn.MultiheadAttention(d, 4, batch_first=True)
            self.ff = nn.Sequential(nn.Linear(d, 64), nn.ReLU(), nn.Linear(64, d), nn.ReLU())
            self.g1, self.g2 = Gate(d), Gate(d)

        def forward(self, v):
            h = self.n1(v)
            v = self.g1(v, F.relu(self.attn(h, h, h, need_weights=False)[0]))
            return self.g2(v, self.ff(self.n2(v)))

    return nn.Sequential(Layer(), Layer(), nn.Linear(32, 5)), x(4, 10, 32)


@clean
def normalising_flow() -> Built:
    class Coupling(nn.Module):
        def __init__(self, d, flip):
            super().__init__()
            self.net = nn.Sequential(
                nn.Linear(d // 2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, d)
            )
            nn.init.zeros_(self.net[-1].weight)
            nn.init.zeros_(self.net[-1].bias)
            self.flip = flip

        def forward(self, v):
            a, b = v.chunk(2, -1)
            if self.flip:
                a, b = b, a
            s, t = self.net(a).chunk(2, -1)
            b = b * torch.exp(torch.tanh(s)) + t
            return torch.cat([b, a] if self.flip else [a, b], -1)

    return nn.Sequential(*[Coupling(8, i % 2 == 1) for i in range(6)]), x(32, 8)


@clean
def glow_act_norm() -> Built:
    class Step(nn.Module):
        def __init__(self, c=8):
            super().__init__()
            self.bias, self.logs = (nn.Parameter(torch.zeros(1, c, 1, 1)) for _ in range(2))
            self.w = nn.Parameter(torch.linalg.qr(torch.randn(c, c))[0])
            self.net = nn.Sequential(
                nn.Conv2d(c // 2, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 1), nn.ReLU(),
                nn.Conv2d(32, c, 3, padding=1),
            )  # fmt: skip
            nn.init.normal_(self.net[0].weight, std=0.05)
            nn.init.normal_(self.net[2].weight, std=0.05)
            nn.init.zeros_(self.net[4].weight)
            nn.init.zeros_(self.net[4].bias)

        def forward(self, v):
            v = (v + self.bias) * torch.exp(self.logs)
            v = F.conv2d(v, self.w[:, :, None, None])
            a, b = v.chunk(2, 1)
            h = self.net(a)
            shift, scale = h[:, 0::2], torch.sigmoid(h[:, 1::2] + 2.0)
            return torch.cat([a, (b + shift) * scale], 1)

    return nn.Sequential(*[Step() for _ in range(4)]), x(4, 8, 8, 8)
