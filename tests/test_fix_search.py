"""The search for a cure: what each kind of fault needs, and what is never called a cure."""

from __future__ import annotations

from dataclasses import replace
from math import log, sqrt

import numpy as np
import pytest

import initlint
from initlint import engine
from initlint.fix import repair as repairs
from initlint.fix.balance import deep_plain_layers
from initlint.fix.confirm import confirm
from initlint.fix.plan import Planner
from initlint.fix.repair import FixOptions, doubts, repair
from initlint.load.torch_module import capture
from initlint.model import LoadError
from initlint.settings import Settings

torch = pytest.importorskip("torch")
nn = torch.nn


def stack(depth, bend, width=32, inputs=32):
    torch.manual_seed(0)
    layers = []
    for index in range(depth):
        layers += [nn.Linear(inputs if index == 0 else width, width), bend()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def status(report):
    return report.status, report.record["verdict"]["reasons"]


def test_a_network_of_constants_is_drawn_again():
    net = stack(4, nn.ReLU)
    for layer in net[::2]:
        nn.init.constant_(layer.weight, 0.05)
        nn.init.zeros_(layer.bias)
    assert status(initlint.fix(net, torch.randn(16, 32))) == ("fixed", [])
    for layer in net[:-1:2]:
        rows = layer.weight.detach().numpy()
        assert len(np.unique(rows, axis=0)) == len(rows)
        assert rows.std() > 0.05


def test_mostly_copied_units_are_drawn_again_and_few_copies_alone():
    net = stack(4, nn.ReLU)
    with torch.no_grad():
        for layer in net[::2]:
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        net[2].weight.copy_(net[2].weight[:2].repeat(16, 1))
        net[4].weight[5] = net[4].weight[4]
        kept = net[4].weight.clone()
    report = initlint.fix(net, torch.randn(16, 32))
    assert report.status == "fixed"
    assert len(np.unique(net[2].weight.detach().numpy(), axis=0)) == 32
    moved = (net[4].weight != kept).any(1).nonzero().flatten().tolist()
    assert moved == [5]
    assert "redraw_duplicates(units=1)" in str(report)


def test_a_deep_narrow_relu_stack_becomes_orthogonal_and_a_short_one_is_rescaled():
    deep, short = stack(20, nn.ReLU), stack(6, nn.ReLU)
    for net in (deep, short):
        for layer in net[::2]:
            nn.init.normal_(layer.weight, std=0.02)
    before = short[4].weight.detach().clone()
    assert initlint.fix(deep, torch.randn(16, 32)).status == "fixed"
    assert initlint.fix(short, torch.randn(16, 32)).status == "fixed"
    product = deep[10].weight.detach() @ deep[10].weight.detach().T
    np.testing.assert_allclose(product.numpy(), 2 * np.eye(32), atol=1e-4)
    ratio = short[4].weight.detach() / before
    np.testing.assert_allclose(ratio.numpy(), float(ratio.mean()), rtol=1e-4)


def test_which_stacks_are_deep():
    assert len(deep_plain_layers(capture(stack(20, nn.ReLU), torch.randn(2, 32)).graph)) == 20
    assert not deep_plain_layers(capture(stack(20, nn.ReLU, 512), torch.randn(2, 32)).graph)
    layers = [module for _ in range(20) for module in (nn.Linear(32, 32), nn.LayerNorm(32))]
    normed = nn.Sequential(*layers)
    assert not deep_plain_layers(capture(normed, torch.randn(2, 32)).graph)


def test_sigmoids_are_started_as_the_tanh_they_are():
    net = stack(5, nn.Sigmoid)
    for layer in net[::2]:
        nn.init.xavier_uniform_(layer.weight)
    x = torch.randn(64, 32)
    assert initlint.fix(net, x).status == "fixed"
    with torch.no_grad():
        hidden = net[:-1](x)
    assert float(hidden.mean()) == pytest.approx(0.5, abs=0.05)
    assert float(hidden.std(0).mean()) > 0.1


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(32, 32), nn.LayerNorm(32), nn.Linear(32, 10)
        with torch.no_grad():
            self.norm.weight.fill_(-8.0)
            self.norm.bias.fill_(-8.0)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.first(x))))


def test_a_fault_that_a_cure_uncovers_is_cured_as_well():
    """Gains of -8 let some units fire in spite of shifts of -8; gains of 1 alone let none."""
    torch.manual_seed(0)
    net = Normed()
    assert initlint.fix(net, torch.randn(64, 32)).status == "fixed"
    assert (net.norm.weight == 1).all()
    assert not net.norm.bias.any()


