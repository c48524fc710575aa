"""The text that people read, letter for letter."""

from __future__ import annotations

import pytest

from initlint.records import Failure, Target
from initlint.report import full, layers
from initlint.report.formats import render
from initlint.report.run import Run
from initlint.report.style import Style, View, style_for
from initlint.report.text import Untrusted
from tests.report_sample import CAUSE, DEEP, HEALTHY, LAYERS, hostile_run, sample_run

FULL = """\
error[relu-after-xavier] SCL208: 29 linear layers that feed ReLU have Xavier
    weights: the signal shrinks 20000-fold
  --> deep.onnx :: fc1.weight  float32[256, 256]
   |  measured  std 0.0625
   |  expected  std 0.0884 (He)
   |  feeds     relu_1 (relu)
   |  layers    29 layers: fc1, fc2, fc3, fc4 and 25 more
   |  built at  net.py:12
   = why: Xavier keeps the variance of a linear map; ReLU halves it, and nothing
          restores it
   = fix: torch.nn.init.kaiming_normal_(fc1.weight, nonlinearity="relu")
   = confidence high · initlint explain relu-after-xavier

info[recurrent-not-orthogonal] REC402 rnn: the recurrent weights are uniform, w…

deep.onnx: stage fresh · 1 error, 1 info · 1 suppressed · probe ok · risk 93%
  - 2 rules did not run: there are no gradients
  - the prediction ends at operators it does not know: custom_3
  - the input size was not given; 224 was assumed
healthy.onnx: stage trained · no findings from 3 rules · probe failed (crashed:
  SIGFPE)

2 targets checked: 1 error, 1 info · 1 not checked
"""

CONCISE = """\
deep.onnx: fc1 (and 28 more): error[relu-after-xavier] SCL208 29 linear layers that feed ReLU \
have Xavier weights: the signal shrinks 20000-fold
deep.onnx: rnn: info[recurrent-not-orthogonal] REC402 the recurrent weights are uniform, which \
halves the memory of every tenth step
deep.onnx: stage fresh · 1 error, 1 info · 1 suppressed · probe ok · risk 93%
healthy.onnx: stage trained · no findings from 3 rules · probe failed (crashed: SIGFPE)
2 targets checked: 1 error, 1 info · 1 not checked
"""

STATISTICS = """\
count  code    worst    rule
    1  REC402  info     recurrent-not-orthogonal
    1  SCL208  error    relu-after-xavier
"""

TABLE = """\
deep.onnx: onnx · stage fresh · 1 layer, 1,900,000 parameters

  parameter                   shape         fan        std       gain    stage
    seed, hash, scheme
blocks.0.attn  linear -> softmax
  weight [query]              256x256       256/256    0.0625            fresh
    xavier_normal | lecun_normal
  bias                        256                                        unknown
- the input size was not given; 224 was assumed
"""

VIEW = View()


def test_full():
    assert full.render(sample_run(), VIEW) == FULL


def test_concise():
    assert render("concise", sample_run(), VIEW) == CONCISE


@pytest.mark.parametrize("name", ["full", "concise"])
def test_statistics(name):
    assert STATISTICS in render(name, sample_run(), View(statistics=True))


def test_statistics_of_nothing():
    run = Run("0", (Target.parse(HEALTHY),))
    assert "    0\n" in full.render(run, View(statistics=True))


def test_quiet_is_findings_only():
    text = full.render(sample_run(), View(quiet=True))
    assert text == FULL[: FULL.index("\ndeep.onnx: stage")]
    assert render("concise", sample_run(), View(quiet=True)) == "".join(
        CONCISE.splitlines(keepends=True)[:2]
    )


def test_min_severity_hides_and_says_so():
    text = full.render(sample_run(min_severity="warning"), VIEW)
    assert "info[" not in text
    assert "1 finding below --min-severity warning not shown" in text


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_no_line_is_wider_than_the_terminal(width):
    text = full.render(sample_run(), View(Style(width, width)))
    code = 'torch.nn.init.kaiming_normal_(fc1.weight, nonlinearity="relu")'
    wide = [line for line in text.splitlines() if len(line) > width and line.strip() != code]
    assert not wide


def test_colour_changes_nothing_but_colour():
    import re

    coloured = full.render(sample_run(), View(Style(colour=True)))
    assert "\x1b[1;31merror[relu-after-xavier]\x1b[0m" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == FULL


class _Stream:
    def __init__(self, terminal: bool):
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.mark.parametrize(
    ("terminal", "environment", "colour"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
        (False, {"FORCE_COLOR": "1"}, True),
        (False, {"FORCE_COLOR": "0"}, False),
        (True, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_colour_follows_terminal_and_environment(terminal, environment, colour):
    assert style_for(_Stream(terminal), environment).colour is colour


def test_many_findings_of_one_rule_are_counted():
    findings = [{**CAUSE, "layer": f"fc{index}"} for index in range(35)]
    target = Target.parse({**DEEP, "findings": findings})
    text = full.render(Run("0", (target,)), VIEW)
    assert text.count("error[relu-after-xavier]") == full.MOST_PER_RULE
    assert f"… and {35 - full.MOST_PER_RULE} more from relu-after-xavier" in text
    assert "35 errors" in text


def test_nothing_checked_is_not_called_clean():
    target = Target.parse({**HEALTHY, "ran": [], "skipped": {"the target has no graph": ["x"]}})
    text = full.render(Run("0", (target,)), VIEW)
    assert "no findings" not in text
    assert "not checked by any rule" in text
    assert "1 rule did not run: the target has no graph" in text


def test_crashed_rule_is_named():
    target = Target.parse({**HEALTHY, "failures": ["rule dead-relu crashed: KeyError: 'x'"]})
    run = Run("0", (target,))
    assert "rule dead-relu crashed" in full.render(run, VIEW)
    assert run.exit_code() == 2


def test_one_failed_target_prints_no_summary():
    run = Run("0", errors=(Failure(Untrusted("x"), Untrusted("is empty")),))
    assert full.render(run, VIEW) == ""


def test_api_text_is_the_same_block():
    assert full.render_target({**DEEP, "findings": [CAUSE]}).startswith(FULL.partition("\n\n")[0])


def test_table_of_layers():
    target = Target.parse({**DEEP, "layers": LAYERS})
    assert layers.as_text(target, Style()) == TABLE
    assert all(len(line) <= 80 for line in TABLE.splitlines())
    wide = layers.as_text(target, Style(table_width=180))
    assert "xavier_normal | lecun_normal" in wide


def test_table_as_markdown():
    target = Target.parse({**DEEP, "layers": LAYERS})
    lines = layers.as_markdown(target).splitlines()
    assert lines[2].count("|") == lines[3].count("|") == 13
    assert "`xavier_normal \\| lecun_normal`" in lines[4]


def test_nothing_from_a_file_reaches_the_text_raw():
    run = hostile_run()
    texts = [render(name, run, VIEW) for name in ("full", "concise")]
    texts += [layers.as_text(target, Style()) for target in run.targets]
    texts += [layers.as_markdown(target) for target in run.targets]
    for text in texts:
        for line in text.split("\n"):
            assert line.isprintable()
            assert not line.lstrip().startswith("::")
            assert "##[" not in line
            assert "##vso[" not in line
            assert "::error" not in line
