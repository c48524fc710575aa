"""Kinds of faulty fresh models, each with the rules that may name its cause, and its layers.

Every function returns a module and its inputs. `FAULTS` maps the function's name to what a right
finding looks like: one of the rules, at a warning or error, holding one of the layers.
"""

from __future__ import annotations

import copy
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


@fault("duplicate-layers", at=("blocks", "layers"))
def blocks_deep_copied() -> Built:
    block = Block()
    net = nn.Sequential(*[copy.deepcopy(block) for _ in range(4)], nn.Linear(32, 10))
    return net, x(4, 12, 32)


FAULTS["blocks_deep_copied"] = Fault(blocks_deep_copied, ("duplicate-layers",), ("1.", "2.", "3."))


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


@fault("zero-weight", "blocked-parameters", at=("lora", "net"))
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


FAULTS["lora_with_both_zero"] = Fault(
    lora_with_both_zero, ("zero-weight", "blocked-parameters"), ("0", "2")
)


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


@fault("gain-mismatch", "forward-drift", "sine-frequency", at=("net", "layers", ""))
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


FAULTS["siren_with_default"] = Fault(siren_with_default, ("sine-frequency",), ("layers",))


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


# --- recurrent


class Tagger(nn.Module):
    """A recurrent layer and a head on its last step."""

    def __init__(self, cell, hidden=64):
        super().__init__()
        self.rnn, self.head = cell, nn.Linear(hidden, 5)

    def forward(self, v):
        return self.head(self.rnn(v)[0][:, -1])


@fault("recurrent-not-orthogonal", at=("rnn",))
def plain_rnn_default_long() -> Built:
    return Tagger(nn.RNN(16, 64, batch_first=True)), x(4, 100, 16)


@fault("recurrent-not-orthogonal", at=("rnn",))
def plain_rnn_spectral_radius_two() -> Built:
    net = Tagger(nn.RNN(16, 64, batch_first=True, nonlinearity="relu"))
    nn.init.orthogonal_(net.rnn.weight_hh_l0, 2.0)
    return net, x(4, 60, 16)


@fault("gate-order", at=("rnn",))
def lstm_bias_in_the_wrong_gate() -> Built:
    net = Tagger(nn.LSTM(16, 64, batch_first=True))
    for name, p in net.rnn.named_parameters():
        if "bias" in name:
            nn.init.zeros_(p)
        elif "hh" in name:
            for block in p.chunk(4):
                nn.init.orthogonal_(block.data)
    net.rnn.bias_ih_l0.data[:64] = 1.0
    return net, x(4, 50, 16)


@fault("forget-gate-memory", at=("rnn",))
def lstm_forgets_at_once() -> Built:
    net = Tagger(nn.LSTM(16, 64, batch_first=True))
    for name, p in net.rnn.named_parameters():
        if "bias" in name:
            nn.init.zeros_(p)
    net.rnn.bias_ih_l0.data[64:128] = -5.0
    return net, x(4, 100, 16)


# --- residual and transformers


@fault("residual-branch-unscaled", at=("",))
def residual_without_norm() -> Built:
    def body():
        net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
        for m in net:
            if isinstance(m, nn.Linear):
                nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
                nn.init.zeros_(m.bias)
        return net

    net = nn.Sequential(
        nn.Linear(32, 64), *[Residual(body()) for _ in range(12)], nn.Linear(64, 10)
    )
    return net, x()


@fault("missing-depth-scale", "residual-branch-unscaled", at=("blocks",))
def pre_norm_deep_unscaled() -> Built:
    net = Decoder(depth=24, std=0.177)
    nn.init.normal_(net.head.weight, std=0.02)
    nn.init.normal_(net.emb.weight, std=0.1)
    return net, ids()


@fault("post-norm-deep", at=("blocks",))
def post_norm_deep() -> Built:
    net = nn.ModuleDict()
    model = Decoder(depth=18, std=0.177, post=True)
    nn.init.normal_(model.head.weight, std=0.02)
    del net
    return model, ids()


@fault("head-excess-loss", at=("emb", "head"))
def tied_unit_embedding() -> Built:
    net = Decoder(tied=True, d=64)
    nn.init.normal_(net.emb.weight)
    return net, ids()


@fault("attention-logit-scale", "attention-unscaled", "attention-entropy", at=("blocks",))
def attention_without_scale() -> Built:
    net = Decoder(d=64, depth=2, scale=False, std=0.02)
    for block in net.blocks:
        for m in (block.attn.q, block.attn.k):
            nn.init.normal_(m.weight, std=64**-0.5 * 1.6)
    return net, ids()


@fault("attention-logit-scale", "attention-entropy", "gain-mismatch", at=("blocks",))
def attention_weights_unit_normal() -> Built:
    net = Decoder(d=64, depth=2)
    for block in net.blocks:
        for m in (block.attn.q, block.attn.k, block.attn.v, block.attn.o):
            nn.init.normal_(m.weight)
    return net, ids()


@fault("head-excess-loss", at=("4", "net"))
def classifier_unit_normal() -> Built:
    net = plain(3, width=128)
    nn.init.normal_(net[4].weight)
    return net, x()


@fault("symmetric-units", "identical-incoming", at=("blocks", "attn"))
def attention_heads_equal() -> Built:
    net = Decoder(d=32, depth=2)
    with torch.no_grad():
        for block in net.blocks:
            for m in (block.attn.q, block.attn.k, block.attn.v):
                m.weight.copy_(m.weight[:8].repeat(4, 1))
            o = block.attn.o.weight
            o.copy_(o[:, :8].repeat(1, 4))
    return net, ids()


