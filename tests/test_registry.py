"""Finding rule packs: entry points as the standard library reads them, rules well formed."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

from initlint.lint.entry_points import EntryPoint, entry_points
from initlint.lint.registry import GROUP, HEADINGS, PackError, all_rules, summary, validate
from initlint.lint.rule import Rule


def install(folder, name, text):
    place = folder / name
    place.mkdir(parents=True)
    (place / "METADATA").write_text(f"Name: {name.partition('-')[0]}\nVersion: 1\n")
    if text is not None:
        (place / "entry_points.txt").write_text(text)


def test_installed_packs_are_those_of_the_standard_library():
    theirs = [(point.name, point.value) for point in importlib.metadata.entry_points(group=GROUP)]
    assert sorted(entry_points(GROUP)) == sorted(theirs) != []


def test_odd_metadata_reads_as_in_the_standard_library(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    install(first, "My_Pack-1.0.dist-info", f"[other]\nx = y:z\n\n[{GROUP}]\n# no\nmine=m.n:f.g\n")
    install(second, "my.pack-2.0.dist-info", f"[{GROUP}]\nshadowed = m:f\n")
    install(second, "more-1.egg-info", f"[{GROUP}]\nb = m:f [extra]\na = m\n[z]\nc = d:e\n")
    install(second, "silent-1.dist-info", None)
    (second / "file-1.egg-info").write_text("Name: file\n")
    path = [str(first), str(tmp_path / "missing"), str(second)]
    theirs = {
        (point.name, point.value)
        for found in importlib.metadata.distributions(path=path)
        if found.version == "1" and found.metadata["Name"] != "my.pack"
        for point in found.entry_points
        if point.group == GROUP
    }
    assert set(entry_points(GROUP, path)) == theirs
    assert [point.name for point in entry_points(GROUP, path)] == ["mine", "b", "a"]


def test_an_entry_point_loads_what_it_names():
    assert EntryPoint("x", "os : path.join [extra]").load() is __import__("os").path.join
    assert EntryPoint("x", "os.path").load() is __import__("os").path
    with pytest.raises(ModuleNotFoundError):
        EntryPoint("x", "no_such_module_here:f").load()


def rule(text, name="some-rule", code="XYZ001"):
    namespace = {"__doc__": text, "code": code, "name": name, "check": lambda self, context: ()}
    return type("Some", (Rule,), namespace)


DOCUMENTED = "First line.\n\n" + "".join(
    f"    {heading}\n    {'-' * len(heading)}\n    Text.\n\n" for heading in HEADINGS
)


def test_a_documented_rule_is_valid():
    validate([rule(DOCUMENTED)])
    assert summary(rule(DOCUMENTED)) == "First line."


@pytest.mark.parametrize("heading", HEADINGS)
def test_each_heading_is_required(heading):
    with pytest.raises(PackError, match=heading):
        validate([rule(DOCUMENTED.replace(f"    {heading}\n", "    Something\n"))])


def test_a_rule_without_documentation_does_not_borrow_another_ones():
    with pytest.raises(PackError, match="heading"):
        validate([rule(None)])


def test_finding_the_rules_imports_no_metadata_parser():
    script = (
        "import sys; from initlint.lint.registry import all_rules; print(len(all_rules()));"
        "print(sorted({'importlib.metadata', 'networkx', 'torch', 'onnxruntime', 'numpy.ma',"
        " 'numpy.random'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines() == [str(len(all_rules())), "[]"]
