"""Faults in how a kind of network starts: recurrent, residual, attention, biases, norms."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.unseen.parts import (
    Built,
    Decoder,
    Residual,
    Tagger,
    fault,
    ids,
    plain,
    x,
)

# --- recurrent


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
