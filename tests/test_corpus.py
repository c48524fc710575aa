"""Proof of silence: real trained models give no error, and hardly a warning."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from initlint.engine import lint
from initlint.load import load
from initlint.settings import Settings
from tests.corpus import trained_files

pytestmark = pytest.mark.corpus

FILES = trained_files()

REALLY_UNTRAINED = (
    "Run_1663829550_Stage_0.onnx",
    "Run_1663915512_Stage_0.onnx",
    "Run_1668423760_Stage_0.onnx",
)
"""Three speech-quality models whose recurrent matrices still lie within PyTorch's bound, while
everything around them is trained: they only ever saw sequences of one step."""

needs_corpus = pytest.mark.skipif(
    not FILES, reason="no corpus: run `python -m tests.corpus DIR` and set INITLINT_CORPUS=DIR"
)


@needs_corpus
@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_trained_model_is_silent(file):
    record = lint(load(str(file)), Settings(probe=False))
    assert record["failures"] == []
    assert record["stage"] in ("trained", "unknown")
    loud = [found for found in record["findings"] if found["severity"] != "info"]
    if file.name in REALLY_UNTRAINED:
        assert [found["name"] for found in loud] == ["never-trained-layer"]
        assert loud[0]["severity"] == "warning"
    else:
        assert loud == []


@needs_corpus
def test_most_models_can_be_probed():
    models = [str(file) for file in FILES if file.suffix == ".onnx"]
    command = [sys.executable, "-m", "initlint", *models, "--format", "json", "--jobs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert report["errors"] == []
    statuses = [target["probe"]["status"] for target in report["targets"]]
    assert len(statuses) == len(models)
    assert statuses.count("ok") >= 0.95 * len(statuses)
    assert sum(target["summary"]["error"] for target in report["targets"]) == 0
