"""Kept results: given again while everything they depend on is the same, and never otherwise."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from initlint import supervisor
from initlint.__main__ import main
from initlint.cache.folder import Folder, location
from initlint.cache.identity import code_fingerprint, read_fact, still_holds
from initlint.cache.results import ResultCache
from initlint.jobs import Job, Outcome, python_limits

OLD = 1_700_000_000


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A cache of its own, and a working directory with one checkpoint."""
    monkeypatch.setenv("INITLINT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("INITLINT_CACHE", raising=False)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    write(work / "w.safetensors", 0)
    return tmp_path / "cache"


def write(path: Path, seed: int, *, old: bool = True) -> None:
    rng = np.random.default_rng(seed)
    weights = {f"layers.{n}.weight": rng.normal(size=(64, 64)).astype("f4") for n in range(3)}
    save_file(weights, path)
    if old:  # so that its status is evidence at once
        os.utime(path, (OLD, OLD))


@pytest.fixture
def starts(monkeypatch):
    """Targets for which a worker was started, in order."""
    started: list[str] = []
    original = supervisor._start

    def start(index, job, *rest):
        started.append(job.target)
        return original(index, job, *rest)

    monkeypatch.setattr(supervisor, "_start", start)
    return started


def lint(capsys, *arguments: str) -> dict:
    code = main([*arguments, "--format", "json", "--exit-zero"])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    return json.loads(shown.out)


def test_nothing_is_written_unless_asked_for(kept, capsys):
    lint(capsys, "w.safetensors")
    assert not kept.exists()


def test_second_run_starts_no_worker_and_says_the_same(kept, capsys, starts):
    first = lint(capsys, "w.safetensors", "--cache")
    second = lint(capsys, "w.safetensors", "--cache")
    assert second == first
    assert starts == ["w.safetensors"]


def test_configuration_and_environment_turn_it_on_and_no_cache_off(
    kept, capsys, starts, monkeypatch
):
    Path("initlint.toml").write_text("cache = true\n")
    lint(capsys, "w.safetensors")
    lint(capsys, "w.safetensors")
    assert len(starts) == 1
    lint(capsys, "w.safetensors", "--no-cache")
    assert len(starts) == 2
    monkeypatch.setenv("INITLINT_CACHE", "0")
    lint(capsys, "w.safetensors")
    assert len(starts) == 3
    Path("initlint.toml").unlink()
    monkeypatch.setenv("INITLINT_CACHE", "1")
    lint(capsys, "w.safetensors")
    assert len(starts) == 3


def test_a_touched_file_is_known_by_its_content(kept, capsys, starts):
    lint(capsys, "w.safetensors", "--cache")
    os.utime("w.safetensors", (OLD + 5, OLD + 5))
    lint(capsys, "w.safetensors", "--cache")
    shutil.copy("w.safetensors", "copy")
    os.replace("copy", "w.safetensors")
    lint(capsys, "w.safetensors", "--cache")
    assert len(starts) == 1


def test_changed_content_of_the_same_size_and_time_is_read_again(kept, capsys, starts):
    lint(capsys, "w.safetensors", "--cache")
    write(Path("w.safetensors"), 1)
    lint(capsys, "w.safetensors", "--cache")
    assert len(starts) == 2
    write(Path("w.safetensors"), 0)  # as when a branch is switched back
    lint(capsys, "w.safetensors", "--cache")
    assert len(starts) == 2


def test_one_changed_byte_outside_the_sampled_pages_is_seen(tmp_path):
    path = tmp_path / "big"
    data = bytearray(os.urandom(4 << 20))
    path.write_bytes(data)
    os.utime(path, (OLD, OLD))
    fact = read_fact(str(path), "big", whole=True)
    assert fact is not None
    assert still_holds(fact, str(path)) == fact
    data[70_001] ^= 1
    path.write_bytes(data)
    changed = read_fact(str(path), "big", whole=False)
    assert changed is not None
    assert changed.sample == fact.sample
    assert still_holds(fact, str(path)) is None


def test_a_file_that_changed_just_now_is_not_known_by_its_status(tmp_path):
    path = tmp_path / "new"
    path.write_bytes(b"x" * 100)
    fact = read_fact(str(path), "new", whole=True)
    assert fact is not None
    assert fact.marks is None


def test_shards_that_change_or_vanish_are_read_again(kept, capsys, starts):
    os.mkdir("hf")
    write(Path("hf/model-00001-of-00002.safetensors"), 1)
    second = Path("hf/model-00002-of-00002.safetensors")
    save_file({"head.weight": np.random.default_rng(2).normal(size=(64, 64)).astype("f4")}, second)
    os.utime(second, (OLD, OLD))
    placed = {f"layers.{n}.weight": "model-00001-of-00002.safetensors" for n in range(3)}
    placed["head.weight"] = second.name
    index = Path("hf/model.safetensors.index.json")
    index.write_text(json.dumps({"weight_map": placed}))
    for target in (str(index), "hf"):
        if target == "hf":
            Path("hf/config.json").write_text("{}")
        starts.clear()
        lint(capsys, target, "--cache")
        lint(capsys, target, "--cache")
        assert len(starts) == 1, target
    kept_content = second.read_bytes()
    save_file({"head.weight": np.full((64, 64), np.nan, "f4")}, second)
    found = lint(capsys, str(index), "--cache")
    assert len(starts) == 2
    assert any("head" in finding["layer"] for finding in found["targets"][0]["findings"])
    second.unlink()
    assert main([str(index), "--cache"]) == 2
    second.write_bytes(kept_content)


def test_external_data_is_part_of_the_key(kept, capsys, starts):
    import onnx
    from onnx import TensorProto, helper

    def save(seed: int) -> None:
        weight = np.random.default_rng(seed).normal(size=(64, 64)).astype("f4")
        tensor = onnx.numpy_helper.from_array(weight, "w")
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
        sides = [1, 64]
        graph = helper.make_graph(
            [node],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, sides)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, sides)],
            [tensor],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        Path("w.data").unlink(missing_ok=True)
        onnx.save(model, "m.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
        for name in ("m.onnx", "w.data"):
            os.utime(name, (OLD, OLD))

    save(0)
    lint(capsys, "m.onnx", "--cache", "--no-probe")
    lint(capsys, "m.onnx", "--cache", "--no-probe")
    assert len(starts) == 1
    save(1)
    lint(capsys, "m.onnx", "--cache", "--no-probe")
    assert len(starts) == 2


def test_options_that_change_a_result_are_part_of_the_key(kept, capsys, starts):
    lint(capsys, "w.safetensors", "--cache")
    for more in (["--select", "SYM"], ["--stage", "trained"]):
        before = len(starts)
        lint(capsys, "w.safetensors", "--cache", *more)
        assert len(starts) == before + 1, more
    before = len(starts)
    lint(capsys, "w.safetensors", "--cache", "--jobs", "3", "--timeout", "77")
    assert len(starts) == before


def test_a_rule_pack_is_part_of_the_key_by_its_content(tmp_path, monkeypatch):
    (tmp_path / "pack-1.dist-info").mkdir()
    (tmp_path / "pack-1.dist-info" / "entry_points.txt").write_text(
        "[initlint.rules]\nmine = some_pack:pack\n"
    )
    module = tmp_path / "some_pack.py"
    module.write_text("LIMIT = 1\n")
    os.utime(module, (OLD, OLD))
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = Folder(tmp_path / "cache")
    assert folder.usable()
    first = code_fingerprint(folder)
    assert code_fingerprint(folder) == first
    module.write_text("LIMIT = 2\n")
    os.utime(module, (OLD, OLD))
    assert code_fingerprint(folder) != first


@pytest.mark.parametrize(
    "damage", [b"", b"not a cache entry", lambda data: data[:-3], lambda data: data[:40] + b"x"]
)
def test_a_damaged_entry_is_a_miss(kept, capsys, starts, damage):
    first = lint(capsys, "w.safetensors", "--cache")
    (entry,) = [path for path in (kept / "v1" / "results").rglob("*") if path.is_file()]
    entry.write_bytes(damage if isinstance(damage, bytes) else damage(entry.read_bytes()))
    again = lint(capsys, "w.safetensors", "--cache")
    assert len(starts) == 2
    assert again["targets"][0]["findings"] == first["targets"][0]["findings"]


def test_an_entry_of_another_shape_is_a_miss(kept, capsys, starts):
    lint(capsys, "w.safetensors", "--cache")
    folder = Folder(location())
    (entry,) = [path for path in (kept / "v1" / "results").rglob("*") if path.is_file()]
    good = folder.read("results", entry.name)
    bad = [{**good[0], "record": {"target": 5}}, {"files": 1}, {**good[0], "files": [[1]]}, 7]
    for value in (bad, {"a": 1}):
        folder.write("results", entry.name, value)
        before = len(starts)
        lint(capsys, "w.safetensors", "--cache")
        assert len(starts) == before + 1


def test_failures_are_not_kept(kept, starts):
    Path("bad.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{broken}")
    assert main(["bad.safetensors", "--cache"]) == 2
    assert main(["bad.safetensors", "--cache"]) == 2
    assert len(starts) == 2


def test_a_folder_that_cannot_be_used_costs_only_the_cache(kept, capsys, starts, monkeypatch):
    Path("occupied").write_text("")
    monkeypatch.setenv("INITLINT_CACHE_DIR", str(Path("occupied/cache").resolve()))
    lint(capsys, "w.safetensors", "--cache")
    shared = kept.parent / "shared"
    (shared / "v1").mkdir(parents=True)
    (shared / "v1").chmod(0o777)
    monkeypatch.setenv("INITLINT_CACHE_DIR", str(shared))
    lint(capsys, "w.safetensors", "--cache")
    lint(capsys, "w.safetensors", "--cache")
    assert len(starts) == 3
    assert not list((shared / "v1").iterdir())


def test_the_folder_stays_within_its_size(tmp_path):
    folder = Folder(tmp_path)
    assert folder.usable()
    for number in range(20):
        key = f"{number:040d}"
        folder.write("results", key, os.urandom(2000).hex())
        os.utime(folder.path("results", key), (OLD + number, OLD + number))
    assert folder.read("results", f"{3:040d}") is not None  # used now
    folder.evict(20_000)
    left = {path.name for path in folder.root.rglob("0*") if path.is_file()}
    assert sum(size for _, size, _ in folder.entries()) <= 15_000
    assert f"{3:040d}" in left
    assert f"{0:040d}" not in left


def test_writers_at_once_leave_whole_entries(tmp_path):
    folder = Folder(tmp_path)
    assert folder.usable()
    wrong: list[object] = []

    def work(mine: int) -> None:
        for step in range(60):
            folder.write("results", "k" * 40, {"who": mine, "data": [mine] * 500})
            held = folder.read("results", "k" * 40)
            if held is None or set(held["data"]) != {held["who"]}:
                wrong.append((mine, step))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert [path.name for path in folder.root.rglob("*") if path.is_file()] == ["k" * 40]


def test_runs_at_once_agree(kept):
    for number in range(4):
        write(Path(f"m{number}.safetensors"), number)
    command = [sys.executable, "-m", "initlint", ".", "--cache", "--format", "json", "-q"]
    runs = [subprocess.Popen([*command, "--exit-zero"], stdout=subprocess.PIPE) for _ in range(3)]
    findings = set()
    for run in runs:
        output, _ = run.communicate()
        assert run.returncode == 0
        targets = json.loads(output)["targets"]
        findings.add(json.dumps([target["findings"] for target in targets]))
    assert len(findings) == 1


def test_a_worker_cannot_have_other_files_read(kept, monkeypatch):
    cache = ResultCache(Folder(location()))
    job = Job("w.safetensors", "lint", False, {}, {}, python_limits(1, None), traced=True)
    opened: list[str] = []
    monkeypatch.setattr(
        "initlint.cache.results.read_fact", lambda path, *_, **__: opened.append(path)
    )
    os.symlink("/etc", "link")
    for path in ("/etc/passwd", "../../etc/passwd", "link/passwd", "a\0b", 5, None):
        cache.saw(0, job, {"kind": "file", "path": path, "identity": [0, 0, 0, 0]})
    cache.saw(0, job, {"kind": "file", "path": "w.safetensors", "identity": [0, 0, 0, 0]})
    cache.store(0, Outcome(job, {"target": "w", "probe": {"status": "ok"}}))
    cache.close()
    assert not opened
    assert not (location() / "v1" / "results").exists()


def test_commands_tell_the_folder_and_clean_it(kept, capsys):
    lint(capsys, "w.safetensors", "--cache")
    assert main(["cache", "dir"]) == 0
    assert capsys.readouterr().out.strip() == str(kept)
    assert main(["cache", "clean"]) == 0
    assert "files removed" in capsys.readouterr().out
    assert not [path for path in kept.rglob("*") if path.is_file() and path.name != "lock"]
    assert main(["cache", "clean"]) == 0


def test_an_interrupted_run_goes_on_where_it_stopped(kept, capsys, monkeypatch):
    # Files that are younger than the clock's steps are read again; this one is new.
    monkeypatch.setattr("initlint.cache.identity.RACY_SECONDS", 0.0)
    rng = np.random.default_rng(3)
    path = Path("large.safetensors")
    save_file(
        {f"layers.{n}.weight": rng.normal(size=(512, 640)).astype("f4") for n in range(4)}, path
    )
    os.utime(path, (OLD, OLD))
    whole = lint(capsys, str(path))
    measured: list[str] = []
    original = ResultCache._measured

    def watch(self, seen, job, file, record):
        measured.append(record["name"])
        original(self, seen, job, file, record)
        if len(measured) == stop_after:
            raise supervisor.Interrupted

    monkeypatch.setattr(ResultCache, "_measured", watch)
    stop_after = 3
    assert main([str(path), "--cache", "--no-probe"]) == 2
    first = set(measured)
    measured.clear()
    stop_after = -1
    (journal,) = [path for path in (kept / "v1" / "measured").rglob("*") if path.is_file()]
    with open(journal, "ab") as file:
        file.write(b"torn lin")
    resumed = lint(capsys, str(path), "--cache", "--no-probe")
    assert len(first) == 3
    assert not first & set(measured)
    assert len(first | set(measured)) == 8  # moments and scheme of four tensors
    assert resumed["targets"][0]["findings"] == whole["targets"][0]["findings"]
    assert not journal.exists()


def test_measurements_of_a_file_that_changed_are_not_used(kept, capsys, monkeypatch):
    path = Path("large.safetensors")
    for seed in (0, 1):
        weight = np.random.default_rng(seed).normal(size=(512, 640)).astype("f4")
        save_file({"layers.0.weight": weight}, path)
        os.utime(path, (OLD + seed, OLD + seed))
        known: list[int] = []
        original = ResultCache.resume
        monkeypatch.setattr(
            ResultCache,
            "resume",
            lambda self, job, original=original, known=known: (
                known.append(len((told := original(self, job)).known)) or told
            ),
        )
        monkeypatch.setattr(ResultCache, "store", lambda *_: None)  # as if it had been killed
        lint(capsys, str(path), "--cache")
        assert known == [0]
        monkeypatch.setattr(ResultCache, "resume", original)


def test_measurements_survive_json_exactly():
    from initlint.measure.kept import _identification, _moments
    from initlint.measure.result import Family, Identification, Match, Moments

    moments = Moments(7, 0.1, 1 / 3, float("nan"), 3.0000000000000004, -1e-300, 2.0, 1, 0, 2, 1)
    value = json.loads(json.dumps([7, 0.1, 1 / 3, float("nan"), 3.0000000000000004, -1e-300, 2.0]))
    assert repr(_moments([*value, 1, 0, 2, 1])) == repr(moments)
    match = Match("he_normal", 2**0.5, 0.1, "fan_in", True)
    found = Identification(Family.NORMAL, (match,), 7, 0.1, 0.2, 0.0)
    stored = ["normal", [["he_normal", 2**0.5, 0.1, "fan_in", True]], 7, 0.1, 0.2, 0.0, False]
    assert _identification(json.loads(json.dumps(stored))) == found
    for wrong in (
        None,
        [],
        "x",
        stored[:3],
        ["no family", *stored[1:]],
        [*stored[:2], "7", 1, 2, 3],
    ):
        assert _identification(wrong) is None
    assert _moments(value) is None
    assert _moments(["7", *value[1:], 1, 0, 2, 1]) is None


def test_a_run_that_finds_everything_imports_no_numpy(kept, capsys):
    lint(capsys, "w.safetensors", "--cache")
    script = (
        "import sys; from initlint.__main__ import main;"
        "code = main(['w.safetensors', '--cache', '-q', '--exit-zero']);"
        "print(code, 'numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-2:] == ["0", "False"]
