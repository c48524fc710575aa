"""Workflow commands: parsed the way the runner does, never more of a kind than GitHub shows."""

from __future__ import annotations

from collections import Counter

import pytest

from initlint.records import Failure, Target
from initlint.report.formats import render
from initlint.report.run import Run
from initlint.report.style import View
from initlint.report.text import Untrusted
from tests.report_sample import CAUSE, DEEP, INFO, WARNING, hostile_run, sample_run

FINDS = {"error": CAUSE, "warning": WARNING, "info": INFO}


def commands(text):
    """Commands as ActionCommand.TryParseV2 reads them: name, properties, message."""
    found = []
    for line in text.splitlines():
        line = line.lstrip()
        if not line.startswith("::"):
            continue
        head, _, message = line[2:].partition("::")
        name, _, rest = head.partition(" ")
        properties = dict(pair.split("=", 1) for pair in rest.split(",") if pair)
        found.append((name, {k: unescape(v) for k, v in properties.items()}, unescape(message)))
    return found


def unescape(text):
    for code, character in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        text = text.replace(code, character)
    return text


def many(**counts):
    findings = [
        {**FINDS[severity], "layer": f"{severity}{number}", "location": None}
        for severity, count in counts.items()
        for number in range(count)
    ]
    return Run("0.1.0", (Target.parse({**DEEP, "findings": findings}),))


def test_sample():
    found = commands(render("github", sample_run(), View()))
    assert [name for name, _, _ in found] == ["error", "error", "notice"]
    assert found[0][1] == {"file": "gone.onnx", "title": "initlint: not checked"}
    _, properties, message = found[1]
    assert properties == {
        "file": "net.py",
        "line": "12",
        "title": "relu-after-xavier (SCL208)",
    }
    assert message.splitlines()[:3] == [
        CAUSE["message"],
        "layer: fc1 and 28 more",
        "measured: std 0.0625",
    ]
    assert found[2][1]["file"] == "deep.onnx"


@pytest.mark.parametrize(
    ("counts", "cut"),
    [
        ({"error": 10, "warning": 10, "info": 9}, None),
        ({"error": 13, "warning": 11, "info": 40}, "3 errors, 1 warning, 31 infos more"),
        ({"info": 10}, "1 info more"),
    ],
)
def test_what_github_would_drop_is_counted_and_logged(counts, cut):
    text = render("github", many(**counts), View())
    found = commands(text)
    assert max(Counter(name for name, _, _ in found).values()) <= 10
    said = [message for _, properties, message in found if "file" not in properties]
    assert [message.startswith(cut) for message in said] == ([True] if cut else [])
    for severity, count in counts.items():
        assert all(f"{severity}{number}" in text for number in range(count))


def test_the_worst_come_first_over_all_targets():
    light = Target.parse({**DEEP, "target": "a.onnx", "findings": [INFO] * 12})
    heavy = Target.parse({**DEEP, "target": "b.onnx", "findings": [CAUSE]})
    found = commands(render("github", Run("0", (light, heavy)), View()))
    assert [name for name, _, _ in found] == ["error", *["notice"] * 10]


def test_unchecked_targets_count_as_errors():
    failures = [Failure(Untrusted(f"m{n}.onnx"), Untrusted("broken")) for n in range(12)]
    run = Run("0", (Target.parse(DEEP),), tuple(failures))
    text = render("github", run, View())
    assert sum(name == "error" for name, _, _ in commands(text)) == 10
    assert "3 errors more" in text
    assert "m11.onnx: not checked: broken" in text


def test_a_subfolder_of_the_checkout(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    found = commands(render("github", many(error=1), View(root=str(tmp_path))))
    assert found[0][1]["file"] == "sub/deep.onnx"


def test_a_file_cannot_speak_to_the_runner():
    text = render("github", hostile_run(), View())
    found = commands(text)
    assert {name for name, _, _ in found} == {"error", "warning", "notice"}
    assert all(set(properties) <= {"file", "line", "title"} for _, properties, _ in found)
    assert "##[" not in text
    assert "##vso[" not in text
    assert text.replace("\n", "").isprintable()
