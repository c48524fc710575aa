"""Accepted findings."""

from __future__ import annotations

from datetime import date

import pytest

from initlint.config import Allow
from initlint.lint.allow import Ledger, comments_of, remarks, suppress, unknown_rules
from initlint.records import Target

TODAY = date(2026, 6, 1)


def finding(layers=("fc1",), name="zero-weight", code="SYM108", lines=()):
    return {
        "code": code,
        "name": name,
        "severity": "error",
        "confidence": "high",
        "layer": layers[0],
        "param": f"{layers[0]}.weight",
        "message": "m",
        "layers": list(layers),
        "places": [{"file": "net.py", "line": line} for line in lines] or None,
        "fingerprint": "f",
    }


def target(*findings, sources=None, name="models/m.onnx", ran=("zero-weight",)):
    return Target.parse(
        {
            "target": name,
            "kind": "onnx",
            "stage": "fresh",
            "findings": list(findings),
            "probe": {"status": "ok", "detail": ""},
            "ran": list(ran),
            "rules": {"zero-weight": "SYM108", "forward-drift": "SCL201"},
            "sources": sources or {},
        }
    )


def judged(subject, *allows, source=()):
    ledger = Ledger()
    result = suppress(subject, allows, ledger, TODAY, read=lambda file: source)
    return result, remarks(allows, ledger, TODAY), ledger


@pytest.mark.parametrize(
    ("allow", "accepted"),
    [
        (Allow("zero-weight", "r"), True),
        (Allow("SYM108", "r"), True),
        (Allow("SYM", "r"), True),
        (Allow("SY", "r"), False),
        (Allow("forward-drift", "r"), False),
        (Allow("zero-weight", "r", target="*.onnx"), True),
        (Allow("zero-weight", "r", target="models/*"), True),
        (Allow("zero-weight", "r", target="*.pt"), False),
        (Allow("zero-weight", "r", layer="fc*"), True),
        (Allow("zero-weight", "r", layer="fc1.weight"), True),
        (Allow("zero-weight", "r", layer="conv*"), False),
        (Allow("zero-weight", "r", expires=date(2026, 6, 2)), True),
        (Allow("zero-weight", "r", expires=TODAY), False),
    ],
)
def test_allow_entries(allow, accepted):
    result, _, _ = judged(target(finding()), allow)
    assert (not result.active) is accepted
    if accepted:
        assert result.counts["error"] == 0
        assert result.to_dict()["findings"][0]["suppressed"] == {
            "kind": "config",
            "reason": "r",
            "place": "",
        }


def test_accepting_one_layer_does_not_hide_another():
    subject = target(finding(("fc1", "fc2")))
    one, two = Allow("zero-weight", "a", layer="fc1"), Allow("zero-weight", "b", layer="fc2")
    result, notes, _ = judged(subject, one)
    assert result.active
    assert not notes
    assert not judged(subject, one, two)[0].active


def test_comment_on_the_constructing_line():
    source = ["", "self.fc1 = Linear(4, 4)  # initlint: allow[zero-weight] -- starts closed"]
    subject = target(finding(lines=[2]), sources={"net.py": [1, 2]})
    result, notes, _ = judged(subject, source=source)
    (found,) = result.suppressed
    assert found.suppression is not None
    assert (found.suppression.kind, found.suppression.reason, found.suppression.place) == (
        "inline",
        "starts closed",
        "net.py:2",
    )
    assert not notes


def test_comment_without_reason_accepts_nothing():
    source = ["fc1 = Linear(4, 4)  # initlint: allow[zero-weight]"]
    result, notes, _ = judged(target(finding(lines=[1]), sources={"net.py": [1]}), source=source)
    assert result.active
    assert notes == ["net.py:1: an allow needs a reason: allow[...] -- reason"]


def test_comment_of_another_rule_accepts_nothing():
    source = ["fc1 = Linear(4, 4)  # initlint: allow[forward-drift] -- r"]
    result, notes, _ = judged(target(finding(lines=[1]), sources={"net.py": [1]}), source=source)
    assert result.active
    assert not notes, "forward-drift did not run, so nothing can be said about its allow"


def test_source_is_not_read_for_a_data_file():
    subject = target(finding(lines=[1]))
    assert not comments_of(subject, read=lambda file: pytest.fail("opened a path from a file"))


def test_unused_entry_is_reported_only_when_its_rule_ran():
    allow = Allow("zero-weight", "r", place="pyproject.toml:3")
    other = Allow("forward-drift", "r", place="pyproject.toml:9")
    _, notes, _ = judged(target(), allow, other)
    assert notes == [
        "pyproject.toml:3: the allow of zero-weight is not needed: nothing was found there"
    ]


def test_unused_comment_is_reported():
    source = ["x = 1  # initlint: allow[zero-weight] -- r"]
    _, notes, _ = judged(target(sources={"net.py": [1]}), source=source)
    assert notes == ["net.py:1: the allow of zero-weight is not needed: nothing was found there"]


def test_expired_entry_is_reported():
    allow = Allow("zero-weight", "r", expires=date(2026, 1, 1), place="p:1")
    assert judged(target(), allow)[1] == ["p:1: the allow of zero-weight expired on 2026-01-01"]


def test_unknown_rule():
    allow = Allow("zero-wieght", "r")
    _, _, ledger = judged(target(), allow)
    assert unknown_rules([allow], ledger) == [allow]
    assert unknown_rules([allow], Ledger()) == []
