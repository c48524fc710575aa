"""Unusual but healthy fresh models: nothing from a warning on may be said of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from benchmarks.unseen.faulty import Block, Built, Decoder, Residual, Tagger, ids, plain, x

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


# --- deliberate scales and structures


@clean
def delta_orthogonal_tanh_cnn() -> Built:
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, padding=1), nn.Tanh()]
    for _ in range(16):
        conv = nn.Conv2d(32, 32, 3, padding=1)
        nn.init.zeros_(conv.weight)
        nn.init.orthogonal_(conv.weight.data[:, :, 1, 1])
        centre = torch.empty(32, 32)
        nn.init.orthogonal_(centre)
        conv.weight.data[:, :, 1, 1] = centre
        nn.init.zeros_(conv.bias)
        layers += [conv, nn.Tanh()]
    return nn.Sequential(*layers, *head(32)), x(4, 3, 12, 12)


@clean
def dirac_residual_free_cnn() -> Built:
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU()]
    for _ in range(8):
        conv = nn.Conv2d(32, 32, 3, padding=1)
        nn.init.dirac_(conv.weight)
        conv.weight.data += torch.randn_like(conv.weight) * 0.01
        nn.init.zeros_(conv.bias)
        layers += [conv, nn.ReLU()]
    return nn.Sequential(*layers, *head(32)), x(4, 3, 12, 12)


@clean
def irnn() -> Built:
    net = Tagger(nn.RNN(16, 64, nonlinearity="relu", batch_first=True))
    nn.init.eye_(net.rnn.weight_hh_l0)
    nn.init.normal_(net.rnn.weight_ih_l0, std=0.001)
    nn.init.zeros_(net.rnn.bias_ih_l0)
    nn.init.zeros_(net.rnn.bias_hh_l0)
    return net, x(4, 50, 16)


@clean
def chrono_lstm() -> Built:
    net = Tagger(nn.LSTM(16, 64, batch_first=True))
    b = torch.log(torch.rand(64) * 98 + 1)
    for name, p in net.rnn.named_parameters():
        if "bias" in name:
            nn.init.zeros_(p)
        elif "hh" in name:
            for block in p.data.chunk(4):
                nn.init.orthogonal_(block)
    net.rnn.bias_ih_l0.data[64:128] = b
    net.rnn.bias_ih_l0.data[:64] = -b
    return net, x(4, 100, 16)


@clean
def keras_style_lstm() -> Built:
    net = Tagger(nn.LSTM(16, 64, num_layers=2, bidirectional=False, batch_first=True))
    for name, p in net.rnn.named_parameters():
        if "weight_ih" in name:
            nn.init.xavier_uniform_(p)
        elif "weight_hh" in name:
            for block in p.data.chunk(4):
                nn.init.orthogonal_(block)
        else:
            nn.init.zeros_(p)
            if "ih" in name:
                p.data[64:128] = 1.0
    return net, x(4, 20, 16)


@clean
def echo_state() -> Built:
    class Echo(nn.Module):
        def __init__(self, n=64):
            super().__init__()
            w = torch.randn(n, n) * (torch.rand(n, n) < 0.1)
            w *= 0.9 / torch.linalg.eigvals(w).abs().max()
            self.register_buffer("w", w)
            self.register_buffer("win", torch.rand(n, 4) - 0.5)
            self.readout = nn.Linear(n, 3)

        def forward(self, v):
            h = torch.zeros(v.shape[0], self.w.shape[0])
            for t in range(v.shape[1]):
                h = torch.tanh(v[:, t] @ self.win.T + h @ self.w.T)
            return self.readout(h)

    return Echo(), x(4, 20, 4)


@clean
def siren() -> Built:
    class Siren(nn.Module):
        def __init__(self, w0=30.0, n=64):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(2, n)] + [nn.Linear(n, n) for _ in range(3)])
            self.out, self.w0 = nn.Linear(n, 3), w0
            for i, m in enumerate([*self.layers, self.out]):
                bound = 1 / 2 if i == 0 else math.sqrt(6 / n) / w0
                nn.init.uniform_(m.weight, -bound, bound)

        def forward(self, v):
            for layer in self.layers:
                v = torch.sin(self.w0 * layer(v))
            return self.out(v)

    return Siren(), (torch.rand(64, 2) * 2 - 1,)


@clean
def fourier_features() -> Built:
    class Fourier(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("b", torch.randn(2, 64) * 10)
            self.net = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(),
                                     nn.Linear(64, 3), nn.Sigmoid())  # fmt: skip

        def forward(self, v):
            p = 2 * math.pi * v @ self.b
            return self.net(torch.cat([p.sin(), p.cos()], -1))

    return Fourier(), (torch.rand(64, 2),)


@clean
def hash_grid() -> Built:
    class Grid(nn.Module):
        def __init__(self):
            super().__init__()
            self.tables = nn.ModuleList(nn.Embedding(512, 2) for _ in range(4))
            for t in self.tables:
                nn.init.uniform_(t.weight, -1e-4, 1e-4)
            self.net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))

        def forward(self, i: torch.Tensor):
            return self.net(torch.cat([t(i[:, k]) for k, t in enumerate(self.tables)], -1))

    return Grid(), (torch.randint(0, 512, (64, 4)),)


@clean
def vq_autoencoder() -> Built:
    class Vq(nn.Module):
        def __init__(self, k=64, d=8):
            super().__init__()
            self.enc = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, d))
            self.codebook = nn.Embedding(k, d)
            nn.init.uniform_(self.codebook.weight, -1 / k, 1 / k)
            self.dec = nn.Sequential(nn.Linear(d, 64), nn.ReLU(), nn.Linear(64, 32))

        def forward(self, v):
            z = self.enc(v)
            index = torch.cdist(z, self.codebook.weight).argmin(-1)
            q = self.codebook(index)
            return self.dec(z + (q - z).detach()), (q - z.detach()).pow(2).mean()

    return Vq(), x()


@clean
def icnr_super_resolution() -> Built:
    class Up(nn.Module):
        def __init__(self, c=16, r=2):
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(3, c, 3, padding=1), nn.ReLU(), nn.Conv2d(c, c, 3, padding=1), nn.ReLU()
            )
            self.up = nn.Conv2d(c, c * r * r, 3, padding=1)
            sub = torch.empty(c, c, 3, 3)
            nn.init.kaiming_normal_(sub)
            self.up.weight.data.copy_(sub.repeat_interleave(r * r, 0))
            nn.init.zeros_(self.up.bias)
            self.shuffle, self.out = nn.PixelShuffle(r), nn.Conv2d(c, 3, 3, padding=1)

        def forward(self, v):
            return self.out(F.relu(self.shuffle(self.up(self.body(v)))))

    return Up(), x(2, 3, 12, 12)


@clean
def bilinear_upsampling_fcn() -> Built:
    c = 8
    up = nn.ConvTranspose2d(c, c, 4, 2, 1, bias=False)
    row = torch.tensor([0.25, 0.75, 0.75, 0.25])
    up.weight.data.zero_()
    for i in range(c):
        up.weight.data[i, i] = row[:, None] * row
    return nn.Sequential(conv_norm(3, 16, 2), nn.Conv2d(16, c, 1), up), x(4, 3, 16, 16)


@clean
def made_masks() -> Built:
    class Masked(nn.Linear):
        def __init__(self, a, b, mask):
            super().__init__(a, b)
            self.register_buffer("mask", mask)

        def forward(self, v):
            return F.linear(v, self.weight * self.mask, self.bias)

    n, h = 16, 64
    first, hidden = torch.arange(1, n + 1), torch.arange(h) % (n - 1) + 1
    m1 = (hidden[:, None] >= first[None]).float()
    m2 = (hidden[:, None] >= hidden[None]).float()
    m3 = (first[:, None] > hidden[None]).float()
    net = nn.Sequential(Masked(n, h, m1), nn.ReLU(), Masked(h, h, m2), nn.ReLU(), Masked(h, n, m3))
    return net, x(32, 16)


@clean
def pixel_cnn_causal() -> Built:
    class Masked(nn.Conv2d):
        def __init__(self, kind, *a, **k):
            super().__init__(*a, **k)
            mask = torch.ones_like(self.weight)
            mask[:, :, 2, 1 + 1 * (kind == "B") :] = 0
            mask[:, :, 3:] = 0
            self.register_buffer("mask", mask)

        def forward(self, v):
            return F.conv2d(v, self.weight * self.mask, self.bias, padding=self.padding)

    layers: list[nn.Module] = [Masked("A", 1, 32, 5, padding=2), nn.BatchNorm2d(32), nn.ReLU()]
    for _ in range(3):
        layers += [Masked("B", 32, 32, 5, padding=2), nn.BatchNorm2d(32), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(32, 4, 1)), x(4, 1, 12, 12)


@clean
def prior_bias_detector() -> Built:
    net = nn.Sequential(conv_norm(3, 16), conv_norm(16, 16), nn.Conv2d(16, 20, 3, padding=1))
    nn.init.normal_(net[-1].weight, std=0.01)
    nn.init.constant_(net[-1].bias, -math.log(99))
    return nn.Sequential(net, nn.Sigmoid()), x(4, 3, 16, 16)


@clean
def equalised_learning_rate() -> Built:
    class Equal(nn.Module):
        def __init__(self, a, b, lr=1.0):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(b, a) / lr)
            self.bias = nn.Parameter(torch.zeros(b))
            self.scale, self.lr = lr / math.sqrt(a), lr

        def forward(self, v):
            return F.linear(v, self.weight * self.scale, self.bias * self.lr)

    layers: list[nn.Module] = []
    for _ in range(8):
        layers += [Equal(64, 64, 0.01), nn.LeakyReLU(0.2)]

    class Mapping(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(*layers)

        def forward(self, z):
            z = z * torch.rsqrt(z.pow(2).mean(1, keepdim=True) + 1e-8)
            for layer in self.net:
                z = layer(z)
                if isinstance(layer, nn.LeakyReLU):
                    z = z * math.sqrt(2)
            return z

    return Mapping(), x(16, 64)


@clean
def weight_norm_net() -> Built:
    layers: list[nn.Module] = [parametrizations.weight_norm(nn.Conv1d(4, 32, 3, padding=1))]
    for d in (1, 2, 4):
        body = nn.Sequential(
            nn.ReLU(), parametrizations.weight_norm(nn.Conv1d(32, 32, 3, padding=d, dilation=d)),
            nn.ReLU(), parametrizations.weight_norm(nn.Conv1d(32, 32, 3, padding=d, dilation=d)),
        )  # fmt: skip
        layers.append(Residual(body))
    return nn.Sequential(*layers, nn.ReLU(), nn.Conv1d(32, 4, 1)), x(4, 4, 32)


@clean
def spectral_norm_discriminator() -> Built:
    sn = parametrizations.spectral_norm
    net = nn.Sequential(
        sn(nn.Conv2d(3, 32, 4, 2, 1)), nn.LeakyReLU(0.2),
        sn(nn.Conv2d(32, 64, 4, 2, 1)), nn.LeakyReLU(0.2),
        nn.Flatten(), sn(nn.Linear(64 * 16, 1)),
    )  # fmt: skip
    return net, x(8, 3, 16, 16)


@clean
def orthogonal_parametrisation() -> Built:
    layers: list[nn.Module] = [nn.Linear(32, 64), nn.Tanh()]
    for _ in range(4):
        layers += [parametrizations.orthogonal(nn.Linear(64, 64)), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(64, 5)), x()


@clean
def symmetric_parametrisation() -> Built:
    class Symmetric(nn.Module):
        def forward(self, w):
            return w.triu() + w.triu(1).transpose(-1, -2)

    layer = nn.Linear(32, 32)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), layer, nn.ReLU(), nn.Linear(32, 4)), x(8, 16)


@clean
def looks_linear() -> Built:
    def mirrored(a, b, first):
        layer = nn.Linear(a, b)
        w = torch.empty(b // 2, a if first else a // 2)
        nn.init.orthogonal_(w)
        w = w if first else torch.cat([w, -w], 1)
        layer.weight.data.copy_(torch.cat([w, -w]))
        nn.init.zeros_(layer.bias)
        return layer

    layers: list[nn.Module] = [mirrored(32, 64, True), nn.ReLU()]
    for _ in range(10):
        layers += [mirrored(64, 64, False), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(64, 10)), x()


@clean
def mup_readout() -> Built:
    net = Decoder(d=64, depth=3)
    for block in net.blocks:
        nn.init.zeros_(block.attn.q.weight)
        for m in (block.attn.k, block.attn.v, block.attn.o, block.up, block.down):
            nn.init.normal_(m.weight, std=m.in_features**-0.5)
    nn.init.zeros_(net.head.weight)
    return net, ids()


@clean
def deep_norm() -> Built:
    n = 12
    alpha, beta = (2 * n) ** 0.25, (8 * n) ** -0.25

    class Deep(nn.Module):
        def __init__(self, d=32):
            super().__init__()
            self.qk, self.v, self.o = nn.Linear(d, 2 * d), nn.Linear(d, d), nn.Linear(d, d)
            self.fc1, self.fc2 = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
            self.n1, self.n2 = nn.LayerNorm(d), nn.LayerNorm(d)
            nn.init.xavier_normal_(self.qk.weight[:d])
            nn.init.xavier_normal_(self.qk.weight[d:])
            for m in (self.v, self.o, self.fc1, self.fc2):
                nn.init.xavier_normal_(m.weight, gain=beta)
            for m in (self.qk, self.v, self.o, self.fc1, self.fc2):
                nn.init.zeros_(m.bias)

        def forward(self, v):
            b, t, d = v.shape
            q, k = self.qk(v).view(b, t, 2, 4, 8).unbind(2)
            u = self.v(v).view(b, t, 4, 8).transpose(1, 2)
            h = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), u)
            v = self.n1(alpha * v + self.o(h.transpose(1, 2).reshape(b, t, d)))
            return self.n2(alpha * v + self.fc2(F.relu(self.fc1(v))))

    return nn.Sequential(*[Deep() for _ in range(n)], nn.Linear(32, 10)), x(4, 8, 32)


@clean
def gpt2_scaled() -> Built:
    net = Decoder(d=48, depth=12, tied=True)
    for block in net.blocks:
        for m in (block.attn.o, block.down):
            nn.init.normal_(m.weight, std=0.02 / math.sqrt(24))
    return net, ids()


@clean
def llama_like() -> Built:
    class Rms(nn.Module):
        def __init__(self, d):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(d))

        def forward(self, v):
            v = v * torch.rsqrt(v.pow(2).mean(-1, keepdim=True) + 1e-6)
            return v * (1 + self.weight)

    class Layer(nn.Module):
        def __init__(self, d=32, h=4, kv=2):
            super().__init__()
            self.h, self.kv, self.e = h, kv, d // h
            self.wq, self.wk = nn.Linear(d, d, False), nn.Linear(d, kv * d // h, False)
            self.wv, self.wo = nn.Linear(d, kv * d // h, False), nn.Linear(d, d, False)
            self.w1, self.w2, self.w3 = (
                nn.Linear(d, 88, False), nn.Linear(88, d, False), nn.Linear(d, 88, False)
            )  # fmt: skip
            self.n1, self.n2 = Rms(d), Rms(d)
            self.qn, self.kn = Rms(d // h), Rms(d // h)

        def rope(self, q):
            t, e = q.shape[-2], q.shape[-1]
            f = torch.arange(t)[:, None] / 10000 ** (torch.arange(0, e, 2) / e)
            a, b = q.chunk(2, -1)
            return torch.cat([a * f.cos() - b * f.sin(), a * f.sin() + b * f.cos()], -1)

        def forward(self, v):
            b, t, d = v.shape
            h = self.n1(v)
            q = self.rope(self.qn(self.wq(h).view(b, t, self.h, self.e)).transpose(1, 2))
            k = self.rope(self.kn(self.wk(h).view(b, t, self.kv, self.e)).transpose(1, 2))
            u = self.wv(h).view(b, t, self.kv, self.e).transpose(1, 2)
            k, u = (z.repeat_interleave(self.h // self.kv, 1) for z in (k, u))
            a = F.scaled_dot_product_attention(q, k, u, is_causal=True)
            v = v + self.wo(a.transpose(1, 2).reshape(b, t, d))
            h = self.n2(v)
            return v + self.w2(F.silu(self.w1(h)) * self.w3(h))

    class Lm(nn.Module):
        def __init__(self):
            super().__init__()
            self.tok = nn.Embedding(100, 32)
            self.layers = nn.ModuleList(Layer() for _ in range(4))
            self.norm, self.out = Rms(32), nn.Linear(32, 100, bias=False)
            for m in self.modules():
                if isinstance(m, (nn.Linear, nn.Embedding)):
                    nn.init.normal_(m.weight, std=0.02)

        def forward(self, i: torch.Tensor):
            v = self.tok(i)
            for layer in self.layers:
                v = layer(v)
            return self.out(self.norm(v))

    return Lm(), ids()


# --- other kinds of networks


@clean
def dense_net() -> Built:
    class Dense(nn.Module):
        def __init__(self, c=16, growth=8, n=5):
            super().__init__()
            self.stem = nn.Conv2d(3, c, 3, padding=1, bias=False)
            self.norms = nn.ModuleList(nn.BatchNorm2d(c + i * growth) for i in range(n))
            self.convs = nn.ModuleList(
                nn.Conv2d(c + i * growth, growth, 3, padding=1, bias=False) for i in range(n)
            )
            for m in self.convs:
                nn.init.kaiming_normal_(m.weight)
            self.norm, self.fc = nn.BatchNorm2d(c + n * growth), nn.Linear(c + n * growth, 10)

        def forward(self, v):
            features = [self.stem(v)]
            for norm, conv in zip(self.norms, self.convs, strict=True):
                features.append(conv(F.relu(norm(torch.cat(features, 1)))))
            v = F.relu(self.norm(torch.cat(features, 1)))
            return self.fc(F.adaptive_avg_pool2d(v, 1).flatten(1))

    return Dense(), x(4, 3, 16, 16)


@clean
def squeeze_excite() -> Built:
    class Se(nn.Module):
        def __init__(self, c=32):
            super().__init__()
            self.conv = conv_norm(c, c)
            self.down, self.up = nn.Conv2d(c, 8, 1), nn.Conv2d(8, c, 1)

        def forward(self, v):
            h = self.conv(v)
            s = h.mean((2, 3), keepdim=True)
            return v + h * torch.sigmoid(self.up(F.relu(self.down(s))))

    return nn.Sequential(conv_norm(3, 32), Se(), Se(), Se(), *head(32)), x(4, 3, 16, 16)


@clean
def highway_minus_two() -> Built:
    class Highway(nn.Module):
        def __init__(self, d=64):
            super().__init__()
            self.h, self.t = nn.Linear(d, d), nn.Linear(d, d)
            nn.init.constant_(self.t.bias, -2.0)

        def forward(self, v):
            t = torch.sigmoid(self.t(v))
            return t * F.relu(self.h(v)) + (1 - t) * v

    return nn.Sequential(nn.Linear(32, 64), *[Highway() for _ in range(8)], nn.Linear(64, 5)), x()


@clean
def mixture_of_experts() -> Built:
    class Moe(nn.Module):
        def __init__(self, d=32, n=4, h=64):
            super().__init__()
            self.router = nn.Linear(d, n, bias=False)
            self.w1 = nn.Parameter(torch.randn(n, d, h) * math.sqrt(2 / d))
            self.w2 = nn.Parameter(torch.randn(n, h, d) * h**-0.5)
            self.norm, self.out = nn.LayerNorm(d), nn.Linear(d, 5)

        def forward(self, v):
            z = self.norm(v)
            g = self.router(z).softmax(-1)
            h = F.relu(torch.einsum("bd,ndh->nbh", z, self.w1))
            y = torch.einsum("nbh,nhd->nbd", h, self.w2)
            return self.out(v + torch.einsum("bn,nbd->bd", g, y))

    return Moe(), x()


@clean
def hyper_network() -> Built:
    class Hyper(nn.Module):
        def __init__(self, d=16, h=32):
            super().__init__()
            self.z = nn.Parameter(torch.randn(1, 8))
            self.gen = nn.Linear(8, d * h + h)
            nn.init.normal_(self.gen.weight, std=1 / math.sqrt(8 * d))
            nn.init.zeros_(self.gen.bias)
            self.out, self.d, self.h = nn.Linear(h, 4), d, h

        def forward(self, v):
            p = self.gen(self.z)[0]
            w, b = p[: self.d * self.h].view(self.h, self.d), p[self.d * self.h :]
            return self.out(F.relu(F.linear(v, w, b)))

    return Hyper(), x(32, 16)


@clean
def graph_network() -> Built:
    class Gnn(nn.Module):
        def __init__(self, d=16):
            super().__init__()
            self.w1, self.w2 = he(8, d), he(d, d)
            self.out = nn.Linear(d, 3)

        def forward(self, v, a):
            a = a / a.sum(-1, keepdim=True)
            v = F.relu(a @ (v @ self.w1))
            return self.out(F.relu(a @ (v @ self.w2)))

    a = (torch.rand(12, 12) < 0.4).float() + torch.eye(12)
    return Gnn(), (torch.randn(12, 8), a)


@clean
def graph_attention() -> Built:
    class Gat(nn.Module):
        def __init__(self, a=8, d=16):
            super().__init__()
            self.w = nn.Parameter(torch.empty(a, d))
            self.a1, self.a2 = nn.Parameter(torch.empty(d, 1)), nn.Parameter(torch.empty(d, 1))
            for p in (self.w, self.a1, self.a2):
                nn.init.xavier_uniform_(p, gain=1.414)
            self.out = nn.Linear(d, 3)

        def forward(self, v, adj):
            h = v @ self.w
            e = F.leaky_relu(h @ self.a1 + (h @ self.a2).T, 0.2)
            e = e.masked_fill(adj == 0, float("-inf"))
            return self.out(F.elu(e.softmax(-1) @ h))

    a = (torch.rand(12, 12) < 0.4).float() + torch.eye(12)
    return Gat(), (torch.randn(12, 8), a)


@clean
def variational_autoencoder() -> Built:
    class Vae(nn.Module):
        def __init__(self):
            super().__init__()
            self.enc = nn.Sequential(nn.Linear(64, 128), nn.ReLU())
            self.mu, self.logvar = nn.Linear(128, 8), nn.Linear(128, 8)
            self.dec = nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 64))

        def forward(self, v):
            h = self.enc(v)
            mu, logvar = self.mu(h), self.logvar(h)
            z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
            return torch.sigmoid(self.dec(z)), mu, logvar

    return Vae(), (torch.rand(16, 64),)


@clean
def style_generator() -> Built:
    class Layer(nn.Module):
        def __init__(self, a, b, up):
            super().__init__()
            self.conv = nn.Parameter(torch.randn(b, a, 3, 3))
            self.style = nn.Linear(32, a)
            nn.init.ones_(self.style.bias)
            self.noise = nn.Parameter(torch.zeros(1))
            self.bias = nn.Parameter(torch.zeros(b))
            self.up = up

        def forward(self, v, w):
            s = self.style(w)
            v = v * s[:, :, None, None]
            if self.up:
                v = F.interpolate(v, scale_factor=2)
            k = self.conv * (1 / math.sqrt(self.conv[0].numel()))
            v = F.conv2d(v, k, padding=1)
            v = v * torch.rsqrt(v.pow(2).mean((1, 2, 3), keepdim=True) + 1e-8)
            v = v + self.noise * torch.randn(v.shape[0], 1, *v.shape[2:])
            return F.leaky_relu(v + self.bias[:, None, None], 0.2)

    class Style(nn.Module):
        def __init__(self):
            super().__init__()
            self.const = nn.Parameter(torch.randn(1, 32, 4, 4))
            self.layers = nn.ModuleList([Layer(32, 32, False), Layer(32, 16, True)])
            self.rgb = nn.Conv2d(16, 3, 1)

        def forward(self, w):
            v = self.const.expand(len(w), -1, -1, -1)
            for layer in self.layers:
                v = layer(v, w)
            return self.rgb(v)

    return Style(), x(4, 32)


@clean
def ppo_actor_critic() -> Built:
    class Ac(nn.Module):
        def __init__(self):
            super().__init__()
            self.pi = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
            self.vf = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
            self.mean, self.value = nn.Linear(64, 3), nn.Linear(64, 1)
            self.log_std = nn.Parameter(torch.zeros(3))
            for seq in (self.pi, self.vf):
                for m in seq:
                    if isinstance(m, nn.Linear):
                        nn.init.orthogonal_(m.weight, math.sqrt(2))
                        nn.init.zeros_(m.bias)
            nn.init.orthogonal_(self.mean.weight, 0.01)
            nn.init.orthogonal_(self.value.weight, 1.0)

        def forward(self, s):
            return self.mean(self.pi(s)), self.log_std.exp(), self.value(self.vf(s))

    return Ac(), x(16, 8)


@clean
def duelling_dqn_with_target() -> Built:
    class Q(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
            self.v, self.a = nn.Linear(64, 1), nn.Linear(64, 4)

        def forward(self, s):
            h = self.f(s)
            a = self.a(h)
            return self.v(h) + a - a.mean(-1, keepdim=True)

    class Agent(nn.Module):
        def __init__(self):
            super().__init__()
            self.online, self.target = Q(), Q()
            self.target.load_state_dict(self.online.state_dict())
            self.target.requires_grad_(False)

        def forward(self, s):
            return self.online(s), self.target(s)

    return Agent(), x(16, 8)


@clean
def siamese_towers() -> Built:
    class Siamese(nn.Module):
        def __init__(self):
            super().__init__()
            self.tower = nn.Sequential(conv_norm(3, 16, 2), conv_norm(16, 32, 2), *head(32, 16))
            self.scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

        def forward(self, a, b):
            a, b = F.normalize(self.tower(a), dim=-1), F.normalize(self.tower(b), dim=-1)
            return self.scale.exp() * a @ b.T

    return Siamese(), (torch.randn(8, 3, 16, 16), torch.randn(8, 3, 16, 16))


@clean
def byol_momentum() -> Built:
    class Byol(nn.Module):
        def __init__(self):
            super().__init__()
            self.student = nn.Sequential(conv_norm(3, 16, 2), *head(16, 16))
            self.teacher = nn.Sequential(conv_norm(3, 16, 2), *head(16, 16))
            self.teacher.load_state_dict(self.student.state_dict())
            for p in self.teacher.parameters():
                p.requires_grad = False
            self.predictor = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(),
                                           nn.Linear(32, 16))  # fmt: skip

        def forward(self, v):
            p = F.normalize(self.predictor(self.student(v)), dim=-1)
            with torch.no_grad():
                t = F.normalize(self.teacher(v), dim=-1)
            return (p * t).sum(-1)

    return Byol(), x(8, 3, 16, 16)


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
