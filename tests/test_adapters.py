"""Low-rank adapters on a frozen network: a start that is meant, and one that is not."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional, init

import initlint


class Adapted(nn.Module):
    def __init__(self, base, second):
        super().__init__()
        self.base = base
        self.first = nn.Parameter(torch.empty(8, base.in_features))
        self.second = nn.Parameter(torch.zeros(base.out_features, 8))
        init.kaiming_uniform_(self.first, a=5**0.5)
        second(self.second)

    def forward(self, x):
        return self.base(x) + functional.linear(functional.linear(x, self.first), self.second)


def _zero(weight):
    init.zeros_(weight)


def _random(weight):
    init.normal_(weight, std=1.0)


def _net(second, *, frozen=True):
    torch.manual_seed(0)
    layers = [nn.Linear(96, 96) for _ in range(3)]
    with torch.no_grad():
        for layer in layers:  # a trained base
            layer.weight += torch.randn(96, 4) @ torch.randn(4, 96) / 50
            layer.bias += 0.1 * torch.randn(96)
            layer.requires_grad_(not frozen)
    return nn.Sequential(*[Adapted(layer, second) for layer in layers])


def _loud(net):
    report = initlint.check(net, torch.randn(16, 96))
    return {item["name"] for item in report.findings if item["severity"] != "info"}


@pytest.mark.parametrize("frozen", [True, False])
def test_a_draw_that_only_zeros_read_is_no_layer_that_was_never_trained(frozen):
    assert not _loud(_net(_zero, frozen=frozen))


def test_what_trains_on_a_frozen_network_has_not_started():
    assert "never-trained-layer" not in _loud(_net(_random))
    assert "never-trained-layer" in _loud(_net(_random, frozen=False))


@pytest.mark.parametrize("frozen", [True, False])
def test_a_small_random_second_factor_is_found_beside_a_trained_base(frozen):
    assert "adapter-not-identity" in _loud(_net(_random, frozen=frozen))
