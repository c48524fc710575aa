"""More freshly built architectures, written as their users write them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn


def vgg():
    cfg = [16, 16, "M", 32, 32, "M", 64, 64, 64, "M", 64, 64, 64, "M"]
    L = []
    c = 3
    for v in cfg:
        if v == "M":
            L.append(nn.MaxPool2d(2))
        else:
            L += [nn.Conv2d(c, v, 3, padding=1), nn.ReLU(True)]
            c = v
    m = nn.Sequential(
        *L,
        nn.Flatten(),
        nn.Linear(64 * 4, 128),
        nn.ReLU(True),
        nn.Dropout(),
        nn.Linear(128, 128),
        nn.ReLU(True),
        nn.Dropout(),
        nn.Linear(128, 10),
    )
    for x in m.modules():
        if isinstance(x, nn.Conv2d):
            nn.init.kaiming_normal_(x.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(x.bias)
        elif isinstance(x, nn.Linear):
            nn.init.normal_(x.weight, 0, 0.01)
            nn.init.zeros_(x.bias)
    return m, (torch.randn(8, 3, 32, 32),)


def vgg_default():
    m, i = vgg()
    for x in m.modules():
        if hasattr(x, "reset_parameters"):
            x.reset_parameters()
    return m, i


class ConvNeXtBlock(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.dw = nn.Conv2d(d, d, 7, padding=3, groups=d)
        self.n = nn.LayerNorm(d, eps=1e-6)
        self.a = nn.Linear(d, 4 * d)
        self.b = nn.Linear(4 * d, d)
        self.g = nn.Parameter(1e-6 * torch.ones(d))

    def forward(self, x):
        y = self.dw(x).permute(0, 2, 3, 1)
        y = self.b(F.gelu(self.a(self.n(y))))
        return x + (self.g * y).permute(0, 3, 1, 2)


class ChannelNorm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.n = nn.LayerNorm(d)

    def forward(self, x):
        return self.n(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def convnext():
    m = nn.Sequential(
        nn.Conv2d(3, 32, 4, 4),
        ChannelNorm(32),
        ConvNeXtBlock(32),
        ConvNeXtBlock(32),
        ChannelNorm(32),
        nn.Conv2d(32, 64, 2, 2),
        ConvNeXtBlock(64),
        ConvNeXtBlock(64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.LayerNorm(64),
        nn.Linear(64, 10),
    )
    for x in m.modules():
        if isinstance(x, (nn.Conv2d, nn.Linear)):
            nn.init.trunc_normal_(x.weight, std=0.02)
            nn.init.zeros_(x.bias)
    return m, (torch.randn(8, 3, 32, 32),)


class WindowBlock(nn.Module):
    def __init__(self, d, h, w):
        super().__init__()
        self.h = h
        self.w = w
        self.n1 = nn.LayerNorm(d)
        self.n2 = nn.LayerNorm(d)
        self.qkv = nn.Linear(d, 3 * d)
        self.p = nn.Linear(d, d)
        self.rel = nn.Parameter(torch.zeros((2 * w - 1) ** 2, h))
        nn.init.trunc_normal_(self.rel, std=0.02)
        c = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(w), indexing="ij")).flatten(1)
        r = (c[:, :, None] - c[:, None]).permute(1, 2, 0) + w - 1
        self.register_buffer("idx", r[..., 0] * (2 * w - 1) + r[..., 1])
        self.f1 = nn.Linear(d, 4 * d)
        self.f2 = nn.Linear(4 * d, d)

    def forward(self, x):
        B, H, W, C = x.shape
        w = self.w
        y = self.n1(x).view(B, H // w, w, W // w, w, C).transpose(2, 3).reshape(-1, w * w, C)
        q, k, v = (
            self.qkv(y).view(-1, w * w, 3, self.h, C // self.h).permute(2, 0, 3, 1, 4).unbind(0)
        )
        a = (q * (C // self.h) ** -0.5) @ k.transpose(-2, -1) + self.rel[self.idx.view(-1)].view(
            w * w, w * w, -1
        ).permute(2, 0, 1)
        y = (a.softmax(-1) @ v).transpose(1, 2).reshape(-1, w * w, C)
        y = self.p(y)
        x = x + y.view(B, H // w, W // w, w, w, C).transpose(2, 3).reshape(B, H, W, C)
        return x + self.f2(F.gelu(self.f1(self.n2(x))))


class Swin(nn.Module):
    def __init__(self):
        super().__init__()
        self.e = nn.Conv2d(3, 32, 4, 4)
        self.b = nn.ModuleList([WindowBlock(32, 4, 4), WindowBlock(32, 4, 4)])
        self.n = nn.LayerNorm(32)
        self.h = nn.Linear(32, 10)
        for x in self.modules():
            if isinstance(x, nn.Linear):
                nn.init.trunc_normal_(x.weight, std=0.02)
                nn.init.zeros_(x.bias)

    def forward(self, x):
        x = self.e(x).permute(0, 2, 3, 1)
        for b in self.b:
            x = b(x)
        return self.h(self.n(x).mean((1, 2)))


def swin():
    return Swin(), (torch.randn(8, 3, 32, 32),)


def wav2vec2():
    import transformers

    c = transformers.Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        conv_dim=(16, 16),
        conv_stride=(5, 2),
        conv_kernel=(10, 3),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        num_feat_extract_layers=2,
        vocab_size=20,
    )
    return transformers.Wav2Vec2ForCTC(c), {"input_values": torch.randn(4, 800)}


class AttentiveSeq2Seq(nn.Module):
    def __init__(self):
        super().__init__()
        self.es = nn.Embedding(60, 32)
        self.et = nn.Embedding(60, 32)
        self.enc = nn.LSTM(32, 32, batch_first=True)
        self.dec = nn.LSTM(32, 32, batch_first=True)
        self.w = nn.Linear(32, 32, bias=False)
        self.c = nn.Linear(64, 32)
        self.o = nn.Linear(32, 60)

    def forward(self, a, b):
        h, st = self.enc(self.es(a))
        d, _ = self.dec(self.et(b), st)
        at = (self.w(d) @ h.transpose(1, 2)).softmax(-1) @ h
        return self.o(torch.tanh(self.c(torch.cat([d, at], -1))))


def seq2seq():
    return AttentiveSeq2Seq(), (torch.randint(0, 60, (8, 12)), torch.randint(0, 60, (8, 10)))


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.e = nn.Linear(64, 128)
        self.m = nn.Linear(128, 8)
        self.v = nn.Linear(128, 8)
        self.d = nn.Linear(8, 128)
        self.o = nn.Linear(128, 64)

    def forward(self, x):
        h = F.relu(self.e(x))
        m, v = self.m(h), self.v(h)
        z = m + torch.randn_like(m) * (v / 2).exp()
        return torch.sigmoid(self.o(F.relu(self.d(z)))), m, v


def vae():
    return VAE(), (torch.rand(64, 64),)


class GAN(nn.Module):
    def __init__(self):
        super().__init__()
        self.g = nn.Sequential(
            nn.Linear(16, 64),
            nn.LeakyReLU(0.2),
            nn.Linear(64, 64),
            nn.LeakyReLU(0.2),
            nn.Linear(64, 32),
            nn.Tanh(),
        )
        self.d = nn.Sequential(
            nn.Linear(32, 64),
            nn.LeakyReLU(0.2),
            nn.Linear(64, 64),
            nn.LeakyReLU(0.2),
            nn.Linear(64, 1),
        )

    def forward(self, z):
        return self.d(self.g(z))


def gan():
    return GAN(), (torch.randn(64, 16),)


def dqn():
    return nn.Sequential(
        nn.Conv2d(4, 32, 8, 4),
        nn.ReLU(),
        nn.Conv2d(32, 64, 4, 2),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(3136, 512),
        nn.ReLU(),
        nn.Linear(512, 6),
    ), (torch.rand(8, 4, 84, 84),)


class TwoTowers(nn.Module):
    def __init__(self):
        super().__init__()
        self.u = nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 32))
        self.i = nn.Sequential(
            nn.Embedding(200, 64), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32)
        )
        self.t = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, a, b):
        a = F.normalize(self.u(a), dim=-1)
        b = F.normalize(self.i(b), dim=-1)
        return self.t.exp() * a @ b.T


def twotower():
    return TwoTowers(), (torch.randn(16, 40), torch.randint(0, 200, (16,)))


class ResidualBlock(nn.Module):
    def __init__(self, i, o, t):
        super().__init__()
        self.n1 = nn.GroupNorm(8, i)
        self.c1 = nn.Conv2d(i, o, 3, padding=1)
        self.t = nn.Linear(t, o)
        self.n2 = nn.GroupNorm(8, o)
        self.c2 = nn.Conv2d(o, o, 3, padding=1)
        nn.init.zeros_(self.c2.weight)
        nn.init.zeros_(self.c2.bias)
        self.s = nn.Conv2d(i, o, 1) if i != o else nn.Identity()

    def forward(self, x, t):
        h = self.c1(F.silu(self.n1(x))) + self.t(F.silu(t))[:, :, None, None]
        return self.s(x) + self.c2(F.silu(self.n2(h)))


class DiffusionUNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.te = nn.Sequential(nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, 64))
        self.i = nn.Conv2d(3, 32, 3, padding=1)
        self.a = ResidualBlock(32, 32, 64)
        self.dn = nn.Conv2d(32, 32, 3, 2, 1)
        self.b = ResidualBlock(32, 64, 64)
        self.mid = ResidualBlock(64, 64, 64)
        self.up = nn.Conv2d(64, 64, 3, padding=1)
        self.c = ResidualBlock(96, 32, 64)
        self.n = nn.GroupNorm(8, 32)
        self.o = nn.Conv2d(32, 3, 3, padding=1)
        nn.init.zeros_(self.o.weight)
        nn.init.zeros_(self.o.bias)

    def forward(self, x, t):
        f = torch.exp(-math.log(1e4) * torch.arange(16) / 16)
        e = t[:, None] * f
        t = self.te(torch.cat([e.sin(), e.cos()], -1))
        h = self.a(self.i(x), t)
        y = self.mid(self.b(self.dn(h), t), t)
        y = self.up(F.interpolate(y, scale_factor=2.0))
        return self.o(F.silu(self.n(self.c(torch.cat([y, h], 1), t))))


def diffusion_unet():
    return DiffusionUNet(), (torch.randn(8, 3, 16, 16), torch.rand(8) * 1000)


class DeepONet(nn.Module):
    def __init__(self):
        super().__init__()
        self.b = nn.Sequential(
            nn.Linear(50, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 32)
        )
        self.t = nn.Sequential(
            nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 32)
        )
        self.bias = nn.Parameter(torch.zeros(1))
        for x in self.modules():
            if isinstance(x, nn.Linear):
                nn.init.xavier_normal_(x.weight)
                nn.init.zeros_(x.bias)

    def forward(self, u, y):
        return (self.b(u) * self.t(y)).sum(-1, keepdim=True) + self.bias


def deeponet():
    return DeepONet(), (torch.randn(64, 50), torch.rand(64, 2))


def mlp_default():
    L = []
    for _i in range(4):
        L += [nn.Linear(64, 64), nn.ReLU()]
    return nn.Sequential(*L, nn.Linear(64, 10)), (torch.randn(64, 64),)


class LightningLike(nn.Module):
    example_input_array = torch.randn(32, 784)

    def __init__(self):
        super().__init__()
        self.l1 = nn.Linear(784, 128)
        self.l2 = nn.Linear(128, 256)
        self.l3 = nn.Linear(256, 10)

    def forward(self, x):
        return F.log_softmax(self.l3(F.relu(self.l2(F.relu(self.l1(x))))), 1)


def lightning():
    return LightningLike(), (torch.randn(32, 784),)


class GraphConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(16, 32, bias=False)
        self.b = nn.Linear(32, 7, bias=False)
        self.ba = nn.Parameter(torch.zeros(32))
        nn.init.xavier_uniform_(self.a.weight)
        nn.init.xavier_uniform_(self.b.weight)

    def forward(self, x, A):
        return A @ self.b(F.relu(A @ self.a(x) + self.ba))


def gcn():
    A = (torch.rand(40, 40) < 0.1).float() + torch.eye(40)
    return GraphConvolution(), (torch.randn(40, 16), A / A.sum(1, keepdim=True))


def opt():
    import transformers

    return transformers.OPTForCausalLM(
        transformers.OPTConfig(
            vocab_size=60,
            hidden_size=32,
            num_hidden_layers=3,
            ffn_dim=64,
            num_attention_heads=4,
            max_position_embeddings=64,
            word_embed_proj_dim=32,
        )
    ), {"input_ids": torch.randint(0, 60, (8, 12))}


def electra():
    import transformers

    return transformers.ElectraForPreTraining(
        transformers.ElectraConfig(
            vocab_size=60,
            embedding_size=16,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
        )
    ), {"input_ids": torch.randint(0, 60, (8, 12))}


ALL = (
    vgg,
    vgg_default,
    convnext,
    swin,
    wav2vec2,
    seq2seq,
    vae,
    gan,
    dqn,
    twotower,
    diffusion_unet,
    deeponet,
    mlp_default,
    lightning,
    gcn,
    opt,
    electra,
)
