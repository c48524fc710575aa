"""Healthy models of other kinds: generators, graphs, experts, agents, towers."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.unseen.parts import (
    Built,
    clean,
    conv_norm,
    he,
    head,
    x,
)

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