class Cosine(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 16)
        self.classes = nn.Parameter(torch.zeros(10, 16))

    def forward(self, x):
        classes = nn.functional.normalize(self.classes, dim=-1)
        return self.second(torch.relu(self.first(x))) @ classes.T


def test_what_a_layer_reads_only_as_a_result_is_left_alone():
    torch.manual_seed(0)
    net = Cosine()
    model = capture(net, torch.randn(16, 32))
    _, untouched, _ = repairs.imposed(model, Settings(), FixOptions(scheme="he_normal"))
    assert [item.name for item in untouched] == ["classes"]
    assert "computed from it" in untouched[0].reason


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(200, 64)
        self.norm = nn.LayerNorm(64)
        self.head = nn.Linear(64, 200, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens):
        return self.head(self.norm(self.table(tokens)))


def test_a_tied_table_is_rescaled_through_its_owner():
    torch.manual_seed(0)
    net = Tied()
    assert initlint.fix(net, torch.randint(0, 200, (8, 12))).status == "fixed"
    assert float(net.table.weight.detach().std()) < 0.3
    assert net.head.weight is net.table.weight


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTM(8, 16, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


def imposed(net, x, name):
    model = capture(net, x)
    changes, _, _ = repairs.imposed(model, Settings(), FixOptions(scheme=name))
    return {(change.param.name, change.param.gate): change.values for change in changes}


def test_the_textbook_opens_memory_gates_over_the_sequence():
    values = imposed(Gated(), torch.randn(2, 80, 8), "textbook")
    forget = values["cell.bias_ih_l0", "forget"]
    assert (forget >= log(80)).all()
    assert (forget <= log(160)).all()
    assert forget.max() > log(100)
    entering = values["cell.bias_ih_l0", "input"]  # noise of 80 steps sums to unit variance
    np.testing.assert_allclose(1 / (1 + np.exp(-entering)), 0.25)
    hidden = values["cell.weight_hh_l0", "forget"]
    np.testing.assert_allclose(hidden @ hidden.T, np.eye(16), atol=1e-6)
    short = imposed(Gated(), torch.randn(2, 5, 8), "textbook")
    assert (short["cell.bias_ih_l0", "forget"] == 1).all()


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x):
        return x + self.fc2(torch.relu(self.fc1(x)))


def test_the_textbook_starts_residual_blocks_as_the_identity():
    net = nn.Sequential(nn.Linear(32, 32), *[Block() for _ in range(3)], nn.Linear(32, 4))
    values = imposed(net, torch.randn(4, 32), "textbook")
    for index in (1, 2, 3):
        assert not values[f"{index}.fc2.weight", None].any()
        assert values[f"{index}.fc1.weight", None].std() == pytest.approx(sqrt(2 / 32), rel=0.15)


class Bent(nn.Module):
    """A branch whose last layer is read by a ReLU."""

    def __init__(self, width=32):
        super().__init__()
        self.first, self.last = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        return torch.relu(torch.relu(self.last(torch.relu(self.first(x)))) + x)


def test_no_layer_before_a_relu_starts_at_zero():
    net = nn.Sequential(nn.Linear(32, 32), *[Bent() for _ in range(4)], nn.Linear(32, 4))
    values = imposed(net, torch.randn(4, 32), "textbook")
    for index in (1, 2, 3, 4):
        wanted = sqrt(2 / 32) / 2  # of a ReLU, over four branches
        assert values[f"{index}.last.weight", None].std() == pytest.approx(wanted, rel=0.15)


def test_branches_that_are_far_too_wide_by_themselves_are_narrowed_before_depth_counts():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 32), *[Bent() for _ in range(4)], nn.Linear(32, 4))
    for name, weight in net.named_parameters():
        if weight.ndim > 1 and ("first" in name or "last" in name):
            nn.init.kaiming_normal_(weight)
            weight.data.mul_(8.0)
    report = initlint.fix(net, torch.randn(16, 32)).to_dict()
    assert report["verdict"]["status"] == "fixed"
    assert report["risk"]["after"] < 0.2
    assert net[1].first.weight.std().item() == pytest.approx(sqrt(2 / 32), rel=0.15)


def test_a_cell_whose_output_is_shut_starts_half_open():
    torch.manual_seed(0)

    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 4)

        def forward(self, x):
            return self.head(self.cell(x)[0][:, -1])

    net = Reader()
    for bias in (net.cell.bias_ih_l0, net.cell.bias_hh_l0):
        nn.init.zeros_(bias)
    net.cell.bias_ih_l0.data[-16:] = -12.0
    initlint.fix(net, torch.randn(16, 6, 8))
    assert not net.cell.bias_ih_l0[-16:].any()


