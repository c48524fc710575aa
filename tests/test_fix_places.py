"""Repairs by the place where a weight stands: shared, computed, written by another network."""

from __future__ import annotations

from math import log, sqrt

import pytest

import initlint
from initlint import engine
from initlint.fix.plan import Planner
from initlint.fix.search import State, rectified
from initlint.fix.slot import written_gain
from initlint.load.torch_module import capture
from initlint.probe.result import Activations, ProbeStatus
from initlint.settings import Settings

torch = pytest.importorskip("torch")
nn = torch.nn
functional = torch.nn.functional


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


class Tied(nn.Module):
    """The decoder reads the encoder's matrices the other way."""

    def __init__(self, scale):
        super().__init__()
        self.outer = nn.Parameter(scale * torch.randn(40, 32) / sqrt(32))
        self.inner = nn.Parameter(scale * torch.randn(12, 40) / sqrt(40))

    def forward(self, x):
        x = functional.linear(torch.tanh(functional.linear(x, self.outer)), self.inner)
        x = torch.tanh(functional.linear(x, self.inner.t()))
        return functional.linear(x, self.outer.t())


@pytest.mark.parametrize("scale", [1e-3, 10.0])
def test_a_weight_that_two_layers_read_differently_is_changed_once(scale):
    report = initlint.fix(Tied(scale), torch.randn(32, 32))
    assert report.verified
    assert {change["param"] for change in report.changes} == {"outer", "inner"}


class Towers(nn.Module):
    def __init__(self, temperature):
        super().__init__()
        self.left, self.right = nn.Linear(32, 24), nn.Linear(32, 24)
        self.logit_scale = nn.Parameter(torch.tensor(log(1 / temperature)))

    def forward(self, x):
        left, right = (functional.normalize(tower(x), dim=-1) for tower in (self.left, self.right))
        return self.logit_scale.exp() * left @ right.t()


def test_a_temperature_that_is_stored_as_a_logarithm_is_made_milder():
    net = Towers(1e-4)
    report = initlint.fix(net, torch.randn(32, 32))
    assert report.status == "fixed"
    assert [change["param"] for change in report.changes] == ["logit_scale"]
    assert net.logit_scale.item() < log(20)
    assert "model.logit_scale.data.add_(-" in str(report)


class Hyper(nn.Module):
    """A small net writes the weights of the hidden layers."""

    def __init__(self, codes=1.0, scale=1.0, depth=4, width=24):
        super().__init__()
        self.enter, self.out, self.width = nn.Linear(32, width), nn.Linear(width, 10), width
        self.codes = nn.Parameter(codes * torch.randn(depth, 8))
        self.writer1, self.writer2 = nn.Linear(8, 24), nn.Linear(24, width * width)
        for layer in (self.enter, self.writer1):
            nn.init.kaiming_normal_(layer.weight)
        nn.init.normal_(self.writer2.weight, std=scale * sqrt(2 / width / 24))
        for layer in (self.enter, self.writer1, self.writer2):
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        x = torch.relu(self.enter(x))
        written = self.writer2(torch.relu(self.writer1(self.codes)))
        for weight in written.unflatten(-1, (self.width, self.width)):
            x = torch.relu(functional.linear(x, weight))
        return self.out(x)


def test_a_writer_of_weights_gives_weights_of_the_scale_that_their_place_needs():
    graph = capture(Hyper(), torch.randn(16, 32)).graph
    assert written_gain(graph, "writer2") == pytest.approx(sqrt(2 / 24))
    assert written_gain(graph, "enter") == written_gain(graph, "out") == 1.0
    assert rectified(graph, ["writer2"])["writer2"] == pytest.approx(2 / 24)


def test_written_weights_are_cured_where_they_are_written():
    net = Hyper(scale=20.0)
    report = initlint.fix(net, torch.randn(32, 32))
    assert report.status == "fixed"
    assert [change["param"] for change in report.changes] == ["writer2.weight"]
    assert net.writer2.weight.std().item() == pytest.approx(sqrt(2 / 24 / 24), rel=0.1)


def test_tiny_codes_are_cured_and_not_what_reads_them():
    net = Hyper(codes=0.01)
    (found,) = initlint.check(net, torch.randn(32, 32), select=["forward-drift"]).findings
    assert (found["layer"], found["layers"]) == ("codes", ["codes", "writer2"])
    report = initlint.fix(net, torch.randn(32, 32))
    assert report.status == "fixed"
    assert [change["param"] for change in report.changes] == ["codes"]
    assert net.codes.std().item() == pytest.approx(1.0, rel=0.1)


def test_attention_writes_no_weights():
    net = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    graph = capture(net, torch.randn(4, 6, 16)).graph
    assert {written_gain(graph, layer.id) for layer in graph.weighted} == {1.0}


