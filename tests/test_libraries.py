"""What fresh models of published libraries were told wrongly, rebuilt small."""

from __future__ import annotations

import pytest

import initlint
from initlint.model.residual import residual_branches
from initlint.testing import Network, normal

torch = pytest.importorskip("torch")
nn = torch.nn
F = torch.nn.functional


def loud(net, *inputs):
    torch.manual_seed(0)
    found = initlint.check(net, *inputs).findings
    return {item["name"]: item for item in found if item["severity"] != "info"}


def test_one_zero_of_a_vector_of_scales_blocks_nothing():
    """NeoMME: the stream times ``lambdas[0]`` = 1, the embedding times ``lambdas[1]`` = 0."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scales = nn.Parameter(torch.tensor([1.0, 0.0]))
            self.norm, self.inner = nn.RMSNorm(32), nn.Linear(32, 32, bias=False)
            self.last = nn.Linear(32, 32, bias=False)
            nn.init.zeros_(self.last.weight)

        def forward(self, x, first):
            mixed = self.scales[0] * x + self.scales[1] * first
            return x + self.last(torch.relu(self.inner(self.norm(mixed))))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.blocks = nn.Linear(16, 32), nn.ModuleList(Block() for _ in range(3))
            self.head = nn.Linear(32, 5)

        def forward(self, x):
            x = first = self.first(x)
            for block in self.blocks:
                x = block(x, first)
            return self.head(x)

    assert not loud(Net(), torch.randn(16, 16))


def test_a_table_of_which_only_padding_was_read_is_not_stuck():
    """RoCBert: shapes and pronunciations are zeros where none are given."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.shapes = nn.Embedding(40, 32), nn.Embedding(40, 32, padding_idx=0)
            self.head = nn.Linear(32, 5)

        def forward(self, words):
            return self.head(torch.relu(self.words(words) + self.shapes(0 * words)).mean(1))

    assert "zero-gradient" not in loud(Net(), torch.randint(0, 40, (16, 6)))


@pytest.mark.parametrize(("left", "told"), [(False, False), (True, True)])
def test_an_open_gate_is_harmless_unless_what_it_leaves_is_a_gate_too(left, told):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.gate = nn.Linear(16, 32), nn.Linear(32, 32)
            self.value, self.head = nn.Linear(32, 32), nn.Linear(32, 5)
            nn.init.constant_(self.gate.bias, 10.0)

        def forward(self, x):
            x = self.first(x)
            share = torch.sigmoid(self.gate(x))
            kept = (1 - share) * x if left else x
            return self.head(share * torch.relu(self.value(x)) + kept)

    assert ("gate-saturated" in loud(Net(), torch.randn(16, 16))) is told


class Cosine(nn.Module):
    def __init__(self, width: int, factor: float) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(64, width, bias=False) for _ in range(3))
        self.out, self.factor = nn.Linear(width, 64), factor

    def forward(self, x):
        query, key = (F.normalize(part(x), dim=-1) for part in (self.query, self.key))
        weights = torch.softmax(self.factor * query @ key.transpose(1, 2), -1)
        return self.out(weights @ self.value(x))


@pytest.mark.parametrize(("width", "factor", "told"), [(16, 10, False), (64, 64, True)])
def test_a_factor_on_cosines_is_narrow_on_purpose_and_frozen_by_mistake(width, factor, told):
    """x-transformers' 10 in heads of 16; NaViT's unit gains of width 64 without a factor."""
    net = nn.Sequential(nn.Embedding(99, 64), nn.LayerNorm(64), Cosine(width, factor))
    found = loud(nn.Sequential(net, nn.Linear(64, 5)), torch.randint(0, 99, (8, 48)))
    assert [(key, item["severity"]) for key, item in found.items()] == (
        [("attention-logit-scale", "warning")] if told else []
    )


