"""Runs side by side give what runs one after the other give."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from initlint.load.onnx import load_onnx
from initlint.probe import onnx_runs, onnxruntime
from initlint.probe.onnx_request import request_for
from initlint.probe.onnx_runs import HELD, Second, in_order
from initlint.probe.request import Request
from initlint.probe.result import ProbeStatus

pytest.importorskip("onnxruntime")


@pytest.fixture(params=[1, 2], ids=["one core", "two cores"])
def cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(onnx_runs, "cores", lambda: request.param)
    return request.param


def test_runs_come_in_their_order(cores: int) -> None:
    later = threading.Event()

    def run(number: int) -> int:
        if number == 3 and cores == 2:
            assert later.wait(10)  # the next one is done first
        if number == 4:
            later.set()
        return number

    assert list(in_order(run, range(3, 9), held=1, most=100)) == [3, 4, 5, 6, 7, 8]


def test_no_more_is_held_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_runs, "cores", lambda: 2)
    begun: list[int] = []
    found = in_order(lambda number: begun.append(number), range(5), held=10, most=10 * HELD - 1)
    assert begun == []
    next(found)
    assert begun == [0]


def test_an_error_is_that_of_its_run(cores: int) -> None:
    def run(number: int) -> int:
        if number == 2:
            raise ValueError("two")
        return number

    found = in_order(run, range(4), held=1, most=100)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(found)


def test_a_second_run_begins_beside_a_long_one_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_runs, "cores", lambda: 2)
    monkeypatch.setattr(onnx_runs, "SOON", 60.0)
    short = Second(lambda: 7)
    short.first_is_done()
    assert short.result() is None
    assert not short.begun
    monkeypatch.setattr(onnx_runs, "SOON", 0.0)
    started = threading.Event()

    def run() -> int:
        started.set()
        return 7

    long = Second(run)
    assert started.wait(10)
    assert (long.result(), long.begun) == (7, True)
    failing = Second(lambda: 1 // 0)
    assert failing.result() is None


def convolutional(path: Path, rows: int | str, baked: bool = False) -> Request:
    """Convolutions over 64 channels, which take more than a hundred million products."""
    rng = np.random.default_rng(0)
    weights = {
        name: rng.standard_normal((64, into, 3, 3)).astype(np.float32) * np.float32(0.06)
        for name, into in (("a", 3), ("b", 64), ("c", 64))
    }
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["ca"], pads=[1] * 4),
        helper.make_node("Relu", ["ca"], ["ra"]),
        helper.make_node("Conv", ["ra", "b"], ["cb"], pads=[1] * 4),
        helper.make_node("Relu", ["cb"], ["rb"]),
        helper.make_node("Conv", ["rb", "c"], ["y"], pads=[1] * 4),
    ]
    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    last = "y"
    if baked:
        constants.append(numpy_helper.from_array(np.array([1, 64, -1, 16, 16]), "shape"))
        nodes.append(helper.make_node("Reshape", ["y", "shape"], ["flat"]))
        nodes.append(helper.make_node("Expand", ["flat", "one"], ["z"]))
        constants.append(numpy_helper.from_array(np.array([1, 64, 1, 16, 16]), "one"))
        nodes.append(helper.make_node("Squeeze", ["z", "axis"], ["w"]))
        constants.append(numpy_helper.from_array(np.array([2]), "axis"))
        last = "w"
    side = 16 if baked else 96
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 3, side, side])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return request_for(
        load_onnx(str(path)), seed=0, memory_mb=2048, inputs_file=None, train_norm=False
    )


@pytest.mark.parametrize("rows", [1, "n"])
def test_runs_side_by_side_measure_the_same(
    rows: int | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = convolutional(tmp_path / "m.onnx", rows)
    found = []
    for number, soon in ((1, 60.0), (2, 60.0), (2, 0.0)):
        monkeypatch.setattr(onnx_runs, "cores", lambda number=number: number)
        monkeypatch.setattr(onnx_runs, "SOON", soon)
        found.append(onnxruntime.observe(request))
    assert {item.status for item in found} == {ProbeStatus.OK}
    assert found[0].samples > 1
    assert len({repr(item) for item in found}) == 1


def test_a_batch_that_is_written_into_the_graph_is_found_on_two_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = convolutional(tmp_path / "m.onnx", "n", baked=True)
    batches: list[int] = []
    run = onnxruntime._Session.run

    def noted(self: object, feeds: dict[str, np.ndarray]) -> object:
        batches.append(len(feeds["x"]))
        return run(self, feeds)  # type: ignore[arg-type]

    monkeypatch.setattr(onnxruntime._Session, "run", noted)
    found = onnxruntime.observe(request)
    assert found.status is ProbeStatus.OK
    assert found.detail == "8 samples in 8 runs"
    assert sorted(batches) == [1] * 9 + [2]
