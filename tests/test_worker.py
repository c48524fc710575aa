"""Workers that die, hang, lie or misbehave: the parent always ends with an answer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from initlint import process, supervisor, worker, workers
from initlint.jobs import (
    OPEN_FILES,
    STATIC_SECONDS,
    Job,
    Limits,
    Outcome,
    data_limits,
    python_limits,
)
from initlint.supervisor import run
from initlint.wire import LIMIT, Decoder, GarbledRecord, encode

ROOT = Path(supervisor.__file__).parents[1]

STATIC = {
    "target": "m.onnx",
    "findings": [],
    "stage": "fresh",
    "skipped": {supervisor.PENDING: ["dead-relu"], "the probe did not run": ["saturation"]},
    "probe": {"status": "skipped", "detail": "", "seconds": 0},
}

PRELUDE = f"""
import os
os.setsid()
import signal, subprocess, sys, time
sys.path.insert(0, {str(ROOT)!r})
from initlint.wire import encode
STATIC = {STATIC!r}
def send(**record):
    os.write(1, encode(record))
"""


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Replace the worker program by a script; run one job with it."""

    def start(script: str, **limits) -> Outcome:
        path = tmp_path / "fake_worker.py"
        path.write_text(PRELUDE + textwrap.dedent(script))
        monkeypatch.setattr(
            workers, "worker_command", lambda preload, *, python: [sys.executable, str(path)]
        )
        chosen = Limits(**{"static_seconds": 30.0, "probe_seconds": 30.0, **limits})
        job = Job("m.onnx", "lint", False, {}, {}, chosen)
        (outcome,) = run([job])
        return outcome

    return start


def test_done_record_is_the_outcome(fake):
    outcome = fake("send(type='done', target={'target': 'm.onnx'})")
    assert outcome.record == {"target": "m.onnx"}


def test_death_before_any_finding_names_stage_and_signal(fake):
    outcome = fake("send(type='stage', stage='read'); os.kill(os.getpid(), signal.SIGSEGV)")
    assert outcome.record is None
    assert outcome.message == "the worker died reading the model (SIGSEGV)"


def test_exit_without_done_is_not_checked(fake):
    outcome = fake("print('oh no', file=sys.stderr, flush=True); os._exit(0)")
    assert outcome.record is None
    assert "died starting (exit status 0)" in outcome.message


def test_static_findings_survive_a_crash_in_the_probe(fake):
    outcome = fake("send(type='static', target=STATIC); os.kill(os.getpid(), signal.SIGFPE)")
    assert outcome.record is not None
    assert outcome.record["probe"] == {
        "status": "failed",
        "detail": "crashed: SIGFPE",
        "seconds": 0,
    }
    assert outcome.record["skipped"] == {"the probe did not run": ["dead-relu", "saturation"]}


def test_static_findings_survive_a_hang_in_the_probe(fake):
    outcome = fake(
        "send(type='static', target=STATIC); time.sleep(600)",
        probe_seconds=0.2,
    )
    assert outcome.record is not None
    assert outcome.record["probe"]["status"] == "timeout"


def test_error_after_static_keeps_the_findings(fake):
    outcome = fake("send(type='static', target=STATIC); send(type='error', message='too big')")
    assert outcome.record is not None
    assert outcome.record["probe"]["detail"] == "too big"


def test_hang_while_reading_is_stopped(fake):
    outcome = fake("send(type='stage', stage='read'); time.sleep(600)", static_seconds=0.5)
    assert outcome.record is None
    assert "reading the model" in outcome.message
    assert outcome.message.startswith("stopped after")


def test_error_record_is_the_message(fake):
    outcome = fake("send(type='error', stage='read', message='is truncated')")
    assert (outcome.record, outcome.message, outcome.call) == (None, "is truncated", False)


