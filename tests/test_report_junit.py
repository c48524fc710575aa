"""JUnit XML as junitparser reads it: what decides the exit code fails, and nothing else."""

from __future__ import annotations

import pytest
from junitparser import Error, Failure, JUnitXml, Skipped

from initlint.records import Target
from initlint.report.formats import render
from initlint.report.run import Run
from initlint.report.style import View
from tests.report_sample import DEEP, HEALTHY, hostile_run, sample_run


def suites(run):
    return list(JUnitXml.fromstring(render("junit", run, View()).encode()))


def results(suite):
    return {case.name: [type(result) for result in case.result] for case in suite}


def test_sample():
    deep, healthy, missing = suites(sample_run())
    assert results(deep) == {
        "relu-after-xavier (fc1.weight)": [Failure],
        "dead-relu (relu_7)": [Skipped],
        "recurrent-not-orthogonal (rnn)": [],
        "gradient-drift": [Skipped],
        "unreached-parameter": [Skipped],
    }
    assert (deep.tests, deep.failures, deep.errors, deep.skipped) == (5, 1, 0, 3)
    assert set(results(healthy)) == set(DEEP["ran"])
    assert results(missing) == {"gone.onnx": [Error]}
    failure = next(iter(deep)).result[0]
    assert failure.message.startswith("29 linear layers")
    assert "fix: torch.nn.init" in failure.text


@pytest.mark.parametrize(("fail_on", "failures"), [("info", 2), ("error", 1), ("never", 0)])
def test_failures_follow_the_exit_code(fail_on, failures):
    run = Run("0", sample_run().targets, fail_on=fail_on)
    assert sum(suite.failures for suite in suites(run)) == failures
    assert run.exit_code() == int(failures > 0)


def test_a_crashed_rule_is_an_error():
    run = Run("0", (Target.parse({**HEALTHY, "failures": ["rule x crashed"]}),))
    assert suites(run)[0].errors == 1


def test_nothing_was_linted():
    assert suites(Run("0")) == []


def test_hostile_names_survive_a_parser():
    text = render("junit", hostile_run(), View())
    assert [suite.failures for suite in suites(hostile_run())] == [1, 0]
    assert text.replace("\n", "").isprintable()
    assert not any(line.lstrip().startswith("::") for line in text.splitlines())
    assert "##[" not in text
