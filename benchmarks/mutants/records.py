"""Records that are kept in the folder: one line each, so that a change can be reviewed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).resolve().parent


def load(name: str) -> dict[str, Any]:
    """What was recorded so far."""
    file = _FOLDER / name
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found


def save(name: str, record: dict[str, Any]) -> None:
    """Write all of it, sorted."""
    lines = [f"{json.dumps(key)}: {json.dumps(record[key])}" for key in sorted(record)]
    (_FOLDER / name).write_text("{\n" + ",\n".join(lines) + "\n}\n")
