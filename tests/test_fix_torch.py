"""Modules repaired in place, and the schemes that weigh layers together."""

from __future__ import annotations

import re
from math import sqrt

import numpy as np
import pytest

import initlint
from initlint.fix.lsuv import scale
from initlint.fix.recipes import impose, names
from initlint.fix.repair import FixOptions, repair
from initlint.fix.search import scaled_by_running
from initlint.fix.torch_code import code_for
from initlint.load.torch_module import capture
from initlint.model import Role
from initlint.probe.torch import probe_torch
from initlint.settings import Settings

torch = pytest.importorskip("torch")
nn = torch.nn

SELECTED = ("gain-mismatch", "forward-drift", "recurrent-not-orthogonal", "zero-weight")


def plain(depth: int, bend: type, width: int = 32) -> object:
    torch.manual_seed(0)
    layers: list[object] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), bend()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        return x + self.fc2(torch.relu(self.fc1(torch.relu(x))))


def residual(blocks: int = 6, width: int = 32) -> object:
    torch.manual_seed(0)
    stack = [Block(width) for _ in range(blocks)]
    return nn.Sequential(nn.Linear(16, width), *stack, nn.Linear(width, 10))


def test_a_deep_tanh_net_becomes_orthogonal_in_place():
    net, x = plain(30, nn.Tanh), torch.randn(32, 32)
    parameters = list(net.parameters())
    report = initlint.fix(net, x, select=SELECTED)
    assert report.status == "fixed"
    assert report.verified
    assert [id(one) for one in net.parameters()] == [id(one) for one in parameters]
    weight = net[10].weight.detach()
    gram = weight @ weight.T
    np.testing.assert_allclose(gram / gram[0, 0], np.eye(32), atol=1e-4)
    assert {change["applicability"] for change in report.changes} == {"unsafe"}
    assert re.search(r"for i in range\(.*\): torch.nn.init.orthogonal_\(model\[i\]", str(report))
    rows = [row for row in report.record["profile"] if row["layer"] != "60"]
    signal = np.log10([row["rms_after"] for row in rows])
    gradient = np.log10([row["gradient_after"] for row in rows])
    assert np.ptp(signal) < 0.5
    assert np.ptp(gradient) < 0.5


def test_weights_of_a_wrong_scale_are_rescaled_and_keep_their_draws():
    net, x = plain(10, nn.ReLU), torch.randn(32, 32)
    before = [layer.weight.detach().clone() for layer in net[::2]]
    report = initlint.fix(net, x, select=SELECTED)
    assert report.status == "fixed"
    for old, layer in zip(before[:10], net[::2], strict=False):
        new = layer.weight.detach()
        assert float(torch.corrcoef(torch.stack([old.ravel(), new.ravel()]))[0, 1]) > 0.9999
        assert float(new.std()) == pytest.approx(sqrt(2 / 32), rel=0.1)


def test_trained_weights_are_never_touched_without_being_asked_to():
    net, x = plain(10, nn.ReLU), torch.randn(32, 32)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    report = initlint.fix(net, x, scheme="he_normal", stage="trained")
    assert not report.changes
    assert all("--include-trained" in item["reason"] for item in report.record["untouched"])
    assert all(torch.equal(net.state_dict()[name], value) for name, value in state.items())
    assert initlint.fix(net, x, scheme="he_normal", stage="trained", include_trained=True).changes


def test_trying_a_repair_leaves_the_module_as_it_was():
    net, x = plain(10, nn.ReLU), torch.randn(32, 32)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    result = repair(capture(net, x), Settings(select=SELECTED), FixOptions())
    assert result.changes
    assert all(torch.equal(net.state_dict()[name], value) for name, value in state.items())


