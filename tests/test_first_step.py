"""What a learning rate and a clipping bound make of the first gradient."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch

from initlint.lint.registry import all_rules
from initlint.load.torch_module import capture
from initlint.testing import run_rule

RULE = next(rule for rule in all_rules() if rule.name == "gradient-profile")


def told(scale=1.0, **options):
    torch.manual_seed(0)
    nn = torch.nn
    net = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8))
    with torch.no_grad():
        net[2].weight.mul_(scale)
    return run_rule(RULE, capture(net, torch.randn(16, 32)), options=options)


def test_nothing_is_said_without_options():
    assert told() == []


def test_ordinary_settings_are_silent():
    assert told(lr=1e-3, clip=1.0) == []
    assert told(lr=0.1, optimizer="sgd") == []


def test_a_step_of_the_size_of_the_weights():
    (found,) = told(lr=0.05)
    assert str(found.severity) == "info"
    assert found.layers == ("0", "2")
    assert found.evidence["step"] > 0.1


def test_a_step_too_small():
    (found,) = told(lr=1e-8, optimizer="sgd")
    assert found.evidence["step"] < 1e-5


def test_a_gradient_far_above_the_clipping_bound():
    (found,) = told(clip=1e-3)
    assert found.evidence["ratio"] > 10
    assert "clipping to 0.001" in found.message
