"""``--expect``: the scheme that weights are meant to have."""

from __future__ import annotations

import json

import onnx
import pytest

from fixtures.onnx_models import MODELS
from initlint.cli.options import UsageError, expected_scheme


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(MODELS["good_deep_relu_he"](0), path)
    return str(path)


@pytest.mark.parametrize(("scheme", "named"), [("he_normal", False), ("orthogonal", True)])
def test_weights_against_the_expected_scheme(call, target, scheme, named):
    words = [target, "--expect", scheme, "--format", "json", "--no-probe"]
    record = json.loads(call(*words).out)
    found = {finding["name"] for finding in record["targets"][0]["findings"]}
    assert ("declared-differs" in found) is named


def test_an_unknown_scheme_is_refused(call, target):
    result = call(target, "--expect", "he_norml")
    assert result.code == 2
    assert "did you mean he_normal?" in result.err


def test_schemes_with_a_number():
    assert expected_scheme("normal(0.02)") == "normal(0.02)"
    with pytest.raises(UsageError):
        expected_scheme("normal(0.02")
