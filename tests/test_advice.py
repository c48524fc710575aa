"""Advice that no check can see stands in the findings it belongs to, with its number."""

from __future__ import annotations

import re

import pytest

from fixtures.rules import backward_drift, forward_drift, narrow_deep_scatter, post_norm_deep
from initlint.lint.registry import all_rules
from initlint.testing import run_rule

torch = pytest.importorskip("torch")

RULES = {rule.name: rule for rule in all_rules()}


def lines(finding) -> str:
    return f"{finding.why} {finding.fix.code}"


def first_bad(name, module):
    make = next(getattr(module, key) for key in sorted(vars(module)) if key.startswith("bad_"))
    return run_rule(RULES[name], make())[0]


def test_post_norm_needs_a_warm_up_or_smaller_branches():
    finding = first_bad("post-norm-deep", post_norm_deep)
    additions = finding.evidence["additions"]
    said = re.search(r"scale each branch by (\d\.\d+)", lines(finding))
    assert "warm-up" in lines(finding)
    assert f"{additions} normalisers" in finding.why
    assert 0.0 < float(said[1]) < 1.0


def test_scatter_says_how_many_seeds_to_compare():
    finding = first_bad("narrow-deep-scatter", narrow_deep_scatter)
    said = re.search(r"over (\d+) seeds", lines(finding))
    spread = finding.evidence["std_decades"]
    assert 2.0 * spread / int(said[1]) ** 0.5 <= 0.25 + 1e-9


def deep(gain: float):
    torch.manual_seed(0)
    layers = []
    for _ in range(20):
        linear = torch.nn.Linear(64, 64)
        torch.nn.init.normal_(linear.weight, std=gain / 8)
        torch.nn.init.zeros_(linear.bias)
        layers += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(64, 10))


def test_clipping_is_named_with_the_norm_it_meets():
    finding = run_rule(RULES["gradient-profile"], deep(3.0))[0]
    norm = finding.evidence["global_gradient_norm"]
    assert norm > 100
    assert f"divides the first step by {norm:.2g}" in finding.why


def test_a_vanished_gradient_is_set_against_the_learning_rate_and_the_curriculum():
    measured = run_rule(RULES["gradient-profile"], deep(0.9))[0]
    assert "SGD at 0.1 moves the first layer" in measured.why or "epsilon" in measured.why
    predicted = first_bad("backward-drift", backward_drift)
    assert ("curriculum" in predicted.why) == (predicted.evidence["backward_drift_decades"] < 0)
    forward = run_rule(RULES["forward-drift"], deep(0.9))[0]
    assert "early stopping" in forward.why


def test_growth_by_a_bias_is_cured_at_the_bias():
    (finding,) = run_rule(RULES["forward-drift"], forward_drift.bad_bias_too_large())
    assert "by the bias of first" in finding.message
    assert finding.fix.scheme == "zeros"
    assert finding.fix.params == ("first.bias",)