def test_zeros_that_a_sum_hands_on_are_laid_to_the_gain_that_makes_them():
    """LeViT between its stages: a closing gain of zero, and no skip path beside it."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Linear(16, 32), nn.BatchNorm1d(32)
            self.hidden, self.head = nn.Linear(32, 32), nn.Linear(32, 5)
            nn.init.zeros_(self.norm.weight)

        def forward(self, x):
            x = self.norm(torch.relu(self.first(x))) + 0
            return self.head(torch.relu(self.hidden(x)) + x)

    (found,) = loud(Net(), torch.randn(16, 16)).values()
    assert (found["name"], found["layer"]) == ("norm-gain-zero-on-trunk", "norm")


def test_two_branches_added_one_after_the_other_to_one_trunk():
    """Cohere: ``x + attention(n) + mlp(n)``, n the trunk as one normaliser hands it on."""
    net = Network()
    x = net.linear(net.input(32), normal(net.rng, 32, 32, std=0.2), name="first")
    for number in range(2):
        read = net.layer_norm(x)
        one, other = (
            net.linear(
                net.relu(
                    net.linear(read, normal(net.rng, 32, 32, std=0.2), name=f"{name}{number}")
                ),
                normal(net.rng, 32, 32, std=0.2),
                name=f"{name}{number}.out",
            )
            for name in ("attention", "mlp")
        )
        x = net.add(net.add(x, one), other)
    net.output(net.linear(x, normal(net.rng, 5, 32, std=0.2), name="head"))
    branches = residual_branches(net.graph)
    assert [branch.last for branch in branches] == [
        f"{name}{number}.out" for number in range(2) for name in ("attention", "mlp")
    ]
    assert branches[0].trunk == branches[1].trunk == "first"
    assert branches[2].trunk == branches[3].trunk == branches[1].add


def test_a_backward_pass_that_hands_on_nothing_leaves_the_rest_measured():
    """PhiMoE's sampled routing is a function with a backward pass of its own."""

    class Sample(torch.autograd.Function):
        @staticmethod
        def forward(ctx, scores, chosen):
            return scores * chosen

        @staticmethod
        def backward(ctx, gradient):
            return gradient, None

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.side, self.head = (
                nn.Linear(16, 32),
                nn.Linear(16, 32),
                nn.Linear(32, 5),
            )

        def forward(self, x):
            return self.head(Sample.apply(torch.relu(self.first(x)), torch.sigmoid(self.side(x))))

    probe = initlint.check(Net(), torch.randn(16, 16)).to_dict()["probe"]
    assert not probe["detail"]


def test_a_router_that_masks_all_but_one_expert_is_no_peaked_attention():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.router = nn.Linear(16, 32), nn.Linear(32, 4)
            self.experts = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))
            self.head = nn.Linear(32, 5)

        def forward(self, x):
            x = torch.relu(self.first(x))
            scores = self.router(x)
            best = scores.argmax(-1, keepdim=True)
            alone = scores.masked_fill(scores < scores.gather(-1, best), -torch.inf)
            share = torch.softmax(alone, -1).gather(-1, best)
            parts = torch.stack([expert(x) for expert in self.experts], 1)
            return self.head(share * parts[torch.arange(len(x)), best[:, 0]] + x)

    torch.manual_seed(0)
    record = initlint.check(Net(), torch.randn(16, 16)).to_dict()
    assert record["risk"] < 0.2


def test_a_small_branch_of_three_layers_beside_a_trunk_has_no_lost_gradient():
    """SegFormer: the MLP of every block, N(0, 0.02), around a depthwise convolution."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.up = nn.LayerNorm(32), nn.Linear(32, 32)
            self.mix, self.down = nn.Linear(32, 32), nn.Linear(32, 32)
            for layer in (self.up, self.mix, self.down):
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

        def forward(self, x):
            return x + self.down(F.gelu(self.mix(self.up(self.norm(x)))))

    net = nn.Sequential(nn.Linear(16, 32), *(Block() for _ in range(3)), nn.Linear(32, 5))
    assert not loud(net, torch.randn(16, 16))


def test_a_loop_over_a_cell_loses_reach_and_no_depth():
    """A cell of which 14 steps are written out forgets as `nn.LSTM` does."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTMCell(16, 32), nn.Linear(32, 5)

        def forward(self, x):
            state = None
            for step in range(x.shape[1]):
                state = self.cell(x[:, step], state)
            return self.head(state[0])

    torch.manual_seed(0)
    assert initlint.check(Net(), torch.randn(16, 14, 16)).risk < 0.3


