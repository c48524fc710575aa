"""Hostile, broken and odd inputs: readers in this process, the command on a sample.

``benchmarks/hostile.py`` runs every case through the command and measures.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from initlint import targets
from initlint.load import load
from initlint.model import LoadError
from initlint.report.formats import FORMATS
from tests.hostile import CASES, TRAP, Case, End

ROOT = Path(__file__).resolve().parents[1]

_LARGE = {
    "names_1000000",
    "header_of_99_megabytes",
    "values_10000000",
    "entries_120000",
    "members_60000",
    "entries_2000000",
    "decimal_of_a_megabyte",
    "same_bytes_20000_times",
    "sparse_file_of_a_gigabyte",
    "sparse_file_of_a_terabyte",
    "depth_2000",
}
"""Cases that take seconds, or a limit on time or memory; the benchmark runs them."""

QUICK = [
    case
    for case in CASES
    if case.family != "onnx bombs" and not any(case.name.endswith(name) for name in _LARGE)
]
REFUSED = [case for case in QUICK if case.end is End.REFUSED]
ODD = [case for case in QUICK if case.family == "valid but odd"]
NAMES = [case for case in QUICK if case.family == "names" and case.end is End.LINTED][::2]


def test_there_are_enough_cases_of_every_kind():
    assert len(CASES) > 600
    assert len({case.name for case in CASES}) == len(CASES)
    assert len(ODD) > 40


def read(target: str) -> None:
    """Load every model of a target, and every tensor of it."""
    for found in targets.resolve(target):
        model = load(found.text)
        for tensor in model.metadata.get("tensors", {}).values():
            tensor.read()


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_refused_with_one_clear_line(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    target = str(case.make(tmp_path))
    with pytest.raises((LoadError, targets.TargetError)) as caught:
        read(target)
    line = str(caught.value)
    assert case.words.lower() in line.lower()
    assert len(line.splitlines()) == 1
    assert not Path(TRAP).exists()


@pytest.mark.parametrize("case", ODD, ids=lambda case: case.name)
def test_odd_but_valid_files_are_read(case, tmp_path):
    for found in targets.resolve(str(case.make(tmp_path))):
        model = load(found.text)
        for _, param in model.graph.params:
            if param.tensor is not None:
                param.tensor.read()


def lint(folder: Path, cases: list[Case], *options: str) -> subprocess.CompletedProcess[str]:
    """The command on all of these cases at once, with an empty home and no CI."""
    home = folder / "home"
    home.mkdir()
    paths = [str(case.make(folder / "cases")) for case in cases]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TMPDIR": str(home),
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "rules"))),
    }
    return subprocess.run(
        [sys.executable, "-m", "initlint", "--jobs", "2", *options, "--", *paths],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_answers_for_every_one_of_a_sample(tmp_path):
    """One call over a few cases of every family: each is reported, none disturbs another."""
    by_family: dict[str, list[Case]] = {}
    for case in QUICK:
        by_family.setdefault(case.family, []).append(case)
    sample = [case for group in by_family.values() for case in group[:: len(group) // 2 + 1]]
    done = lint(tmp_path, sample, "--format", "json")
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    report = json.loads(done.stdout)
    linted = {entry["target"] for entry in report["targets"]}
    failed = {entry["target"] for entry in report["errors"]}
    for case in sample:
        path = str(tmp_path / "cases" / case.name)
        if case.end is End.LINTED:
            assert any(target.startswith(path) for target in linted), case.name
        elif case.end is End.REFUSED:
            assert any(target.startswith(path) for target in failed), case.name
    assert list((tmp_path / "home").iterdir()) == []


BOMBS = ("mod_overflow", "loop_concat_doubles", "input_of_2_to_60")


def test_a_probe_that_dies_costs_only_the_probe(tmp_path):
    cases = [case for case in CASES if case.name.endswith(BOMBS)]
    assert len(cases) == len(BOMBS)
    done = lint(tmp_path, cases, "--format", "json", "--probe-timeout", "5")
    entries = json.loads(done.stdout)["targets"]
    assert len(entries) == len(BOMBS)
    for entry in entries:
        assert entry["probe"]["status"] in ("failed", "timeout", "skipped")
        assert entry["probe"]["detail"]


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> dict[str, str]:
    """Every format's report on models whose names are attacks."""
    folder = tmp_path_factory.mktemp("names")
    options = [f"--report={name}={folder}/out.{name}" for name in FORMATS]
    done = lint(folder, NAMES, "--no-probe", "--verbose", *options)
    assert done.returncode in (0, 1), done.stderr
    written = {name: (folder / f"out.{name}").read_text() for name in FORMATS}
    return {**written, "stdout": done.stdout, "stderr": done.stderr}


_STREAMS = (*FORMATS, "stdout", "stderr")


@pytest.mark.parametrize("name", _STREAMS)
def test_names_carry_no_control_characters(name, reports):
    raw = {c for c in reports[name] if not c.isprintable() and c not in "\n\t"}
    assert raw == set()


@pytest.mark.parametrize("name", _STREAMS)
def test_names_command_no_runner(name, reports):
    for line in reports[name].splitlines():
        assert "##[" not in line
        assert "##vso[" not in line
        assert "##teamcity[" not in line
        if line.lstrip().startswith("::"):
            assert name == "github"
            command = line.lstrip()[2:].partition("::")[0]
            assert command.split(" ")[0] in ("error", "warning", "notice", "group", "endgroup")
            assert "PWNED" not in command.partition(",title=")[0]


def test_names_break_no_document(reports):
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    for name in ("json", "sarif", "gitlab"):
        if name in reports:
            json.loads(reports[name], parse_constant=refuse)
    for line in reports.get("jsonl", "").splitlines():
        json.loads(line, parse_constant=refuse)
    if "junit" in reports:
        ElementTree.fromstring(reports["junit"])


def test_names_are_no_markup(reports):
    for name in ("html", "markdown", "junit"):
        text = reports.get(name, "")
        if name == "markdown":  # what a code span holds is shown as it is
            text = re.sub(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", "", text)
        assert "<script>alert" not in text
        assert "<PWNED" not in text
        assert "' onmouseover='" not in text
    page = reports.get("html", "")
    assert not re.search(r"\b(src|href)=\"(?!data:|#|https://)", page)
    assert "http-equiv" in page or not page
