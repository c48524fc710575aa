"""The report of a watched run: the record of step 0 with the findings of the steps added."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from initlint.integrations.judge import judge
from initlint.integrations.texts import TEXTS

if TYPE_CHECKING:
    from initlint.integrations.history import History
    from initlint.linting import Report


def report(record: dict[str, Any] | None, problem: str, name: str, history: History) -> Report:
    """One report of lint and run.

    Args:
        record: of the lint at step 0; None where there was none.
        problem: why there was none.
        name: of the model's class.
        history: what was seen.
    """
    from initlint.linting import Report
    from initlint.rows import finding_record

    target = dict(record) if record is not None else _bare(name, problem)
    found = judge(history)
    target["findings"] = [*target["findings"], *(finding_record(item) for item in found)]
    target["summary"] = {
        severity: sum(item["severity"] == severity for item in target["findings"])
        for severity in ("error", "warning", "info")
    }
    target["notices"] = [*target["notices"], *_notices(history)]
    target["training"] = history.to_dict()
    target["documentation"] = {
        **target.get("documentation", {}),
        **{
            item.name: {
                "code": item.code,
                "summary": TEXTS[item.name].summary,
                "help": TEXTS[item.name].help,
            }
            for item in found
        },
    }
    return Report(target)


def _notices(history: History) -> list[str]:
    notices = [f"watched {history.steps} steps and measured {len(history.measured)} of them"]
    if not history.losses:
        notices.append("the loss was not told (watch.loss), so it was not judged")
    return notices


def _bare(name: str, problem: str) -> dict[str, Any]:
    return {
        "target": name,
        "kind": "torch",
        "stage": "unknown",
        "risk": None,
        "probe": {"status": "skipped", "detail": problem, "seconds": 0, "inputs": {}},
        "findings": [],
        "notices": [problem] if problem else [],
        "failures": [],
    }