def test_layer_scales_of_a_ten_thousandth_open_as_zeros_do():
    """CaiT and ViT-5: the class token reads the image through branches times 1e-4."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.attention = (
                nn.LayerNorm(32),
                nn.MultiheadAttention(32, 4, batch_first=True),
            )
            self.scale = nn.Parameter(torch.full((32,), 1e-4))

        def forward(self, x):
            y = self.norm(x)
            return x + self.scale * self.attention(y, y, y, need_weights=False)[0]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.randn(1, 1, 32))
            self.patches, self.blocks = nn.Linear(16, 32), nn.Sequential(Block(), Block(), Block())
            self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 5)

        def forward(self, x):
            x = torch.cat([self.token.expand(len(x), 1, 32), self.patches(x)], 1)
            return self.head(self.norm(self.blocks(x))[:, 0])

    torch.manual_seed(0)
    assert initlint.check(Net(), torch.randn(12, 9, 16)).risk < 0.2


def test_exponents_and_reciprocals_are_no_large_activations():
    """Mamba-2 sums its decays along time before it takes exponentials; HunYuan divides by hand."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.decay = nn.Linear(16, 32), nn.Linear(16, 32)
            self.head = nn.Linear(32, 5)

        def forward(self, x):
            sums = torch.cumsum(-20.0 * F.softplus(self.decay(x)), 1)
            kept = torch.exp(sums)
            y = 1e-3 * self.first(x)
            y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-9)
            return self.head((y * (1 + kept)).mean(1))

    torch.manual_seed(0)
    record = initlint.check(Net(), torch.randn(16, 12, 16)).to_dict()
    assert "activations are large" not in record["risk_reasons"]


def test_a_product_with_a_fixed_grid_leaves_a_zero_head_a_head():
    """MONAI's GlobalNet: an affine map, zeros and the identity in the bias, times a grid."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.affine = nn.Linear(16, 32), nn.Linear(32, 6)
            nn.init.zeros_(self.affine.weight)
            with torch.no_grad():
                self.affine.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]))
            self.register_buffer("grid", torch.randn(3, 40))

        def forward(self, x):
            return self.affine(torch.relu(self.body(x))).view(-1, 2, 3) @ self.grid

    assert "zero-weight" not in loud(Net(), torch.randn(16, 16))


def test_one_table_of_positions_is_one_finding_however_often_it_is_added():
    """GLOM adds its positions in every iteration."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.hidden = nn.Linear(16, 32), nn.Linear(32, 32)
            self.positions, self.head = nn.Embedding(9, 32), nn.Linear(32, 5)

        def forward(self, x):
            x, y = self.tokens(x) / 3, 0
            for _ in range(3):
                y = y + torch.relu(self.hidden(x + self.positions.weight))
            return self.head(y.mean(1))

    torch.manual_seed(0)
    found = initlint.check(Net(), torch.randn(16, 9, 16)).findings
    assert sum(item["name"] == "position-table" for item in found) == 1


def test_logits_without_a_factor_beside_a_trunk_that_trains_are_a_warning():
    """MA-Net's attention over positions."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(64)
            self.query, self.key, self.value = (nn.Linear(64, 64) for _ in range(3))
            for layer in (self.query, self.key):
                nn.init.xavier_uniform_(layer.weight)

        def forward(self, x):
            y = self.norm(x)
            weights = torch.softmax(self.query(y) @ self.key(y).transpose(1, 2), -1)
            return x + self.value(y) + weights @ self.value(y)

    net = nn.Sequential(nn.Linear(16, 64), Block(), Block(), nn.Linear(64, 5))
    assert loud(net, torch.randn(16, 24, 16))["attention-unscaled"]["severity"] == "warning"
