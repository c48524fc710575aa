"""The JSON report: schema 1, described by ``schema.json`` beside this file."""

from __future__ import annotations

import json
import math
from typing import Any

from initlint.report.run import Run
from initlint.report.style import View
from initlint.report.text import inert_json


def render(run: Run, view: View) -> str:
    """The whole run as one JSON document, the same bytes for the same findings."""
    return dump(run.to_dict()) + "\n"


def dump(value: Any, *, indent: int | None = 2) -> str:
    """Strict JSON with sorted keys: no NaN, no lone surrogates, ASCII only."""
    text = json.dumps(strict(value), indent=indent, sort_keys=True, allow_nan=False)
    return inert_json(text)


def strict(value: Any, *, key: str = "") -> Any:
    """``value`` with everything JSON lacks replaced.

    Inside ``evidence`` a number that is not finite becomes ``"nan"``, ``"inf"`` or ``"-inf"``,
    elsewhere null. Seconds are rounded up to whole ones, so that a run repeats byte for byte.
    """
    if isinstance(value, dict):
        inner = "evidence" if key == "evidence" else ""
        return {
            _text(str(name)): strict(item, key=inner or str(name)) for name, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [strict(item, key=key) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value) if key == "evidence" else None
    if key == "seconds" and isinstance(value, (int, float)):
        return math.ceil(value)
    return _text(value) if isinstance(value, str) else value


def _text(raw: str) -> str:
    """The string itself; lone surrogates, which strict readers of JSON refuse, are spelled out."""
    return raw.encode("utf-8", "backslashreplace").decode("utf-8")
