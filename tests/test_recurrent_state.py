"""Plain recurrences whose inputs or biases saturate them, as modules and written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import initlint


class Written(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.w_in = nn.Parameter(torch.empty(6, 24))
        self.w_rec = nn.Parameter(torch.empty(24, 24))
        self.shift = nn.Parameter(torch.zeros(24))
        self.head = nn.Linear(24, 3)
        nn.init.normal_(self.w_in, std=6**-0.5)
        nn.init.orthogonal_(self.w_rec)

    def forward(self, x):
        h = x.new_zeros(len(x), 24)
        for step in x.unbind(1):
            h = torch.tanh(step @ self.w_in + h @ self.w_rec + self.shift)
        return self.head(h)


class Module(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head = nn.RNN(6, 24, batch_first=True), nn.Linear(24, 3)
        nn.init.normal_(self.rnn.weight_ih_l0, std=6**-0.5)
        nn.init.orthogonal_(self.rnn.weight_hh_l0)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def said(net):
    report = initlint.check(net, torch.randn(16, 20, 6), select=["recurrent-state-saturated"])
    return [(item["layer"], item["fix"]["scheme"]) for item in report.findings]


@pytest.mark.parametrize(
    ("net", "layer", "weight", "bias"),
    [(Written(), "w_in", "w_in", "shift"), (Module(), "rnn", "rnn.weight_ih_l0", "rnn.bias_hh_l0")],
)
def test_what_saturates_a_plain_cell_is_told_and_cured(net, layer, weight, bias):
    params = dict(net.named_parameters())
    assert said(net) == []
    with torch.no_grad():
        params[weight].mul_(10.0)
    assert said(net) == [(layer, "rescale")]
    assert initlint.fix(net, torch.randn(16, 20, 6)).status == "fixed"
    assert said(net) == []
    with torch.no_grad():
        params[bias].fill_(4.0)
    assert said(net) == [(layer, "zeros")]
    report = initlint.fix(net, torch.randn(16, 20, 6))
    assert report.status == "fixed"
    assert not params[bias].any()