def test_each_gate_of_a_recurrent_layer_becomes_orthogonal_and_its_input_does_not_drown_it():
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(8, 24, batch_first=True)
            nn.init.normal_(self.lstm.weight_hh_l0)
            nn.init.normal_(self.lstm.weight_ih_l0, std=10)
            self.head = nn.Linear(24, 3)

        def forward(self, x):
            return self.head(self.lstm(x)[0][:, -1])

    net = Net()
    report = initlint.fix(net, torch.randn(4, 40, 8), select=SELECTED)
    assert report.status == "fixed"
    for gate in net.lstm.weight_hh_l0.detach().chunk(4):
        np.testing.assert_allclose(gate @ gate.T, np.eye(24), atol=1e-5)
    assert 0.2 < float(net.lstm.weight_ih_l0.detach().std()) < 0.4  # Xavier to LeCun


class Memory(nn.Module):
    """A recurrent layer over forty steps."""

    def __init__(self, cell: object) -> None:
        super().__init__()
        self.cell, self.head = cell, nn.Linear(24, 3)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


@pytest.mark.parametrize("std", [None, 0.0, 2.0])
def test_inputs_of_a_plain_cell_do_not_fill_its_state_before_the_end(std):
    torch.manual_seed(0)
    net = Memory(nn.RNN(8, 24, batch_first=True))
    if std is not None:
        nn.init.normal_(net.cell.weight_ih_l0, std=std)
    nn.init.normal_(net.cell.weight_hh_l0, std=0.05)
    report = initlint.fix(net, torch.randn(32, 40, 8))
    assert report.status == "fixed"
    weight = net.cell.weight_hh_l0.detach()
    np.testing.assert_allclose(weight @ weight.T, np.eye(24), atol=1e-5)
    assert float(net.cell.weight_ih_l0.detach().std()) == pytest.approx((8 * 40) ** -0.5, rel=0.2)
    state = net.cell(torch.randn(64, 40, 8))[0][:, -1].detach()
    assert 0.25 < float(state.std()) < 0.6  # unit scale, less what forty tanh take of it


def test_a_rectified_recurrence_becomes_the_identity_even_if_it_was_orthogonal():
    torch.manual_seed(0)
    net = Memory(nn.RNN(8, 24, nonlinearity="relu", batch_first=True))
    nn.init.orthogonal_(net.cell.weight_hh_l0)
    report = initlint.fix(net, torch.randn(4, 40, 8), select=SELECTED)
    assert report.status == "fixed"
    np.testing.assert_array_equal(net.cell.weight_hh_l0.detach(), np.eye(24))
    [finding] = report.record["before"]["findings"]
    assert "orthogonal, which a ReLU undoes" in finding["message"]
    assert finding["fix"]["code"] == "torch.nn.init.eye_(cell.weight_hh_l0)"


def test_inputs_that_shorten_a_memory_that_is_opened_are_calmed():
    torch.manual_seed(0)
    net = Memory(nn.LSTM(8, 24, batch_first=True))
    for gate in net.cell.weight_hh_l0.detach().chunk(4):
        nn.init.orthogonal_(gate)
    nn.init.normal_(net.cell.weight_ih_l0)  # gates move by sqrt(8)
    report = initlint.fix(net, torch.randn(4, 40, 8))
    assert report.status == "fixed"
    assert float(net.cell.weight_ih_l0.detach().std()) == pytest.approx(1 / sqrt(8), rel=0.01)


def test_biases_of_one_number_go_together_and_those_of_another_stay():
    net = plain(8, nn.ReLU)
    for layer in net[::2]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.constant_(layer.bias, 10.0)
    nn.init.constant_(net[4].bias, 0.1)
    report = initlint.fix(net, torch.randn(32, 32))
    assert report.status == "fixed"
    left = {round(float(layer.bias.detach().abs().max()), 6) for layer in net[::2]}
    assert left == {0.0, 0.1}


