"""Whether weights follow the seed."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from fixtures.rules import nondeterministic_initialisation as fixtures
from initlint.lint.registry import all_rules
from initlint.load import LoadOptions
from initlint.load.torch_draws import compare_draws
from initlint.testing import run_rule

SOURCE = """
import os
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.free = nn.Linear(4, 3)
        self.norm = nn.LayerNorm(3)
        state = torch.get_rng_state()
        torch.manual_seed(7)
        self.pinned = nn.Linear(3, 3)
        torch.set_rng_state(state)
        generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(6), "little"))
        self.entropy = nn.Parameter(torch.randn(5, generator=generator))

    def forward(self, x):
        return self.pinned(self.norm(self.free(x)))
"""


def test_weights_are_sorted_by_how_they_follow_the_seed(tmp_path: Path) -> None:
    path = tmp_path / "drawn_net.py"
    path.write_text(SOURCE)
    draws = compare_draws(f"{path}:Net", LoadOptions(), (0, 1, 2))
    assert draws is not None
    assert draws.random == ("free.weight", "free.bias")
    assert draws.insensitive == ("pinned.weight", "pinned.bias")
    (entropy,) = draws.irreproducible
    assert (entropy.name, entropy.size) == ("entropy", 5)
    assert entropy.rms[0] != entropy.rms[1]


def test_an_instance_has_one_draw(tmp_path: Path) -> None:
    path = tmp_path / "shared_net.py"
    path.write_text(f"{SOURCE}\nnet = Net()\n")
    assert compare_draws(f"{path}:net", LoadOptions(), (0, 1)) is None


def test_one_seed_tells_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least two different seeds"):
        compare_draws(f"{tmp_path}/net.py:Net", LoadOptions(), (3, 3))


def test_scales_per_seed_come_with_their_error(tmp_path: Path) -> None:
    path = tmp_path / "scaled_net.py"
    path.write_text(
        "import torch\nfrom torch import nn\n"
        "def build():\n"
        "    net = nn.Linear(64, 32)\n"
        "    nn.init.normal_(net.weight)\n"
        "    outer = torch.randn(32, 1) @ torch.randn(1, 64)\n"
        "    net.outer = nn.Parameter(outer)\n"
        "    return net\n"
    )
    draws = compare_draws(f"{path}:build", LoadOptions(), (0, 1, 2))
    assert draws is not None
    scales = {item.name: item for item in draws.scales}
    assert len(scales["weight"].rms) == 3
    independent = (2 * scales["weight"].size) ** -0.5
    assert independent < scales["weight"].std_error < 2 * independent
    # an outer product of n + m numbers: var(ln rms) = 1/2n + 1/2m
    assert scales["outer"].std_error > 0.5 * (1 / 64 + 1 / 128) ** 0.5 > 2 * independent


def test_a_scheme_that_reads_data_may_be_declared() -> None:
    rule = next(rule for rule in all_rules() if rule.code == "REP101")
    target = fixtures.bad_scale_of_one_batch()
    assert run_rule(rule, target)
    assert run_rule(rule, target, options={"data_dependent": True}) == []
    again = fixtures.bad_scale_differs()
    assert run_rule(rule, again, options={"data_dependent": True})
