"""Faults in the weights themselves: zeros and copies, scales, fans."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.unseen.parts import (
    Block,
    Built,
    FunctionalMlp,
    fault,
    plain,
    x,
)

# --- zeros and copies


@fault("zero-weight", at=("2",))
def zero_hidden_layer() -> Built:
    net = plain(4)
    nn.init.zeros_(net[2].weight)
    return net, x()


@fault("zero-weight", "symmetric-units", "blocked-parameters", at=("",))
def everything_zero() -> Built:
    net = plain(4, activation=nn.Tanh)
    for p in net.parameters():
        nn.init.zeros_(p)
    return net, x()


@fault("symmetric-units", at=("2", "0", "4"))
def everything_constant() -> Built:
    net = plain(4, activation=nn.Tanh)
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.constant_(layer.weight, 0.05)
    return net, x()


@fault("identical-incoming", "symmetric-units", at=("3",))
def ones_in_one_conv() -> Built:
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    nn.init.ones_(net[3].weight)
    return net, x(8, 3, 16, 16)


@fault("symmetric-units", at=("fc1", "a"))
def half_of_the_units_copied() -> Built:
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(32, 64), nn.Linear(64, 10)
            with torch.no_grad():
                self.fc1.weight[32:] = self.fc1.weight[:32]
                self.fc1.bias[32:] = self.fc1.bias[:32]
                self.fc2.weight[:, 32:] = self.fc2.weight[:, :32]

        def forward(self, v):
            return self.fc2(torch.tanh(self.fc1(v)))

    return Net(), x()


@fault("identical-incoming", "symmetric-units", at=("fc1", "a"))
def tiled_rows() -> Built:
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(32, 64), nn.Linear(64, 10)
            with torch.no_grad():
                self.fc1.weight.copy_(self.fc1.weight[:1].expand(64, 32))
                self.fc1.bias.fill_(0)

        def forward(self, v):
            return self.fc2(F.gelu(self.fc1(v)))

    return Net(), x()


@fault("duplicate-layers", at=("1.", "2.", "3."))
def blocks_deep_copied() -> Built:
    block = Block()
    net = nn.Sequential(*[copy.deepcopy(block) for _ in range(4)], nn.Linear(32, 10))
    return net, x(4, 12, 32)


@fault("symmetric-units", "duplicate-layers", at=("experts",))
def experts_deep_copied() -> Built:
    class Moe(nn.Module):
        def __init__(self):
            super().__init__()
            self.inp = nn.Linear(32, 32)
            self.router = nn.Linear(32, 4)
            nn.init.zeros_(self.router.weight)
            nn.init.zeros_(self.router.bias)
            expert = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
            self.experts = nn.ModuleList(copy.deepcopy(expert) for _ in range(4))
            self.out = nn.Linear(32, 10)

        def forward(self, v):
            v = self.inp(v)
            g = self.router(v).softmax(-1)
            y = sum(g[:, i : i + 1] * e(v) for i, e in enumerate(self.experts))
            return self.out(v + y)

    return Moe(), x()


@fault("shared-random-stream", "duplicate-layers", "repeated-draw", at=("",))
def seed_reset_before_every_layer() -> Built:
    def layer(a, b):
        torch.manual_seed(42)
        return nn.Linear(a, b)

    net = nn.Sequential(
        layer(32, 64), nn.ReLU(), layer(64, 64), nn.ReLU(), layer(64, 64), nn.ReLU(), layer(64, 10)
    )
    return net, x()


@fault("zero-weight", "blocked-parameters", at=("0", "2"))
def lora_with_both_zero() -> Built:
    class Lora(nn.Module):
        def __init__(self, base, r=4):
            super().__init__()
            self.base = base.requires_grad_(False)
            self.lora_a = nn.Parameter(torch.zeros(r, base.in_features))
            self.lora_b = nn.Parameter(torch.zeros(base.out_features, r))

        def forward(self, v):
            return self.base(v) + F.linear(F.linear(v, self.lora_a), self.lora_b)

    net = nn.Sequential(Lora(nn.Linear(32, 64)), nn.ReLU(), Lora(nn.Linear(64, 10)))
    return net, x()


@fault("zero-weight", "blocked-parameters", at=("blocks",))
def rezero_with_zero_last_layer() -> Built:
    class Re(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(32, 32), nn.Linear(32, 32)
            nn.init.zeros_(self.b.weight)
            nn.init.zeros_(self.b.bias)
            self.alpha = nn.Parameter(torch.zeros(1))

        def forward(self, v):
            return v + self.alpha * self.b(F.relu(self.a(v)))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.Sequential(*[Re() for _ in range(4)])
            self.head = nn.Linear(32, 10)

        def forward(self, v):
            return self.head(self.blocks(v))

    return Net(), x()


@fault("zero-weight", "blocked-parameters", at=("ff",))
def swiglu_gate_and_up_zero() -> Built:
    class SwiGlu(nn.Module):
        def __init__(self, d=32, h=64):
            super().__init__()
            self.w1, self.w2, self.w3 = nn.Linear(d, h), nn.Linear(h, d), nn.Linear(d, h)
            for m in (self.w1, self.w3):
                nn.init.zeros_(m.weight)
                nn.init.zeros_(m.bias)

        def forward(self, v):
            return self.w2(F.silu(self.w1(v)) * self.w3(v))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.ff, self.norm, self.head = SwiGlu(), nn.LayerNorm(32), nn.Linear(32, 10)

        def forward(self, v):
            return self.head(v + self.ff(self.norm(v)))

    return Net(), x()


@fault("norm-gain-zero-on-trunk", at=("1", "4"))
def batch_norm_gain_zero_everywhere() -> Built:
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.zeros_(m.weight)
    return net, x(8, 3, 16, 16)


@fault("identical-critics", at=("q1", "q2"))
def twin_critics_copied() -> Built:
    class Critics(nn.Module):
        def __init__(self):
            super().__init__()
            self.q1 = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 1))
            self.q2 = copy.deepcopy(self.q1)

        def forward(self, s, a):
            v = torch.cat([s, a], -1)
            return torch.minimum(self.q1(v), self.q2(v))

    return Critics(), (torch.randn(16, 8), torch.randn(16, 4))


# --- scale


@fault("relu-after-xavier", at=("10",))
def xavier_before_relu_deep() -> Built:
    net = plain(24)
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
    return net, x()


@fault("relu-after-xavier", "gain-mismatch", at=("w.10", "10", ""))
def lecun_before_relu_matmul() -> Built:
    return FunctionalMlp([32] + [96] * 20 + [10], lambda a, b: a**-0.5), x()


@fault("gain-mismatch", "forward-drift", "backward-drift", at=("10",))
def default_before_tanh_deep() -> Built:
    net = plain(20, activation=nn.Tanh)
    for layer in net:
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    return net, x()


@fault("gain-mismatch", "forward-drift", at=("10",))
def small_normal_deep() -> Built:
    net = plain(8, activation=nn.GELU)
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
    return net, x()


@fault(
    "gain-mismatch", "forward-drift", "backward-drift", "variance-profile", "head-excess-loss",
    at=("2", "4"),
)  # fmt: skip
def unit_normal_relu() -> Built:
    net = plain(6)
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight)
    return net, x()


@fault("saturation", "gain-mismatch", "backward-drift", "forward-drift", at=("2", "4", "3", "5"))
def unit_normal_tanh() -> Built:
    net = plain(6, activation=nn.Tanh)
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight)
    return net, x()


@fault("mean-shifted-weights", at=("2", "4"))
def rand_for_randn() -> Built:
    net = plain(5)
    for layer in net:
        if isinstance(layer, nn.Linear):
            layer.weight.data = torch.rand_like(layer.weight)
    return net, x()


@fault("sigmoid-stack", "backward-drift", "gain-mismatch", at=("2", "4"))
def sigmoid_deep() -> Built:
    net = plain(10, activation=nn.Sigmoid)
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
    return net, x()


@fault("selu-not-lecun", at=("2", "4"))
def selu_with_he() -> Built:
    return plain(16, activation=nn.SELU), x()


@fault("sine-frequency", at=("layers",))
def siren_with_default() -> Built:
    class Siren(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(2, 64)] + [nn.Linear(64, 64) for _ in range(3)])
            self.out = nn.Linear(64, 3)

        def forward(self, v):
            for layer in self.layers:
                v = torch.sin(30 * layer(v))
            return self.out(v)

    return Siren(), (torch.rand(64, 2) * 2 - 1,)


@fault(
    "forward-drift", "variance-profile", "backward-drift", "gain-mismatch", "inconsistent-siblings",
    at=("6",),
)  # fmt: skip
def one_layer_a_hundred_times_too_small() -> Built:
    net = plain(8)
    with torch.no_grad():
        net[6].weight.mul_(0.01)
    return net, x()


@fault("forward-drift", "variance-profile", "inconsistent-siblings", "head-excess-loss", at=("6",))
def one_layer_fifty_times_too_large() -> Built:
    net = plain(8)
    with torch.no_grad():
        net[6].weight.mul_(50)
    return net, x()


# --- fans


@fault("wrong-fan", at=("2", "4"))
def kernel_missing_from_the_fan() -> Built:
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU()]
    for _ in range(8):
        layers += [nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    for m in net:
        if isinstance(m, nn.Conv2d):
            nn.init.normal_(m.weight, std=math.sqrt(2 / m.in_channels))
            nn.init.zeros_(m.bias)
    return net, x(4, 3, 16, 16)


@fault("wrong-fan", "transposed-weight", at=("w.", ""))
def transposed_fan() -> Built:
    sizes = [32, 256, 32, 256, 32, 256, 16, 256, 16, 256, 10]
    return FunctionalMlp(sizes, lambda a, b: math.sqrt(2 / b)), x()


@fault("grouped-fan", at=("",))
def depthwise_by_fan_out() -> Built:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU()]
    for _ in range(5):
        layers += [
            nn.Conv2d(64, 64, 3, padding=1, groups=64), nn.ReLU(), nn.Conv2d(64, 64, 1), nn.ReLU()
        ]  # fmt: skip
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    for m in net:
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(m.bias)
    return net, x(4, 3, 16, 16)


@fault("conv-transpose-fan", at=("",))
def decoder_by_helper_fan() -> Built:
    layers: list[nn.Module] = [nn.Conv2d(8, 32, 1), nn.ReLU()]
    c = 32
    for _ in range(5):
        layers += [nn.ConvTranspose2d(c, c, 4, 2, 1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Conv2d(c, 3, 3, padding=1))
    for m in net:
        if isinstance(m, nn.ConvTranspose2d):
            nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
            nn.init.zeros_(m.bias)
    return net, x(2, 8, 2, 2)
