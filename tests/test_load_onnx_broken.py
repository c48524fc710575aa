"""Broken ONNX input gives one clear line, never another exception."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from initlint.load.onnx import load_onnx
from initlint.model import LoadError

SCRIPT = Path(__file__).parent.parent / "fixtures" / "broken" / "make.py"


def _script():
    spec = importlib.util.spec_from_file_location("make_broken", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = _script()


@pytest.mark.parametrize("name", make.CASES)
def test_broken_file_is_one_clear_line(name, tmp_path):
    write, words = make.CASES[name]
    path = tmp_path / name
    write(path)
    with pytest.raises(LoadError) as caught:
        load_onnx(str(path))
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert name in message
    assert len(message.replace(str(tmp_path), "")) <= 300


def test_missing_file(tmp_path):
    with pytest.raises(LoadError, match="no such file"):
        load_onnx(str(tmp_path / "absent.onnx"))


def test_the_healthy_base_of_all_cases_loads(tmp_path):
    path = tmp_path / "good.onnx"
    make.save(make.model(), path)
    assert len(load_onnx(str(path)).graph.weighted) == 1


def test_external_data_of_the_right_size_loads(tmp_path):
    path = tmp_path / "external.onnx"
    (tmp_path / "data.bin").write_bytes(bytes(16) + bytes(range(48)))
    make.save(make.external(location="data.bin", offset="16", length="48"), path)
    model = load_onnx(str(path))
    assert model.runnable.external
    assert model.graph.weighted[0].weight.tensor.read().shape == (3, 4)


def test_hub_cache_links_into_blobs_are_followed(tmp_path):
    repo = tmp_path / "models--a--b"
    snapshot = repo / "snapshots" / "rev"
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "blobs" / "c0ffee").write_bytes(bytes(48))
    (repo / "blobs" / "f00d").write_bytes(
        make.external(location="model.onnx_data").SerializeToString()
    )
    os.symlink("../../blobs/c0ffee", snapshot / "model.onnx_data")
    os.symlink("../../blobs/f00d", snapshot / "model.onnx")
    assert len(load_onnx(str(snapshot / "model.onnx")).graph.weighted) == 1


def test_external_file_that_shrinks_after_loading(tmp_path):
    data = tmp_path / "data.bin"
    data.write_bytes(bytes(48))
    path = tmp_path / "external.onnx"
    make.save(make.external(location="data.bin"), path)
    weight = load_onnx(str(path)).graph.weighted[0].weight
    os.truncate(data, 8)
    with pytest.raises(LoadError, match="changed while it was read"):
        weight.tensor.read()


GOOD = make.model().SerializeToString()


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, len(GOOD)),
)
def test_any_damage_is_a_model_or_a_load_error(tmp_path, changes, cut):
    content = bytearray(GOOD)
    for position, value in changes:
        content[position] = value
    path = tmp_path / "damaged.onnx"
    path.write_bytes(bytes(content[:cut]) if cut % 3 == 0 else bytes(content))
    try:
        model = load_onnx(str(path))
        for _, param in model.graph.params:
            param.tensor.read()
    except LoadError as error:
        lines = str(error).splitlines()
    else:
        lines = [model.target]
    assert len(lines) == 1
