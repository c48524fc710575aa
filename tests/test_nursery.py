"""Workers that are forks of one process: as separate as those that are started."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from initlint import supervisor
from initlint.cli.early import preload_for
from initlint.jobs import Job, Outcome, data_limits
from initlint.nursery import PROBE_PRELOAD, Nursery
from initlint.supervisor import run
from initlint.wire import Decoder, encode
from initlint.workers import Worker, nursery_for, worker_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks only on Linux")


def network(path: Path, std: float = 0.3, name: str = "weight") -> str:
    weight = np.random.default_rng(0).normal(0, std, (16, 16)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", name], ["y"]), helper.make_node("Relu", ["y"], ["z"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 16])],
        [numpy_helper.from_array(weight, name)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    save(model, path)
    return str(path)


def job(target: str, **settings) -> Job:
    limits = data_limits(4096, 1, 20.0, None)
    return Job(target, "lint", False, settings, {}, limits, preload=preload_for(target))


def plain(outcome: Outcome) -> dict:
    record = dict(outcome.record or {})
    record["probe"] = {**record["probe"], "seconds": 0}
    return {**record, "seconds": 0}


def held_by(pid: int) -> set[str]:
    """Kinds of what a process has open."""
    names = os.listdir(f"/proc/{pid}/fd")
    return {os.readlink(f"/proc/{pid}/fd/{name}").partition(":")[0] for name in names}


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    log = open(tmp_path_factory.mktemp("caller") / "log", "wb")  # noqa: SIM115
    os.set_inheritable(log.fileno(), True)  # as C++ libraries leave theirs
    with log:
        found = Nursery((*preload_for("x.onnx"), *PROBE_PRELOAD))
    yield found
    found.close()


@pytest.fixture
def forks(monkeypatch, nursery):
    """Workers of the next jobs come from the module's nursery; their process numbers."""
    numbers: list[int] = []

    def worker_for(job, _):
        process = nursery.start()
        numbers.append(process.pid)
        return Worker(process, python=False)

    monkeypatch.setattr(supervisor, "worker_for", worker_for)
    return numbers


def test_a_fork_says_what_a_started_worker_says(tmp_path, forks, monkeypatch):
    jobs = [job(network(tmp_path / f"m{index}.onnx", 0.1 * (index + 1))) for index in range(3)]
    forked = run(jobs, parallel=2)
    assert len(set(forks)) == 3
    monkeypatch.undo()
    for single, outcome in zip(jobs, forked, strict=True):
        (alone,) = run([single])
        assert outcome.record is not None
        assert outcome.record["probe"]["status"] == "ok"
        assert plain(outcome) == plain(alone)
        assert outcome.wall_missing == alone.wall_missing


def test_a_model_that_kills_its_worker_takes_nothing_along(tmp_path, forks, monkeypatch):
    good = network(tmp_path / "good.onnx")
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    first = run([job(good), job(str(bad)), job(good)])
    assert [outcome.record is not None for outcome in first] == [True, False, True]
    killed: list[int] = []
    listen = Worker.listen

    def kill_first(self, tell):
        if not killed:
            killed.append(self._process.pid)
            os.kill(self._process.pid, signal.SIGSEGV)
        listen(self, tell)

    monkeypatch.setattr(Worker, "listen", kill_first)
    dead, alive = run([job(good), job(good)])
    assert dead.record is None
    assert "SIGSEGV" in dead.message
    assert alive.record is not None


def test_each_fork_leads_a_session_and_holds_three_pipes(nursery):
    process = nursery.start()
    try:
        until = time.monotonic() + 10.0
        while os.getsid(process.pid) != process.pid or "socket" in held_by(process.pid):
            assert time.monotonic() < until
            time.sleep(0.01)
        assert held_by(process.pid) <= {"pipe", "/dev/null"}
    finally:
        worker = Worker(process, python=False)
        assert worker.stop() == -signal.SIGKILL


def test_a_worker_whose_parent_hangs_up_ends(nursery):
    process = nursery.start()
    process.hang_up()
    assert os.read(process.stdout, 1) == b""
    assert process.wait() == 0


def test_when_the_nursery_dies_workers_are_started_instead(tmp_path):
    dying = Nursery(())
    os.kill(dying._pid, signal.SIGKILL)
    target = network(tmp_path / "m.onnx")
    worker = worker_for(job(target, probe=False), dying)
    worker.send(job(target, probe=False))
    decoder, kinds = Decoder(), []
    while data := os.read(worker._process.stdout, 1 << 16):
        kinds += [record["type"] for record in decoder.feed(data)]
    assert kinds[-1] == "done"
    worker.stop()
    dying.close()


def test_several_files_are_forked_and_one_is_not(tmp_path, monkeypatch):
    jobs = [job(network(tmp_path / f"m{i}.onnx"), probe=False) for i in range(2)]
    with nursery_for(jobs[:1]) as none:
        assert none is None
    started: list[tuple[str, ...]] = []
    monkeypatch.setattr("initlint.nursery.Nursery.start", lambda self: 1 / 0)
    monkeypatch.setattr(
        "initlint.nursery.Nursery.__init__", lambda self, preload: started.append(tuple(preload))
    )
    monkeypatch.setattr("initlint.nursery.Nursery.close", lambda self: None)
    with nursery_for(jobs) as some:
        assert some is not None
    assert "initlint.load.onnx" in started[0]
    assert not set(PROBE_PRELOAD) & set(started[0])
    assert encode(jobs[0].record())
