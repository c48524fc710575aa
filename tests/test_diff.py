"""Two states of one network: every kind of change is named, and ordinary training is silent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from initlint.fix.diff import diff
from initlint.fix.writing import pack_safetensors
from initlint.load import load
from initlint.report.difference import render
from initlint.report.style import Style

State = dict[str, np.ndarray]


@pytest.fixture
def fresh() -> State:
    rng = np.random.default_rng(0)
    state: State = {}
    for index in range(4):
        state[f"layers.{index}.weight"] = rng.normal(0, 0.2, (48, 48)).astype(np.float32)
        state[f"layers.{index}.bias"] = np.zeros(48, np.float32)
    return state


def trained(state: State, ratio: float = 0.2) -> State:
    """Every tensor moved by about this share of its size, as by training."""
    rng = np.random.default_rng(1)
    return {
        name: (value + ratio * 0.2 * rng.standard_normal(value.shape)).astype(np.float32)
        for name, value in state.items()
    }


def compared(tmp_path: Path, before: State, after: State, **options: int):
    paths = []
    for name, state in (("before", before), ("after", after)):
        path = tmp_path / f"{name}.safetensors"
        packed = {k: ("float32", v.shape, v.tobytes()) for k, v in state.items()}
        pack_safetensors(path, packed)
        paths.append(str(path))
    return diff(load(paths[0]), load(paths[1]), **options)


def names(record) -> dict[str, str]:
    return {item["name"]: item["severity"] for item in record["findings"]}


def test_ordinary_training_is_silent(tmp_path, fresh):
    record = compared(tmp_path, fresh, trained(fresh), steps=1000)
    assert record["findings"] == []
    assert record["compared"] == 8
    assert compared(tmp_path, fresh, trained(fresh))["findings"] == []
    weights = [row for row in record["params"] if row["role"] == "weight"]
    assert [row["update_ratio"] for row in weights] == pytest.approx([0.2] * 4, rel=0.05)


def test_the_same_state_twice(tmp_path, fresh):
    assert names(compared(tmp_path, fresh, fresh)) == {"nothing-moved": "error"}


def test_a_forgotten_layer(tmp_path, fresh):
    after = {**trained(fresh), "layers.2.weight": fresh["layers.2.weight"]}
    record = compared(tmp_path, fresh, after)
    assert names(record) == {"unchanged-between": "warning"}
    assert record["findings"][0]["params"] == ["layers.2.weight"]


def test_a_layer_that_moved_too_much(tmp_path, fresh):
    after = trained(fresh, 0.01)
    after["layers.1.weight"] = trained(fresh, 1.0)["layers.1.weight"]
    record = compared(tmp_path, fresh, after)
    assert names(record) == {"moved-too-much": "warning"}
    assert record["findings"][0]["param"] == "layers.1.weight"
    assert names(compared(tmp_path, fresh, trained(fresh), steps=3)) == {
        "moved-too-much": "warning"
    }


def test_a_layer_that_was_drawn_again(tmp_path, fresh):
    after = trained(fresh)
    after["layers.0.weight"] = np.random.default_rng(9).normal(0, 0.2, (48, 48)).astype(np.float32)
    assert names(compared(tmp_path, fresh, after)) == {"re-initialised": "error"}


def test_what_broke(tmp_path, fresh):
    after = trained(fresh)
    after["layers.0.weight"][0, 0] = np.nan
    after["layers.1.weight"][:] = 0
    after["layers.2.weight"][5:9] = 0
    record = compared(tmp_path, fresh, after)
    assert names(record) == {
        "became-non-finite": "error",
        "became-zero": "error",
        "units-died": "warning",
    }
    died = next(item for item in record["findings"] if item["name"] == "units-died")
    assert died["evidence"] == {"dead": 4, "units": 48}


def test_added_lost_and_reshaped(tmp_path, fresh):
    after = trained(fresh)
    for name in ("layers.0.weight", "layers.0.bias"):
        del after[name]
    after["extra.weight"] = np.ones((4, 48), np.float32)
    after["layers.3.weight"] = np.ones((48, 50), np.float32)
    found = names(compared(tmp_path, fresh, after))
    assert found["parameter-lost"] == "error"
    assert found["parameter-added"] == "warning"
    assert found["shape-changed"] == "error"


def test_a_wrappers_prefix_is_no_difference(tmp_path, fresh):
    after = {f"module.{name}": value for name, value in trained(fresh).items()}
    record = compared(tmp_path, fresh, after)
    assert record["findings"] == []
    assert record["compared"] == 8


def test_a_checkpoint_against_a_fresh_module(tmp_path):
    torch = pytest.importorskip("torch")
    from initlint.load.torch_module import capture

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4))
    x = torch.randn(2, 32)
    state = {
        name: ("float32", tuple(value.shape), value.detach().numpy().tobytes())
        for name, value in net.state_dict().items()
    }
    pack_safetensors(tmp_path / "zero.safetensors", state)
    with torch.no_grad():
        net[0].weight.mul_(1.1).add_(0.001)
        net[0].bias.add_(0.01)
    record = diff(load(str(tmp_path / "zero.safetensors")), capture(net, x))
    moved = {row["param"]: row["moved"] for row in record["params"]}
    assert moved == {"0.weight": True, "0.bias": True, "2.weight": False, "2.bias": False}


def test_a_layer_that_no_longer_fires_is_told_where_networks_run(tmp_path):
    torch = pytest.importorskip("torch")
    from initlint.load.torch_module import capture

    def net(bias: float):
        torch.manual_seed(0)
        made = torch.nn.Sequential(
            torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 32), torch.nn.ReLU()
        )
        with torch.no_grad():
            made[2].weight.add_(0.01)
            made[2].bias.fill_(bias)
        return capture(made, torch.randn(32, 8))

    record = diff(net(0.0), net(-40.0))
    assert names(record)["units-silenced"] == "error"
    found = next(item for item in record["findings"] if item["name"] == "units-silenced")
    assert found["layer"] == "2"
    assert found["evidence"]["dead"] == 32
    assert "units-silenced" not in names(diff(net(0.0), net(0.1)))


def test_a_block_that_a_module_reads_is_compared_with_the_whole_that_a_file_holds(tmp_path):
    torch = pytest.importorskip("torch")
    from initlint.load.torch_module import capture

    class Stacked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(16, 16))
            self.offsets = torch.nn.Parameter(torch.randn(4, 16))

        def forward(self, x):
            for offset in self.offsets:
                x = torch.relu(torch.nn.functional.linear(x, self.weight, offset))
            return x

    net = Stacked()
    state = {name: value.numpy() for name, value in net.state_dict().items()}
    path = tmp_path / "after.safetensors"
    moved = trained(state, 0.5)
    pack_safetensors(path, {k: ("float32", v.shape, v.tobytes()) for k, v in moved.items()})
    record = diff(capture(net, torch.randn(4, 16)), load(str(path)))
    assert "shape-changed" not in names(record)
    assert {tuple(row["shape"]) for row in record["params"]} == {(16, 16), (4, 16)}


def test_what_moved_away_from_zero_has_a_line_of_its_own(tmp_path, fresh):
    after = trained(fresh)
    after["layers.2.bias"] = np.zeros(48, np.float32)
    text = render(compared(tmp_path, fresh, after), Style())
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if "layers." in line}
    assert rows["layers.1.bias"] == ["from", "0", "-"]
    assert rows["layers.2.bias"] == ["0", "-"]
