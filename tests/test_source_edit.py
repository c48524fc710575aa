"""A fix as an insertion into the source: the right constructor, the right name, code that runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import initlint
from initlint.lint.source_edit import insertion
from initlint.records import Finding, Target
from initlint.report.formats import render
from initlint.report.run import Run
from initlint.report.style import View

SOURCE = """import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.fc.weight)

    def forward(self, x):
        return torch.relu(self.fc(x))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList()
        for _ in range(24):
            self.blocks.append(Block(48))
        self.head = nn.Linear(48, 3)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)
"""

HE = "torch.nn.init.kaiming_normal_({}, nonlinearity='relu')"


def inserted(source: str, edit) -> str:
    lines = source.splitlines(keepends=True)
    text = lines[edit.line - 1]
    lines[edit.line - 1] = text[: edit.column - 1] + edit.text + text[edit.column - 1 :]
    return "".join(lines)


def test_the_edit_in_sarif_mends_the_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(SOURCE)
    record = initlint.check("net.py:Net").record
    run = Run("0", (Target.parse(dict(record)),))
    (result,) = json.loads(render("sarif", run, View(root=str(tmp_path))))["runs"][0]["results"]
    assert result["ruleId"] == "SCL208"
    (change,) = result["fixes"][0]["artifactChanges"]
    assert change["artifactLocation"]["uri"] == "net.py"
    (replacement,) = change["replacements"]
    region = replacement["deletedRegion"]
    assert (region["startLine"], region["startColumn"]) == (region["endLine"], region["endColumn"])
    lines = SOURCE.splitlines()
    line = lines[region["startLine"] - 1]
    lines[region["startLine"] - 1] = (
        line[: region["startColumn"] - 1]
        + replacement["insertedContent"]["text"]
        + line[region["startColumn"] - 1 :]
    )
    Path("mended.py").write_text("\n".join(lines) + "\n")
    assert initlint.check("mended.py:Net", select="relu-after-xavier").findings == []


@pytest.mark.parametrize(
    ("head", "named"),
    [
        ("import torch", "torch.nn.init."),
        ("import torch as t", "t.nn.init."),
        ("from torch import nn", "nn.init."),
        ("import torch.nn as n", "n.init."),
        ("import torch.nn.functional", "torch.nn.init."),
        ("from torch.nn import init as start", "start."),
    ],
)
def test_the_call_is_named_as_the_file_names_it(head, named):
    source = (
        f"{head}\nclass A:\n  def __init__(this):\n    this.ünit = make()\n    this.x = 'é'  # é\n"
    )
    edit = insertion(source, 4, ["ünit.weight"], HE.format("ünit.weight"))
    assert edit is not None
    assert (edit.line, edit.column) == (5, len("    this.x = 'é'") + 1)
    assert edit.text == f"\n    {named}kaiming_normal_(this.ünit.weight, nonlinearity='relu')"
    compile(inserted(source, edit), "a.py", "exec")


def test_layers_of_one_attribute_are_a_loop():
    names = [f"net.layers.{index}.weight" for index in range(4)]
    source = "import torch\nclass A:\n def __init__(self):\n  self.layers = [\n   make()]\n"
    edit = insertion(source, 5, names, HE.format("net.layers[0].weight"))
    assert edit is not None
    assert edit.text.startswith(
        "\n  for i in range(4): torch.nn.init.kaiming_normal_(self.layers[i]"
    )


@pytest.mark.parametrize(
    ("source", "line", "code"),
    [
        (SOURCE, 12, HE.format("blocks[0].fc.weight")),  # not in a constructor
        (SOURCE, 7, HE.format("blocks[0].fc.weight")),  # sets no attribute
        (SOURCE, 21, HE.format("blocks[0].fc.weight")),  # sets another one
        (SOURCE, 8, "draw the rows of blocks[0].fc.weight at random"),
        (SOURCE, 8, HE.format("blocks[1].fc.weight")),  # not one of the parameters
        (SOURCE.replace("torch", "flax"), 8, HE.format("blocks[0].fc.weight")),
        (SOURCE.replace("class Net", "class"), 8, HE.format("blocks[0].fc.weight")),
        ("\0", 1, HE.format("blocks[0].fc.weight")),
        ("", 1, HE.format("blocks[0].fc.weight")),
    ],
)
def test_no_edit_where_the_place_cannot_be_told(source, line, code):
    assert insertion(source, line, ["blocks.0.fc.weight"], code) is None


def test_an_edit_without_a_place_is_no_record(tmp_path):
    record = {
        **dict.fromkeys(("layer", "message", "why", "measured", "expected", "fingerprint"), "x"),
        **{"code": "SCL208", "name": "relu-after-xavier", "severity": "error"},
        **{"confidence": "high", "layers": ["x"], "location": None, "param": None},
        "fix": {"scheme": "he_normal", "applicability": "unsafe", "code": "c"},
    }
    assert Finding.parse(record).fix.edit is None
    for edit in ({"line": 0, "column": 1, "text": ""}, {"column": 1, "text": ""}):
        with pytest.raises(ValueError, match="place"):
            Finding.parse({**record, "fix": {**record["fix"], "edit": edit}})
