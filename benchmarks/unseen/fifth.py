"""Models of a fifth round that were judged wrongly at first, or of which too much was said."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from benchmarks.unseen.parts import Built, clean, fault, ids, x


class Ramps(nn.Module):
    """Layers whose units all read the same ramp, beside PyTorch's default biases."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(24, 48), nn.Linear(48, 48), nn.Linear(48, 4)
        for layer in (self.fc1, self.fc2, self.fc3):
            ramp = torch.linspace(-0.1, 0.1, layer.in_features)
            layer.weight.data = ramp.expand_as(layer.weight).contiguous()

    def forward(self, v):
        return self.fc3(torch.tanh(self.fc2(torch.tanh(self.fc1(v)))))


@fault("identical-incoming", "symmetric-units", at=("fc",))
def every_unit_the_same_ramp() -> Built:
    return Ramps(), x(64, 24)


class Interactions(nn.Module):
    """Dot products of all pairs of twelve tables' vectors, read by a small network."""

    def __init__(self, std):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(100, 32) for _ in range(12))
        self.mlp = nn.Sequential(nn.Linear(66, 64), nn.ReLU(), nn.Linear(64, 1))
        for table in self.tables:
            nn.init.normal_(table.weight, std=std)

    def forward(self, index):
        v = torch.stack([table(index[:, i]) for i, table in enumerate(self.tables)], 1)
        i, j = torch.triu_indices(12, 12, 1).unbind(0)
        return self.mlp(torch.bmm(v, v.transpose(1, 2))[:, i, j])


@fault("embedding-scale", "forward-drift", at=("tables",))
def interactions_of_wide_tables() -> Built:
    return Interactions(10.0), (torch.randint(0, 100, (32, 12)),)


@clean
def interactions_of_small_tables() -> Built:
    return Interactions(0.1), (torch.randint(0, 100, (32, 12)),)


class Factorisation(nn.Module):
    """Ratings as products of a user's and an item's vector."""

    def __init__(self, std):
        super().__init__()
        self.users, self.items = nn.Embedding(50, 16), nn.Embedding(80, 16)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=std)

    def forward(self, user, item):
        return (self.users(user) * self.items(item)).sum(-1)


@fault("embedding-scale", "head-excess-loss", "forward-drift", at=("users", "items"))
def factorisation_of_wide_tables() -> Built:
    return Factorisation(4.0), (ids(50, 64)[0], ids(80, 64)[0])


@clean
def factorisation_of_small_tables() -> Built:
    return Factorisation(0.1), (ids(50, 64)[0], ids(80, 64)[0])


class SummedExperts(nn.Module):
    """Experts weighted one by one and summed by the product that ends them."""

    def __init__(self, by_helper, experts=8, width=64, hidden=128, depth=4):
        super().__init__()
        self.gate = nn.ModuleList(nn.Linear(width, experts) for _ in range(depth))
        up, down = (experts, width, hidden), (experts, hidden, width)
        self.up = nn.ParameterList(self.drawn(up, by_helper) for _ in range(depth))
        self.down = nn.ParameterList(self.drawn(down, by_helper) for _ in range(depth))
        self.out = nn.Linear(width, 10)

    @staticmethod
    def drawn(shape, by_helper):
        weight = torch.randn(shape) * math.sqrt(2 / shape[1])
        return nn.Parameter(nn.init.kaiming_normal_(weight) if by_helper else weight)

    def forward(self, v):
        for gate, up, down in zip(self.gate, self.up, self.down, strict=True):
            made = torch.einsum("bd,edh->beh", v, up).relu()
            v = torch.einsum("be,beh,ehd->bd", gate(v).softmax(-1), made, down)
        return self.out(v)


@fault("stacked-experts-fan", at=("up", "down"))
def summed_experts_by_helper_fan() -> Built:
    return SummedExperts(by_helper=True), x(64, 64)


@clean
def summed_experts() -> Built:
    return SummedExperts(by_helper=False), x(64, 64)


@fault("backward-drift", "gain-mismatch", "forward-drift", at=("",))
def weight_norm_with_gains_of_a_tenth() -> Built:
    layers: list[nn.Module] = []
    for i in range(8):
        conv = weight_norm(nn.Conv1d(16 if i else 2, 16, 3, padding=1))
        conv.parametrizations.weight.original0.data.fill_(0.1)
        layers += [conv, nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv1d(16, 3, 1)), x(16, 2, 32)


