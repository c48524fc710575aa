"""JSON Lines: one finding, target, error or notice per line, for streams and log collectors.

Every line has a ``type``. Findings name their target and otherwise are those of the JSON report; a
target's line follows its findings and holds everything else about it; the last line is the
``summary``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from initlint.report.json import dump
from initlint.report.run import Run
from initlint.report.style import View


def render(run: Run, view: View) -> str:
    """The run as lines of JSON, sorted keys, ASCII."""
    return "".join(f"{dump(line, indent=None)}\n" for line in _lines(run.to_dict()))


def _lines(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for target in report["targets"]:
        for finding in target["findings"]:
            yield {"type": "finding", "target": target["target"], **finding}
        rest = {key: value for key, value in target.items() if key != "findings"}
        yield {"type": "target", **rest}
    for error in report["errors"]:
        yield {"type": "error", **error}
    for notice in report["notices"]:
        yield {"type": "notice", "message": notice}
    yield {
        "type": "summary",
        "schema": report["schema"],
        "version": report["version"],
        "summary": report["summary"],
        "targets": len(report["targets"]),
        "errors": len(report["errors"]),
    }
