"""Baselines: what was there is accepted, what got worse comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import initlint
from initlint.lint.baseline import (
    BaselineError,
    apply_baseline,
    read_baseline,
    write_baseline,
)
from initlint.records import Target
from tests.report_sample import CAUSE, DEEP, WARNING

ROOT = Path(initlint.__file__).parents[1]


def target(*findings, name="deep.onnx", **changes):
    return Target.parse({**DEEP, "target": name, "findings": list(findings), **changes})


def accepted(path, *findings, **changes):
    targets, stale = apply_baseline([target(*findings, **changes)], read_baseline(path), path)
    return [finding.suppression is not None for finding in targets[0].findings], stale


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path("baseline.jsonl")


def test_what_is_in_it_does_not_count(path):
    assert write_baseline([target(CAUSE, WARNING)], path) == 2
    assert accepted(path, CAUSE, WARNING) == ([True, True], [])
    other = {**CAUSE, "layer": "other", "param": "other.weight"}
    assert accepted(path, CAUSE, WARNING, other)[0] == [True, False, True]


def test_lines_are_sorted_and_readable(path):
    write_baseline([target(WARNING, CAUSE)], path)
    first = path.read_bytes()
    write_baseline([target(CAUSE, WARNING)], path)
    assert path.read_bytes() == first
    lines = [json.loads(line) for line in first.decode().splitlines()]
    assert lines[1] == {
        "target": "deep.onnx",
        "rule": "relu-after-xavier",
        "path": "fc1.weight",
        "severity": "error",
        "layers": 29,
        "measured": {"decades": -4.3},
    }


@pytest.mark.parametrize(
    ("change", "still"),
    [
        ({"evidence": {"decades": -4.4}}, True),
        ({"evidence": {"decades": -3.0}}, True),
        ({"evidence": {"decades": -5.0}}, False),
        ({"layers": ["fc1", "fc2"]}, True),
        ({"layers": [f"fc{index}" for index in range(1, 40)]}, False),
        ({"severity": "warning"}, True),
    ],
)
def test_worse_comes_back(path, change, still):
    write_baseline([target(CAUSE)], path)
    assert accepted(path, {**CAUSE, **change})[0] == [still]


def test_higher_severity_comes_back(path):
    write_baseline([target({**CAUSE, "severity": "warning"})], path)
    assert accepted(path, CAUSE)[0] == [False]


def test_stale_lines_are_named_only_where_the_rule_ran(path):
    write_baseline([target(CAUSE)], path)
    assert accepted(path)[1] == [
        "baseline.jsonl: relu-after-xavier on fc1.weight of deep.onnx is gone: remove its line"
    ]
    assert accepted(path, ran=["dead-relu"])[1] == []
    assert accepted(path, name="other.onnx")[1] == []


def test_other_targets_stay_when_one_is_written_again(path):
    write_baseline([target(CAUSE), target(CAUSE, name="other.onnx")], path)
    write_baseline([target()], path)
    assert [entry.target for entry in read_baseline(path)] == ["other.onnx"]


def test_working_directory_does_not_matter(path, tmp_path, monkeypatch):
    write_baseline([target(CAUSE)], path)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert accepted(Path("../baseline.jsonl"), CAUSE, name="../deep.onnx")[0] == [True]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "3",
        '{"target": "a"}',
        '{"target": 1, "rule": "r", "path": "p", "severity": "error", "layers": 1, "measured": {}}',
        '{"target": "t", "rule": "r", "path": "p", "severity": "x", "layers": 1, "measured": {}}',
        '{"target": "t", "rule": "r", "path": "p", "severity": "info", "layers": 1, "measured": 3}',
    ],
)
def test_broken_baseline_is_named_with_its_line(path, text):
    path.write_text(f"\n{text}\n")
    with pytest.raises(BaselineError, match=r"baseline\.jsonl:2: is not an entry"):
        read_baseline(path)
    with pytest.raises(BaselineError):
        write_baseline([target(CAUSE)], path)
    assert path.read_text() == f"\n{text}\n"


def test_missing_baseline(path):
    with pytest.raises(BaselineError, match="cannot be read"):
        read_baseline(path)
    with pytest.raises(BaselineError, match="cannot be written"):
        write_baseline([], Path("no/such/folder/b.jsonl"))


WRITER = """
import sys
from pathlib import Path
from initlint.lint.baseline import write_baseline
from tests.test_baseline import CAUSE, target
name = sys.argv[1]
print("ready", flush=True)
while True:
    write_baseline([target(CAUSE, name=name)], Path("baseline.jsonl"))
"""


def writer(name):
    path = f"{ROOT}{os.pathsep}{ROOT / 'rules'}"
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, name],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
    )


def test_killed_writers_leave_a_whole_file(path):
    """Two writers at once, killed at arbitrary moments: every line is there, none is torn."""
    for _ in range(3):
        running = [writer("a.onnx"), writer("b.onnx")]
        for process in running:
            assert process.stdout.readline() == b"ready\n"
        while not path.exists() or len(read_baseline(path)) < 2:
            assert all(process.poll() is None for process in running)
        for process in running:
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
        assert [entry.target for entry in read_baseline(path)] == ["a.onnx", "b.onnx"]
