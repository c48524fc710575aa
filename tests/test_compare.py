"""Schemes ranked for one network."""

from __future__ import annotations

import pytest

from initlint.fix.jobs import compare as compare_job
from initlint.fix.ranking import AS_GIVEN, compare
from initlint.load.torch_module import capture
from initlint.model import Kind, LayerGraph, LoadError, Model
from initlint.report.ranking import render
from initlint.report.style import Style
from initlint.settings import Settings

torch = pytest.importorskip("torch")
nn = torch.nn

SETTINGS = Settings(select=("forward-drift",))


def deep_relu():
    torch.manual_seed(0)
    layers: list[object] = []
    for _ in range(16):
        layers += [nn.Linear(48, 48), nn.ReLU()]
    return capture(nn.Sequential(*layers, nn.Linear(48, 10)), torch.randn(32, 48))


def test_a_deep_relu_net_wants_he_and_not_the_default():
    record = compare(deep_relu(), SETTINGS, ("torch_default", "he_normal", "lecun_normal"), 2)
    order = [row["scheme"] for row in record["schemes"]]
    assert record["best"] == order[0] == "he_normal"
    assert set(order[2:]) == {"torch_default", AS_GIVEN}
    rows = {row["scheme"]: row for row in record["schemes"]}
    # LeCun halves the second moment at each of 15 layers: 15 * 0.5 * log10(1/2) = -2.26 decades,
    # give or take 0.5 log10(e) sqrt(15 * 5/48) = 0.27 a draw and a bias of -0.17 at width 48
    assert rows["lecun_normal"]["forward_decades"] == pytest.approx(-2.43, abs=0.8)
    assert abs(rows["he_normal"]["forward_decades"]) < 0.7
    assert rows["he_normal"]["spread"] > 0
    assert rows[AS_GIVEN]["seeds"] == 1
    assert len(rows["he_normal"]["profile"]) == 16


def test_ranking_is_repeatable_and_leaves_the_module_alone():
    model = deep_relu()
    before = {name: value.clone() for name, value in model.runnable.module.state_dict().items()}
    first = compare(model, SETTINGS, ("he_normal",), 2)
    assert first == compare(model, SETTINGS, ("he_normal",), 2)
    after = model.runnable.module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_scheme_that_cannot_be_run_is_last_and_says_why():
    model = deep_relu()
    record = compare(model, Settings(probe=False, select=("forward-drift",)), ("he_normal",), 1)
    text = render(record, Style())
    assert "he_normal" in text
    assert "best for this network" in text


def test_calls_that_cannot_be_meant():
    with pytest.raises(LoadError, match="did you mean he_normal"):
        compare_job(deep_relu(), SETTINGS, {"schemes": ["he_norma"], "seeds": 1})
    with pytest.raises(LoadError, match="single tensors"):
        compare_job(deep_relu(), SETTINGS, {"schemes": ["class_prior"], "seeds": 1})
    bare = Model("x.safetensors", Kind.CHECKPOINT, LayerGraph((), ()), connected=False)
    with pytest.raises(LoadError, match="weights only"):
        compare_job(bare, SETTINGS, {"seeds": 1})


def test_inputs_are_compared_before_their_positions_are_averaged():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = capture(nn.Sequential(*layers, nn.Linear(16, 10)), torch.randn(16, 3, 24, 24))
    (row,) = [
        row
        for row in compare(model, SETTINGS, ("he_normal",), 1)["schemes"]
        if row["scheme"] == "he_normal"
    ]
    # a ReLU of independent inputs of cosine 0 leaves 1 - 1/pi = 0.68; the mean over 576 positions
    # would leave about 0.001
    assert row["distance"] == pytest.approx(0.68, abs=0.1)


def test_a_gate_on_an_empty_state_is_no_gradient_that_vanished():
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.reset, self.new, self.head = (nn.Linear(24, n) for n in (16, 16, 4))

        def forward(self, x):
            state = x.new_zeros(x.shape[0], 16)
            for step in x.unbind(1):
                reset = torch.sigmoid(self.reset(torch.cat([step, state], -1)))
                state = torch.tanh(self.new(torch.cat([step, reset * state], -1)))
            return self.head(torch.cat([state, step], -1))

    torch.manual_seed(0)
    record = compare(capture(Cell(), torch.randn(16, 4, 8)), SETTINGS, ("orthogonal",), 1)
    assert all(abs(row["backward_decades"]) < 5 for row in record["schemes"])


def test_what_costs_nothing_more_is_as_good_and_a_name_counts_once():
    model = capture(
        nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 4)), torch.randn(64, 32)
    )
    record = compare(model, SETTINGS, ("he_normal", "he_uniform", "he_normal"), 2)
    assert [row["scheme"] for row in record["schemes"]].count("he_normal") == 1
    assert {record["best"], *record["as_good"]} >= {"he_normal", "he_uniform"}
    assert "as good, for the differences cost nothing" in render(record, Style())
    assert "2 draws of each" in render(record, Style())
    assert "1 draw of each" in render(compare(model, SETTINGS, ("he_normal",), 1), Style())