@pytest.mark.parametrize(
    "script",
    [
        "os.write(1, b'\\xff' * 100)",
        "os.write(1, b'\\0\\0\\0\\4oops')",
        "os.write(1, b'\\0\\0\\0\\2[]')",
        "send(type='done', target='not an object')",
        "send(type='surprise')",
    ],
)
def test_garbage_is_not_an_answer(fake, script):
    outcome = fake(script + "\ntime.sleep(600)")
    assert outcome.record is None
    assert outcome.message.startswith("the worker sent a record")


def test_standard_error_is_kept_up_to_a_cap(fake):
    outcome = fake(
        "sys.stderr.write('x' * 1_000_000); sys.stderr.flush(); time.sleep(0.2);"
        "send(type='error', message='m')"
    )
    assert 0 < len(outcome.stderr) <= supervisor.STDERR_LIMIT


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="finds processes through /proc")
def test_whole_session_is_killed(fake, tmp_path):
    note = tmp_path / "pids"
    fake(
        f"""
        child = subprocess.Popen(["sleep", "600"])
        escaped = subprocess.Popen(["sleep", "600"], process_group=0) if sys.version_info >= (
            3, 11) else child
        open({str(note)!r}, "w").write(f"{{os.getpid()}} {{child.pid}} {{escaped.pid}}")
        send(type='done', target={{}})
        time.sleep(600)
        """
    )
    for pid in map(int, note.read_text().split()):
        assert _gone(pid)


