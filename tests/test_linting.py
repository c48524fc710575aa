"""The Python API: `initlint.check` and its report."""

from __future__ import annotations

import html.parser
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import initlint  # noqa: E402
from initlint.linting import InitialisationError  # noqa: E402
from initlint.model import LoadError  # noqa: E402
from initlint.records import Target  # noqa: E402

nn = torch.nn


class Two(nn.Module):
    """Two inputs, of which one is optional."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(8, 16)
        self.right = nn.Linear(4, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, left: torch.Tensor, right: torch.Tensor | None = None) -> torch.Tensor:
        hidden = self.left(left)
        return self.head(torch.relu(hidden if right is None else hidden + self.right(right)))


def healthy() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4))


def broken() -> nn.Module:
    module = nn.Sequential(
        *(layer for _ in range(3) for layer in (nn.Linear(16, 16), nn.ReLU())), nn.Linear(16, 4)
    )
    with torch.no_grad():
        module[2].weight[0, 0] = float("nan")
    return module


def test_a_healthy_module_passes() -> None:
    report = initlint.check(healthy(), torch.randn(32, 16))
    assert report.findings == []
    assert report.stage == "fresh"
    assert report.raise_if("info") is report
    assert "no findings" in str(report)


def test_raise_if_says_what_was_found() -> None:
    report = initlint.check(broken(), torch.randn(32, 16))
    with pytest.raises(InitialisationError, match="non-finite"):
        report.raise_if()
    with pytest.raises(ValueError, match="fatal"):
        report.raise_if("fatal")


def test_the_report_is_the_json_target_worst_first() -> None:
    report = initlint.check(broken(), torch.randn(32, 16))
    record = report.to_dict()
    assert record == Target.parse(dict(report.record)).to_dict()
    order = ["error", "warning", "info"]
    ranks = [order.index(finding["severity"]) for finding in report.findings]
    assert ranks == sorted(ranks)
    assert record["summary"]["error"] >= 1


def test_inputs_by_the_names_of_forward() -> None:
    torch.manual_seed(0)
    module = Two()
    without = initlint.check(module, left=torch.randn(8, 8))
    assert any("right.weight" in notice for notice in without.record["notices"])
    both = initlint.check(module, left=torch.randn(8, 8), right=torch.randn(8, 4), select="SCL")
    assert both.record["notices"] == []
    assert sorted(both.record["probe"]["inputs"]) == ["left", "right"]


def test_options_are_the_command_lines() -> None:
    report = initlint.check(healthy(), input_shape=(5, 16), probe=False, seed=3)
    assert report.record["probe"]["status"] == "skipped"
    with pytest.raises(TypeError, match=r"unknown option .sead.; known: .*seed"):
        initlint.check(healthy(), sead=1)
    with pytest.raises(TypeError, match="a module is one draw"):
        initlint.check(healthy(), seeds=3)


def test_structure_only_copies_no_weights() -> None:
    module = broken()
    report = initlint.check(module, torch.randn(4, 16), structure_only=True)
    assert report.findings == []
    assert any("structure only" in notice for notice in report.record["notices"])
    assert module[0].weight.device.type == "cpu"


def test_by_way_of_onnx() -> None:
    pytest.importorskip("onnxscript")
    report = initlint.check(healthy(), torch.randn(32, 16), via="onnx")
    assert report.record["kind"] == "onnx"
    assert report.record["probe"]["status"] == "ok"
    assert report.findings == []


NET = """
import itertools
import torch
from torch import nn

builds = itertools.count()

def fixed():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))

def sometimes():
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    if torch.rand(()) < 0.5:
        nn.init.constant_(net[0].weight, float("nan"))
    return net
"""


def test_seeds_of_a_spec(tmp_path: Path) -> None:
    path = tmp_path / "seeded_net.py"
    path.write_text(NET)
    fixed = initlint.check(f"{path}:fixed", seeds=3)
    (found,) = (item for item in fixed.findings if item["name"] == "seed-insensitive")
    assert found["evidence"]["found_in"] == found["evidence"]["seeds"] == 3
    report = initlint.check(f"{path}:sometimes", seeds=6)
    (found,) = (item for item in report.findings if item["name"] == "non-finite")
    times = found["evidence"]["found_in"]
    assert 0 < times < 6
    assert found["message"].endswith(f"(in {times} of 6 draws)")
    assert report.record["summary"]["error"] == 1


def test_not_a_module() -> None:
    with pytest.raises(LoadError, match=r"expected a torch.nn.Module or a path, got int"):
        initlint.check(3)
    with pytest.raises(TypeError, match="example inputs go with a module"):
        initlint.check("model.onnx", torch.randn(2, 2))


class _Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(text: str) -> _Tags:
    parser = _Tags()
    parser.feed(text)
    return parser


def test_the_table_of_a_notebook() -> None:
    page = parsed(initlint.check(broken(), torch.randn(32, 16))._repr_html_())
    assert page.tags.count("table") == 1
    assert "error" in page.text
    assert "non-finite" in " ".join(page.text)


def test_names_in_the_table_are_text() -> None:
    report = initlint.check(broken(), torch.randn(32, 16))
    evil = "<script>alert(1)</script>"
    found = {**report.record["findings"][0], "layer": evil, "layers": [evil], "message": evil}
    page = initlint.Report({**report.record, "target": evil, "findings": [found]})._repr_html_()
    assert "script" not in parsed(page).tags
    assert page.count("&lt;script&gt;") == 3


def test_a_clean_report_has_no_table() -> None:
    page = initlint.check(healthy(), torch.randn(32, 16))._repr_html_()
    assert "table" not in parsed(page).tags
    assert "no findings" in page
