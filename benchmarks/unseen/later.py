"""Models of later rounds that were judged wrongly at first; they join both collections."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.unseen.parts import Built, clean, fault, plain, x

# --- healthy


@clean
def straight_through_codebook() -> Built:
    class Quantised(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = nn.Conv2d(3, 8, 4, 4), nn.ConvTranspose2d(8, 3, 4, 4)
            self.book = nn.Embedding(32, 8)
            nn.init.uniform_(self.book.weight, -1 / 32, 1 / 32)

        def forward(self, v):
            z = self.encoder(v).permute(0, 2, 3, 1)
            rows, book = z.reshape(-1, 8), self.book.weight
            distance = rows.square().sum(1, keepdim=True) - 2 * rows @ book.T + book.square().sum(1)
            nearest = self.book(distance.argmin(1)).view(z.shape)
            return self.decoder((z + (nearest - z).detach()).permute(0, 3, 1, 2))

    return Quantised(), x(8, 3, 16, 16)


@clean
def control_branch_beside_a_frozen_base() -> Built:
    class Controlled(nn.Module):
        def __init__(self, width=24):
            super().__init__()
            self.stem, self.out = nn.Conv2d(3, width, 3, 1, 1), nn.Conv2d(width, 3, 3, 1, 1)
            self.base = nn.ModuleList(nn.Conv2d(width, width, 3, 1, 1) for _ in range(2))
            self.requires_grad_(False)
            self.copies = copy.deepcopy(self.base).requires_grad_(True)
            self.hint = nn.Conv2d(1, width, 3, 1, 1)
            self.zero = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(3))
            for layer in self.zero:
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

        def forward(self, v, hint):
            h = F.silu(self.stem(v))
            side = h + self.zero[2](self.hint(hint))
            for base, twin, zero in zip(self.base, self.copies, self.zero[:2], strict=True):
                side = F.silu(twin(side))
                h = F.silu(base(h)) + zero(side)
            return self.out(h)

    return Controlled(), (torch.randn(8, 3, 8, 8), torch.randn(8, 1, 8, 8))


@clean
def lstm_cell_with_a_long_memory() -> Built:
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.out = nn.LSTMCell(8, 48), nn.Linear(48, 5)
            nn.init.orthogonal_(self.cell.weight_hh)
            nn.init.zeros_(self.cell.bias_hh)
            self.cell.bias_ih.data[48:96] = 5.0

        def forward(self, v):
            h = c = v.new_zeros(len(v), 48)
            for t in range(v.shape[1]):
                h, c = self.cell(v[:, t], (h, c))
            return self.out(h)

    return Loop(), x(16, 24, 8)


@clean
def equilibrium_of_one_matrix() -> Built:
    class Equilibrium(nn.Module):
        def __init__(self, width=48):
            super().__init__()
            self.inp, self.out = nn.Linear(32, width), nn.Linear(width, 5)
            self.w = nn.Parameter(0.4 * torch.randn(width, width) / width**0.5)

        def forward(self, v):
            u = self.inp(v)
            z = torch.zeros_like(u)
            for _ in range(12):
                z = torch.tanh(z @ self.w.T + u)
            return self.out(z)

    return Equilibrium(), x()


class UnboundSteps(nn.Module):
    """A recurrence over ``unbind``, its matrices and its bias kept as parameters."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.w_in = nn.Parameter(0.3 * torch.randn(width, 8))
        self.w_state = nn.Parameter(nn.init.orthogonal_(torch.empty(width, width)))
        self.shift = nn.Parameter(torch.zeros(width))
        self.w_out = nn.Parameter(torch.randn(5, width) / width**0.5)

    def forward(self, v):
        h = torch.zeros(len(v), self.shift.numel())
        for step in v.unbind(1):
            h = torch.tanh(step @ self.w_in.T + h @ self.w_state.T + self.shift)
        return h @ self.w_out.T