def _gone(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_outcomes_keep_the_order_of_the_jobs(monkeypatch, tmp_path):
    path = tmp_path / "fake_worker.py"
    path.write_text(
        PRELUDE
        + "import json\nhead = os.read(0, 4); body = os.read(0, int.from_bytes(head, 'big'))\n"
        "send(type='done', target={'target': json.loads(body)['target']})\n"
    )
    monkeypatch.setattr(
        workers, "worker_command", lambda preload, *, python: [sys.executable, str(path)]
    )
    jobs = [
        Job(name, "lint", False, {}, {}, Limits(30.0, 30.0)) for name in ("a", "b", "c", "d", "e")
    ]
    monkeypatch.setattr(workers, "LEAST_FORKS", len("abcde") + 1)  # a script cannot fork
    seen: list[int] = []
    outcomes = run(jobs, parallel=3, progress=lambda done, total, target, stage: seen.append(done))
    assert [outcome.record["target"] for outcome in outcomes if outcome.record] == list("abcde")
    assert seen[-1] == 5


def test_worker_ends_when_its_parent_is_killed(tmp_path):
    note = tmp_path / "pid"
    script = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from initlint import workers
worker = workers.start_worker()
open({str(note)!r}, "w").write(str(worker._process.pid))
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", script], check=False)
    assert _gone(int(note.read_text()))


def test_a_worker_that_is_let_go_is_killed_and_reaped():
    started = workers.start_worker()
    started.let_go()
    assert _gone(started._process.pid)
    while started._process.status is None:  # a thread waits for it
        time.sleep(0.01)
    assert started._process.status == -signal.SIGKILL
    assert started not in workers._ALIVE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_ends_quickly_and_leaves_nothing(tmp_path, number):
    """A module target that sleeps at import is interrupted; its worker goes too."""
    note = tmp_path / "pid"
    (tmp_path / "slow.py").write_text(
        f"import os, time\nopen({str(note)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    )
    command = subprocess.Popen(
        [sys.executable, "-m", "initlint", "slow:Net"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'rules'}"},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (note.exists() and note.read_text()) and command.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    command.send_signal(number)
    _, stderr = command.communicate(timeout=30)
    assert command.returncode == 2
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    assert _gone(int(note.read_text()))


def test_limits_grow_with_the_weights():
    small, large = data_limits(0, 1, 30, None), data_limits(7 << 30, 3, 30, None)
    assert small.static_seconds == STATIC_SECONDS
    assert (small.memory_bytes, small.file_bytes) == (2 << 30, 0)
    assert large.memory_bytes == (2 << 30) + 3 * (7 << 30)
    assert large.static_seconds > 300
    assert large.open_files == OPEN_FILES + 3
    assert data_limits(7 << 30, 1, 30, 12.0).static_seconds == 12.0


def test_python_targets_have_no_wall():
    limits = python_limits(30, None)
    assert limits.memory_bytes is limits.file_bytes is limits.cpu_seconds is None
    assert limits.static_seconds is None


def test_limits_hold_in_the_worker():
    pytest.importorskip("resource")
    script = """
import resource
from initlint.worker import apply_limits
apply_limits({"cpu_seconds": 50, "file_bytes": 0, "open_files": 40, "memory_bytes": None})
print(resource.getrlimit(resource.RLIMIT_CPU)[0], resource.getrlimit(resource.RLIMIT_FSIZE),
      resource.getrlimit(resource.RLIMIT_NOFILE)[0], resource.getrlimit(resource.RLIMIT_CORE)[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["50", "(0,", "0)", "40", "0"]


def test_working_directory_shadows_nothing_for_data(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert str(tmp_path) not in process.search_path(python=False)
    assert process.search_path(python=True)[0] == str(tmp_path)
    assert "-I" in process.worker_command((), python=False)
    assert "-I" not in process.worker_command((), python=True)


def test_telemetry_is_off_in_the_worker():
    for python in (True, False):
        assert process.worker_environment(python=python)["ORT_DISABLE_TELEMETRY"] == "1"


def test_threads_of_a_worker_sleep_while_they_wait_unless_the_caller_says_otherwise(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert process.worker_environment(python=True)["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert process.worker_environment(python=True)["OMP_WAIT_POLICY"] == "ACTIVE"


def test_freed_arrays_are_kept_unless_the_caller_says_otherwise(monkeypatch):
    name = "MALLOC_TRIM_THRESHOLD_"
    for python in (True, False):
        monkeypatch.delenv(name, raising=False)
        assert int(process.worker_environment(python=python)[name]) > 1 << 20
        monkeypatch.setenv(name, "4096")
        assert process.worker_environment(python=python)[name] == "4096"
    # a library is opened on a thread there, whose memory should not wait for the main one's
    assert "MALLOC_ARENA_MAX" not in process.worker_environment(python=True)
    assert process.worker_environment(python=False)["MALLOC_ARENA_MAX"] == "1"


class _Boom(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "needs more memory than allowed"),
        (RecursionError(), "is nested too deeply"),
        (_Boom("why"), "initlint failed: _Boom: why at test_worker.py:"),
    ],
)
def test_every_exception_becomes_an_error_record(monkeypatch, error, message, capsys):
    def task(job, enter, emit):
        enter("read")
        raise error

    monkeypatch.setitem(worker._TASKS, "lint", task)
    sent: list[dict] = []
    worker.serve({"task": "lint"}, sent.append)
    assert [record["type"] for record in sent] == ["stage", "error"]
    assert sent[-1]["message"].startswith(message)
    assert sent[-1]["stage"] == "read"


def test_records_survive_any_cut():
    records = [{"type": "a", "text": "é\udc80\n"}, {"type": "b", "x": float("inf")}]
    data = b"".join(encode(record) for record in records)
    for size in (1, 3, 7, len(data)):
        decoder = Decoder()
        got = [
            record
            for start in range(0, len(data), size)
            for record in decoder.feed(data[start : start + size])
        ]
        assert got == records


def test_oversized_record_is_refused_before_it_arrives():
    with pytest.raises(GarbledRecord):
        list(Decoder().feed((LIMIT + 1).to_bytes(4, "big")))


def test_numpy_values_travel_as_plain_numbers():
    import numpy as np

    data = encode({"x": np.float32(0.5), "y": np.arange(3)})
    assert list(Decoder().feed(data)) == [{"x": 0.5, "y": [0, 1, 2]}]