class Patches(nn.Module):
    """Projected patches and learned positions before a block with a residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.place = nn.Linear(8, 32), nn.Parameter(0.2 * torch.randn(1, 12, 32))
        self.norm, self.fc, self.out = nn.LayerNorm(32), nn.Linear(32, 64), nn.Linear(64, 32)
        self.head = nn.Linear(32, 4)
        for layer in (self.patch, self.fc, self.out, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        x = self.patch(x) + self.place
        x = x + self.out(torch.relu(self.fc(self.norm(x))))
        return self.head(x.mean(1))


def test_positions_are_not_measured_by_tokens_whose_weights_are_zero():
    torch.manual_seed(0)
    net = Patches()
    before = net.place.detach().clone()
    report = initlint.fix(net, torch.randn(16, 12, 8))
    assert report.status == "fixed"
    assert torch.equal(net.place.detach(), before)


class Coder(nn.Module):
    """An encoder that a code's two heads read, and a decoder, all of N(0, 0.01)."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
        self.mean, self.log = nn.Linear(32, 8), nn.Linear(32, 8)
        self.decode = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)

    def forward(self, x):
        h = self.encode(x)
        sign = torch.sign(x[:, :8])  # noise that is the same in every run
        return self.decode(self.mean(h) + sign * torch.exp(0.5 * self.log(h)))


def test_layers_are_not_scaled_far_beyond_their_fans_to_make_up_for_those_before_them():
    torch.manual_seed(0)
    net = Coder()
    assert initlint.fix(net, torch.randn(32, 64)).status == "fixed"
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            assert 0.3 < float(layer.weight.detach().std()) * sqrt(layer.in_features) < 4


def test_a_table_that_is_narrowed_becomes_no_wider_than_frameworks_draw_one():
    torch.manual_seed(0)
    bag = nn.EmbeddingBag(200, 24, mode="mean")
    nn.init.normal_(bag.weight, std=50.0)
    net = nn.Sequential(bag, nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 5))
    initlint.fix(net, torch.randint(0, 200, (16, 20)))
    assert float(bag.weight.detach().std()) == pytest.approx(1.0, rel=0.01)


class Reader(nn.Module):
    """Tokens and learned positions, two blocks of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(32, 32), nn.Embedding(12, 32)
        block = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 32)
        for weight in self.blocks.parameters():
            if weight.ndim > 1:
                nn.init.xavier_uniform_(weight)

    def forward(self, ids):
        return self.head(self.blocks(self.tokens(ids) + self.positions.weight[: ids.shape[1]]))


def test_infos_that_follow_from_a_warning_are_not_treated_where_that_does_harm():
    torch.manual_seed(0)
    net = Reader()
    nn.init.normal_(net.tokens.weight, std=0.18)
    nn.init.normal_(net.positions.weight, std=30)
    report = initlint.fix(net, torch.randint(0, 32, (8, 12)))
    assert [item["name"] for item in report.record["before"]["findings"]][:2] == [
        "position-table",
        "embedding-scale",
    ]
    assert report.status == "fixed"
    assert {change["param"] for change in report.changes} == {"positions.weight"}


class Remembering(nn.Module):
    """A GRU whose last state is read after a long sequence."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(8, 32, batch_first=True), nn.Linear(32, 4)
        for weight in self.cell.parameters():
            nn.init.normal_(weight, std=std) if weight.ndim > 1 else nn.init.zeros_(weight)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


@pytest.mark.parametrize(("std", "woken"), [(0.01, True), (0.15, False)])
def test_a_memory_that_opens_gets_weights_that_write_to_it(std, woken):
    torch.manual_seed(0)
    net = Remembering(std)
    before = {name: weight.clone() for name, weight in net.cell.state_dict().items()}
    report = initlint.fix(net, torch.randn(16, 40, 8))
    assert report.status == "fixed"
    after = net.cell.state_dict()
    assert not torch.equal(after["bias_ih_l0"], before["bias_ih_l0"])
    for name in ("weight_ih_l0", "weight_hh_l0"):
        assert torch.equal(after[name], before[name]) != woken
    if woken:
        block = after["weight_hh_l0"][:32]
        np.testing.assert_allclose((block @ block.T).numpy(), np.eye(32), atol=1e-5)
        assert float(after["weight_ih_l0"].std()) == pytest.approx(8**-0.5, rel=0.1)


