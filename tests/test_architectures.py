"""All that is said of freshly built architectures; docs/evaluation.md has the reasons."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import initlint  # noqa: E402
from tests import architectures, more_architectures  # noqa: E402

SAID = {
    "torch_encoder": [("duplicate-layers", "warning")],
    "rnn": [("recurrent-not-orthogonal", "warning")],
    "vgg": [("gain-mismatch", "warning")],
    "vgg_default": [("gain-mismatch", "error")],
}
"""Rule and severity of every finding of at least a warning; anything else is silent."""

EVERY = (*architectures.ALL, *more_architectures.ALL)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("function", EVERY, ids=lambda function: function.__name__)
def test_findings_of_an_architecture(function) -> None:
    torch.manual_seed(0)
    module, inputs = function()
    named = isinstance(inputs, dict)
    report = initlint.check(module, **inputs) if named else initlint.check(module, *inputs)
    assert report.record["failures"] == []
    assert report.record["probe"]["status"] == "ok", report.record["probe"]["detail"]
    serious = [found for found in report.findings if found["severity"] != "info"]
    said = [(found["name"], found["severity"]) for found in serious]
    assert said == SAID.get(function.__name__, [])
