"""Whether weights follow the seed."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from initlint.load import LoadOptions
from initlint.load.torch_draws import compare_draws

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