class Kernel(nn.Module):
    """A filter that is the product of two parameters."""

    def __init__(self):
        super().__init__()
        self.b = nn.Parameter(torch.zeros(16, 6))
        self.c = nn.Parameter(torch.zeros(16, 6))
        self.enter, self.out = nn.Linear(8, 16), nn.Linear(16, 3)
        self.register_buffer("decay", torch.rand(6, 1))

    def forward(self, x):
        kernel = (self.b * self.c) @ self.decay
        x = self.enter(x)
        return self.out(functional.gelu(x + x * kernel[:, 0]))


def test_one_of_two_zero_factors_of_a_computed_weight_is_drawn():
    net = Kernel()
    report = initlint.fix(net, torch.randn(32, 8))
    assert report.verified
    assert [change["param"] for change in report.changes] == ["b"]
    assert bool(net.b.any())
    assert not net.c.any()


def test_a_draw_that_looks_trained_by_chance_may_be_changed_beside_others_of_its_scale():
    net = nn.Sequential(*(nn.Linear(32, 32) for _ in range(8)))
    for layer in net:
        nn.init.normal_(layer.weight, std=0.001)
    with torch.no_grad():  # sorted rows fit no draw
        net[3].weight.copy_(net[3].weight.reshape(-1).sort().values.reshape(32, 32))
    for factor, allowed in ((1.0, True), (3.0, False)):
        net[3].weight.data.mul_(factor)
        model = capture(net, torch.randn(4, 32))
        planner = Planner(model, engine.measure(model, Settings()))
        assert planner.may_change(model.graph["3"].weight) is allowed


def test_a_high_risk_weighs_as_much_as_an_error():
    seen = Activations(ProbeStatus.OK)
    warned = State({}, {"summary": {"warning": 1}, "risk": 0.1}, seen)
    risky = State({}, {"summary": {}, "risk": 0.98}, seen)
    assert warned.weight < risky.weight
    assert not risky.sound


def test_an_info_that_the_cure_of_an_info_uncovers_is_cured_as_well():
    layers = []
    for index in range(4):
        layers += [nn.Linear(24 if index else 8, 24), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(24, 10))
    nn.init.normal_(net[-1].weight, std=2.4 / sqrt(24))
    x = torch.randn(64, 8)
    before = initlint.check(net, x)
    assert {(item["severity"], item["name"]) for item in before.findings} == {
        ("info", "gain-mismatch")
    }
    report = initlint.fix(net, x)
    cures = {rule for change in report.changes for rule in change["cures"]}
    assert cures == {"gain-mismatch", "head-excess-loss"}
    assert not initlint.check(net, x).findings


def test_gates_that_read_the_same_step_are_taken_back_with_the_candidate():
    from tests.test_written_cells import WrittenGru

    net = WrittenGru(bias=0.0)
    wanted = {name: float(value.std()) for name, value in net.state_dict().items()}
    with torch.no_grad():
        for layer in (net.update, net.reset, net.candidate):
            layer.weight.mul_(25.0)
    report = initlint.fix(net, torch.randn(16, 20, 8))
    assert report.status == "fixed"
    for name in ("update.weight", "reset.weight", "candidate.weight"):
        assert net.state_dict()[name].std().item() < 2 * wanted[name]


def test_the_report_tells_the_value_of_what_was_and_is_constant():
    net = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 5))
    nn.init.constant_(net[0].bias, -40.0)
    text = str(initlint.fix(net, torch.randn(32, 16)))
    assert "0.bias  float32[24]  mean -40 -> 0, 24 values" in text


class Faint(nn.Module):
    def __init__(self, std, gate=None):
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.fc1, self.fc2 = nn.Linear(32, 64), nn.Linear(64, 32)
        nn.init.normal_(self.fc1.weight, std=std)
        nn.init.normal_(self.fc2.weight, std=std)
        self.gate = None if gate is None else nn.Parameter(torch.tensor(gate))

    def forward(self, x):
        y = self.fc2(torch.relu(self.fc1(x if self.gate is not None else self.norm(x))))
        return x + (y if self.gate is None else self.gate * y)


def test_branches_that_start_faint_in_two_layers_are_opened():
    net = nn.Sequential(nn.Linear(16, 32), *(Faint(0.01) for _ in range(4)), nn.Linear(32, 4))
    report = initlint.fix(net, torch.randn(64, 16))
    assert report.verified
    assert float(net[1].fc1.weight.std()) == pytest.approx(sqrt(2 / 32), rel=0.01)
    assert float(net[1].fc2.weight.std()) == pytest.approx(sqrt(1 / 64) / 2, rel=0.01)