@clean
def recurrence_over_unbound_steps() -> Built:
    return UnboundSteps(), x(16, 20, 8)


@clean
def depthwise_filter_of_one_sign() -> Built:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1), nn.ReLU()]
    for _ in range(3):
        layers += [
            nn.Conv2d(64, 64, 3, 1, 1, groups=64),
            nn.ReLU(),
            nn.Conv2d(64, 64, 1),
            nn.ReLU(),
        ]
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    filters = layers[6].weight.data
    filters[0] = -filters[0].abs()
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5)), x(
        16, 3, 12, 12
    )


@clean
def tiny_table_before_two_normalisers() -> Built:
    class Receptance(nn.Module):
        def __init__(self, width=32):
            super().__init__()
            self.table = nn.Embedding(50, width)
            nn.init.uniform_(self.table.weight, -1e-4, 1e-4)
            self.first, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
            self.gate, self.value, self.out = (nn.Linear(width, width) for _ in range(3))
            nn.init.zeros_(self.out.weight)
            self.head = nn.Linear(width, 50, bias=False)

        def forward(self, v):
            h = self.first(self.table(v))
            z = self.norm(h)
            return self.head(h + self.out(torch.sigmoid(self.gate(z)) * self.value(z)))

    return Receptance(), (torch.randint(0, 50, (8, 12)),)


@clean
def small_tables_before_default_layers() -> Built:
    class WideAndDeep(nn.Module):
        def __init__(self):
            super().__init__()
            self.deep_tables = nn.ModuleList(nn.Embedding(100, 8) for _ in range(3))
            self.wide_tables = nn.ModuleList(nn.Embedding(100, 1) for _ in range(3))
            self.deep = nn.Sequential(nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 1))
            for table in self.deep_tables:
                nn.init.normal_(table.weight, std=0.01)
            for table in self.wide_tables:
                nn.init.zeros_(table.weight)

        def forward(self, v):
            columns = v.unbind(1)
            deep = [table(c) for table, c in zip(self.deep_tables, columns, strict=True)]
            wide = [table(c) for table, c in zip(self.wide_tables, columns, strict=True)]
            return self.deep(torch.cat(deep, -1)) + sum(wide)

    return WideAndDeep(), (torch.randint(0, 100, (64, 3)),)


class Reader(nn.Module):
    """A bidirectional LSTM at PyTorch's default, and what is read of its states."""

    def __init__(self, read) -> None:
        super().__init__()
        self.rnn = nn.LSTM(8, 32, batch_first=True, bidirectional=True)
        self.read, self.head = read, nn.Linear(64, 5)

    def forward(self, v):
        return self.head(self.read(self.rnn(v)[0]))


@clean
def default_lstm_whose_states_are_averaged() -> Built:
    return Reader(lambda states: states.mean(1)), x(8, 60, 8)


@clean
def last_output_of_both_directions() -> Built:
    return Reader(lambda states: states[:, -1]), x(8, 20, 8)


# --- faulty


@fault("head-excess-loss", at=("3",))
def temperature_of_a_hundredth() -> Built:
    class Sharp(nn.Sequential):
        def forward(self, v):
            return super().forward(v) / 0.01

    return Sharp(nn.Linear(32, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 20)), x()


@fault("forward-drift", "gain-mismatch", "variance-profile", at=("generator",))
def hypernetwork_of_unit_weights() -> Built:
    class Hyper(nn.Module):
        def __init__(self):
            super().__init__()
            self.codes = nn.Parameter(torch.randn(4, 16))
            self.generator, self.out = nn.Linear(16, 64 * 64), nn.Linear(64, 5)
            nn.init.normal_(self.generator.weight)

        def forward(self, v):
            for code in self.codes:
                v = F.relu(v @ self.generator(code).view(64, 64))
            return self.out(v)

    return Hyper(), x(32, 64)


