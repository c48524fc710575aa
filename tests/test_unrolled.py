"""Recurrences written out step by step: found, judged once, and not taken for depth."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

import initlint
from initlint.load.torch_module import capture
from initlint.model import Edge, Layer, LayerGraph
from initlint.model.op import Op
from initlint.model.unrolled import reads_all_steps, unrolled_recurrences


class Loop(nn.Module):
    """h_t = φ(U x_t + W h_{t-1} + b), written out."""

    def __init__(self, activation=torch.tanh, same_input=False):
        super().__init__()
        self.inner, self.hidden = nn.Linear(8, 32), nn.Linear(32, 32)
        self.head = nn.Linear(32, 3)
        self.activation, self.same_input = activation, same_input

    def forward(self, x):
        h = x.new_zeros(x.shape[0], 32)
        first = self.inner(x[:, 0])
        for t in range(x.shape[1]):
            added = first if self.same_input else self.inner(x[:, t])
            h = self.activation(added + self.hidden(h))
        return self.head(h)


class Cells(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.cell, self.head = cell, nn.Linear(32, 3)

    def forward(self, x):
        h = x.new_zeros(x.shape[0], 32)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
        return self.head(h)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def loud(module, steps=30, **how):
    report = initlint.check(module, torch.randn(4, steps, 8), **how)
    return [(item["name"], item) for item in report.findings if item["severity"] != "info"]


def test_a_loop_over_one_matrix_is_a_recurrence_with_its_steps():
    (found,) = unrolled_recurrences(capture(Loop(), torch.randn(2, 5, 8)).graph)
    assert len(found.steps) == 5
    assert found.activation is Op.TANH
    assert found.weight.name == "hidden.weight"
    assert len(set(found.inputs)) == 4


def test_an_equilibrium_is_not_a_sequence():
    graph = capture(Loop(same_input=True), torch.randn(2, 5, 8)).graph
    assert unrolled_recurrences(graph) == ()


@pytest.mark.parametrize("road", [{}, {"via": "onnx"}])
def test_a_loop_that_explodes_is_named_once(road):
    module = Loop(torch.relu)
    nn.init.orthogonal_(module.hidden.weight, 2.0)
    ((name, finding),) = loud(module, **road)
    assert name == "recurrent-not-orthogonal"
    assert finding["severity"] == "error"
    assert finding["evidence"]["steps"] in (29, 30)  # a first step on zeros can be left out
    assert all(layer.startswith("hidden") for layer in finding["layers"])


@pytest.mark.parametrize("road", [{}, {"via": "onnx"}])
@pytest.mark.parametrize("activation", [torch.tanh, torch.relu])
def test_orthogonal_and_identity_loops_are_silent(road, activation):
    module = Loop(activation)
    if activation is torch.tanh:
        nn.init.orthogonal_(module.hidden.weight)
    else:
        nn.init.eye_(module.hidden.weight)
    assert loud(module, **road) == []


def test_an_exported_plain_rnn_is_judged_as_the_module_is():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.RNN(8, 32, batch_first=True), nn.Linear(32, 3)

        def forward(self, x):
            return self.head(self.rnn(x)[0][:, -1])

    for road in ({}, {"via": "onnx"}):
        assert [name for name, _ in loud(Tagger(), 60, **road)] == ["recurrent-not-orthogonal"]


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell])
def test_a_cell_is_named_once_with_as_many_steps_as_calls(kind):
    cell = kind(8, 32)
    nn.init.normal_(cell.weight_hh)
    ((name, finding),) = loud(Cells(cell), 24)
    assert (name, finding["evidence"]["steps"]) == ("recurrent-not-orthogonal", 24)
    assert finding["layers"] == ["cell"]


def stack(depth: int, last: Op) -> LayerGraph:
    """Recurrent layers on top of each other, and what reads the last one's states."""
    names = [f"cell{number}" for number in range(depth)]
    layers = [Layer("input", Op.INPUT), *(Layer(name, Op.LSTM) for name in names)]
    layers += [Layer("reader", last), Layer("output", Op.OUTPUT)]
    chain = [layer.id for layer in layers]
    return LayerGraph(layers, [Edge(a, b) for a, b in pairwise(chain)])


def test_a_last_state_is_told_through_a_deep_stack() -> None:
    graph = stack(3000, Op.SLICE)
    assert not reads_all_steps(graph, graph["cell0"])


def test_a_mean_reads_all_states() -> None:
    graph = stack(3, Op.REDUCE)
    assert all(reads_all_steps(graph, graph[f"cell{number}"]) for number in range(3))