class Sine(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 64), nn.Linear(64, 64)

    def forward(self, x):
        return torch.sin(30 * self.second(torch.sin(30 * self.first(x))))


def test_the_textbook_knows_sines():
    values = imposed(Sine(), torch.randn(16, 2), "textbook")
    assert abs(values["first.weight", None]).max() <= 1 / 2
    bound = sqrt(6 / 64) / 30
    assert 0.9 * bound < abs(values["second.weight", None]).max() <= bound


@pytest.fixture
def risky(monkeypatch):
    """A linter without findings, whose risk is high while the first weight is small."""
    lint = engine.lint_observed

    def judged(model, settings, *rest):
        record, seen = lint(model, replace(settings, select=("non-finite",)), *rest)
        weight = next(param for _, param in model.graph.params)
        return {**record, "risk": 0.9 if weight.tensor.read().std() < 0.1 else 0.1}, seen

    monkeypatch.setattr(engine, "lint_observed", judged)


def test_a_high_risk_without_a_finding_gets_the_textbook(risky):
    net = stack(3, nn.ReLU)
    for layer in net[::2]:
        nn.init.normal_(layer.weight, std=0.01)
    model = capture(net, torch.randn(16, 32))
    result = repair(model, Settings(), FixOptions())
    assert result.before["risk"] == 0.9
    assert result.after["risk"] == 0.1
    assert len({change.layer for change in result.changes}) == 4
    assert not doubts(result, model)


def test_a_risk_that_stays_is_never_called_a_cure(risky, monkeypatch):
    net = stack(3, nn.ReLU)
    for layer in net[::2]:
        nn.init.normal_(layer.weight, std=0.01)
    model = capture(net, torch.randn(16, 32))
    result = repair(model, Settings(), FixOptions(scheme="normal"))
    assert any("risk of harm is still 0.90" in reason for reason in doubts(result, model))


def data(path, classes=10):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((256, 32)).astype(np.float32)
    y = (x @ rng.standard_normal((32, classes))).argmax(1)
    np.savez(path, x=x, targets=y)
    return str(path)


def test_training_confirms_a_ranking_or_says_that_it_does_not(tmp_path):
    net = stack(6, nn.ReLU)
    model = capture(net, torch.randn(16, 32))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    schemes = {
        name: repairs.imposed(model, Settings(), FixOptions(scheme=name))[0]
        for name in ("he_normal", "normal")
    }
    told = confirm(model, Settings(), schemes, 30, data(tmp_path / "d.npz"))
    assert told["best"] == "he_normal"
    assert told["agrees"]
    assert told["losses"]["he_normal"] < told["losses"]["normal"] - 0.05
    turned = dict(reversed(schemes.items()))
    assert not confirm(model, Settings(), turned, 30, data(tmp_path / "d.npz"))["agrees"]
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())


def test_data_that_do_not_fit(tmp_path):
    model = capture(stack(2, nn.ReLU), torch.randn(16, 32))
    np.savez(tmp_path / "bare.npz", x=np.zeros((8, 32), np.float32))
    with pytest.raises(LoadError, match="no targets"):
        confirm(model, Settings(), {"as given": ()}, 1, str(tmp_path / "bare.npz"))
    np.savez(tmp_path / "odd.npz", x=np.zeros((8, 32), np.float32), y=np.zeros(7))
    with pytest.raises(LoadError, match="number of rows"):
        confirm(model, Settings(), {"as given": ()}, 1, str(tmp_path / "odd.npz"))
    with pytest.raises(LoadError, match="not an"):
        confirm(model, Settings(), {"as given": ()}, 1, str(tmp_path / "none.npz"))


def test_scaling_by_running_begins_with_the_layer_that_the_profile_is_told_from():
    net = stack(4, nn.ReLU)
    with torch.no_grad():
        for layer in net[:-1:2]:
            nn.init.kaiming_normal_(layer.weight).mul_(6)
    model = capture(net, torch.randn(64, 32))
    finding = {
        "name": "variance-profile",
        "layer": "2",
        "layers": ["2", "4", "6"],
        "fix": {"scheme": "lsuv", "params": ["2.weight", "4.weight", "6.weight"]},
    }
    plan = Planner(model, engine.measure(model, Settings())).plan([finding])
    assert set(plan.scaled) == {"0", "2", "4", "6"}


class Sines(nn.Module):
    def __init__(self, first):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 64), nn.Linear(64, 64), nn.Linear(64, 64)])
        self.head = nn.Linear(64, 1)
        for layer in self.layers:
            bound = sqrt(6 / layer.in_features) / 12 * 5
            nn.init.uniform_(layer.weight, -bound, bound)
        nn.init.uniform_(self.layers[0].weight, -first, first)

    def forward(self, x):
        for layer in self.layers:
            x = torch.sin(12 * layer(x))
        return self.head(x)


