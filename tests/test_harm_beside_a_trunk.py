"""Findings whose harm a trunk, a sum or two small factors change."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import initlint
from initlint.api import keeping_gates
from initlint.load.torch_module import capture


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def said(net, x, name):
    report = initlint.check(net, x, select=[name])
    return [(item["severity"], item["layers"]) for item in report.findings]


class Branches(nn.Module):
    def __init__(self, depth=3, width=24, beside=True):
        super().__init__()
        self.enter, self.head, self.beside = nn.Linear(16, width), nn.Linear(width, 5), beside
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.second = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        for layer in self.first:
            nn.init.constant_(layer.bias, 9.0)

    def forward(self, x):
        x = self.enter(x)
        for first, second in zip(self.first, self.second, strict=True):
            y = second(torch.tanh(first(x)))
            x = x + y if self.beside else y
        return self.head(x)


def test_saturated_branches_cost_capacity_and_a_saturated_chain_the_training():
    x = torch.randn(32, 16)
    assert [level for level, _ in said(Branches(), x, "saturation")] == ["warning"]
    assert [level for level, _ in said(Branches(beside=False), x, "saturation")] == ["error"]


def chain(small):
    layers = []
    for index in range(7):
        layers += [nn.Linear(24, 24), nn.ReLU()]
        nn.init.kaiming_normal_(layers[-2].weight, nonlinearity="relu")
        nn.init.zeros_(layers[-2].bias)
        if index in small:
            layers[-2].weight.data.mul_(10 ** (-6 / len(small)))
    return nn.Sequential(*layers, nn.Linear(24, 5))


def test_a_gradient_that_one_layer_makes_small_is_no_error():
    x = torch.randn(32, 24)
    assert [level for level, _ in said(chain([3]), x, "gradient-profile")] == ["warning"]
    assert [level for level, _ in said(chain([1, 2, 3, 4]), x, "gradient-profile")] == ["error"]


class Block(nn.Module):
    def __init__(self, gain=1.0, shift=0.0):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8)
        nn.init.constant_(self.norm.weight, gain)
        nn.init.constant_(self.norm.bias, shift)

    def forward(self, x):
        return torch.relu(x + self.norm(self.conv(x)))


def residual(**last):
    blocks = [Block(), Block(), Block(**last)]
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), *blocks, nn.Flatten(), nn.Linear(8 * 16, 5))


def test_of_a_sum_that_never_fires_the_term_that_holds_it_down_is_named():
    (found,) = said(residual(shift=-40.0), torch.randn(32, 1, 4, 4), "dead-relu")
    assert found[0] == "error"
    assert "3.norm" in found[1]


def test_a_branch_that_ends_in_a_large_gain_before_the_output_is_named():
    x = torch.randn(32, 1, 4, 4)
    ((level, layers),) = said(residual(gain=40.0), x, "norm-gain-off")
    assert (level, layers) == ("error", ["3.norm"])
    assert not said(residual(gain=0.0), x, "norm-gain-off")


def test_what_an_exponential_made_is_no_raw_memory():
    class Decay(nn.Module):
        def __init__(self):
            super().__init__()
            self.b, self.rate = nn.Parameter(torch.randn(16, 6)), nn.Parameter(torch.ones(16, 6))
            self.register_buffer("ago", torch.arange(0.0, 90.0, 15.0))
            self.head = nn.Linear(16, 3)

        def forward(self, x):
            kernel = self.b * torch.exp(-self.rate * self.ago)
            return self.head((x[..., None] * kernel).sum(-1))

    assert not said(Decay(), torch.randn(16, 16), "uninitialised-memory")


def test_the_gate_of_a_written_cell_loses_no_signal():
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.update, self.new = nn.Linear(32, 24), nn.Linear(32, 24)
            self.head = nn.Linear(24, 4)
            nn.init.constant_(self.update.bias, -4.0)

        def forward(self, x):
            state = x.new_zeros(x.shape[0], 24)
            for step in x.unbind(1):
                both = torch.cat([step, state], -1)
                update = torch.sigmoid(self.update(both))
                state = (1 - update) * state + update * torch.tanh(self.new(both))
            return self.head(state)

    net, x = Cell(), torch.randn(16, 12, 8)
    assert keeping_gates(capture(net, x).graph)
    assert all(
        "update" not in layer for _, layers in said(net, x, "forward-drift") for layer in layers
    )


class Dueling(nn.Module):
    """A value, and advantages without their mean."""

    def __init__(self, scale):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.value, self.advantage = nn.Linear(32, 1), nn.Linear(32, 10)
        for layer in (self.body[0], self.body[2]):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.normal_(self.advantage.weight, std=scale / 32**0.5)

    def forward(self, x):
        x = self.body(x)
        advantage = self.advantage(x)
        return self.value(x) + advantage - advantage.mean(-1, keepdim=True)


def test_of_several_heads_the_one_that_grows_is_measured_and_named():
    x = torch.randn(32, 16)
    assert said(Dueling(80.0), x, "forward-drift") == [("warning", ["advantage"])]
    assert not said(Dueling(1.0), x, "forward-drift")
