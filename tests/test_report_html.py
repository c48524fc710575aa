"""The HTML page as a file: closed to the network, and safe whatever a model calls its layers."""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from hashlib import sha256
from html.parser import HTMLParser
from itertools import pairwise
from math import sqrt
from pathlib import Path

import jsonschema
import pytest

import initlint.report
from initlint.engine import lint
from initlint.records import RuleText, Target
from initlint.report.formats import render
from initlint.report.html.charts import axis_for, density_at, picture
from initlint.report.html.graph import LANES, lay_out
from initlint.report.html.markup import Markup, element, join, number
from initlint.report.profile import Row, Signal, carried, centres, parse
from initlint.report.run import Run
from initlint.report.style import View
from initlint.report.text import Untrusted
from initlint.settings import Settings
from initlint.testing import Network, he_normal
from tests.report_sample import CAUSE, DEEP, HOSTILE, hostile_run, sample_run

SCHEMA = json.loads((Path(initlint.report.__file__).parent / "schema.json").read_text())
VOID = {"meta", "input", "img", "line", "rect", "circle", "path", "polyline", "polygon"}


class Page(HTMLParser):
    """Tags with attributes, in order, while every tag is closed in turn."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID or self.get_starttag_text()[-2] != "/":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.text.append(data)

    def all(self, tag, **attributes):
        wanted = {key.rstrip("_"): value for key, value in attributes.items()}
        return [
            found
            for name, found in self.tags
            if name == tag and all(found.get(key) == value for key, value in wanted.items())
        ]


def deep_network(depth=6):
    network = Network()
    signal = network.input(32)
    for index in range(depth):
        weight = he_normal(network.rng, 32, 32)
        signal = network.relu(network.linear(signal, weight, name=f"fc{index}"))
    network.output(network.linear(signal, he_normal(network.rng, 4, 32), name="head"))
    return network.model(fresh_hint=True)


def profiled(**changes):
    row = {
        "op": "linear",
        "activation": None,
        "rms": 1.0,
        "gradient": 0.5,
        "weights": [
            {
                "name": "w",
                "gate": None,
                "shape": [2, 2],
                "scheme": "he_normal",
                "mean": 0.0,
                "std": 1.0,
                "histogram": {"counts": [1, 2, 1], "low": -1.0, "high": 1.0},
                "density": {"shape": "normal", "std": 1.0},
                "spectrum": {"values": [2.0, 1.0], "edges": [0.5, 2.5], "rows": 2, "columns": 2},
                "picture": {"lines": ["ai", "iq"], "rms": 1.0},
            }
        ],
        "output": {"rms": 1.0, "units": 2, "dead_units": 1, "histogram": {"counts": []}},
    }
    rows = [
        {**row, "id": "fc1", "from": [], "measured_rms": 1.1, "intended_rms": 1.0},
        {**row, "id": "fc2", "from": [0], "rms": 0.0},
        {**row, "id": "add", "op": "add", "from": [0, 1], "skip": [0], "rms": 0.1, **changes},
    ]
    record = {**DEEP, "findings": [CAUSE], "profile": {"rows": rows, "band": [-0.7, 0.3]}}
    return Run("0.1.0", (Target.parse(record),))


def page(run):
    return Page(render("html", run, View()))


RULES = {"relu-after-xavier": RuleText("SCL208", Untrusted("s"), Untrusted("Why\n---\n<b>&</b>"))}
RUNS = [sample_run(rules=RULES), hostile_run(), profiled(), profiled(id=HOSTILE), Run("0")]


@pytest.mark.parametrize("run", RUNS, ids=["sample", "hostile", "profile", "names", "empty"])
def test_closed_to_the_network_and_to_markup(run):
    text = render("html", run, View())
    found = Page(text)
    (policy,) = [
        tag["content"] for tag in found.all("meta", **{"http-equiv": "Content-Security-Policy"})
    ]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (inline,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(sha256(inline.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    for _, attributes in found.tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        assert attributes.get("href", "#").startswith("#")
        assert attributes.get("src", "data:image/png;").startswith("data:image/png;")
    assert text.replace("\n", "").isprintable()
    assert "##[" not in text
    assert not any(line.lstrip().startswith("::") for line in text.splitlines())


def test_contents():
    found = page(sample_run(rules=RULES))
    words = "".join(found.text)
    assert "expected to fail or to stall: 1 error, 1 info" in words
    assert "Risk 93%" in words
    assert CAUSE["message"] in words
    assert "measured, fine" in words
    assert "there is no such file or folder" in words
    assert "no findings from 3 rules" in words
    assert "<b>&</b>" in words


def test_ids_are_unique_and_links_lead_somewhere():
    found = page(Run("0", profiled().targets * 2))
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    links = [tag["href"][1:] for tag in found.all("a")]
    assert links
    assert set(links) <= set(ids)


def test_rows_are_coloured_by_their_worst_finding():
    found = page(profiled())
    assert [tag["class"] for tag in found.all("details") if "row" in tag.get("class", "")] == [
        "row found error",
        "row found error",
        "row",
    ]
    assert found.all("line", class_="edge skip")


@pytest.mark.parametrize(
    "broken",
    [
        {"rows": [7, None, {}]},
        {"rows": [{"from": [5, -1, "x"], "weights": [{}], "output": {}, "rms": "1"}]},
        {"rows": [{"weights": [{"picture": {"lines": ["<b>"]}, "density": {"std": 1e999}}]}]},
        {"rows": [{"weights": [{"histogram": {"counts": [1] * 999, "low": 0, "high": 0}}]}]},
        {"rows": "rows", "band": [1]},
        [],
    ],
)
def test_a_broken_profile_is_no_crash(broken):
    page(Run("0", (Target.parse({**DEEP, "profile": broken}),)))


def test_from_a_real_model():
    record = lint(deep_network(), Settings(profile=True, probe=False))
    profile = parse(record["profile"])
    assert [row.id.raw for row in profile.rows if row.weights] == [
        *(f"fc{n}" for n in range(6)),
        "head",
    ]
    charted = [row for row in profile.rows if row.charted]
    assert all(row.forward.predicted and row.gradient.predicted for row in charted)
    run = Run("0", (Target.parse(record),))
    jsonschema.validate(json.loads(render("json", run, View())), SCHEMA)
    text = render("html", run, View())
    assert Page(text).all("svg", class_="profile")
    assert text == render("html", Run("0", (Target.parse(record),)), View())


def rows(*sources, skips=()):
    signal = Signal(1.0, None, None)
    return [
        Row(
            n,
            Untrusted(str(n)),
            Untrusted("add"),
            None,
            tuple(before),
            frozenset(skips) & set(before),
            True,
            signal,
            signal,
            None,
            (),
        )
        for n, before in enumerate(sources)
    ]


def test_edges_in_one_lane_never_overlap():
    layout = lay_out(rows([], [0], [0, 1], [2], [2, 3], [0, 4], [1, 5]))
    for lane in range(layout.lanes):
        spans = sorted((leap.start, leap.end) for leap in layout.leaps if leap.lane == lane)
        assert all(a[1] <= b[0] for a, b in pairwise(spans))
    assert layout.hidden == 0
    assert layout.steps == frozenset(range(1, 7))


def test_more_edges_than_lanes_are_counted_and_residuals_go_first():
    many = rows(*[[]] * 10, list(range(10)), skips=[0])
    layout = lay_out(many)
    assert layout.lanes == LANES
    assert layout.hidden == 9 - LANES
    assert [leap.start for leap in layout.leaps if leap.skip] == [0]


@pytest.mark.parametrize(
    ("shape", "cut"), [("normal", 9), ("uniform", sqrt(3)), ("truncated_normal", 9)]
)
def test_densities_have_the_mass_and_the_scale_they_claim(shape, cut):
    step = 1e-3
    xs = [step * (n + 0.5) for n in range(-9000, 9000)]
    values = [density_at(2 * x, shape, 2.0) * 2 for x in xs]
    assert sum(values) * step == pytest.approx(1, abs=2e-3)
    assert sum(v * x * x for v, x in zip(values, xs, strict=True)) * step == pytest.approx(
        1, abs=5e-3
    )
    assert density_at(2.01 * cut, shape, 2.0) < 1e-6


@pytest.mark.parametrize("values", [[], [0.0], [1.0], [1e-300, 1e300], [0.5, 0.6], [1e-5, 1.0]])
def test_axes_hold_their_values_between_few_even_ticks(values):
    axis = axis_for(values)
    assert 2 <= len(axis.ticks) <= 8
    assert axis.high - axis.low >= 2
    for value in values:
        assert 0 <= axis.y(value) <= 1000


def test_gaps_are_filled_in_decades():
    assert carried([None, 1.0, None, 100.0, None]) == pytest.approx([1, 1, 10, 100, 100])
    assert carried([None, 0.0]) == [None, None]


def test_a_picture_is_a_png_of_its_letters():
    data = base64.b64decode(picture(["ai", "iq"]).partition(",")[2])
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", data[16:24]) == (2, 2)
    start = data.index(b"IDAT")
    (length,) = struct.unpack(">I", data[start - 4 : start])
    assert zlib.decompress(data[start + 4 : start + 4 + length]) == b"\0\0\x08\0\x08\x10"


def test_markup_escapes_what_is_not_markup():
    assert element("p", "<&\"'", title='"') == '<p title="&quot;">&lt;&amp;&quot;&#x27;</p>'
    assert join(Markup("<b>"), "<b>") == "<b>&lt;b&gt;"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1.5, "1.5"), (1234.5, "1234"), (2e-5, "2e-5"), (3.21e7, "3.2e7"), (None, "–")],
)
def test_numbers(value, text):
    assert number(value) == text


def test_no_band_where_theory_has_ended():
    known, ended = Signal(1.0, 1.0, 1.0), Signal(None, 1.0, None)
    assert centres([known, ended, Signal(2.0, None, None)]) == [1.0, None, 1.0]


def test_a_profile_follows_the_trunk():
    network = Network()
    signal = network.linear(network.input(32), he_normal(network.rng, 32, 32), name="stem")
    for index in range(4):
        weights = he_normal(network.rng, 32, 32)
        branch = network.relu(network.linear(signal, weights, name=f"{index}.in"))
        branch = network.linear(branch, he_normal(network.rng, 32, 32), name=f"{index}.out")
        signal = network.add(signal, branch, name=f"{index}.add")
    network.output(network.linear(signal, he_normal(network.rng, 4, 32), name="head"))
    record = lint(network.model(fresh_hint=True), Settings(profile=True, probe=False))
    charted = [row for row in parse(record["profile"]).rows if row.charted]
    assert [row.id.raw for row in charted] == ["stem", *(f"{n}.add" for n in range(4)), "head"]
    middles = centres([row.forward for row in charted])
    assert max(middles) / min(middles) == pytest.approx(1, abs=0.6)
    assert charted[4].forward.predicted > 2 * charted[0].forward.predicted


def test_a_repair_and_a_ranking_as_pages(tmp_path, monkeypatch):
    from fixtures.onnx_models import main as write_model
    from initlint.__main__ import main

    monkeypatch.chdir(tmp_path)
    write_model(["bad_residual_unscaled", "net.onnx"])
    told = ["--report", "html=fix.html", "--report", "json=fix.json"]
    assert main(["fix", "net.onnx", "-o", "fixed.onnx", *told]) == 0
    assert main(["fix", "net.onnx", "--diff", "--report", "html=net.onnx"]) == 2
    page = (tmp_path / "fix.html").read_text()
    assert "Content-Security-Policy" in page
    assert "line before" in page
    assert "line after" in page
    before, after = (int(found) for found in re.findall(r"Risk (\d+)%", page)[:2])
    assert before > 90
    assert after < 20
    compared = ["compare", "net.onnx", "--schemes", "he_normal,fixup", "--seeds", "1"]
    assert main([*compared, "--report", "html=ranking.html"]) == 0
    page = (tmp_path / "ranking.html").read_text()
    assert page.count('class="card scheme') == 3  # as given, too
    assert "best for this network: fixup" in page


def test_a_predicted_gradient_is_on_the_scale_of_the_measured_one():
    torch = pytest.importorskip("torch")
    from initlint.load.torch_module import capture

    torch.manual_seed(0)
    layers = [
        layer for _ in range(10) for layer in (torch.nn.Linear(64, 64, bias=False), torch.nn.Tanh())
    ]
    model = capture(torch.nn.Sequential(*layers, torch.nn.Linear(64, 10)), torch.randn(32, 64))
    rows = lint(model, Settings(profile=True))["profile"]["rows"]
    pairs = [
        (row["gradient"], row["measured_gradient"]) for row in rows if row["measured_gradient"]
    ]
    assert len(pairs) > 10
    assert pairs[-1][1] < 0.1, "a mean over 32 samples, far from a unit gradient"
    assert all(0.5 < predicted / measured < 2 for predicted, measured in pairs)
