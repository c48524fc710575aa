"""Healthy models with deliberate scales and structures."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from benchmarks.unseen.parts import (
    Built,
    Decoder,
    Residual,
    Tagger,
    clean,
    conv_norm,
    head,
    ids,
    x,
)

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
