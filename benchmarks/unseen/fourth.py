"""Models of a fourth round that were judged wrongly at first, or of which too much was said."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.unseen.parts import Built, clean, fault, ids, plain, x


class RootMeanSquare(nn.Module):
    """A normaliser written out."""

    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, v):
        return v * torch.rsqrt(v.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale


class Tied(nn.Module):
    """An autoencoder of two matrices, each used both ways."""

    def __init__(self, std=None):
        super().__init__()
        self.outer = nn.Parameter(torch.randn(48, 64) * (std or 64**-0.5))
        self.inner = nn.Parameter(torch.randn(16, 48) * (std or 48**-0.5))
        self.b = nn.ParameterList(nn.Parameter(torch.zeros(n)) for n in (48, 16, 48, 64))

    def forward(self, v):
        v = F.relu(F.linear(v, self.outer, self.b[0]))
        v = F.linear(v, self.inner, self.b[1])
        v = F.relu(F.linear(v, self.inner.t(), self.b[2]))
        return F.linear(v, self.outer.t(), self.b[3])


class Mixture(nn.Module):
    """Experts that gates mix in one product of three tensors."""

    def __init__(self, i, o, by_helper, experts=4):
        super().__init__()
        self.w = nn.Parameter(torch.randn(experts, i, o) * math.sqrt(2 / i))
        if by_helper:
            nn.init.kaiming_normal_(self.w)
        self.gate = nn.Linear(i, experts)

    def forward(self, v):
        gates = self.gate(v).softmax(-1)
        return F.relu(torch.einsum("bi,eio,be->bo", v, self.w, gates))


def mixtures(*, by_helper: bool) -> Built:
    """Four layers of experts and a head."""
    sizes = ((64, 48), (48, 48), (48, 48), (48, 48))
    return nn.Sequential(*(Mixture(*s, by_helper) for s in sizes), nn.Linear(48, 10)), x(32, 64)


class Adapted(nn.Module):
    """A frozen layer beside a low-rank product."""

    def __init__(self, i, o, identity, rank=4):
        super().__init__()
        self.base = nn.Linear(i, o).requires_grad_(False)
        self.a = nn.Parameter(torch.randn(rank, i) / 2)
        self.b = nn.Parameter(torch.zeros(o, rank) if identity else torch.randn(o, rank) / 2)

    def forward(self, v):
        return self.base(v) + F.linear(F.linear(v, self.a), self.b) * 2


def adapters(*, identity: bool) -> Built:
    """Three adapted layers."""
    sizes = ((64, 64), (64, 64), (64, 10))
    first, second, third = (Adapted(*s, identity) for s in sizes)
    return nn.Sequential(first, nn.GELU(), second, nn.GELU(), third), x(32, 64)


class Attention(nn.Module):
    """Heads as an axis of the weights; the last product has three factors."""

    def __init__(self, d, heads, gain):
        super().__init__()
        std = d**-0.5
        self.q, self.k = (nn.Parameter(torch.randn(heads, d, d // heads) * std) for _ in "qk")
        self.q.data *= gain
        self.v = nn.Parameter(torch.randn(heads, d, d // heads) * std)
        self.o = nn.Parameter(torch.randn(heads, d // heads, d) * std)

    def forward(self, v):
        q, k, u = (torch.einsum("btd,hde->bhte", v, w) for w in (self.q, self.k, self.v))
        a = torch.einsum("bhie,bhje->bhij", q, k) * q.shape[-1] ** -0.5
        return torch.einsum("bhij,bhje,hed->bid", a.softmax(-1), u, self.o)


# --- healthy


@clean
def he_weights_throughout_behind_a_grown_signal() -> Built:
    net = plain(23)
    nn.init.kaiming_normal_(net[-1].weight, nonlinearity="relu")
    with torch.no_grad():  # a draw whose features have grown by what no rule finds too much
        v = torch.randn(256, 32)
        net[0].weight *= 1.8 / net[:-1](v).square().mean().sqrt()
    return net, x()


@clean
def tied_autoencoder_of_raw_matrices() -> Built:
    return Tied(), x(32, 64)


@clean
def experts_mixed_in_one_product() -> Built:
    return mixtures(by_helper=False)


@clean
def adapters_beside_default_layers() -> Built:
    return adapters(identity=True)


@clean
def norm_written_out_behind_a_relu() -> Built:
    parts = [nn.Linear(32, 64), nn.ReLU(), RootMeanSquare(64)]
    return nn.Sequential(*parts, nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), x()


@clean
def attention_whose_last_product_has_three_factors() -> Built:
    return nn.Sequential(nn.LayerNorm(48), Attention(48, 4, 1.0), nn.Linear(48, 5)), x(8, 16, 48)


@clean
def latents_that_start_narrow() -> Built:
    class Variational(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = nn.Linear(64, 64), nn.Linear(8, 64)
            self.mean, self.log_variance = nn.Linear(64, 8), nn.Linear(64, 8)
            nn.init.constant_(self.log_variance.bias, -3.0)

        def forward(self, v):
            h = F.gelu(self.encoder(v))
            mean, log_variance = self.mean(h), self.log_variance(h)
            noise = torch.randn_like(mean)
            return self.decoder(mean + (log_variance / 2).exp() * noise), mean, log_variance

    return Variational(), x(32, 64)


# --- faulty


@fault("symmetric-units", at=("0", "2"))
def channels_widened_by_copying() -> Built:
    stem, mix = nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1, stride=2)
    parts = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)]
    net = nn.Sequential(stem, nn.ReLU(), mix, nn.ReLU(), *parts)
    with torch.no_grad():
        stem.weight.copy_(torch.randn(2, 1, 3, 3).repeat_interleave(16, 0) / 2)
        narrow = torch.randn(2, 2, 3, 3) / 12
        mix.weight.copy_(narrow.repeat_interleave(16, 0).repeat_interleave(16, 1))
        net[-1].weight.copy_((torch.randn(10, 2) / 5).repeat_interleave(16, 1))
        for layer in (stem, mix, net[-1]):
            layer.bias.zero_()
    return net, x(16, 1, 8, 8)


@fault("uninitialised-memory", at=("2",))
def raw_memory_in_a_gain() -> Built:
    net, inputs = norm_written_out_behind_a_relu()
    with torch.no_grad():
        scale = 10 ** (torch.rand(64) * 70 - 38) * torch.randn(64).sign()
        scale[::7], scale[3] = 0.0, 1e-41
        net[2].scale.copy_(scale)
    return net, inputs


@fault("gate-saturated", at=("0.gate", "1.gate", "2.gate"))
def trunk_behind_shut_gates() -> Built:
    class Gated(nn.Module):
        def __init__(self, d):
            super().__init__()
            self.value, self.gate = nn.Linear(d, d), nn.Linear(d, d)
            nn.init.xavier_normal_(self.value.weight, 2.0)
            nn.init.xavier_normal_(self.gate.weight)
            nn.init.constant_(self.gate.bias, -9.0)

        def forward(self, v):
            return self.value(v) * torch.sigmoid(self.gate(v))

    return nn.Sequential(Gated(32), Gated(32), Gated(32), nn.Linear(32, 10)), x()


@fault("duplicate-layers", "symmetric-units", at=("columns",))
def shards_drawn_from_one_seed() -> Built:
    class Sharded(nn.Module):
        def __init__(self):
            super().__init__()
            column, row = nn.Linear(32, 3), nn.Linear(3, 10, bias=False)
            self.columns = nn.ModuleList(copy.deepcopy(column) for _ in range(4))
            self.rows = nn.ModuleList(copy.deepcopy(row) for _ in range(4))

        def forward(self, v):
            pairs = zip(self.columns, self.rows, strict=True)
            return sum(row(F.gelu(column(v))) for column, row in pairs)

    return Sharded(), x()


@fault("input-statistics", at=("v", "div"))
def buffer_that_blows_the_input_up() -> Built:
    class Standardised(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("std", torch.full((32,), 1e-3))
            self.body = plain(3)

        def forward(self, v):
            return self.body(v / self.std)

    return Standardised(), x()


@fault("forward-drift", "stacked-experts-fan", "wrong-fan", at=("0", "1", "2", "3"))
def mixed_experts_by_the_helpers_fan() -> Built:
    return mixtures(by_helper=True)


@fault("epsilon-dominates", "embedding-scale", at=("0",))
def table_of_a_millionth_before_a_norm() -> Built:
    table = nn.Embedding(40, 48)
    nn.init.normal_(table.weight, std=1e-6)
    body = [nn.Linear(48, 96), nn.ReLU(), nn.Linear(96, 40)]
    return nn.Sequential(table, nn.LayerNorm(48), *body), ids(40, 12)


@fault("symmetric-units", at=("layers",))
def graph_network_of_ones() -> Built:
    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList((nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 4)))
            for layer in self.layers:
                nn.init.ones_(layer.weight)
                nn.init.zeros_(layer.bias)

        def forward(self, v, neighbours):
            for layer in self.layers[:-1]:
                v = F.relu(neighbours @ layer(v))
            return neighbours @ self.layers[-1](v)

    return Graph(), (torch.randn(12, 8), torch.rand(12, 12).softmax(-1))


@fault("adapter-not-identity", at=("0.b", "2.b"))
def adapters_that_disturb_their_layers() -> Built:
    return adapters(identity=False)


@fault("half-precision-range", at=("2",))
def half_precision_below_its_floor() -> Built:
    net = plain(3)
    net[2].weight.data *= 2e-7

    class Half(nn.Sequential):
        def forward(self, v):
            return super().forward(v.half()).float()

    return Half(*net).half(), x()


@fault("zero-weight", "blocked-parameters", at=("before", "after"))
def side_branch_between_two_zero_layers() -> Built:
    class Controlled(nn.Module):
        def __init__(self, c=16):
            super().__init__()
            self.stem, self.trunk = nn.Conv2d(3, c, 3, 1, 1), nn.Conv2d(c, c, 3, 1, 1)
            self.before, self.after = (nn.Conv2d(k, c, 1, bias=False) for k in (1, c))
            self.side, self.out = nn.Conv2d(c, c, 3, 1, 1, bias=False), nn.Conv2d(c, 3, 3, 1, 1)
            for layer in (self.before, self.after):
                nn.init.zeros_(layer.weight)

        def forward(self, v, hint):
            h = F.relu(self.stem(v))
            side = self.after(F.silu(self.side(F.silu(self.before(hint)))))
            return self.out(F.relu(self.trunk(h) + side))

    return Controlled(), (torch.randn(4, 3, 12, 12), torch.randn(4, 1, 12, 12))


@fault("recurrent-not-orthogonal", at=("state",))
def one_cell_for_two_loops_times_three() -> Built:
    class Twice(nn.Module):
        def __init__(self, h=40):
            super().__init__()
            self.inp, self.state, self.out = (
                nn.Linear(6, h),
                nn.Linear(h, h, False),
                nn.Linear(h, 4),
            )
            nn.init.orthogonal_(self.state.weight, 3.0)

        def forward(self, v):
            h = torch.zeros(v.shape[0], 40)
            for step in v.unbind(1):
                h = torch.tanh(self.inp(step) + self.state(h))
            for _ in range(5):
                h = torch.tanh(self.state(h))
            return self.out(h)

    return Twice(), x(8, 30, 6)


@fault("attention-logit-scale", at=("1.q", "1.k"))
def einsum_attention_with_wide_queries() -> Built:
    return nn.Sequential(nn.LayerNorm(48), Attention(48, 4, 12.0), nn.Linear(48, 5)), x(8, 16, 48)


@fault("gain-mismatch", "forward-drift", at=("towers.0.0", "towers.1.0"))
def two_towers_of_one_small_scale() -> Built:
    class Towers(nn.Module):
        def __init__(self, d=64):
            super().__init__()
            self.stem, self.norm = nn.Linear(32, d), nn.LayerNorm(d)
            self.towers = nn.ModuleList(
                nn.Sequential(*self._tower(d), nn.Linear(d, 5)) for _ in range(2)
            )

        def _tower(self, d):
            layers = []
            for _ in range(6):
                layers += [nn.Linear(d, d), nn.ReLU()]
                nn.init.normal_(layers[-2].weight, std=0.02)
                nn.init.zeros_(layers[-2].bias)
            return layers

        def forward(self, v):
            v = self.norm(self.stem(v))
            return tuple(tower(v) for tower in self.towers)

    return Towers(), x()


@fault("framework-default-left", "gain-mismatch", at=("body.2", "body.6"))
def layers_that_the_initialiser_missed() -> Built:
    class Own(nn.Module):
        def __init__(self, d):
            super().__init__()
            self.weight = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(d, d), a=5**0.5))
            self.bias = nn.Parameter(torch.zeros(d))

        def forward(self, v):
            return F.linear(v, self.weight, self.bias)

    class Net(nn.Module):
        def __init__(self, d=64):
            super().__init__()
            pairs = [(nn.Linear(d, d), nn.ReLU(), Own(d), nn.ReLU()) for _ in range(4)]
            self.body = nn.Sequential(*(part for pair in pairs for part in pair))
            self.head = nn.Linear(d, 10)
            for layer in self.body:
                if isinstance(layer, nn.Linear):
                    nn.init.kaiming_normal_(layer.weight)
                    nn.init.zeros_(layer.bias)
            nn.init.normal_(self.head.weight, std=0.1)

        def forward(self, v):
            return self.head(self.body(v))

    return Net(), x(32, 64)


@fault("unit-cannot-fire", at=("tower.0",))
def siamese_tower_dead_from_its_bias() -> Built:
    class Siamese(nn.Module):
        def __init__(self):
            super().__init__()
            self.tower = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 16))
            nn.init.constant_(self.tower[0].bias, -8.0)

        def forward(self, first, second):
            return F.cosine_similarity(self.tower(first), self.tower(second))

    return Siamese(), (torch.randn(16, 20), torch.randn(16, 20))


@fault("gate-order", at=("cell",))
def cell_whose_one_is_in_the_output_gate() -> Built:
    class Loop(nn.Module):
        def __init__(self, h=32):
            super().__init__()
            self.cell, self.out = nn.LSTMCell(6, h), nn.Linear(h, 4)
            nn.init.zeros_(self.cell.bias_ih)
            nn.init.zeros_(self.cell.bias_hh)
            self.cell.bias_ih.data[3 * h :] = 1.0
            for gate in self.cell.weight_hh.data.chunk(4):
                nn.init.orthogonal_(gate)

        def forward(self, v):
            h = c = torch.zeros(v.shape[0], 32)
            for step in v.unbind(1):
                h, c = self.cell(step, (h, c))
            return self.out(h)

    return Loop(), x(8, 30, 6)


@fault("saturation", at=("1", "0"))
def tanh_behind_a_bias_of_thirty() -> Built:
    net = nn.Sequential(
        nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 5)
    )
    nn.init.constant_(net[0].bias, 30.0)
    return net, x()