class Highway(nn.Module):
    """Layers beside gated ways around them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(40, 40) for _ in range(16))
        self.gates = nn.ModuleList(nn.Linear(40, 40) for _ in range(16))
        self.head = nn.Linear(40, 10)
        for layer in (*self.layers, *self.gates):
            nn.init.normal_(layer.weight, std=40**-0.5)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        for layer, gate in zip(self.layers, self.gates, strict=True):
            share = torch.sigmoid(gate(x) - 2)
            x = share * torch.tanh(layer(x)) + (1 - share) * x
        return self.head(x)


class Carried(nn.Module):
    """Rectified layers beside carries, with the gates' usual bias (Srivastava et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(40, 40), nn.Linear(40, 10)
        self.layers = nn.ModuleList(nn.Linear(40, 40) for _ in range(10))
        self.gates = nn.ModuleList(nn.Linear(40, 40) for _ in range(10))
        for layer in (self.enter, self.head, *self.layers, *self.gates):
            nn.init.normal_(layer.weight, std=40**-0.5)
            nn.init.constant_(layer.bias, -2.0 if layer in [*self.gates] else 0.0)

    def forward(self, x):
        x = self.enter(x)
        for layer, gate in zip(self.layers, self.gates, strict=True):
            share = torch.sigmoid(gate(x))
            x = share * torch.relu(layer(x)) + (1 - share) * x
        return self.head(x)


def test_all_shut_gates_are_opened_and_nothing_else_is_changed():
    torch.manual_seed(0)
    net = Highway()
    for gate in net.gates:
        nn.init.constant_(gate.bias, -10.0)
    report = initlint.fix(net, torch.randn(32, 40))
    assert report.status == "fixed"
    changed = {change["param"] for change in report.changes}
    assert changed == {f"gates.{index}.bias" for index in range(16)}


def test_a_gate_beside_saturated_units_is_taken_back_by_the_same_factor():
    torch.manual_seed(0)
    net = Highway()
    for layer in (*net.layers, *net.gates):
        layer.weight.data.mul_(10)
    report = initlint.fix(net, torch.randn(32, 40))
    assert report.status == "fixed"
    assert report.record["risk"]["after"] < 0.2
    for gate in net.gates:
        assert float(gate.weight.detach().std()) == pytest.approx(40**-0.5, rel=0.1)


def test_gates_keep_how_far_they_were_opened_where_the_signal_shut_them():
    torch.manual_seed(0)
    net = Carried()
    for layer in (net.enter, *net.layers, *net.gates):
        layer.weight.data.mul_(10)
    report = initlint.fix(net, torch.randn(32, 40))
    assert report.status == "fixed"
    for gate in net.gates:
        assert (gate.bias == -2).all()
        assert float(gate.weight.detach().std()) < 2 * 40**-0.5


class Halves(nn.Module):
    """Two residual branches behind norms: one a product that zeros block, one that unlocks."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(16, 32), nn.Linear(32, 10)
        self.norm1, self.norm2, self.closing = (nn.RMSNorm(32) for _ in range(3))
        self.plain, self.left, self.right = (nn.Linear(32, 32, bias=False) for _ in range(3))
        self.back, self.last = (nn.Linear(32, 32, bias=False) for _ in range(2))
        for norm in (self.norm1, self.norm2, self.closing):
            nn.init.zeros_(norm.weight)

    def forward(self, x):
        x = self.enter(x)
        x = x + self.plain(self.norm1(x))
        z = self.norm2(x)
        x = x + self.back(nn.functional.silu(self.left(z)) * self.right(z))
        return self.head(x + self.closing(self.last(x)))


def test_zero_gains_that_block_are_opened_with_all_others_but_those_that_close_a_branch():
    torch.manual_seed(0)
    net = Halves()
    report = initlint.fix(net, torch.randn(32, 16))
    assert report.status == "fixed"
    opened = {change["param"] for change in report.changes if change["scheme"] == "constant"}
    assert opened == {"norm1.weight", "norm2.weight"}
    assert not net.closing.weight.detach().any()


class Packed(nn.Module):
    """Attention whose queries, keys and values one layer gives."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.packed = nn.Embedding(12, 32), nn.Linear(32, 96, bias=False)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 12)

    def forward(self, ids):
        x = self.norm(self.tokens(ids))
        query, key, value = (
            part.unflatten(-1, (4, 8)).transpose(1, 2) for part in self.packed(x).chunk(3, -1)
        )
        seen = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.head(self.norm(x + seen.transpose(1, 2).flatten(2)))