@fault("non-finite", at=("mul", "scale"))
def infinite_scale_in_a_buffer() -> Built:
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inp, self.out = nn.Linear(32, 32), nn.Linear(32, 5)
            self.register_buffer("scale", torch.ones(32))
            self.scale[3] = math.inf

        def forward(self, v):
            return self.out(torch.tanh(self.inp(v) * self.scale))

    return Scaled(), x()


@fault("unit-cannot-fire", at=("0",))
def first_layer_on_the_flat_end_of_gelu() -> Built:
    net = plain(3, activation=nn.GELU)
    nn.init.constant_(net[0].bias, -20.0)
    return net, x()


@fault("recurrent-not-orthogonal", at=("w_state",))
def unbound_steps_that_forget() -> Built:
    net = UnboundSteps()
    nn.init.normal_(net.w_state, std=0.01)
    return net, x(16, 20, 8)


@fault("state-space-overwritten", at=("dt_proj",))
def state_space_swept_by_a_general_initialiser() -> Built:
    class StateSpace(nn.Module):
        def __init__(self, width=32, states=8, rank=4):
            super().__init__()
            self.sizes = (rank, states, states)
            self.inp, self.out = nn.Linear(8, width), nn.Linear(width, 5)
            self.x_proj = nn.Linear(width, sum(self.sizes), bias=False)
            self.dt_proj = nn.Linear(rank, width)
            self.A_log = nn.Parameter(torch.log(torch.arange(1.0, states + 1)).repeat(width, 1))
            nn.init.zeros_(self.dt_proj.bias)

        def forward(self, v):
            v = F.silu(self.inp(v))
            step, b, c = self.x_proj(v).split(self.sizes, -1)
            step, rate = F.softplus(self.dt_proj(step)), -torch.exp(self.A_log)
            h = v.new_zeros(len(v), *rate.shape)
            for t in range(v.shape[1]):
                decay = torch.exp(step[:, t, :, None] * rate)
                h = decay * h + (step * v)[:, t, :, None] * b[:, t, None, :]
            return self.out((h * c[:, -1, None, :]).sum(-1))

    return StateSpace(), x(8, 12, 8)


@fault("policy-head", at=("means",))
def actor_with_a_shared_trunk_and_opinions() -> Built:
    class Actor(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = nn.Sequential(nn.Linear(17, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
            self.means, self.value = nn.Linear(64, 6), nn.Linear(64, 1)
            self.log_std = nn.Parameter(torch.zeros(6))
            nn.init.orthogonal_(self.means.weight, 5.0)

        def forward(self, v):
            h = self.trunk(v)
            return self.means(h), self.log_std.exp().expand(len(v), 6), self.value(h)

    return Actor(), x(64, 17)


@fault("latent-variance", at=("log_variance",))
def log_variance_of_unit_weights() -> Built:
    class Variational(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
            self.mean, self.log_variance = nn.Linear(64, 8), nn.Linear(64, 8)
            self.decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64))
            nn.init.normal_(self.log_variance.weight)

        def forward(self, v):
            h = self.encoder(v)
            mean, log_variance = self.mean(h), self.log_variance(h)
            z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
            return self.decoder(z), mean, log_variance

    return Variational(), x(32, 64)


@fault("identical-critics", at=("first", "second"))
def critics_copied() -> Built:
    class Critics(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 1))
            self.second = copy.deepcopy(self.first)

        def forward(self, state, action):
            v = torch.cat([state, action], -1)
            return self.first(v), self.second(v)

    return Critics(), (torch.randn(32, 16), torch.randn(32, 4))


@fault("norm-gain-zero-on-trunk", at=("2",))
def group_norm_of_zeros_on_the_trunk() -> Built:
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3, 1, 1),
        nn.ReLU(),
        nn.GroupNorm(4, 32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 5),
    )
    nn.init.zeros_(net[2].weight)
    return net, x(8, 3, 12, 12)
