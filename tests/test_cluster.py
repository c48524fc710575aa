"""The same report from a cluster of real processes, also when one of them is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from initlint.__main__ import main
from initlint.cli.early import preload_for
from initlint.cluster.engines import ClusterError, Place
from initlint.cluster.running import payload_of, work
from initlint.jobs import Job, data_limits

FILES = 4


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """A folder of checkpoints, one of them large enough to be split, and one that is broken."""
    folder = tmp_path_factory.mktemp("fleet")
    for number in range(FILES):
        rng = np.random.default_rng(number)
        weights = {f"layers.{n}.weight": rng.normal(size=(64, 64)).astype("f4") for n in range(3)}
        save_file(weights, folder / f"m{number}.safetensors")
    rng = np.random.default_rng(9)
    large = {f"layers.{n}.weight": rng.normal(size=(512, 640)).astype("f4") for n in range(4)}
    large["layers.4.weight"] = np.full((512, 640), np.nan, "f4")
    save_file(large, folder / "large.safetensors")
    (folder / "broken.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{broken}")
    return folder


def lint(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main([*arguments, "--format", "json", "--verbose"])
    shown = capsys.readouterr()
    return code, re.sub(r'"seconds": ?[0-9.e-]+', '"seconds": 0', shown.out), shown.err


@pytest.fixture(scope="module")
def expected(fleet):
    """What a local run says; worked out once."""
    found: list[tuple[int, str, str]] = []

    def of(capsys):
        if not found:
            found.append(lint(capsys, "."))
        return found[0]

    return of


@pytest.fixture(scope="module")
def dask_cluster():
    distributed = pytest.importorskip("distributed", reason="needs the extra initlint[dask]")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def ray_cluster():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = pytest.importorskip("ray", reason="needs the extra initlint[ray]")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


def test_dask_gives_the_same_bytes(fleet, expected, dask_cluster, capsys, monkeypatch):
    monkeypatch.chdir(fleet)
    address = dask_cluster.scheduler_address.removeprefix("tcp://")
    local = expected(capsys)
    assert lint(capsys, ".", "--cluster", f"dask://{address}?split=2000000") == local
    assert local[0] == 2
    assert json.loads(local[1])["errors"][0]["target"].endswith("broken.safetensors")


def test_dask_loses_nothing_with_a_worker(fleet, expected, dask_cluster, capsys, monkeypatch):
    from distributed import Client

    monkeypatch.chdir(fleet)
    local = expected(capsys)
    killed: list[str] = []

    def kill_one() -> None:
        with Client(dask_cluster.scheduler_address, set_as_default=False) as client:
            pids = client.run(os.getpid)
            deadline = time.monotonic() + 60
            while not killed and time.monotonic() < deadline:
                busy = [name for name, tasks in client.processing().items() if tasks]
                if busy and busy[0] in pids:
                    os.kill(pids[busy[0]], signal.SIGKILL)
                    killed.append(busy[0])
                time.sleep(0.02)

    killer = threading.Thread(target=kill_one)
    killer.start()
    address = dask_cluster.scheduler_address.removeprefix("tcp://")
    found = lint(capsys, ".", "--cluster", f"dask://{address}?split=2000000")
    killer.join()
    assert killed
    assert found == local


def test_ray_gives_the_same_bytes_and_loses_nothing_with_a_worker(
    fleet, expected, ray_cluster, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(fleet)
    local = expected(capsys)
    mark = tmp_path / "killed"

    def fragile(payload):
        """The first call kills the process that it runs in, as the system does without memory."""
        try:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            from initlint.cluster.running import work

            return work(payload)
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr("initlint.cluster.running.work", fragile)
    assert lint(capsys, ".", "--cluster", "ray://auto?split=2000000") == local
    assert mark.exists()
    assert ray_cluster.is_initialized()  # it was not ours to shut down


def test_a_large_checkpoint_is_measured_in_parts_that_cover_it(fleet, monkeypatch):
    monkeypatch.chdir(fleet)
    limits = data_limits(7_000_000, 1, 30, None)
    found: dict[str, object] = {}
    preload = preload_for("large.safetensors")
    for part in range(3):
        options = {"part": part, "parts": 3}
        job = Job("large.safetensors", "measure", False, {}, {}, limits, preload, options)
        measured = work(payload_of(job))["record"]["measured"]
        assert measured
        assert not set(measured) & set(found)
        found.update(measured)
    assert len(found) == 10  # moments and scheme of five tensors
    job = Job("large.safetensors", "lint", False, {}, {}, limits, preload)
    whole = work(payload_of(job))["record"]
    reading = work(payload_of(replace(job, known=found)))["record"]
    assert reading["findings"] == whole["findings"]
    assert whole["findings"]


def test_addresses():
    place = Place("dask://host:8786?split=5")
    assert (place.scheme, place.where, place.settings) == ("dask", "host:8786", {"split": 5})
    for wrong in ("host:1", "spark://host:1", "dask://", "dask://h?speed=1", "ray://h?workers=x"):
        with pytest.raises(ClusterError, match="write it as dask://"):
            Place(wrong)


def test_a_cluster_that_is_not_there_is_one_line(fleet, capsys, monkeypatch):
    pytest.importorskip("distributed", reason="needs the extra initlint[dask]")
    monkeypatch.chdir(fleet)
    monkeypatch.setattr("initlint.cluster.engines.CONNECT_SECONDS", 0.3)
    assert main(["m0.safetensors", "--cluster", "dask://127.0.0.1:9"]) == 2
    assert capsys.readouterr().err == "initlint: no Dask scheduler answers at 127.0.0.1:9\n"


def test_a_missing_engine_names_the_extra(fleet, capsys, monkeypatch):
    monkeypatch.chdir(fleet)
    for name in ("distributed", "ray"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    for name in ("dask", "ray"):
        assert main(["m0.safetensors", "--cluster", f"{name}://localhost:1"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"initlint[{name}]" in error


def test_a_folder_that_a_machine_lacks_is_named(fleet, tmp_path, monkeypatch):
    monkeypatch.chdir(fleet)
    job = Job("m0.safetensors", "lint", False, {}, {}, data_limits(1000, 1, 30, None))
    result = work({**payload_of(job), "folder": str(Path(tmp_path) / "gone")})
    assert result["record"] is None
    assert "files must be shared" in result["message"]
