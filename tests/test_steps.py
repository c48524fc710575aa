"""Sequence lengths: known from the user's inputs and from static axes, never from a guess."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from initlint.engine import lint  # noqa: E402
from initlint.load import LoadOptions  # noqa: E402
from initlint.load.steps import sequence_length  # noqa: E402
from initlint.load.torch_module import capture, capture_with  # noqa: E402
from initlint.settings import Settings  # noqa: E402
from tests import architectures  # noqa: E402

nn = torch.nn


def recurrent() -> nn.Module:
    torch.manual_seed(0)
    return architectures._Tagger(nn.RNN)


def test_length_of_the_users_sequence() -> None:
    model = capture(recurrent(), torch.randint(0, 50, (4, 31)))
    assert model.metadata["sequence_length"] == 31


def test_a_guessed_length_is_no_knowledge() -> None:
    assert capture(recurrent()).metadata.get("sequence_length") is None


@pytest.mark.parametrize("length", [2, 120])
def test_rules_are_told(length: int) -> None:
    model = capture(recurrent(), torch.randint(0, 50, (4, length)))
    found = {item["name"]: item for item in lint(model, Settings())["findings"]}
    if length == 2:
        assert "recurrent-not-orthogonal" not in found
    else:
        assert found["recurrent-not-orthogonal"]["evidence"]["steps"] == 120
        assert "assumed" not in found["recurrent-not-orthogonal"]["message"]


def test_calls_of_a_cell_are_counted() -> None:
    module, args, _ = architectures.build(architectures.gru_cell)
    assert sequence_length(capture(module, *args).graph) == 4


def test_one_step_belongs_to_a_loop_elsewhere() -> None:
    assert sequence_length(capture(recurrent(), torch.randint(0, 50, (4, 1))).graph) is None


def test_static_axis_of_an_export(tmp_path) -> None:
    pytest.importorskip("onnxscript")
    module, args, _ = architectures.build(architectures.lstm)
    options = LoadOptions(via="onnx", folder=str(tmp_path))
    assert capture_with(module, args, {}, options).metadata["sequence_length"] == 12
