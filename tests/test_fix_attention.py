"""Repairs of networks with attention: the fault is changed, and what stands beside it is not."""

from __future__ import annotations

from math import sqrt

import pytest

import initlint

torch = pytest.importorskip("torch")
nn = torch.nn


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def _names(report):
    return {item["name"] for item in report.record["before"]["findings"]}


class Attention(nn.Module):
    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x, memory=None):
        memory = x if memory is None else memory
        q, k, v = (
            layer(value).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, value in ((self.q, x), (self.k, memory), (self.v, memory))
        )
        weights = torch.softmax(q @ k.transpose(-1, -2) / sqrt(q.shape[-1]), dim=-1)
        return self.o((weights @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.attend = nn.LayerNorm(width), Attention(width)
        self.second, self.up = nn.LayerNorm(width), nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x):
        x = x + self.attend(self.first(x))
        return x + self.down(nn.functional.gelu(self.up(self.second(x))))


class Pictures(nn.Module):
    """Patches beside a class token, learned positions, blocks before their norm."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 32, 2, stride=2)
        self.cls = nn.Parameter(0.1 * torch.randn(1, 1, 32))
        self.place = nn.Parameter(0.1 * torch.randn(1, 17, 32))
        self.blocks = nn.Sequential(Block(32), Block(32))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)
        _xavier(self)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1) + self.place
        return self.head(self.norm(self.blocks(x))[:, 0])


def _xavier(net: nn.Module) -> None:
    for layer in net.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


def test_tokens_far_below_their_scale_are_widened_beside_usual_positions():
    net = Pictures()
    wanted = net.patch.weight.detach().std()
    with torch.no_grad():
        net.patch.weight.mul_(1e-4)
    place = net.place.detach().clone()
    report = initlint.fix(net, torch.randn(16, 1, 8, 8))
    assert report.status == "fixed"
    assert "position-table" in _names(report)
    assert torch.equal(net.place, place)
    assert 1 / 3 < float(net.patch.weight.detach().std() / wanted) < 3


def test_patches_far_too_wide_are_brought_to_their_scale():
    net = Pictures()
    with torch.no_grad():
        net.patch.weight.mul_(100)
    report = initlint.fix(net, torch.randn(16, 1, 8, 8))
    assert report.status == "fixed"
    assert "embedding-scale" in _names(report)
    assert 0.3 < float(net.patch.weight.detach().std()) * sqrt(4) < 3


class Reversed(nn.Module):
    """An encoder, and learned questions that read it through attention outside of its stream."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 48)
        self.place, self.ask = (nn.Parameter(0.7 * torch.randn(1, 8, 48)) for _ in range(2))
        self.block, self.norm = Block(48), nn.LayerNorm(48)
        self.cross, self.last, self.out = Attention(48), nn.LayerNorm(48), nn.Linear(48, 10)
        nn.init.normal_(self.embed.weight, std=0.7)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.orthogonal_(layer.weight, gain)
                nn.init.zeros_(layer.bias)

    def forward(self, ids):
        memory = self.norm(self.block(self.embed(ids) + self.place))
        asked = self.ask.expand(len(ids), -1, -1)
        return self.out(self.last(asked + self.cross(asked, memory)))


def test_branches_of_one_mistake_are_opened_and_the_table_beside_them_stays():
    net = Reversed(0.03)
    table = net.embed.weight.detach().clone()
    report = initlint.fix(net, torch.randint(0, 10, (16, 8)))
    assert report.status == "fixed"
    assert "embedding-scale" in _names(report)
    assert torch.equal(net.embed.weight, table)
    for layer in (net.block.attend.q, net.cross.q, net.cross.o, net.out):
        std = float(layer.weight.detach().std())
        assert 0.3 < std * sqrt(layer.in_features) < 3


def test_wide_queries_and_keys_are_narrowed_alike():
    net = Pictures()
    with torch.no_grad():
        for block in net.blocks:
            block.attend.q.weight.mul_(8)
            block.attend.k.weight.mul_(8)
    assert initlint.fix(net, torch.randn(16, 1, 8, 8)).status == "fixed"
    for block in net.blocks:
        for layer in (block.attend.q, block.attend.k):
            assert 0.3 < float(layer.weight.detach().std()) * sqrt(32) < 3


class Places(nn.Module):
    """Additive attention over the places of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.hidden = nn.Linear(8, 32), nn.Linear(32, 32)
        self.score, self.head = nn.Linear(32, 1), nn.Linear(32, 4)
        _xavier(self)

    def forward(self, x):
        x = torch.relu(self.enter(x))
        weights = torch.softmax(self.score(torch.tanh(self.hidden(x))), dim=1)
        return self.head((weights * x).sum(1))


def test_scores_of_places_are_narrowed_with_what_saturates_before_them():
    net = Places()
    with torch.no_grad():
        net.score.weight.mul_(60)
        net.hidden.weight.mul_(20)
    report = initlint.fix(net, torch.randn(32, 12, 8))
    assert report.status == "fixed"
    assert {"saturation", "attention-logit-scale"} <= _names(report)
    for layer in (net.score, net.hidden):
        assert 0.3 < float(layer.weight.detach().std()) * sqrt(32) < 3
