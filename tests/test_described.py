"""The record of initialisation choices, and two of them compared."""

from __future__ import annotations

import json

import pytest

from initlint.described import RecordError, are_records, compare
from initlint.engine import describe
from initlint.load.torch_module import capture
from initlint.model import Draws
from initlint.records import Target
from initlint.report.json import dump
from initlint.report.layers import as_text
from initlint.report.style import Style
from initlint.settings import Settings

torch = pytest.importorskip("torch")
nn = torch.nn


def net(seed: int, gain: float = 2**0.5, width: int = 48):
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(32, width), nn.ReLU(), nn.Linear(width, 4))
    for layer in (module[0], module[2]):
        nn.init.normal_(layer.weight, std=gain / layer.in_features**0.5)
        nn.init.zeros_(layer.bias)
    return module


def record(module, draws=None):
    return describe(capture(module, torch.randn(4, 32)), Settings(), draws)


def written(path, target):
    path.write_text(dump({"schema": 1, "targets": [target]}), encoding="utf-8")
    return str(path)


def rows(target):
    return {param["name"]: param for layer in target["layers"] for param in layer["params"]}


def test_a_record_holds_scheme_gain_stage_seed_and_hash():
    found = rows(record(net(0), Draws((0, 1), insensitive=("2.weight",), random=("0.weight",))))
    weight = found["0.weight"]
    assert weight["gain"] == pytest.approx(2**0.5, rel=0.1)
    assert (weight["stage"], weight["seed"]) == ("fresh", "varies")
    assert "he_normal" in weight["scheme"]
    assert found["2.weight"]["seed"] == "same"
    assert found["0.bias"]["seed"] == "fixed"
    assert len(weight["hash"]) == 16
    alone = rows(record(net(0)))
    assert (alone["0.weight"]["seed"], alone["0.bias"]["seed"]) == ("unknown", "fixed")


def test_the_hash_is_of_the_values_and_of_nothing_else():
    first, again, other = record(net(0)), record(net(0)), record(net(1))
    assert first["hash"] == again["hash"] != other["hash"]
    changed = net(0)
    with torch.no_grad():
        changed[0].weight[3, 5] += 1e-3
    third = record(changed)
    assert third["hash"] != first["hash"]
    assert rows(third)["2.weight"]["hash"] == rows(first)["2.weight"]["hash"]


def test_another_seed_is_an_info_and_another_choice_a_warning(tmp_path):
    first = written(tmp_path / "a.json", record(net(0)))
    seed = compare(first, written(tmp_path / "b.json", record(net(1))))
    assert seed["summary"] == {"error": 0, "warning": 0, "info": 2}
    assert {item["name"] for item in seed["findings"]} == {"values-changed"}
    gain = compare(first, written(tmp_path / "c.json", record(net(0, gain=1.0))))
    fields = {(item["param"], item["evidence"]["field"]) for item in gain["findings"]}
    assert {("0.weight", "gain"), ("2.weight", "gain")} <= fields
    assert gain["summary"]["warning"] >= 2
    wider = compare(first, written(tmp_path / "d.json", record(net(0, width=24))))
    assert ("0.weight", "shape") in {
        (item["param"], item["evidence"].get("field")) for item in wider["findings"]
    }
    same = compare(first, written(tmp_path / "e.json", record(net(0))))
    assert not same["findings"]
    assert same["compared"] == 4


def test_added_and_lost_parameters(tmp_path):
    target = record(net(0))
    first = written(tmp_path / "a.json", target)
    del target["layers"][-1]
    second = written(tmp_path / "b.json", target)
    assert {item["name"] for item in compare(first, second)["findings"]} == {"parameter-lost"}
    assert {item["name"] for item in compare(second, first)["findings"]} == {"parameter-added"}


def test_files_that_are_no_record(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"weight_map": {}}))
    assert are_records(str(path))
    assert not are_records(str(path), "model.safetensors.index.json")
    with pytest.raises(RecordError, match="no record"):
        compare(str(path), str(path))
    path.write_text("{")
    with pytest.raises(RecordError, match=r"x\.json"):
        compare(str(path), str(path))


def test_a_narrow_table_names_every_block_and_cuts_no_scheme():
    told = record(nn.LSTM(32, 24))
    text = as_text(Target.parse(told), Style())
    assert max(map(len, text.splitlines())) <= 80
    for gate in ("input", "forget", "cell", "output"):
        assert f"weight_ih_l0 [{gate}]" in text
        assert f"weight_hh_l0 [{gate}]" in text
    assert "torch_default | he_uniform(a=sqrt(5))" in text