# --- bias, norm, numerics


@fault("unit-cannot-fire", "dead-relu", at=("2", "3"))
def biases_kill_relus() -> Built:
    net = plain(5)
    nn.init.constant_(net[2].bias, -20.0)
    return net, x()


@fault("gate-saturated", at=("gate", "t", ""))
def highway_gates_shut() -> Built:
    class Highway(nn.Module):
        def __init__(self, d=32):
            super().__init__()
            self.h, self.t = nn.Linear(d, d), nn.Linear(d, d)
            nn.init.constant_(self.t.bias, -12.0)

        def forward(self, v):
            t = torch.sigmoid(self.t(v))
            return t * F.relu(self.h(v)) + (1 - t) * v

    return nn.Sequential(*[Highway() for _ in range(4)], nn.Linear(32, 5)), x()


@fault("saturation", "bias-dominates", "gate-saturated", "unit-cannot-fire", at=("2", "3"))
def tanh_saturated_by_bias() -> Built:
    net = plain(5, activation=nn.Tanh)
    nn.init.constant_(net[2].bias, 8.0)
    return net, x()


@fault("norm-gain-off", at=("",))
def batch_norm_gain_tiny() -> Built:
    layers: list[nn.Module] = []
    c = 3
    for _ in range(8):
        layers += [nn.Conv2d(c, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
        c = 16
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    for m in net:
        if isinstance(m, nn.BatchNorm2d):
            nn.init.constant_(m.weight, 1e-3)
    return net, x(8, 3, 16, 16)


@fault("norm-over-one-value", at=("1", "norm"))
def group_norm_over_one_value() -> Built:
    net = nn.Sequential(nn.Linear(32, 16), nn.GroupNorm(16, 16), nn.ReLU(), nn.Linear(16, 10))
    return net, x()


@fault("epsilon-dominates", at=("",))
def patch_embedding_of_1e_10() -> Built:
    net = nn.Sequential(
        nn.Conv2d(3, 32, 4, 4), nn.Flatten(2), nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(),
        nn.Linear(32, 5),
    )  # fmt: skip
    nn.init.normal_(net[0].weight, std=1e-10)
    nn.init.zeros_(net[0].bias)
    return net, x(4, 3, 16, 16)


@fault("non-finite", at=("2",))
def nan_in_a_weight() -> Built:
    net = plain(4)
    with torch.no_grad():
        net[2].weight[3, 5] = float("nan")
    return net, x()


@fault("uninitialised-memory", "non-finite", at=("2",))
def weight_left_empty() -> Built:
    net = plain(4)
    g = torch.Generator().manual_seed(7)
    raw = torch.randint(-(2**31), 2**31 - 1, net[2].weight.shape, generator=g, dtype=torch.int64)
    with torch.no_grad():
        net[2].weight.copy_(raw.to(torch.int32).view(torch.float32).nan_to_num(0.0, 0.0, 0.0))
    return net, x()


@fault("state-space-overwritten", at=("",))
def state_space_time_step_zeroed() -> Built:
    class Ssm(nn.Module):
        def __init__(self, d=16, n=8):
            super().__init__()
            self.dt_proj = nn.Linear(d, d)
            self.x_proj = nn.Linear(d, 2 * n, bias=False)
            self.A_log = nn.Parameter(torch.log(torch.arange(1, n + 1).float()).repeat(d, 1))
            self.D = nn.Parameter(torch.ones(d))
            self.out = nn.Linear(d, 5)
            self.n = n
            nn.init.zeros_(self.dt_proj.bias)
            nn.init.normal_(self.A_log, std=0.02)

        def forward(self, u):
            dt = F.softplus(self.dt_proj(u))
            b, c = self.x_proj(u).split(self.n, -1)
            a = torch.exp(dt.unsqueeze(-1) * -torch.exp(self.A_log))
            h = torch.zeros(u.shape[0], u.shape[2], self.n)
            ys = []
            for t in range(u.shape[1]):
                h = a[:, t] * h + (dt[:, t] * u[:, t]).unsqueeze(-1) * b[:, t].unsqueeze(1)
                ys.append((h * c[:, t].unsqueeze(1)).sum(-1) + self.D * u[:, t])
            return self.out(torch.stack(ys, 1))

    return Ssm(), x(2, 12, 16)


@fault("identical-incoming", "symmetric-units", at=("attention",))
def heads_copied_in_a_packed_projection() -> Built:
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
            self.head = nn.Linear(32, 3)
            rows = self.attention.in_proj_weight.data.view(3, 4, 8, 32)
            rows[:] = rows[:, :1].clone()

        def forward(self, v):
            return self.head(self.attention(v, v, v)[0].mean(1))

    return Pooled(), x(2, 6, 32)


@fault("recurrent-not-orthogonal", at=("state",))
def recurrence_in_a_loop_times_two() -> Built:
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.inp, self.state = nn.Linear(8, 32), nn.Linear(32, 32)
            self.out = nn.Linear(32, 3)
            nn.init.orthogonal_(self.state.weight, 2.0)

        def forward(self, v):
            h = v.new_zeros(len(v), 32)
            for t in range(v.shape[1]):
                h = F.relu(self.inp(v[:, t]) + self.state(h))
            return self.out(h)

    return Loop(), x(4, 30, 8)


@fault("gate-saturated", at=("rnn",))
def gru_that_never_updates() -> Built:
    net = Tagger(nn.GRU(16, 64, batch_first=True))
    net.rnn.bias_ih_l0.data[64:128] = 20.0
    return net, x(4, 20, 16)
