"""JUnit XML: a suite per target, a case per rule that ran and per finding.

What decides the exit code fails: findings from ``--fail-on`` on are failures, what was not checked
is an error. Accepted findings and rules that did not run are skipped cases.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from initlint.records import Failure, Finding, Target
from initlint.report.run import Run, reaches
from initlint.report.style import View
from initlint.report.summary import verdict
from initlint.report.text import inert


@dataclass(frozen=True, slots=True)
class _Case:
    """One test case; ``result`` is a child element's name, or empty for one that passed."""

    suite: str
    name: str
    result: str = ""
    message: str = ""
    kind: str = ""
    text: str = ""


def render(run: Run, view: View) -> str:
    """The run as one XML document."""
    suites = [(str(target.target), list(_cases(target, run))) for target in run.targets]
    if run.errors:
        suites.append(("not checked", [_failure(failure) for failure in run.errors]))
    counts = _counts([case for _, cases in suites for case in cases])
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', f'<testsuites name="initlint" {counts}>']
    for name, cases in suites:
        lines.append(f"  <testsuite name={quoteattr(name)} {_counts(cases)}>")
        for case in cases:
            lines.extend(_element(case))
        lines.append("  </testsuite>")
    return "".join(f"{inert(line)}\n" for line in (*lines, "</testsuites>"))


def _counts(cases: list[_Case]) -> str:
    found = Counter(case.result for case in cases)
    return (
        f'tests="{len(cases)}" failures="{found["failure"]}" '
        f'errors="{found["error"]}" skipped="{found["skipped"]}"'
    )


def _element(case: _Case) -> Iterator[str]:
    head = f"    <testcase classname={quoteattr(case.suite)} name={quoteattr(case.name)}"
    if not case.result and not case.text:
        yield f"{head}/>"
        return
    yield f"{head}>"
    if case.result:
        kind = f" type={quoteattr(case.kind)}" if case.kind else ""
        yield f"      <{case.result} message={quoteattr(case.message)}{kind}>{escape(case.text)}"
        yield f"      </{case.result}>"
    else:
        yield f"      <system-out>{escape(case.text)}</system-out>"
    yield "    </testcase>"


def _cases(target: Target, run: Run) -> Iterator[_Case]:
    suite = str(target.target)
    for failure in target.failures:
        yield _Case(suite, "initlint", "error", failure.show(300), "not checked")
    shown = {id(finding) for finding in run.shown(target.findings)}
    for finding in target.findings:
        if id(finding) in shown:
            yield _finding(suite, finding, run.fail_on)
    for reason, names in target.skipped.items():
        for name in names:
            yield _Case(suite, name, "skipped", reason)
    found = {finding.name for finding in target.findings}
    quiet = sorted((target.ran or frozenset()) - found)
    for name in quiet:
        yield _Case(suite, name)
    if not quiet and not found:
        yield _Case(suite, "initlint", text=verdict(target))


def _finding(suite: str, finding: Finding, fail_on: str) -> _Case:
    name = f"{finding.name} ({finding.param or finding.layer})"
    message = finding.message.show(600)
    if finding.suppression is not None:
        accepted = f"{finding.suppression.kind}: {finding.suppression.reason}"
        return _Case(suite, name, "skipped", f"{message} [{accepted}]")
    text = "\n".join(_rows(finding))
    if reaches(finding.severity, fail_on):
        return _Case(suite, name, "failure", message, finding.severity, text)
    return _Case(suite, name, text=f"{finding.severity}: {message}\n{text}")


def _rows(finding: Finding) -> list[str]:
    rows = [
        ("rule", f"{finding.name} ({finding.code}), confidence {finding.confidence}"),
        ("measured", finding.measured.show(300)),
        ("expected", finding.expected.show(300)),
        ("layers", ", ".join(str(layer) for layer in finding.layers[:20])),
        ("why", finding.why.show(600)),
        ("fix", finding.fix.code.show(300) if finding.fix else ""),
    ]
    if len(finding.layers) > 20:
        rows.append(("", f"and {len(finding.layers) - 20} more layers"))
    return [f"{label}: {text}" if label else text for label, text in rows if text]


def _failure(failure: Failure) -> _Case:
    name = str(failure.target) or "the call"
    return _Case("not checked", name, "error", failure.message.show(300), "not checked")
