"""Repairs by cause: one mistake in all weights, last biases, gates of a trunk, sums of a loop."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import initlint  # noqa: E402


class Mixing(nn.Module):
    """Two residual blocks of attention and a perceptron, each behind a norm."""

    def __init__(self, width=32):
        super().__init__()
        self.enter = nn.Linear(8, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.parts = nn.ModuleList(
            nn.ModuleList(nn.Linear(width, width) for _ in range(6)) for _ in range(2)
        )
        self.last, self.head = nn.LayerNorm(width), nn.Linear(width, 10)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias)
        for part in self.parts:
            nn.init.kaiming_normal_(part[4].weight, nonlinearity="relu")

    def forward(self, x):
        x = self.enter(x)
        for index, (query, key, value, out, wide, narrow) in enumerate(self.parts):
            y = self.norms[2 * index](x)
            share = torch.softmax(query(y) @ key(y).transpose(1, 2) / math.sqrt(32), -1)
            x = x + out(share @ value(y))
            x = x + narrow(torch.relu(wide(self.norms[2 * index + 1](x))))
        return self.head(self.last(x).mean(1))


def test_weights_that_are_all_off_by_one_factor_are_put_right_together():
    torch.manual_seed(0)
    layers = [nn.Linear(32, 32), nn.LayerNorm(32), nn.ReLU()]
    layers += [nn.Linear(32, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 10)]
    net = nn.Sequential(*layers)
    wanted = {}
    for index in (0, 3, 6):
        nn.init.kaiming_normal_(net[index].weight, nonlinearity="relu")
        nn.init.zeros_(net[index].bias)
        wanted[index] = net[index].weight.detach().clone()
        net[index].weight.data.mul_(20.0)
    assert initlint.fix(net, torch.randn(32, 32)).status == "fixed"
    for index in (0, 3):  # behind a normaliser nothing shows, and training is slow
        torch.testing.assert_close(net[index].weight.detach(), wanted[index], rtol=0.5, atol=0.0)
    assert float(net[6].weight.detach().std()) < 0.5


def test_single_layers_that_are_off_leave_the_others_alone():
    torch.manual_seed(0)
    net = Mixing()
    for part in net.parts[0][:2]:
        part.weight.data.mul_(10.0)
    before = {name: weight.clone() for name, weight in net.named_parameters()}
    initlint.fix(net, torch.randn(16, 6, 8))
    changed = {n for n, weight in net.named_parameters() if not torch.equal(weight, before[n])}
    assert changed & {"parts.0.0.weight", "parts.0.1.weight"}
    assert not changed & {f"parts.{block}.{place}.weight" for block in (0, 1) for place in (2, 3)}


def _regression(bias, outputs=1):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, outputs))
    nn.init.xavier_normal_(net[0].weight)
    nn.init.zeros_(net[0].bias)
    net[2].bias.data.copy_(torch.as_tensor(bias))
    return net


@pytest.mark.parametrize("bias", [50.0, -20.0])
def test_a_last_bias_that_was_written_far_off_is_taken_back(bias):
    net = _regression(bias)
    assert initlint.fix(net, torch.randn(32, 8)).status == "fixed"
    assert float(net[2].bias.detach().abs().max()) == 0.0


@pytest.mark.parametrize("bias", [22.5328, -4.595, 5.0])
def test_the_mean_of_targets_and_a_prior_stay(bias):
    net = _regression(bias)
    initlint.fix(net, torch.randn(32, 8))
    assert float(net[2].bias.detach()) == pytest.approx(bias)


class Highway(nn.Module):
    def __init__(self, bias, width=32):
        super().__init__()
        self.enter, self.head = nn.Linear(8, width), nn.Linear(width, 4)
        self.gates = nn.ModuleList(nn.Linear(width, width) for _ in range(4))
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(4))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias)
        for gate in self.gates:
            nn.init.constant_(gate.bias, bias)

    def forward(self, x):
        x = self.enter(x)
        for gate, layer in zip(self.gates, self.layers, strict=True):
            share = torch.sigmoid(gate(x))
            x = share * torch.tanh(layer(x)) + (1 - share) * x
        return self.head(x)


@pytest.mark.parametrize(("bias", "wanted"), [(12.0, -2.0), (-12.0, -3.0)])
def test_gates_that_shut_the_trunk_pass_it_on_again(bias, wanted):
    torch.manual_seed(0)
    net = Highway(bias)
    assert initlint.fix(net, torch.randn(32, 8)).status == "fixed"
    for gate in net.gates:
        assert gate.bias.tolist() == pytest.approx([wanted] * 32)


class Summing(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.RNN(2, 24, batch_first=True, nonlinearity="relu")
        self.head = nn.Linear(24, 1)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


def test_an_identity_recurrence_has_no_biases_to_sum():
    torch.manual_seed(0)
    net = Summing()
    initlint.fix(net, torch.rand(32, 30, 2))
    assert torch.equal(net.cell.weight_hh_l0, torch.eye(24))
    assert not net.cell.bias_ih_l0.any()
    assert not net.cell.bias_hh_l0.any()