def test_a_packed_layer_is_scaled_as_a_whole():
    """Its output is that of all blocks: scaling the queries alone would never bring it to 1."""
    torch.manual_seed(0)
    net, ids = Packed(), torch.randint(0, 12, (16, 12))
    nn.init.normal_(net.packed.weight, std=4)
    model = capture(net, ids)
    layer = next(layer.id for layer in model.graph.weighted if layer.id.startswith("packed"))
    changes, ended = scaled_by_running(model, Settings(), {}, [layer])
    assert not ended.reason
    assert {change.param.gate for change in changes.values()} == {"query", "key", "value"}
    assert len({change.arguments["factor"] for change in changes.values()}) == 1
    [entry] = code_for(model, tuple(changes.values()))
    assert re.fullmatch(r"model\.packed\.weight\.data\.mul_\(0\.0\d+\)", entry["code"][0])


def pasted(report: object, model: object) -> None:
    """Run the code that a report offers."""
    for entry in report.record["code"]:
        for line in entry["code"]:
            exec(line, {"torch": torch, "model": model})


def test_the_code_to_paste_gives_the_repaired_start():
    """Recurrent blocks gate by gate, biases spread over time scales, factors of LSUV."""

    def net() -> object:
        torch.manual_seed(0)
        made = Memory(nn.LSTM(8, 24, batch_first=True))
        nn.init.zeros_(made.cell.weight_ih_l0)
        nn.init.normal_(made.cell.weight_hh_l0)
        return made

    repaired, again = net(), net()
    report = initlint.fix(repaired, torch.randn(4, 40, 8))
    pasted(report, again)
    for name, wanted in repaired.state_dict().items():
        if name.startswith("cell"):
            for one, other in zip(wanted.chunk(4), again.state_dict()[name].chunk(4), strict=True):
                assert float(other.std()) == pytest.approx(float(one.std()), rel=0.35)
                assert float(other.mean()) == pytest.approx(float(one.mean()), abs=0.5)

    repaired, again = plain(6, nn.ReLU), plain(6, nn.ReLU)
    pasted(initlint.fix(repaired, torch.randn(64, 32), scheme="lsuv"), again)
    for one, other in zip(repaired[::2], again[::2], strict=True):
        assert float(other.weight.detach().std()) == pytest.approx(
            float(one.weight.detach().std()), rel=0.05
        )


def test_an_unknown_scheme_or_option():
    with pytest.raises(ValueError, match="did you mean lsuv"):
        initlint.fix(plain(2, nn.ReLU), torch.randn(4, 32), scheme="lsuvv")
    with pytest.raises(ValueError, match="did you mean"):
        initlint.fix(plain(2, nn.ReLU), torch.randn(4, 32), scheme="he_norml")
    with pytest.raises(TypeError, match="unknown option"):
        initlint.fix(plain(2, nn.ReLU), torch.randn(4, 32), colour="red")


