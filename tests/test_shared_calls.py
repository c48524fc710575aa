"""What lies between two layers of interest: calls of one module, views of a table, sums."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import init

import initlint


def _found(net, *inputs, name):
    report = initlint.check(net, *inputs)
    return next((item for item in report.findings if item["name"] == name), None)


class Experts(nn.Module):
    """Copies behind one normaliser, which is called once or once for each."""

    def __init__(self, *, calls):
        super().__init__()
        expert = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.experts = nn.ModuleList(copy.deepcopy(expert) for _ in range(3))
        self.norm, self.router = nn.LayerNorm(32), nn.Linear(32, 3)
        self.head, self.calls = nn.Linear(32, 8), calls

    def forward(self, x):
        once = self.norm(x)
        read = [self.norm(x) if self.calls else once for _ in self.experts]
        made = torch.stack([e(r) for e, r in zip(self.experts, read, strict=True)], -2)
        return self.head(x + (self.router(x).softmax(-1).unsqueeze(-1) * made).sum(-2))


def test_copies_behind_calls_of_one_module_read_one_tensor():
    for calls in (False, True):
        torch.manual_seed(0)
        found = _found(Experts(calls=calls), torch.randn(16, 32), name="duplicate-layers")
        assert found["severity"] == "warning", calls


class Positions(nn.Module):
    """A table of positions that is looked up and given a batch axis."""

    def __init__(self, std):
        super().__init__()
        self.token, self.position = nn.Embedding(30, 64), nn.Embedding(12, 64)
        init.normal_(self.token.weight, std=0.02)
        init.normal_(self.position.weight, std=std)
        self.block = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first=True)
        self.head = nn.Linear(64, 30)

    def forward(self, ids):
        where = self.position(torch.arange(ids.shape[1]))[None]
        return self.head(self.block(self.token(ids) + where))


def test_a_table_of_positions_is_seen_behind_its_batch_axis():
    ids = torch.randint(30, (8, 12))
    torch.manual_seed(0)
    assert _found(Positions(0.02), ids, name="position-table") is None
    found = _found(Positions(2.0), ids, name="position-table")
    assert found["severity"] == "warning"
    assert found["param"] == "position.weight"


class Equilibrium(nn.Module):
    """A state that one layer, and the input, set anew until it stands."""

    def __init__(self, radius):
        super().__init__()
        self.inject, self.core = nn.Linear(16, 64), nn.Linear(64, 64, bias=False)
        self.head = nn.Linear(64, 5)
        init.normal_(self.core.weight, std=radius / 8)

    def forward(self, x):
        read = self.inject(x)
        state = torch.tanh(read)
        for _ in range(10):
            state = torch.tanh(self.core(state) + read)
        return self.head(state)


def test_saturation_behind_a_sum_names_the_weights_that_are_summed():
    torch.manual_seed(0)
    found = _found(Equilibrium(4.0), torch.randn(32, 16), name="saturation")
    assert found["fix"]["code"].startswith("scale the weights of core")
    assert "inject" in found["layers"]
    assert not any(layer.startswith("add") for layer in found["layers"])
