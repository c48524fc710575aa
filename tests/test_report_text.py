"""Text from files cannot speak to a terminal or a CI runner."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from initlint.report.style import encodable
from initlint.report.text import Untrusted, inert, one_line, shorten, visible


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain.name/0 é 权重", "plain.name/0 é 权重"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x7f\x85\x9b", "\\x7f\\x85\\x9b"),
        ("x::error::y", "x: :error::y"),
        ("a\u202eb\u2066c", "a\\u202eb\\u2066c"),
        ("a\u200bb\ufeffc", "a\\u200bb\\ufeffc"),
        ("a\u2028b\u2029c", "a\\u2028b\\u2029c"),
        ("a\udc80b", "a\\udc80b"),
        ("\U000e0041", "\\U000e0041"),
        ("##[group]x", "# #[group]x"),
        ("x ##vso[task.setvariable]y", "x # #vso[task.setvariable]y"),
        ("##teamcity[x]", "# #teamcity[x]"),
        ("::error::x", ": :error::x"),
        ("  ::set-output name=a::b", "  : :set-output name=a::b"),
        ("aten::relu", "aten::relu"),
        ("## heading", "## heading"),
    ],
)
def test_visible(raw, shown):
    assert visible(raw) == shown


@given(st.text())
def test_whatever_it_is_it_prints_as_one_line(raw):
    shown = str(Untrusted(raw))
    assert shown.isprintable()
    assert len(shown) <= 200
    assert not shown.lstrip().startswith("::")
    assert "##[" not in shown
    assert visible(shown) == shown


@given(st.text(alphabet="#:[vso ab\n\x1b", max_size=40))
def test_log_commands_never_form(raw):
    for shown in (visible(raw), inert(f"prefix {visible(raw)}"), one_line(raw)):
        assert "##[" not in shown
        assert "##vso[" not in shown
        assert not shown.lstrip().startswith("::")


def test_untrusted_is_safe_in_format_strings():
    name = Untrusted("\x1b[2Ja")
    assert f"{name}" == str(name) == "\\x1b[2Ja"
    assert f"{name:>10}" == "  \\x1b[2Ja"
    assert name.raw == "\x1b[2Ja"
    with pytest.raises(TypeError):
        "x" + name


def test_long_names_keep_both_ends():
    shown = str(Untrusted("start" + "x" * 100_000 + "end"))
    assert len(shown) == 200
    assert shown.startswith("start")
    assert shown.endswith("end")
    assert shorten("abc", 3) == "abc"


def test_ascii_streams_get_ascii():
    assert encodable("a · b … ≥ 2×", "ascii") == "a - b ... >= 2x"
    assert encodable("权", "ascii") == "\\u6743"
    assert encodable("a · b", "utf-8") == "a · b"
    assert encodable("a · b", None) == "a - b"
    assert encodable("a · b", "no-such-encoding") == "a - b"