@pytest.mark.parametrize("bend", [nn.ReLU, nn.Tanh])
def test_lsuv_is_the_reference_algorithm(bend):
    """Same factors as scaling one layer after the other until |Var - 1| < 0.01."""
    torch.manual_seed(0)
    layers: list[object] = []
    for index in range(20):
        layers += [nn.Conv2d(3 if index == 0 else 8, 8, 3, padding=1, bias=False), bend()]
    net, x = nn.Sequential(*layers), torch.randn(8, 3, 12, 12)
    model = capture(net, x)
    convs = [module for module in net if isinstance(module, nn.Conv2d)]
    original = [conv.weight.detach().clone() for conv in convs]
    keys = tuple(layer.id for layer in model.graph.weighted)
    runs = []

    def run(factors):
        with torch.no_grad():
            for key, conv, weight in zip(keys, convs, original, strict=True):
                conv.weight.copy_(weight * factors[key])
        runs.append(1)
        return probe_torch(model, seed=0)

    ended = scale(model.graph, keys, run, tolerance=0.01)
    assert not ended.reason
    assert all(abs(value - 1) < 0.1 for value in ended.variances.values())
    assert len(runs) < 12
    with torch.no_grad():
        signal = x
        for weight, key in zip(original, keys, strict=True):
            output = nn.functional.conv2d(signal, weight, padding=1)
            factor = float(1 / output.std(correction=0))
            assert ended.factors[key] == pytest.approx(factor, rel=0.05)
            signal = bend()(output * factor)


def drawn(net: object, name: str, seed: int = 0) -> dict[str, np.ndarray]:
    model = capture(net, torch.randn(4, 16))
    return {item.param.name: item.values for item in impose(model.graph, name, seed)}


def test_a_scheme_takes_its_arguments_by_name():
    values = drawn(residual(1), "xavier-normal:fan=fan_out:gain=2")
    assert values["0.weight"].std() == pytest.approx(2 / sqrt(32), rel=0.1)
    asked = drawn(residual(1), "orthogonal:gain=3")["1.fc1.weight"]
    np.testing.assert_allclose(asked @ asked.T, 9 * np.eye(32), atol=1e-6)
    for text, words in (
        ("he:gian=2", "its arguments: gain, fan"),
        ("he:fan=fan_mean", "fan_in, fan_out or fan_avg"),
        ("he:gain=much", "no number"),
        ("fixup:gain=2", "takes no 'gain'"),
    ):
        with pytest.raises(ValueError, match=words):
            drawn(residual(1), text)


def test_an_orthogonal_transposed_convolution_keeps_the_second_moment():
    torch.manual_seed(0)
    net = nn.Sequential(nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ConvTranspose2d(16, 16, 4, 2, 1))
    x = torch.randn(8, 32, 8, 8)
    for item in impose(capture(net, x).graph, "orthogonal", 0):
        if item.param.role is Role.WEIGHT:
            stored = net.get_parameter(item.param.name)
            stored.data = torch.from_numpy(item.values).float().swapaxes(0, 1).contiguous()
        else:
            net.get_parameter(item.param.name).data.zero_()
    for layer in net:
        before, x = x, layer(x).detach()
        middle = x[:, :, 2:-2, 2:-2].square().mean() / before.square().mean()
        assert float(middle) == pytest.approx(1, rel=0.2)


def test_fixup_is_the_papers():
    """L = 6 branches of m = 2 layers: first layers He × 6^(-1/2), last ones and the head zero."""
    values = drawn(residual(), "fixup")
    firsts = np.concatenate([values[f"{index}.fc1.weight"].ravel() for index in range(1, 7)])
    assert firsts.std() == pytest.approx(sqrt(2 / 32) / sqrt(6), rel=0.05)
    for index in range(1, 7):
        assert not values[f"{index}.fc2.weight"].any()
    assert not values["7.weight"].any()
    assert values["0.weight"].std() == pytest.approx(sqrt(2 / 16), rel=0.15)
    assert not values["1.fc1.bias"].any()


def test_depth_scaled_divides_what_writes_to_the_stream():
    values = drawn(residual(), "depth_scaled")
    writers = np.concatenate([values[f"{index}.fc2.weight"].ravel() for index in range(1, 7)])
    readers = np.concatenate([values[f"{index}.fc1.weight"].ravel() for index in range(1, 7)])
    assert readers.std() / writers.std() == pytest.approx(sqrt(6), rel=0.05)
    assert readers.std() == pytest.approx(0.02, rel=0.05)


