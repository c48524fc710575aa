"""Exit codes: 0, 1 or 2, whatever the format."""

from __future__ import annotations

import pytest

from initlint.records import Failure, Suppression, Target
from initlint.report.run import Run
from initlint.report.text import Untrusted
from tests.report_sample import CAUSE, DEEP, HEALTHY, INFO, WARNING

FAILURE = Failure(Untrusted("x"), Untrusted("is empty"))


def run_with(*findings, errors=(), **options):
    target = Target.parse({**DEEP, "findings": list(findings)})
    return Run("0", (target,), tuple(errors), **options)


@pytest.mark.parametrize(
    ("findings", "fail_on", "code"),
    [
        ([], "info", 0),
        ([INFO], "info", 1),
        ([INFO], "warning", 0),
        ([WARNING], "warning", 1),
        ([WARNING], "error", 0),
        ([CAUSE], "error", 1),
        ([CAUSE], "never", 0),
        ([INFO, CAUSE], "error", 1),
    ],
)
def test_fail_on_is_inclusive(findings, fail_on, code):
    assert run_with(*findings, fail_on=fail_on).exit_code() == code


def test_not_checked_wins_and_cannot_be_hidden():
    run = run_with(CAUSE, errors=[FAILURE])
    assert run.exit_code() == 2
    assert run.exit_code(exit_zero=True) == 2
    assert run_with(CAUSE).exit_code(exit_zero=True) == 0


def test_hidden_findings_still_count():
    assert run_with(WARNING, fail_on="warning", min_severity="error").exit_code() == 1


def test_suppressed_findings_do_not_count():
    target = Target.parse({**DEEP, "findings": [CAUSE]})
    accepted = target.findings[0].suppress(Suppression("config", "r", "p"))
    assert Run("0", (target.with_findings([accepted]),)).exit_code() == 0


def test_crashed_rule_is_not_checked():
    assert Run("0", (Target.parse({**HEALTHY, "failures": ["rule x crashed"]}),)).exit_code() == 2


def test_findings_come_worst_first():
    target = Target.parse({**DEEP, "findings": [INFO, WARNING, CAUSE]})
    assert [finding.severity for finding in target.findings] == ["error", "warning", "info"]
