"""What a worker does for ``fix``, ``compare`` and ``diff``: plain records in, plain records out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from initlint.fix.repair import FixOptions, Repair, doubts, repair, weight_of
from initlint.fix.report import repair_record
from initlint.fix.save import save
from initlint.fix.schemes import UnknownSchemeError
from initlint.model import LoadError, Model
from initlint.settings import Settings

Record = dict[str, Any]


def fix(model: Model, settings: Settings, options: Mapping[str, Any]) -> Record:
    """Repair a model and write it.

    Args:
        model: as loaded.
        settings: of the linter.
        options: ``out`` (path, or None to write nothing), ``scheme``, ``seed``,
            ``include_trained``, ``only`` (fingerprints).

    Returns:
        See `initlint.fix.report.repair_record`.

    Raises:
        LoadError: an unknown scheme, or a file that cannot be written.
    """
    only = options.get("only")
    chosen = FixOptions(
        scheme=options.get("scheme"),
        seed=int(options.get("seed") or 0),
        include_trained=bool(options.get("include_trained")),
        only=None if only is None else frozenset(only),
    )
    try:
        result = repair(model, settings, chosen)
    except (UnknownSchemeError, ValueError) as error:
        raise LoadError(str(error)) from error
    reasons = doubts(result, model) if result.changes else []
    record = repair_record(model, result, reasons)
    out = options.get("out")
    if out is None or not result.changes:
        return {**record, "written": None}
    if _worse(result):
        return {**record, "written": None, "notes": [*record["notes"], "not written: it got worse"]}
    written, found = save(model, result.changes, Path(out), settings)
    if found is not None:
        record["verdict"] = _with(record["verdict"], _same(result, found))
    return {**record, "written": written}


def _worse(result: Repair) -> bool:
    return weight_of(result.after)[0] > weight_of(result.before)[0]


def _same(result: Repair, found: Record) -> list[str]:
    """Doubts from a lint of the written file: it must show what was seen in memory."""
    expected = {item["fingerprint"] for item in result.after["findings"]}
    return [
        f"the written file shows {item['name']} at {item['layer']}"
        for item in found["findings"]
        if item["fingerprint"] not in expected
    ]


def _with(verdict: Record, reasons: list[str]) -> Record:
    if not reasons:
        return verdict
    return {**verdict, "status": "unverified", "reasons": [*verdict["reasons"], *reasons]}


def diff(before: Model, after: Model, settings: Settings, options: Mapping[str, Any]) -> Record:
    """Two states of one network; see `initlint.fix.diff.diff`."""
    from initlint.fix.diff import diff as difference

    return difference(before, after, options.get("steps"))


def compare(model: Model, settings: Settings, options: Mapping[str, Any]) -> Record:
    """Schemes ranked for a model; see `initlint.fix.ranking.compare`.

    Raises:
        LoadError: a scheme that does not exist, or a target without a network to run.
    """
    from initlint.fix import ranking

    if not model.connected:
        raise LoadError("there are weights only: give the network with --model, or its ONNX file")
    try:
        return ranking.compare(
            model,
            settings,
            tuple(options.get("schemes") or ()),
            int(options.get("seeds") or 1),
            int(options.get("train_steps") or 0),
            str(options.get("data") or ""),
        )
    except (UnknownSchemeError, ValueError) as error:
        raise LoadError(str(error)) from error
