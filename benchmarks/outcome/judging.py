"""What initlint says of every model of the zoo before training, by three roads."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.outcome.models import Entry
from initlint.engine import lint
from initlint.load import LoadOptions
from initlint.load.torch_module import capture_with
from initlint.risk import WARNED, evidence
from initlint.settings import Settings

ROADS = ("module", "noise", "onnx")
"""A module with a batch of its task; a module of which only the input's shape is given, so that
noise is fed; the export to ONNX."""

VERDICTS = Path(__file__).resolve().parent / "verdicts.json"


def judge(entry: Entry, road: str, seed: int = 0) -> dict[str, Any]:
    """Risk, the terms it is made of, and the findings from a warning on with their layers."""
    import initlint.engine as engine

    model = entry.build(seed)
    kept: dict[str, float] = {}
    inner = engine.risk

    def risk(*args: Any) -> Any:
        kept.update(evidence(*args)[0] or {})
        return inner(*args)

    inputs = entry.inputs(seed)
    with TemporaryDirectory() as folder:
        options = LoadOptions(via="onnx" if road == "onnx" else None, folder=folder)
        if road == "noise":
            shape, kind = tuple(inputs[0].shape), str(inputs[0].dtype).removeprefix("torch.")
            inputs, options = (), LoadOptions(input_shape=shape, input_dtype=kind)
        loaded = capture_with(model, inputs, {}, options)
        engine.risk = risk  # the terms of the same run
        try:
            record = lint(loaded, Settings())
        finally:
            engine.risk = inner
    counts = record["summary"]
    kept["named"] = 1.0 if counts["error"] else WARNED if counts["warning"] else 0.0
    return {
        "risk": record["risk"],
        "stage": record["stage"],
        "terms": {key: round(value, 4) for key, value in kept.items() if value},
        "findings": [
            [found["severity"], found["name"], found["layers"]]
            for found in record["findings"]
            if found["severity"] != "info"
        ],
    }


def load(path: Path = VERDICTS) -> dict[str, Any]:
    """What was said so far, by ``entry@road``."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def save(record: dict[str, Any], path: Path = VERDICTS) -> None:
    """One verdict per line."""
    lines = [f"{json.dumps(key)}: {json.dumps(record[key])}" for key in sorted(record)]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
