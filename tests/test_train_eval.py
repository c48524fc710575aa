"""The factor that dropouts put on the signal, against torch in both modes."""

from __future__ import annotations

import pytest

from initlint.testing import as_model, run_rule
from initlint_rules.signals.train_eval_mismatch import TrainEvalMismatch

torch = pytest.importorskip("torch")


def test_predicted_ratio_is_what_torch_does():
    torch.manual_seed(0)
    layers = []
    for _ in range(4):
        linear = torch.nn.Linear(512, 512, bias=False)
        torch.nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        layers += [linear, torch.nn.ReLU(), torch.nn.Dropout(0.5)]
    net = torch.nn.Sequential(*layers, torch.nn.Linear(512, 10, bias=False))
    x = torch.randn(256, 512)
    with torch.no_grad():
        training = net.train()(x).square().mean().sqrt()
        evaluation = net.eval()(x).square().mean().sqrt()
    (finding,) = run_rule(TrainEvalMismatch, as_model(net.train()))
    assert finding.evidence["ratio"] == pytest.approx(4.0)
    assert float(training / evaluation) == pytest.approx(4.0, rel=0.2)
