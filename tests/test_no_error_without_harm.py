"""An error means that training is harmed: what it makes up for, or does without, is a warning.

Every network here has a counterpart that was trained (`benchmarks/outcome`).
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional, init

import initlint
from initlint.lint.finding import Severity
from initlint.lint.harm import backward_severity, drift_severity, makers
from initlint.theory.result import Sink


def _found(net, *inputs, name):
    report = initlint.check(net, *inputs)
    found = [item for item in report.findings if item["name"] == name]
    return (Severity(found[0]["severity"]), set(found[0]["layers"])) if found else (None, set())


def _mlp(depth, width=32):
    torch.manual_seed(0)
    layers = []
    for _ in range(depth):
        linear = nn.Linear(width, width)
        init.kaiming_normal_(linear.weight)
        init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    head = nn.Linear(width, 10)
    init.normal_(head.weight, std=width**-0.5)
    init.zeros_(head.bias)
    return nn.Sequential(*layers, head)


@pytest.mark.parametrize(("layers", "expected"), [(1, "warning"), (2, "warning"), (3, "error")])
def test_a_loss_that_one_or_two_layers_make_up_is_no_error(layers, expected):
    assert drift_severity(-6.0, 0.0, Sink.OUTPUT, layers) == Severity(expected)
    assert backward_severity(-6.0, layers) == Severity(expected)
    assert drift_severity(2.0, 0.0, Sink.OUTPUT, layers) is Severity.ERROR
    net = _mlp(4)
    for number in range(layers):
        net[2 * number].weight.data.mul_(10 ** (-6 / layers))
    report = initlint.check(net, torch.randn(16, 32))
    assert max(Severity(item["severity"]) for item in report.findings) == Severity(expected)


def test_what_contributes_little_is_no_maker_of_a_drift():
    assert makers([-3.0, -2.0, -0.1, 0.4], -4.7) == 2
    assert makers([], -1.0) == 0
    assert makers([0.5, 0.4, -2.0], 0.9) == 2


class Block(nn.Module):
    """Pre-norm residual perceptron."""

    def __init__(self, width=24):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        for layer in (self.up, self.down):
            init.kaiming_normal_(layer.weight, nonlinearity="linear")
            init.zeros_(layer.bias)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Residual(nn.Module):
    def __init__(self, depth=3, width=24):
        super().__init__()
        self.stem = nn.Linear(16, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x):
        return self.head(self.norm(self.blocks(self.stem(x))))


def _dead(block):
    init.constant_(block.up.bias, -60.0)


def _equal(block):
    init.constant_(block.up.weight, 0.05)
    init.constant_(block.down.weight, 0.05)


def _zero_pair(block):
    init.zeros_(block.up.weight)
    init.zeros_(block.down.weight)


@pytest.mark.parametrize(
    ("change", "name"),
    [(_dead, "unit-cannot-fire"), (_equal, "symmetric-units"), (_zero_pair, "zero-weight")],
)
def test_branches_that_fail_beside_a_trunk_that_trains_are_a_warning(change, name):
    torch.manual_seed(0)
    net = Residual()
    for block in net.blocks:
        change(block)
    severity, layers = _found(net, torch.randn(16, 16), name=name)
    assert severity is Severity.WARNING
    assert "blocks.0.up" in layers
    for parameter in net.stem.parameters():  # adapters in a frozen network are all that trains
        parameter.requires_grad_(False)
    assert _found(net, torch.randn(16, 16), name=name)[0] is Severity.ERROR


class Latents(nn.Module):
    """Latents read the input through a branch alone."""

    def __init__(self, width=16):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(4, width))
        self.value, self.out = nn.Linear(8, width), nn.Linear(width, width)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        read = self.out(torch.tanh(self.value(x))).mean(1, keepdim=True)
        return self.head((self.latents.expand(len(x), -1, -1) + read).mean(1))


def test_a_branch_that_is_the_only_way_in_is_no_way_around():
    torch.manual_seed(0)
    net = Latents()
    for layer in (net.value, net.out):
        init.zeros_(layer.weight)
        init.zeros_(layer.bias)
    severity, _ = _found(net, torch.randn(16, 5, 8), name="zero-weight")
    assert severity is Severity.ERROR


def test_units_that_read_zeros_are_not_dead_and_the_dead_layer_is_named_alone():
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU()),
        *(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU()),
        nn.Linear(32, 10),
    )
    init.constant_(net[1].bias, -12.0)
    init.zeros_(net[3].bias)
    severity, layers = _found(net, torch.randn(32, 16), name="dead-relu")
    assert severity is Severity.ERROR
    assert layers == {"1", "2"}
    init.zeros_(net[1].bias)
    init.zeros_(net[0].weight)
    init.zeros_(net[0].bias)
    assert _found(net, torch.randn(32, 16), name="dead-relu")[0] is None


def test_relu6_at_its_upper_end_is_saturated():
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU6()),
        *(nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU6()),
        *(nn.Flatten(), nn.Linear(8 * 16, 10)),
    )
    pictures = torch.randn(16, 1, 8, 8)
    assert _found(net, pictures, name="saturation")[0] is None
    init.constant_(net[1].bias, 30.0)
    report = initlint.check(net, pictures)
    spoken = [item for item in report.findings if item["severity"] != "info"]
    assert [(item["name"], set(item["layers"])) for item in spoken] == [("saturation", {"1", "2"})]


class PostNorm(nn.Module):
    """The sum of trunk and branch is normalised."""

    def __init__(self, width=24):
        super().__init__()
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        return self.norm(x + self.down(functional.gelu(self.up(x))))


def test_small_gains_on_the_trunk_slow_what_reads_them_and_small_entries_of_branches_do_not():
    torch.manual_seed(0)
    post = nn.Sequential(nn.Linear(16, 24), *(PostNorm() for _ in range(3)), nn.Linear(24, 10))
    pre = Residual()
    for module in (*post.modules(), *pre.blocks.modules()):
        if isinstance(module, nn.LayerNorm):
            init.constant_(module.weight, 0.01)
    assert _found(post, torch.randn(16, 16), name="norm-gain-off")[0] is Severity.WARNING
    assert _found(pre, torch.randn(16, 16), name="norm-gain-off")[0] in (None, Severity.INFO)


class Tables(nn.Module):
    def __init__(self, std):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(12, 8) for _ in range(3))
        for table in self.tables:
            init.normal_(table.weight, std=std)
        self.hidden, self.head = nn.Linear(24, 32), nn.Linear(32, 2)

    def forward(self, ids):
        x = torch.cat([table(ids[:, n]) for n, table in enumerate(self.tables)], -1)
        return self.head(torch.relu(self.hidden(x)))


@pytest.mark.parametrize(("std", "expected"), [(1.0, None), (10.0, "warning"), (40.0, "error")])
def test_tables_that_layers_read_as_they_are_answer_for_their_scale(std, expected):
    torch.manual_seed(0)
    severity, layers = _found(Tables(std), torch.randint(0, 12, (16, 3)), name="embedding-scale")
    assert severity == (None if expected is None else Severity(expected))
    assert layers == (set() if expected is None else {"tables.0", "tables.1", "tables.2"})


@pytest.mark.parametrize(("std", "expected"), [(5.0, "warning"), (20.0, "error")])
def test_a_head_of_a_few_nats_is_a_warning(std, expected):
    net = _mlp(2)
    init.normal_(net[-1].weight, std=std / math.sqrt(32))
    severity, _ = _found(net, torch.randn(16, 32), name="head-excess-loss")
    assert severity == Severity(expected)


@pytest.mark.parametrize(
    ("std", "expected"), [(1.0, None), (4.0, "info"), (6.0, "warning"), (20.0, "error")]
)
def test_sigmoids_at_the_output_are_judged_as_logits(std, expected):
    """E[ln(1 + e^z)] - ln 2: 0.11 nats at 1, 1.1 at 4, 1.8 at 6, 7.3 at 20."""
    torch.manual_seed(0)
    net = nn.Sequential(*_mlp(2), nn.Sigmoid())
    x = torch.randn(256, 32)
    with torch.no_grad():
        net[-2].weight *= std / net[:-1](x).std()
    severity, layers = _found(net, x, name="head-excess-loss")
    assert severity == (None if expected is None else Severity(expected))
    assert layers == (set() if expected is None else {"4"})


@pytest.mark.parametrize(("gain", "expected"), [(2**0.5, "info"), (2.5, "warning")])
def test_a_head_of_hes_gain_behind_grown_features_is_an_info(gain, expected):
    torch.manual_seed(0)
    net = _mlp(2)
    x = torch.randn(256, 32)
    with torch.no_grad():
        net[0].weight *= 1.9 / net[:-1](x).square().mean().sqrt()
    init.normal_(net[-1].weight, std=gain / math.sqrt(32))
    init.zeros_(net[-1].bias)
    severity, _ = _found(net, x, name="head-excess-loss")
    assert severity == Severity(expected)


def test_a_normaliser_that_reads_zeros_of_a_weight_is_told():
    torch.manual_seed(0)
    net = Residual()
    net.side = nn.Linear(4, 24)

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            y = self.net.blocks(self.net.stem(x[:, :16]))
            return self.net.head(self.net.norm(y) + self.net.side(x[:, 16:]))

    init.zeros_(net.stem.weight)
    init.zeros_(net.stem.bias)
    severity, layers = _found(Both(), torch.randn(16, 20), name="zero-weight")
    assert severity is Severity.WARNING
    assert layers == {"net.stem"}


def test_scatter_from_draw_to_draw_is_never_an_error():
    torch.manual_seed(0)
    layers = []
    for _ in range(60):
        layers += [nn.Linear(8, 8), nn.ReLU()]
        init.kaiming_normal_(layers[-2].weight)
    net = nn.Sequential(*layers)
    report = initlint.check(net, torch.randn(16, 8), select=("narrow-deep-scatter",))
    assert [item["severity"] for item in report.findings] == ["warning"]


def test_branches_that_begin_with_a_gain_of_zero_are_told_and_those_that_end_with_one_are_not():
    torch.manual_seed(0)
    net = Residual()
    for block in net.blocks:
        init.zeros_(block.norm.weight)
    severity, layers = _found(net, torch.randn(16, 16), name="norm-gain-off")
    assert severity is Severity.WARNING
    assert layers == {f"blocks.{number}.norm" for number in range(3)}
    for block in net.blocks:
        init.ones_(block.norm.weight)
        init.zeros_(block.down.weight)
    assert _found(net, torch.randn(16, 16), name="norm-gain-off")[0] is None


class Cosines(nn.Module):
    """Unit vectors compared with class vectors, times a learned factor."""

    def __init__(self, factor):
        super().__init__()
        self.body, self.classes = nn.Linear(16, 32), nn.Parameter(torch.randn(10, 32))
        self.scale = nn.Parameter(torch.tensor(math.log(factor)))

    def forward(self, x):
        y = functional.normalize(self.body(x), dim=-1)
        return self.scale.exp() * y @ functional.normalize(self.classes, dim=-1).t()


@pytest.mark.parametrize(
    ("factor", "expected"), [(14.0, None), (100.0, "warning"), (900.0, "error")]
)
def test_a_temperature_that_freezes_the_softmax_is_named(factor, expected):
    torch.manual_seed(0)
    severity, layers = _found(Cosines(factor), torch.randn(16, 16), name="head-excess-loss")
    assert severity == (None if expected is None else Severity(expected))
    assert layers == (set() if expected is None else {"scale"})
