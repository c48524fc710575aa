"""The risk: monotone in every piece of evidence, later look counts, module left untouched."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import initlint
from initlint.load import LoadOptions
from initlint.load.torch_module import capture_with
from initlint.probe.torch import probe_torch
from initlint.probe.torch_coherent import coherent
from initlint.risk import REASONS, WEIGHTS, Risk, evidence, score, with_findings, without_findings

TERMS = st.dictionaries(st.sampled_from(sorted(WEIGHTS)), st.floats(0.0, 6.0))


@given(TERMS, st.sampled_from(sorted(WEIGHTS)), st.floats(0.0, 6.0))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_more_harm_never_lowers_the_risk(look, name, more):
    worse = {**look, name: look.get(name, 0.0) + more}
    assert 0.0 < score(look).value <= score(worse).value <= 1.0


def test_every_weight_is_positive_and_has_words():
    assert all(weight > 0.0 for weight in WEIGHTS.values())
    assert set(WEIGHTS) <= set(REASONS)


def _net(depth, scale=1.0, head_zero=False):
    torch.manual_seed(0)
    layers = []
    for _ in range(depth):
        layers += [nn.Linear(32, 32), nn.ReLU()]
        nn.init.kaiming_normal_(layers[-2].weight, nonlinearity="relu")
        layers[-2].weight.data.mul_(scale)
        nn.init.zeros_(layers[-2].bias)
    head = nn.Linear(32, 10)
    nn.init.zeros_(head.weight) if head_zero else nn.init.normal_(head.weight, std=32**-0.5)
    nn.init.zeros_(head.bias)
    return nn.Sequential(*layers, head)


def _risk(net, **options):
    return initlint.check(net, torch.randn(16, 32), **options)


def test_vanishing_and_exploding_nets_are_at_risk_and_healthy_ones_are_not():
    healthy = _risk(_net(6)).risk
    assert healthy < 0.3
    assert _risk(_net(12, 0.3)).risk > 0.8
    assert _risk(_net(12, 3.0)).risk > 0.8


def test_a_zero_head_is_no_risk():
    assert _risk(_net(6, head_zero=True)).risk == pytest.approx(_risk(_net(6)).risk, abs=0.1)


def test_the_reasons_and_the_evidence_are_told():
    record = _risk(_net(12, 0.3)).to_dict()
    assert "the gradient shrinks on its way to the first layers" in record["risk_reasons"]
    assert record["risk_basis"].startswith("tangent kernel")


def test_no_number_without_a_probe_or_for_trained_weights():
    assert _risk(_net(6), probe=False).risk is None
    assert _risk(_net(6), stage="trained").risk is None


def test_the_same_every_time_and_the_module_as_it_was():
    net = nn.Sequential(nn.Linear(32, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4)).eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.get_rng_state()
    inputs = torch.randn(8, 32, generator=torch.Generator().manual_seed(1))
    first, second = (initlint.check(net, inputs).risk for _ in range(2))
    assert first == second is not None
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert not net.training
    assert all(parameter.grad is None for parameter in net.parameters())


def test_without_a_kernel_the_passes_decide_alike():
    for net, limit in ((_net(12, 0.3), 0.8), (_net(12, 3.0), 0.8)):
        model = capture_with(net, (torch.randn(16, 32),), {}, LoadOptions())
        probe = probe_torch(model, seed=0)
        assert len(probe.responses) == 2
        terms, basis = evidence(model.graph, replace(probe, responses=()))
        assert basis == "one forward and one backward pass"
        assert score(terms).value > limit
    model = capture_with(_net(6), (torch.randn(16, 32),), {}, LoadOptions())
    terms, _ = evidence(model.graph, replace(probe_torch(model, seed=0), responses=()))
    assert score(terms).value < 0.3


def test_the_kernel_of_a_linear_model_is_the_inputs_own():
    net = nn.Linear(5, 1, bias=False)
    inputs = torch.randn(12, 5, generator=torch.Generator().manual_seed(2))
    model = capture_with(net, (inputs,), {}, LoadOptions())
    first = probe_torch(model, seed=0).responses[0]
    # one output, cotangent u: K = u² X Xᵀ, of rank at most 5
    gram = inputs @ inputs.T
    centred = gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()
    trace = float(centred.trace())
    assert first.rank == pytest.approx(trace**2 / float(centred.square().sum()), rel=1e-3)
    assert first.contrast == pytest.approx(trace / float(gram.trace()) * 12 / 11, rel=1e-3)


class _Block(nn.Module):
    def __init__(self, width, zero):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        if zero:
            nn.init.zeros_(self.norm2.weight)

    def forward(self, x):
        return torch.relu(x + self.norm2(self.second(torch.relu(self.norm1(self.first(x))))))


@pytest.mark.parametrize("via", [{}, {"via": "onnx"}], ids=["module", "onnx"])
@pytest.mark.parametrize("zero", [False, True])
def test_closed_blocks_behind_global_pooling_are_no_risk(zero, via):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        *(_Block(8, zero) for _ in range(4)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )
    assert initlint.check(net, torch.randn(16, 3, 32, 32), **via).risk < 0.3


def test_a_zero_layer_that_the_first_step_opens_is_a_warning_and_no_risk():
    torch.manual_seed(0)
    layers = [nn.Linear(32, 32) for _ in range(6)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight)
    nn.init.zeros_(layers[3].weight)
    net = nn.Sequential(*(part for layer in layers for part in (layer, nn.Tanh())))
    record = _risk(nn.Sequential(net, nn.Linear(32, 10)))
    assert record.risk < 0.3
    said = [(f["name"], f["severity"]) for f in record.findings if f["severity"] != "info"]
    assert said == [("zero-weight", "warning")]


def test_chaos_is_a_risk_and_saturated_gates_are():
    torch.manual_seed(0)
    net = nn.Sequential(*(part for _ in range(10) for part in (nn.Linear(32, 32), nn.Tanh())))
    for layer in net[::2]:
        nn.init.normal_(layer.weight, std=1.0)
    record = _risk(nn.Sequential(net, nn.Linear(32, 10))).to_dict()
    assert record["risk"] > 0.6
    assert "small changes of the weights overturn the output" in record["risk_reasons"]


def test_copies_that_stay_so_are_a_risk_and_those_that_part_are_not():
    def net(head):
        torch.manual_seed(0)
        first, last = nn.Linear(32, 64), nn.Linear(64, 10)
        nn.init.constant_(first.weight, 0.05)
        nn.init.zeros_(first.bias)
        if head:
            nn.init.constant_(last.weight, 0.05)
        return nn.Sequential(first, nn.Tanh(), last)

    def copies(net):
        model = capture_with(net, (torch.randn(16, 32),), {}, LoadOptions())
        return probe_torch(model, seed=0).responses[-1].copies

    assert copies(net(head=True)) > 0.7
    assert copies(net(head=False)) == 0.0


def test_noise_comes_to_share_parts_and_data_stay_as_they_are():
    noise = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    shared = coherent(noise, torch.Generator().manual_seed(1))
    assert float(shared.std()) == pytest.approx(1.0, abs=0.1)
    assert float(shared.mean((2, 3)).std()) > 5 * float(noise.mean((2, 3)).std())
    assert coherent(shared, torch.Generator().manual_seed(2)) is shared
    ids = torch.randint(0, 500, (16, 64), generator=torch.Generator().manual_seed(0))
    text = coherent(ids, torch.Generator().manual_seed(1))
    assert 0.3 < float((text == ids[:, :1]).float().mean()) < 0.7
    assert coherent(text, torch.Generator().manual_seed(2)) is text
    flags = torch.rand(4, 8) > 0.5
    for kept in (torch.randn(16, 8), torch.ones(16, 8, dtype=torch.int64), flags):
        assert coherent(kept, torch.Generator()) is kept


def test_a_mask_of_large_negative_numbers_is_no_large_activation():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
            self.head = nn.Linear(16, 10)

        def forward(self, x):
            scores = self.query(x) @ self.key(x).transpose(1, 2) / 4.0
            later = torch.ones(6, 6, dtype=torch.bool).triu(1)
            mixed = torch.softmax(scores.masked_fill(later, -1e9), -1) @ self.value(x)
            return self.head(mixed.mean(1))

    torch.manual_seed(0)
    assert initlint.check(Attention(), torch.randn(16, 6, 16)).risk < 0.2


def test_a_first_step_that_is_far_too_large_is_a_risk_whatever_comes_after_it():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.side = nn.Linear(16, 32), nn.Linear(4, 32)
            self.norm, self.hidden = nn.LayerNorm(32), nn.Linear(32, 32)
            self.head = nn.Linear(32, 10)

        def forward(self, x):
            y = self.hidden(self.norm(self.embed(x[:, :16])))
            return self.head(torch.relu(y + self.side(x[:, 16:])))

    torch.manual_seed(0)
    net, rows = Sum(), torch.randn(16, 20)
    ordinary = initlint.check(net, rows).risk
    nn.init.zeros_(net.embed.weight)  # the norm divides by sqrt(epsilon)
    nn.init.zeros_(net.embed.bias)
    assert initlint.check(net, rows).risk > 2 * ordinary


def test_a_batch_normaliser_before_the_head_hides_no_gradient():
    torch.manual_seed(0)
    layers = [nn.Linear(32, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU()]
    layers += [nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64)]
    report = initlint.check(nn.Sequential(*layers, nn.Linear(64, 10)), torch.randn(12, 32))
    assert report.risk < 0.2, "every sum over a normalised batch is fixed, no single row is"


def test_a_softmax_shares_one_between_the_entries_of_its_own_axis():
    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.Linear(16, 128)
            self.head = nn.Linear(64, 10)

        def forward(self, x):
            parts = self.parts(x).view(-1, 2, 64)
            return self.head((parts.softmax(1) * parts).sum(1))

    torch.manual_seed(0)
    record = initlint.check(Split(), torch.randn(16, 16)).to_dict()
    assert REASONS["peaked"] not in record["risk_reasons"]


def test_infinities_that_a_softmax_takes_away_are_a_mask_and_those_of_the_output_a_risk():
    class Attention(nn.Module):
        def __init__(self, shut: float) -> None:
            super().__init__()
            self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
            self.head = nn.Linear(16, 10)
            self.shut = shut

        def forward(self, x):
            scores = self.query(x) @ self.key(x).transpose(1, 2) / 4.0
            later = torch.ones(6, 6, dtype=torch.bool).triu(1)
            scores = torch.cat([scores.masked_fill(later, -torch.inf), scores[..., :1] * 0], -1)
            scores = scores - scores.amax(-1, keepdim=True)
            mixed = torch.softmax(scores, -1)[..., :-1] @ self.value(x)
            return self.head(mixed.mean(1)) * self.shut

    torch.manual_seed(0)
    assert initlint.check(Attention(1.0), torch.randn(16, 6, 16)).risk < 0.2
    assert initlint.check(Attention(torch.inf), torch.randn(16, 6, 16)).risk == 1.0


def test_branches_that_zero_gains_close_leave_the_trunk_to_be_judged():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32)
            nn.init.zeros_(self.norm.weight)

        def forward(self, x):
            return torch.relu(x + self.norm(self.convolution(x)))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 32, 3, padding=1)
            self.blocks = nn.Sequential(*[Block() for _ in range(8)])
            self.head = nn.Linear(32, 10)

        def forward(self, x):
            return self.head(self.blocks(self.stem(x)).mean((2, 3)))

    torch.manual_seed(0)
    model = capture_with(Net(), (torch.randn(8, 3, 32, 32),), {}, LoadOptions())
    probe = replace(probe_torch(model, seed=0), responses=())  # as for a net too large for a kernel
    look, _ = evidence(model.graph, probe)
    assert score(look).value < 0.2


def test_what_a_mask_fills_saturates_nothing_and_is_no_activation():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
            self.head = nn.Linear(16, 10)

        def forward(self, x):
            scores = self.query(x) @ self.key(x).transpose(1, 2) / 4.0
            later = torch.ones(6, 6, dtype=torch.bool).triu(0)
            scores = scores.masked_fill(later, -torch.finfo(torch.float32).max)
            best = scores.topk(2, -1).values[..., -1:]  # nothing is learnt through what it chooses
            mixed = (torch.sigmoid(scores) * (scores >= best)) @ self.value(x)
            return self.head(mixed.mean(1))

    torch.manual_seed(0)
    report = initlint.check(Attention(), torch.randn(16, 6, 16))
    assert report.risk < 0.2
    assert not [found for found in report.findings if found["name"] == "saturation"]


def test_a_sum_behind_the_last_weights_is_a_total():
    class Total(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(16, 32), nn.Linear(32, 10)

        def forward(self, x):
            losses = -self.head(torch.relu(self.body(x))).log_softmax(-1)[..., 0]
            return losses.sum(1) / losses.shape[1]

    torch.manual_seed(0)
    record = initlint.check(Total(), torch.randn(8, 500, 16)).to_dict()
    assert REASONS["huge"] not in record["risk_reasons"]


def test_probabilities_behind_the_head_are_no_gradient_lost_on_the_way():
    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
            self.heads, self.shares = nn.Linear(64, 4 * 500), nn.Linear(64, 4)

        def forward(self, x):
            body = self.body(x)
            words = self.heads(body).view(-1, 4, 500).softmax(-1)
            return (words * self.shares(body).softmax(-1)[..., None]).sum(1).log()

    torch.manual_seed(0)
    record = initlint.check(Mixture(), torch.randn(12, 16)).to_dict()
    assert REASONS["shrinks"] not in record["risk_reasons"]


@pytest.mark.parametrize("scale", [1e-4, 1e-2])
def test_small_tables_before_a_normaliser_are_no_growing_gradient(scale):
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.hidden = nn.Embedding(50, 32), nn.Linear(32, 32)
            self.head = nn.Linear(32, 10)
            nn.init.normal_(self.words.weight, std=scale)

        def forward(self, ids):
            unit = nn.functional.normalize(self.words(ids) * 2.0, dim=-1) * 32**0.5
            return self.head(torch.relu(self.hidden(unit)).mean(1))

    torch.manual_seed(0)
    assert initlint.check(Words(), torch.randint(0, 50, (12, 8))).risk < 0.2


@pytest.mark.parametrize("layers", [1, 2])
def test_one_or_two_tiny_layers_grow_back_and_six_do_not(layers):
    """Of k small factors each has a gradient of the size of the others to the power k - 1."""
    net = _net(6)
    for index in range(layers):
        net[4 * index].weight.data.mul_(1e-4)
    assert _risk(net).risk < 0.4
    for index in range(layers, 6):
        net[2 * index].weight.data.mul_(1e-4)
    assert _risk(net).risk > 0.6


class Gated(nn.Module):
    """Blocks behind gates, or branches whose tanh is saturated by its bias."""

    def __init__(self, gate=0.0, bias=0.0):
        super().__init__()
        self.enter, self.head = nn.Linear(32, 32), nn.Linear(32, 10)
        self.first = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))
        self.second = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))
        self.gates = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))
        for layer, shut in zip(self.first, self.gates, strict=True):
            nn.init.constant_(layer.bias, bias)
            nn.init.constant_(shut.bias, gate)

    def forward(self, x):
        x = self.enter(x)
        for first, second, gate in zip(self.first, self.second, self.gates, strict=True):
            x = x + torch.sigmoid(gate(x)) * second(torch.tanh(first(x)))
        return self.head(x)


def test_saturated_gates_and_branches_leave_the_trunk_to_train():
    torch.manual_seed(0)
    healthy, shut, flat = (_risk(Gated(*how)).risk for how in ((0, 0), (-8, 0), (0, 8)))
    assert shut < healthy + 0.1
    assert flat < healthy + 0.1
    net = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10))
    nn.init.constant_(net[0].bias, 8.0)
    assert _risk(net).risk > healthy + 0.2


def test_an_output_near_zero_may_multiply():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10))
    net[0].weight.data.mul_(1e-3)
    nn.init.normal_(net[0].bias, std=1e-3)
    nn.init.zeros_(net[2].bias)
    model = capture_with(net, (torch.randn(16, 32),), {}, LoadOptions())
    probe = probe_torch(model, seed=0)
    loud = replace(probe.responses[0], sensitivity=1e3, output=1.0)
    quiet = replace(loud, output=1e-3)
    terms = [
        evidence(model.graph, replace(probe, responses=(look,)))[0]["sensitive"]
        for look in (loud, quiet)
    ]
    assert terms[0] > 1.0
    assert terms[1] == 0.0


def _normed(depth, norm, gain):
    torch.manual_seed(0)
    layers = []
    for _ in range(depth):
        layers += [nn.Linear(32, 32), norm(32), nn.GELU()]
        nn.init.normal_(layers[-3].weight, std=32**-0.5)
        nn.init.zeros_(layers[-3].bias)
        nn.init.constant_(layers[-2].weight, gain)
    return nn.Sequential(*layers, nn.Linear(32, 10))


def test_what_small_steps_break_is_a_risk():
    # the shifts of the norms move by more than all that these gains let through
    assert _risk(_normed(10, nn.LayerNorm, 0.01)).risk > _risk(_normed(10, nn.LayerNorm, 1.0)).risk


def test_a_first_step_alone_that_is_too_large_is_less_than_certain_harm():
    net = _normed(4, nn.BatchNorm1d, 1.0)
    nn.init.zeros_(net[4].weight)  # the next norm divides by sqrt(epsilon), once
    model = capture_with(net, (torch.randn(16, 32),), {}, LoadOptions())
    first, last = probe_torch(model, seed=0).responses
    assert first.size > 1e6 > 1e4 > last.size
    assert 0.2 < _risk(net).risk < 0.5


def test_rows_of_a_table_of_zeros_part_with_the_first_step():
    def net(draw):
        torch.manual_seed(0)
        table = nn.Embedding(32, 32)
        draw(table.weight)
        return nn.Sequential(table, nn.LayerNorm(32), nn.Linear(32, 32), nn.GELU(), nn.Flatten())

    ids = torch.randint(0, 32, (16, 6), generator=torch.Generator().manual_seed(0))
    zeros, drawn = (
        initlint.check(net(draw), ids).risk for draw in (nn.init.zeros_, nn.init.normal_)
    )
    assert zeros < drawn + 0.2


class _Adapted(nn.Module):
    """Frozen layers, each followed by an adapter that starts closed twice or once."""

    def __init__(self, down):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.ModuleList(nn.Linear(32, 32) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(32, 8) for _ in range(2))
        self.up = nn.ModuleList(nn.Linear(8, 32) for _ in range(2))
        self.head = nn.Linear(32, 10)
        for layer in self.body:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            layer.requires_grad_(False)
        for layer in self.down:
            nn.init.normal_(layer.weight, std=down)
            nn.init.zeros_(layer.bias)
        for layer in self.up:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        for body, down, up in zip(self.body, self.down, self.up, strict=True):
            x = body(x)
            x = torch.relu(x + up(nn.functional.gelu(down(x))))
        return self.head(x)


def test_what_a_closed_adapter_gets_no_gradient_for_is_silent_and_not_lost_on_the_way():
    closed, open_ = (_risk(_Adapted(down)) for down in (0.0, 0.2))
    assert open_.risk < closed.risk
    assert closed.to_dict()["risk_reasons"] == [REASONS["silent"]]


class _Cell(nn.Module):
    """A gated cell in a loop, whose last state alone is read."""

    def __init__(self, bias):
        super().__init__()
        torch.manual_seed(0)
        self.update, self.new = nn.Linear(8 + 24, 24), nn.Linear(8 + 24, 24)
        self.head = nn.Linear(24, 4)
        nn.init.zeros_(self.new.bias)
        nn.init.constant_(self.update.bias, bias)

    def forward(self, x):
        state = x.new_zeros(len(x), 24)
        for step in x.unbind(1):
            both = torch.cat([step, state], -1)
            update = torch.sigmoid(self.update(both))
            state = (1 - update) * state + update * torch.tanh(self.new(both))
        return self.head(state)


def test_a_written_cell_that_forgets_is_a_risk_by_its_first_step():
    x = torch.randn(16, 20, 8)
    forgetful, lasting = (initlint.check(_Cell(bias), x) for bias in (3.0, -3.0))
    assert lasting.risk < 0.3 < forgetful.risk
    assert REASONS["forgets"] in forgetful.to_dict()["risk_reasons"]


@given(st.dictionaries(st.sampled_from(sorted(WEIGHTS)), st.floats(0.0, 6.0)))
def test_findings_never_lower_the_risk(terms: dict[str, float]) -> None:
    terms.pop("named", None)
    plain = score(terms)
    warned, wrong = with_findings(plain, 0, 2), with_findings(plain, 1, 0)
    assert with_findings(plain, 0, 0) == plain
    assert plain.value <= warned.value <= wrong.value == with_findings(plain, 3, 5).value
    assert without_findings(warned.value, 0, 2) == pytest.approx(plain.value, rel=1e-6, abs=1e-9)
    assert wrong.value == pytest.approx(score({**terms, "named": 1.0}).value)
    assert wrong.reasons == (plain.reasons or (REASONS["named"],))


def test_findings_add_nothing_to_values_that_are_not_finite() -> None:
    broken = Risk(1.0, {"not finite": math.inf})
    assert with_findings(broken, 1, 0) == broken
