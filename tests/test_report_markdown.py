"""The step summary: GitHub's Markdown, never over 1 MiB, nothing that a name could break out of."""

from __future__ import annotations

import re

from initlint.records import Target
from initlint.report.formats import render
from initlint.report.markdown import LIMIT, code
from initlint.report.run import Run
from initlint.report.style import View
from tests.report_sample import CAUSE, DEEP, HOSTILE, hostile_run, sample_run

GITHUB = 1 << 20


def test_sample():
    text = render("markdown", sample_run(), View())
    assert text.startswith("### initlint: 1 error, 1 info · 1 not checked\n")
    assert "- **not checked** `gone.onnx`: `there is no such file or folder`" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[1].startswith(
        "| **error** | `relu-after-xavier` SCL208 | `deep.onnx` | `fc1` +28 |"
    )
    assert text.count("<details>") == text.count("</details>") == 2
    assert "`healthy.onnx: stage trained · no findings from 3 rules" in text


def test_a_huge_report_fits_and_says_what_is_missing():
    finding = {**CAUSE, "message": "x" * 300, "why": "y" * 600}
    findings = [{**finding, "layer": f"layer{n}"} for n in range(3000)]
    run = Run("0", (Target.parse({**DEEP, "findings": findings}),))
    text = render("markdown", run, View())
    assert len(text.encode()) <= LIMIT < GITHUB
    assert re.search(r"… \d+ findings without details", text) or "more" in text
    whole = Run("0", (Target.parse({**DEEP, "findings": findings * 4}),))
    text = render("markdown", whole, View())
    assert len(text.encode()) <= LIMIT
    rows = sum(line.startswith("| **error**") for line in text.splitlines())
    assert f"… and {12000 - rows} findings more" in text


def test_a_code_span_holds_whatever_is_in_it():
    for text in ("a", "`", "a``b", " a ", "", "|`|"):
        span = code(text)
        fence = re.match("`+", span)[0]
        inside = span[len(fence) : -len(fence)]
        assert fence not in inside
        assert span.endswith(fence)
        assert "|" not in re.sub(r"\\\|", "", span)


def test_names_cannot_become_markup():
    text = render("markdown", hostile_run(), View())
    assert text.replace("\n", "").isprintable()
    assert "##[" not in text
    bare = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", text)
    assert "</script>" not in bare
    assert HOSTILE.strip()[:4] not in text
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in table} == {6}
