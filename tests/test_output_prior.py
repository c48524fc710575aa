"""output-prior with a prior that the user gives, in the rule's options and on the command line."""

from __future__ import annotations

import json

import pytest

from fixtures.rules.output_prior import _binary
from initlint.testing import assert_fires, assert_silent
from initlint_rules.bias.output_prior import OutputPrior


def test_a_rare_class_is_a_warning_and_the_fix_is_its_log_odds() -> None:
    (found,) = assert_fires(
        OutputPrior, _binary(0.0), severity="warning", options={"class-prior": 0.01}
    )
    assert found.fix is not None
    assert found.fix.arguments["value"] == pytest.approx(-4.595, abs=1e-3)
    assert found.evidence["first_loss"] == pytest.approx(0.693, abs=1e-3)
    assert found.evidence["loss_of_the_prior"] == pytest.approx(0.056, abs=1e-3)


def test_a_class_that_is_nearly_certain_counts_as_well() -> None:
    assert_fires(OutputPrior, _binary(0.0), severity="warning", options={"class-prior": 0.99})


def test_less_rare_is_less_harmful() -> None:
    assert_fires(OutputPrior, _binary(0.0), severity="info", options={"class-prior": 0.04})
    assert_silent(OutputPrior, _binary(0.0), options={"class-prior": 0.2})


def test_a_bias_near_the_log_odds_is_silent() -> None:
    assert_silent(OutputPrior, _binary(-4.0), options={"class-prior": 0.01})


def test_the_flag_reaches_the_rule(tmp_path) -> None:
    torch = pytest.importorskip("torch")
    from typer.testing import CliRunner

    from initlint.cli.app import app

    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1), torch.nn.Sigmoid()
    )
    torch.nn.init.zeros_(net[2].bias)
    file = str(tmp_path / "binary.onnx")
    torch.onnx.export(net, (torch.randn(2, 32),), file, dynamo=False)
    runner = CliRunner()
    common = ["check", file, "--format", "json", "--stage", "fresh", "--no-probe"]
    for flags, expected in (([], 0), (["--class-prior", "0.01"], 1)):
        done = runner.invoke(app, [*common, *flags])
        findings = json.loads(done.stdout)["targets"][0]["findings"]
        assert [item["name"] for item in findings].count("output-prior") == expected