class PreNorm(nn.Module):
    """Attention and a perceptron behind normalisers."""

    def __init__(self, width):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, v):
        y = self.norm1(v)
        v = v + self.attention(y, y, y, need_weights=False)[0]
        return v + self.down(F.gelu(self.up(self.norm2(v))))


@fault("norm-gain-off", at=("2.norm", "3.norm", "4"))
def one_draw_for_weights_and_gains() -> Built:
    body = (PreNorm(64) for _ in range(4))
    net = nn.Sequential(nn.Embedding(100, 64), *body, nn.LayerNorm(64), nn.Linear(64, 100))
    for parameter in net.parameters():
        nn.init.normal_(parameter, 0, 0.02)
    return net, ids(100, 24)


class Adapted(nn.Module):
    """A frozen layer and a low-rank adapter of raw matrices beside it."""

    def __init__(self, i, o):
        super().__init__()
        self.base = nn.Linear(i, o).requires_grad_(False)
        self.lora_a, self.lora_b = (nn.Parameter(torch.zeros(s)) for s in ((4, i), (o, 4)))

    def forward(self, v):
        return self.base(v) + 2.0 * (v @ self.lora_a.T @ self.lora_b.T)


@fault("zero-weight", at=("0.lora", "2.lora", "4.lora"))
def three_adapters_of_two_zeros() -> Built:
    sizes = ((20, 32), (32, 32), (32, 5))
    first, second, third = (Adapted(*size) for size in sizes)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third), x(32, 20)


class Actor(nn.Module):
    """Means of an action beside a trainable deviation, and a value."""

    def __init__(self):
        super().__init__()
        self.critic = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 1))
        self.mean = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 3))
        self.log_std = nn.Parameter(torch.zeros(1, 3))
        nn.init.orthogonal_(self.mean[2].weight, 10.0)

    def forward(self, v):
        mean = self.mean(v)
        return mean, self.log_std.expand_as(mean), self.critic(v)


@fault("policy-head", at=("mean.2",))
def wide_head_of_a_gaussian_actor() -> Built:
    return Actor(), x(64, 8)


class Quantised(nn.Module):
    """Codes chosen by distance, passed straight through."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 8))
        self.codebook = nn.Embedding(32, 8)
        self.decoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 20))
        nn.init.zeros_(self.codebook.weight)

    def forward(self, v):
        z = self.encoder(v)
        distance = (z[:, None] - self.codebook.weight).pow(2).sum(-1)
        q = self.codebook(distance.argmin(-1))
        return self.decoder(z + (q - z).detach()), z, q


@fault("odd-rows", at=("codebook",))
def codebook_of_zeros() -> Built:
    return Quantised(), x(32, 20)


class Towers(nn.Module):
    """Similarities of images and texts times the exponential of a parameter."""

    def __init__(self):
        super().__init__()
        self.image, self.text = (
            nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 32)) for width in (48, 24)
        )
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07))

    def forward(self, image, text):
        a, b = F.normalize(self.image(image), dim=-1), F.normalize(self.text(text), dim=-1)
        return self.logit_scale.exp() * a @ b.t()


@fault("head-excess-loss", at=("logit_scale", "mul"))
def temperature_without_its_logarithm() -> Built:
    return Towers(), (torch.randn(32, 48), torch.randn(32, 24))


class Rms(nn.Module):
    """A root mean square whose weight was meant to be added to one."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, v):
        return v * torch.rsqrt(v.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class Gated(nn.Module):
    """A gated perceptron behind it."""

    def __init__(self, width):
        super().__init__()
        self.norm = Rms(width)
        self.up, self.gate = nn.Linear(width, 2 * width), nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, v):
        y = self.norm(v)
        return v + self.down(F.silu(self.gate(y)) * self.up(y))


@fault("norm-gain-off", "norm-gain-zero-on-trunk", at=("1.norm", "2.norm", "3.norm", "4"))
def gains_of_zero_without_the_one() -> Built:
    blocks = (Gated(24) for _ in range(3))
    return nn.Sequential(nn.Linear(9, 24), *blocks, Rms(24), nn.Linear(24, 3)), x(32, 9)


class Standardised(nn.Conv2d):
    """A convolution of weights brought to mean 0 and norm 1."""

    def forward(self, v):
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True, unbiased=False)
        weight = (self.weight - mean) * torch.rsqrt(variance * self.weight[0].numel() + 1e-6)
        return F.conv2d(v, weight, self.bias, padding=self.padding)