class Transformer(nn.Module):
    def __init__(self, depth: int = 4, width: int = 32) -> None:
        super().__init__()
        make = nn.TransformerEncoderLayer
        self.table = nn.Embedding(50, width)
        self.layers = nn.ModuleList(
            make(width, 4, 64, dropout=0.0, batch_first=True) for _ in range(depth)
        )
        self.head = nn.Linear(width, 50)

    def forward(self, tokens):
        x = self.table(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


@pytest.mark.parametrize(
    ("name", "factor"), [("deepnorm", (8 * 4) ** -0.25), ("t_fixup", 0.67 * 4**-0.25)]
)
def test_transformer_schemes_scale_values_but_not_queries(name, factor):
    torch.manual_seed(0)
    model = capture(Transformer().train(), torch.randint(0, 50, (2, 6)))
    items = [item for item in impose(model.graph, name, 0) if item.param.role is Role.WEIGHT]

    def ratio(gate: str | None, word: str) -> float:
        chosen = [i for i in items if i.param.gate == gate and word in i.param.name]
        assert len(chosen) == 4
        return float(
            np.mean([item.values.std() * sqrt(sum(item.values.shape) / 2) for item in chosen])
        )

    assert ratio("query", "in_proj") == pytest.approx(1, rel=0.05)
    assert ratio("key", "in_proj") == pytest.approx(1, rel=0.05)
    assert ratio("value", "in_proj") == pytest.approx(factor, rel=0.05)
    assert ratio(None, "out_proj") == pytest.approx(factor, rel=0.05)
    assert ratio(None, "linear1") == pytest.approx(factor, rel=0.05)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(16, 16), nn.Linear(16, 16)
        self.alpha = nn.Parameter(torch.ones(16))

    def forward(self, x):
        return x + self.alpha * self.fc2(torch.relu(self.fc1(x)))


@pytest.mark.parametrize(("name", "value"), [("rezero", 0.0), ("layer_scale", 0.1)])
def test_closing_gains_of_residual_branches(name, value):
    net = nn.Sequential(nn.Linear(16, 16), *[Gated() for _ in range(3)], nn.Linear(16, 4))
    values = drawn(net, name)
    for index in range(1, 4):
        assert (values[f"{index}.alpha"] == value).all()


def test_every_scheme_can_be_imposed_and_is_the_same_for_the_same_seed():
    net = residual(2)
    for name in names():
        first, second = drawn(net, name, 3), drawn(net, name, 3)
        assert all((first[key] == second[key]).all() for key in first), name
        assert all(np.isfinite(value).all() for value in first.values()), name


def test_equal_layers_are_multiplied_in_one_loop():
    net = residual(12)
    for block in net[1:-1]:
        nn.init.kaiming_normal_(block.fc2.weight, nonlinearity="relu")
        nn.init.kaiming_normal_(block.fc1.weight, nonlinearity="relu")
    report = initlint.fix(net, torch.randn(64, 16))
    lines = [line for entry in report.record["code"] for line in entry["code"]]
    assert [line for line in lines if "fc2" in line and line.startswith("for i in range(1, 13)")]
    assert len(lines) <= 4


class Scored(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.head = nn.Linear(32, 96), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = torch.softmax(q @ k.transpose(-2, -1) / sqrt(32), -1)
        return self.head(torch.tanh(x + self.out(scores @ v)).mean(1))


def test_rows_of_a_packed_matrix_are_pasted_as_such():
    def net() -> object:
        torch.manual_seed(0)
        made = Scored()
        made.qkv.weight.data[:64].mul_(60.0)
        return made

    repaired, again = net(), net()
    report = initlint.fix(repaired, torch.randn(16, 12, 32), select=("attention-logit-scale",))
    assert report.changes
    pasted(report, again)
    for one, other in zip(repaired.qkv.weight.chunk(3), again.qkv.weight.chunk(3), strict=True):
        assert float(other.std()) == pytest.approx(float(one.std()), rel=0.1)
