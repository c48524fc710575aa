"""Gated cells written out step by step: the gate that keeps the state is found and judged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import initlint
from initlint.load.torch_module import capture
from initlint.model.written_cells import keeping_gates

STEPS = 20


class WrittenGru(nn.Module):
    """An open update gate replaces the state."""

    def __init__(self, inputs=8, width=24, bias=-2.0, zero_head=False):
        super().__init__()
        self.update = nn.Linear(inputs + width, width)
        self.reset = nn.Linear(inputs + width, width)
        self.candidate = nn.Linear(inputs + width, width)
        self.head, self.width = nn.Linear(width, 4), width
        for layer in (self.update, self.reset, self.candidate):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.update.bias, bias)
        if zero_head:
            nn.init.zeros_(self.head.weight)

    def forward(self, x):
        state = x.new_zeros(x.shape[0], self.width)
        for step in x.unbind(1):
            both = torch.cat([step, state], -1)
            update, reset = torch.sigmoid(self.update(both)), torch.sigmoid(self.reset(both))
            new = torch.tanh(self.candidate(torch.cat([step, reset * state], -1)))
            state = (1 - update) * state + update * new
        return self.head(state)


class WrittenLstm(nn.Module):
    """An open forget gate keeps the state; the states of all steps may be read."""

    def __init__(self, inputs=8, width=24, bias=0.0, mean=False):
        super().__init__()
        names = ("enter", "forget", "leave", "new")
        self.gates = nn.ModuleDict({name: nn.Linear(inputs + width, width) for name in names})
        self.head, self.width, self.mean = nn.Linear(width, 4), width, mean
        nn.init.constant_(self.gates["forget"].bias, bias)

    def forward(self, x):
        state = memory = x.new_zeros(x.shape[0], self.width)
        states = []
        for step in x.unbind(1):
            both = torch.cat([step, state], -1)
            enter, forget, leave = (
                torch.sigmoid(self.gates[name](both)) for name in ("enter", "forget", "leave")
            )
            memory = forget * memory + enter * torch.tanh(self.gates["new"](both))
            state = leave * torch.tanh(memory)
            states.append(state)
        return self.head(torch.stack(states, 1).mean(1) if self.mean else state)


class Highway(nn.Module):
    """Gates of layers of their own are no cell."""

    def __init__(self, depth=6, width=24):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.gates = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def forward(self, x):
        for layer, gate in zip(self.layers, self.gates, strict=True):
            share = torch.sigmoid(gate(x))
            x = share * torch.tanh(layer(x)) + (1 - share) * x
        return x


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def data(steps=STEPS):
    return torch.randn(8, steps, 8)


def memory(module, steps=STEPS):
    report = initlint.check(module, data(steps), select=["forget-gate-memory"])
    return [(item["severity"], item["layer"]) for item in report.findings]


@pytest.mark.parametrize(
    ("module", "layer", "opening"),
    [(WrittenGru(), "update", -1), (WrittenLstm(), "gates.forget", 1)],
)
def test_the_gate_that_keeps_the_state_and_its_sign(module, layer, opening):
    (gate,) = keeping_gates(capture(module, data()).graph)
    assert (gate.layer, gate.opening, gate.steps) == (layer, opening, STEPS)


def test_a_gated_stack_is_no_cell():
    assert not keeping_gates(capture(Highway(), torch.randn(8, 24)).graph)


def test_a_written_cell_that_forgets_is_named_as_its_bias_says():
    assert memory(WrittenGru(bias=5.0)) == [("warning", "update")]
    assert memory(WrittenGru(bias=0.0)) == [("info", "update")]
    assert memory(WrittenGru(bias=-2.0)) == []
    assert memory(WrittenLstm(bias=-2.0)) == [("warning", "gates.forget")]
    assert memory(WrittenLstm(bias=-0.3), 40) == [("warning", "gates.forget")]
    assert memory(WrittenLstm(bias=-0.3, mean=True), 40) == [("info", "gates.forget")]
    assert memory(WrittenLstm(bias=3.0)) == []


def test_a_repair_opens_the_way_of_the_state_over_the_sequence():
    net = WrittenGru(bias=5.0)
    report = initlint.fix(net, data())
    assert report.status == "fixed"
    kept = torch.sigmoid(-net.update.bias.detach()).numpy()
    assert kept.min() >= 0.5
    assert kept.max() > 0.9
    assert [change["param"] for change in report.changes] == ["update.bias"]
    assert "model.update.bias.data.copy_((torch.arange(24) >= 12) * -2.944)" in str(report)


def test_a_memory_that_is_fine_is_not_taken_away():
    net = WrittenGru(zero_head=True)
    report = initlint.fix(net, data())
    assert report.status == "nothing"
    np.testing.assert_array_equal(net.update.bias.detach(), np.full(24, -2.0, np.float32))


class PackedLstm(nn.Module):
    """All gates in one layer; the biases may be a parameter of their own, added behind it."""

    def __init__(self, added=False):
        super().__init__()
        torch.manual_seed(0)
        self.gates = nn.Linear(8 + 24, 4 * 24, bias=not added)
        nn.init.xavier_uniform_(self.gates.weight)
        self.shift = nn.Parameter(torch.zeros(4 * 24)) if added else None
        bias = self.shift if added else self.gates.bias
        nn.init.zeros_(bias)
        nn.init.constant_(bias[24:48], -1.0)
        self.head = nn.Linear(24, 3)

    def forward(self, x):
        h = c = x.new_zeros(len(x), 24)
        for step in x.unbind(1):
            z = self.gates(torch.cat([step, h], 1))
            z = z if self.shift is None else z + self.shift
            i, f, g, o = z.chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.head(h)


@pytest.mark.parametrize("added", [False, True])
def test_one_gate_of_a_packed_bias_is_opened(added):
    net = PackedLstm(added)
    name = "shift" if added else "gates.bias"
    (gate,) = keeping_gates(capture(net, data()).graph)
    assert (gate.bias.name, gate.rows, gate.coupled) == (name, (24, 48), False)
    assert memory(net) == [("warning", "gates")]
    report = initlint.fix(net, data())
    assert report.status == "fixed"
    assert [change["param"] for change in report.changes] == [name]
    bias = dict(net.named_parameters())[name].detach()
    assert bias[24:48].exp().min() >= STEPS  # one to two lengths of the sequence
    assert bias[24:48].exp().max() <= 2 * STEPS
    assert not bias[:24].any()
    assert not bias[48:].any()
    assert f"model.{name}[24:48].data.uniform_({STEPS}, {2 * STEPS}).log_()" in str(report)


def test_rows_of_other_gates_stay_what_they_are():
    net = PackedLstm()
    with torch.no_grad():
        net.gates.bias[72:].fill_(0.5)
    report = initlint.fix(net, data())
    assert report.status == "fixed"
    assert (net.gates.bias[72:] == 0.5).all()
    assert "zeros_(model.gates.bias)" not in str(report)


def test_gates_that_shut_the_input_as_they_keep_the_state_are_told():
    (gru,) = keeping_gates(capture(WrittenGru(), data()).graph)
    (lstm,) = keeping_gates(capture(WrittenLstm(), data()).graph)
    assert gru.coupled
    assert not lstm.coupled