def test_a_multiplier_that_opens_its_branch_too_wide_is_what_is_scaled():
    blocks = [Faint(0.2, gate=4.0) for _ in range(10)]
    net = nn.Sequential(nn.Linear(16, 32), *blocks, nn.Linear(32, 4))
    report = initlint.fix(net, torch.randn(64, 16))
    assert report.verified
    assert {change["param"] for change in report.changes} >= {f"{n}.gate" for n in range(1, 11)}
    assert float(net[1].fc2.weight.std()) == pytest.approx(0.2, rel=0.05)


class Latent(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.up = nn.Linear(32, 48), nn.Linear(8, 32)
        self.mean, self.log_variance = nn.Linear(48, 8), nn.Linear(48, 8)
        nn.init.constant_(self.log_variance.bias, 8.0)

    def forward(self, x):
        hidden = torch.relu(self.enter(x))
        mean, spread = self.mean(hidden), torch.exp(0.5 * self.log_variance(hidden))
        return self.up(mean + spread * torch.randn_like(mean))


def test_a_log_variance_that_its_bias_makes_wide_loses_the_bias():
    net = Latent()
    report = initlint.fix(net, torch.randn(64, 32))
    assert report.verified
    assert [change["param"] for change in report.changes] == ["log_variance.bias"]


def test_copied_units_of_a_cell_are_drawn_in_every_gate():
    net = Words(nn.GRU(16, 24, batch_first=True))
    for value in net.rnn.parameters():
        nn.init.constant_(value, 0.1)
    report = initlint.fix(net, torch.randn(8, 12, 16))
    assert report.verified
    for block in (*net.rnn.weight_ih_l0.chunk(3), *net.rnn.weight_hh_l0.chunk(3)):
        assert len(torch.unique(block.detach(), dim=0)) == 24


class Words(nn.Module):
    def __init__(self, rnn):
        super().__init__()
        self.rnn, self.head = rnn, nn.Linear(24, 4)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def test_weights_of_one_number_are_drawn_up_to_the_last_layer():
    net = nn.Sequential(
        nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 8)
    )
    for layer in net[::2]:
        nn.init.constant_(layer.weight, 0.05)
    report = initlint.fix(net, torch.randn(64, 32))
    assert report.verified
    assert all(float(layer.weight.detach().std()) > 0 for layer in net[::2])


def test_weights_that_batch_norm_cannot_make_up_for_are_rescaled():
    layers = []
    for _ in range(4):
        layers += [nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(32, 8))
    for layer in net[:-1:3]:
        nn.init.normal_(layer.weight, std=1e-4)  # the biases stay, which a batch norm takes away
    report = initlint.fix(net, torch.randn(64, 32))
    assert report.verified
    assert "epsilon-dominates" in {item["name"] for item in report.record["before"]["findings"]}
    assert float(net[3].weight.std()) == pytest.approx(sqrt(1 / 32), rel=0.05)


class Remembers(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(8, 24, batch_first=True), nn.Linear(24, 4)
        for value in (self.rnn.weight_ih_l0, self.rnn.weight_hh_l0):
            nn.init.zeros_(value)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def test_what_a_cure_leaves_behind_is_treated_where_that_lowers_the_risk():
    net = Remembers()
    report = initlint.fix(net, torch.randn(16, 40, 8))
    assert report.verified
    assert net.rnn.weight_ih_l0.any()
    assert float(net.rnn.bias_ih_l0[24:48].detach().mean()) > 1.5  # the forget gate


class Sentences(nn.Module):
    """Tokens of N(0, 1), a GRU and a head, all other weights of one small standard deviation."""

    def __init__(self, std):
        super().__init__()
        self.tokens, self.cell = nn.Embedding(50, 32), nn.GRU(32, 32, batch_first=True)
        self.head = nn.Linear(32, 5)
        for weight in (*self.cell.parameters(), *self.head.parameters()):
            nn.init.normal_(weight, std=std) if weight.ndim > 1 else nn.init.zeros_(weight)

    def forward(self, ids):
        return self.head(self.cell(self.tokens(ids))[0].mean(1))


def test_a_cell_that_reads_and_is_read_through_small_weights_is_brought_to_its_scale():
    net = Sentences(0.004)
    tokens = net.tokens.weight.detach().clone()
    report = initlint.fix(net, torch.randint(0, 50, (32, 6)))
    assert report.verified
    named = {item["name"] for item in report.record["before"]["findings"]}
    assert "recurrent-input-faint" in named
    assert torch.equal(net.tokens.weight, tokens)
    for block in net.cell.weight_ih_l0.chunk(3):
        assert float(block.detach().std()) * sqrt(32) == pytest.approx(1, rel=0.1)
