"""``--widths``: what depends on the width of a module that is built several times."""

from __future__ import annotations

import json

import pytest

import initlint
from initlint.cli.options import UsageError, widths

pytest.importorskip("torch")

NET = """
import torch
from torch import nn

def build(hidden=64, std=None):
    layers = []
    inputs = 32
    for _ in range(3):
        linear = nn.Linear(inputs, hidden)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        if std:
            nn.init.normal_(linear.weight, std=std)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
        inputs = hidden
    return nn.Sequential(*layers, nn.Linear(hidden, 10))
"""


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(NET, encoding="utf-8")
    return f"{path}:build"


def found(spec, **options):
    sizes = {"hidden": [64, 128, 256, 512]}
    report = initlint.check(
        spec, select="width-scaling", widths=sizes, input_shape=[64, 32], **options
    )
    assert report.record["failures"] == []
    return {item["message"].partition(" behind")[0]: item for item in report.findings}


def test_he_keeps_the_signal_and_a_fixed_scale_does_not(spec):
    assert "the rms" not in found(spec)
    fixed = found(spec, args={"std": 0.05})["the rms"]
    # one factor of sqrt(width) in each of the two hidden matrices; the head is drawn by its fan
    assert fixed["evidence"]["slope"] == pytest.approx(1.0, abs=0.2)


def test_updates_of_the_standard_parametrisation_grow(spec):
    update = found(spec)["what one step of Adam changes"]
    assert update["severity"] == "info"
    assert update["evidence"]["slope"] > 0.3


def test_the_option(tmp_path):
    assert widths("hidden=256,64,128") == {"hidden": [64, 128, 256]}
    for text in ("hidden=64,128", "=64,128,256", "hidden=a,b,c"):
        with pytest.raises(UsageError):
            widths(text)


def test_the_command_line(spec, capsys):
    from initlint.__main__ import main

    words = [spec, "--widths", "hidden=64,128,256", "--arg", "std=0.05", "--format", "json"]
    assert main([*words, "--select", "width-scaling", "--no-probe"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["targets"][0]["findings"][0]["name"] == "width-scaling"