@fault("standardised-gain", "gain-mismatch", "forward-drift", "backward-drift", at=("",))
def standardised_stack_without_gains() -> Built:
    layers: list[nn.Module] = []
    for i in range(14):
        conv = Standardised(16 if i else 3, 16, 3, padding=1)
        nn.init.zeros_(conv.bias)
        layers += [conv, nn.ReLU()]
    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, *pool, nn.Linear(16, 10)), x(8, 3, 12, 12)


class WrittenLstm(nn.Module):
    """A long short-term memory whose four gates are one sum of two layers."""

    def __init__(self, forget, width=24):
        super().__init__()
        self.width = width
        self.ih, self.hh = nn.Linear(6, 4 * width), nn.Linear(width, 4 * width, bias=False)
        for block in self.hh.weight.data.chunk(4):
            nn.init.orthogonal_(block)
        nn.init.xavier_uniform_(self.ih.weight)
        nn.init.zeros_(self.ih.bias)
        self.ih.bias.data[width : 2 * width] = forget
        self.out = nn.Linear(width, 2)

    def forward(self, v):
        h = c = v.new_zeros(v.shape[0], self.width)
        for step in v.unbind(1):
            i, f, g, o = (self.ih(step) + self.hh(h)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return self.out(h)


@fault("forget-gate-memory", at=("ih",))
def written_lstm_that_forgets() -> Built:
    return WrittenLstm(-3.0), x(8, 24, 6)


@clean
def written_lstm_that_remembers() -> Built:
    return WrittenLstm(2.0), x(8, 24, 6)


class Cell(nn.Module):
    """A gated cell called step by step from a learned state."""

    def __init__(self, update):
        super().__init__()
        self.cell, self.start = nn.GRUCell(12, 40), nn.Parameter(torch.zeros(40))
        self.out = nn.Linear(40, 12)
        for name, parameter in self.cell.named_parameters():
            if "weight" in name:
                for block in parameter.data.chunk(3):
                    nn.init.orthogonal_(block)
            else:
                nn.init.zeros_(parameter)
        self.cell.bias_ih.data[40:80] = update

    def forward(self, v):
        h = self.start.expand(len(v), -1)
        for step in v.unbind(1):
            h = self.cell(step, h)
        return self.out(h)


@fault("forget-gate-memory", at=("cell",))
def cell_that_replaces_its_state() -> Built:
    return Cell(-5.0), x(8, 30, 12)


@clean
def cell_that_keeps_its_state() -> Built:
    return Cell(2.0), x(8, 30, 12)


class SignedWeights(nn.Linear):
    """Weights of one size, with a gradient that goes straight through."""

    def forward(self, v):
        w = self.weight
        return F.linear(v, (w.sign() * w.abs().mean()).detach() + w - w.detach(), self.bias)


@clean
def hard_tanh_behind_batch_norms() -> Built:
    layers: list[nn.Module] = []
    for i in (20, 64):
        layers += [SignedWeights(i, 64), nn.BatchNorm1d(64), nn.Hardtanh()]
    return nn.Sequential(*layers, SignedWeights(64, 10)), x(64, 20)


class Scaled(nn.Module):
    """A perceptron in a branch, with a scale per channel."""

    def __init__(self, width, scale):
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), scale))

    def forward(self, v):
        return v + self.gamma * self.down(F.gelu(self.up(v)))


@fault("forward-drift", "residual-branch-unscaled", at=("0.gamma", "0"))
def layer_scales_of_ten() -> Built:
    return nn.Sequential(*(Scaled(48, 10.0) for _ in range(8)), nn.Linear(48, 5)), x(32, 48)


class Operator(nn.Module):
    """Two towers of ReLUs over different inputs, multiplied."""

    def __init__(self, std):
        super().__init__()
        self.branch, self.trunk = self.tower(50), self.tower(2)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=std)
                nn.init.zeros_(layer.bias)

    @staticmethod
    def tower(width):
        layers: list[nn.Module] = []
        for i in range(6):
            layers += [nn.Linear(64 if i else width, 64), nn.ReLU()]
        return nn.Sequential(*layers)

    def forward(self, u, y):
        return torch.einsum("bp,bp->b", self.branch(u), self.trunk(y))


@fault("gain-mismatch", at=("branch", "trunk"))
def multiplied_towers_of_one_small_scale() -> Built:
    return Operator(0.02), (torch.randn(64, 50), torch.rand(64, 2))