@pytest.mark.parametrize(("first", "moved"), [(3.0, True), (0.6, False)])
def test_the_first_of_many_sines_is_mended_with_the_others_where_it_is_off(first, moved):
    torch.manual_seed(0)
    net = Sines(first)
    before = net.layers[0].weight.detach().clone()
    initlint.fix(net, torch.rand(64, 2) * 2 - 1)
    assert float(net.layers[1].weight.detach().abs().max()) < 1.2 * sqrt(6 / 64) / 12
    assert torch.equal(net.layers[0].weight, before) != moved


class Words(nn.Module):
    def __init__(self, tied):
        super().__init__()
        self.table = nn.Embedding(60, 24)
        self.rnn = nn.LSTM(24, 24, batch_first=True)
        self.head = nn.Linear(24, 60, bias=False)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, ids):
        return self.head(self.rnn(self.table(ids))[0])


@pytest.mark.parametrize(("tied", "std"), [(False, 1.0), (True, 24**-0.5)])
def test_the_textbook_gives_a_table_that_weights_read_unit_scale(tied, std):
    values = imposed(Words(tied), torch.randint(0, 60, (4, 12)), "textbook")
    assert float(values["table.weight", None].std()) == pytest.approx(std, rel=0.1)


class Linked(nn.Module):
    """Sums of encoder and decoder; every convolution is normalised."""

    def __init__(self):
        super().__init__()

        def part():
            return nn.Sequential(nn.Linear(24, 24, bias=False), nn.BatchNorm1d(24), nn.ReLU())

        self.enter, self.low, self.up = nn.Linear(16, 24), part(), part()
        self.out = nn.Linear(24, 4)

    def forward(self, x):
        x = self.enter(x)
        return self.out(x + self.up(x + self.low(x)))


def test_the_textbook_never_gives_a_normaliser_zeros_to_divide():
    values = imposed(Linked(), torch.randn(16, 16), "textbook")
    assert values["low.0.weight", None].any()
    assert values["up.0.weight", None].any()


def test_what_the_textbook_finds_in_place_is_no_change():
    net = Linked()
    result = repair(capture(net, torch.randn(16, 16)), Settings(), FixOptions(scheme="textbook"))
    changed = {change.param.name for change in result.changes}
    assert "low.0.weight" in changed
    assert not changed & {"low.1.weight", "low.1.bias"}  # ones and zeros already


def test_data_that_the_module_does_not_take(tmp_path):
    model = capture(Words(False), torch.randint(0, 60, (4, 12)))
    np.savez(tmp_path / "d.npz", x=np.zeros((8, 12), np.float32), y=np.zeros((8, 12), np.int64))
    with pytest.raises(LoadError, match="--data does not fit the module"):
        confirm(model, Settings(), {"as given": ()}, 2, str(tmp_path / "d.npz"))


def test_numbers_in_double_precision_and_batches_that_can_be_read_once(tmp_path, monkeypatch):
    model = capture(stack(2, nn.ReLU), torch.randn(16, 32))
    np.savez(tmp_path / "d.npz", x=np.zeros((8, 32)), y=np.zeros(8, np.int64))
    schemes = {"as given": (), "again": ()}
    told = confirm(model, Settings(), schemes, 2, str(tmp_path / "d.npz"))
    assert told["losses"]["as given"] == told["losses"]["again"]
    (tmp_path / "feed.py").write_text(
        "import torch\nbatches = ((torch.randn(4, 32), torch.zeros(4).long()) for _ in range(9))\n"
    )
    monkeypatch.chdir(tmp_path)
    told = confirm(model, Settings(), schemes, 3, "feed.py:batches")
    assert told["losses"]["as given"] == told["losses"]["again"]


def test_an_info_alone_does_not_have_all_layers_scaled():
    torch.manual_seed(0)
    layers: list[object] = []
    for width in (3, *[24] * 6):
        conv = nn.Conv2d(width, 24, 3, padding=1)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.zeros_(conv.bias)
        conv.weight.data.mul_(1.3)
        layers += [conv, nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    batch = torch.randn(32, 3, 12, 12)
    report = initlint.fix(net, batch)
    assert report.status == "nothing"
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    [left] = report.record["untouched"]
    assert left["name"].startswith("variance-profile")
    assert "--scheme lsuv" in left["reason"]
    assert initlint.fix(net, batch, scheme="lsuv").changes
