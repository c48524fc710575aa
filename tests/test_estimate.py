"""The tangent kernel that single layers tell, beside the one that gradients give."""

from __future__ import annotations

from collections.abc import Callable
from math import log10
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import initlint.engine as engine
from initlint.estimate import local_response
from initlint.load import LoadOptions
from initlint.load.torch_module import capture_with
from initlint.probe.result import Response
from initlint.settings import Settings


def he(depth: int, width: int = 64, outputs: int = 10) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.ReLU()]
        nn.init.kaiming_normal_(layers[-2].weight, nonlinearity="relu")  # type: ignore[arg-type]
        nn.init.zeros_(layers[-2].bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def convolutions() -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(4):
        layers += [nn.Conv2d(3 if index == 0 else 16, 16, 3, padding=1, bias=False)]
        nn.init.kaiming_normal_(layers[-1].weight, nonlinearity="relu")  # type: ignore[arg-type]
        layers += [nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def both(
    build: Callable[[], nn.Module], inputs: Any, folder: Path
) -> tuple[Response | None, Response, dict[str, Any]]:
    """The estimate on an export, the measured kernel of the module, and the export's record."""
    torch.manual_seed(0)
    module = build()
    model = capture_with(module, (inputs,), {}, LoadOptions(folder=str(folder)))
    measured = engine.lint_observed(model, Settings())[1].responses[0]
    model = capture_with(module, (inputs,), {}, LoadOptions(via="onnx", folder=str(folder)))
    record, probe = engine.lint_observed(model, Settings())
    measures = engine.measure(model, Settings())
    evidence = engine.gather(model, Settings(), frozenset({engine.Need.THEORY}), measures)
    return local_response(model, probe, evidence.theory, measures, 50), measured, record


@pytest.mark.parametrize("build", [lambda: he(2), lambda: he(8)], ids=["two", "eight"])
def test_size_contrast_and_sensitivity_agree_with_gradients(
    build: Callable[[], nn.Module], tmp_path: Path
) -> None:
    found, measured, _ = both(build, torch.randn(16, 64), tmp_path)
    assert found is not None
    assert abs(log10(found.size / measured.size)) < 0.5
    assert abs(log10(found.sensitivity / measured.sensitivity)) < 0.5
    assert 0.3 < found.contrast / measured.contrast < 3.0


def test_positions_of_convolutions_add_up(tmp_path: Path) -> None:
    found, measured, _ = both(convolutions, torch.randn(16, 3, 12, 12), tmp_path)
    assert found is not None
    assert abs(log10(found.size / measured.size)) < 1.0


def zero_head() -> nn.Module:
    net = he(4)
    nn.init.zeros_(net[-1].weight)  # type: ignore[arg-type]
    return net


def test_a_zero_head_has_a_low_risk_in_a_file(tmp_path: Path) -> None:
    found, _, record = both(zero_head, torch.randn(16, 64), tmp_path)
    assert found is not None
    assert found.silent == 0.0  # all wake up at the second step
    assert record["risk"] is not None
    assert record["risk"] < 0.3


def constant() -> nn.Module:
    net = he(4)
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.constant_(layer.weight, 1.0 / layer.in_features)
    return net


def test_copies_leave_one_direction(tmp_path: Path) -> None:
    found, measured, record = both(constant, torch.randn(16, 64), tmp_path)
    assert found is not None
    assert found.rank == 1.0
    assert found.copies == pytest.approx(measured.copies, abs=0.1)
    assert record["risk"] > 0.5


def dead() -> nn.Module:
    net = he(4)
    nn.init.constant_(net[4].bias, -100.0)  # type: ignore[arg-type]
    return net


def test_a_layer_that_is_off_hears_no_gradient(tmp_path: Path) -> None:
    found, measured, record = both(dead, torch.randn(16, 64), tmp_path)
    assert found is not None
    assert found.contrast == pytest.approx(0.0, abs=1e-6)
    assert found.size < 2.0 * measured.size + 1.0
    assert record["risk"] > 0.5


class Memory(nn.Module):
    def __init__(self, mean: bool) -> None:
        super().__init__()
        self.cell = nn.LSTM(8, 32, batch_first=True)
        self.head = nn.Linear(32, 4)
        self.mean = mean

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states = self.cell(x)[0]
        return self.head(states.mean(1) if self.mean else states[:, -1])


@pytest.mark.parametrize("mean", [False, True])
def test_a_short_memory_counts_where_the_last_state_is_read(mean: bool, tmp_path: Path) -> None:
    found, _, _ = both(lambda: Memory(mean), torch.randn(8, 40, 8), tmp_path)
    assert found is not None
    assert (found.reach < -5.0) is not mean
