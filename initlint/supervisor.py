"""The parent's side of the workers: one short-lived process per model, watched and bounded.

Nothing a worker does can take the command down: it has a session of its own that is killed as a
whole, a clock, and a pipe whose records are checked. The parent imports only the standard library.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from initlint.process import Process, spawn, worker_command, worker_environment
from initlint.remote import is_remote
from initlint.wire import Decoder, GarbledRecord, Record, encode

if TYPE_CHECKING:
    from initlint.nursery import Nursery

STDERR_LIMIT = 64 << 10
"""Bytes kept of what a worker writes to standard error."""

OUTPUT_LIMIT = 512 << 20
"""Bytes of records taken from one worker: twice the largest record (it may send two)."""

STATIC_SECONDS = 30.0
"""Wall clock for reading and measuring a small data file, a hundred times what one needs."""

BYTES_PER_SECOND = 20e6
"""Reading speed that the clock allows for beyond that: a slow network disk."""

PROBE_GRACE = 5.0
"""Seconds after the probe's own limit for running the rules once more."""

MEMORY_BASE = 2 << 30
MEMORY_PER_WEIGHT_BYTE = 3
"""Address space: libraries and a graph, plus the file, its parsed copy and one decoded copy."""

OPEN_FILES = 64
"""Descriptors beyond one per weight file: libraries, pipes, the model's folder."""

LEAST_FORKS = 2
"""Workers to start from which a process that forks them costs less than starting each."""

_ALIVE: set[Worker] = set()

_STAGES = {
    "start": "starting",
    "read": "reading the model",
    "measure": "measuring the weights",
    "probe": "running the model",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one worker may use; None is no limit."""

    static_seconds: float | None
    probe_seconds: float | None
    cpu_seconds: int | None = None
    memory_bytes: int | None = None
    file_bytes: int | None = None
    open_files: int | None = None


def data_limits(size: int, files: int, probe_seconds: float, seconds: float | None) -> Limits:
    """Limits for a data file with ``size`` bytes of weights in ``files`` files."""
    static = seconds or STATIC_SECONDS + size / BYTES_PER_SECOND
    return Limits(
        static_seconds=static,
        probe_seconds=probe_seconds + PROBE_GRACE,
        cpu_seconds=int(static + probe_seconds + 2 * PROBE_GRACE),
        memory_bytes=MEMORY_BASE + MEMORY_PER_WEIGHT_BYTE * size,
        file_bytes=0,
        open_files=OPEN_FILES + files,
    )


def python_limits(probe_seconds: float, seconds: float | None) -> Limits:
    """Limits for the user's own code: it may download, write and allocate as it does elsewhere."""
    return Limits(static_seconds=seconds, probe_seconds=probe_seconds + PROBE_GRACE)


@dataclass(frozen=True, slots=True)
class Job:
    """One model and what to do with it.

    Attributes:
        target: as the user wrote it.
        task: ``lint``, ``measure``, ``describe``, ``fix``, ``compare`` or ``diff``.
        python: the target is the user's code: no isolation.
        settings, load: keyword arguments of `initlint.engine.Settings` and
            `initlint.load.LoadOptions`.
        limits: what the worker may use.
        preload: modules worth importing while the parent is still busy.
        options: what this task alone is told.
        walled: raise the second wall (`initlint.sandbox`) around a data file; a task that writes a
            file or runs the network more than once cannot work behind it.
        traced: tell which files are opened and what was measured, for a result that is to be kept.
        known: measurements of large tensors by name (`initlint.measure.kept`), not to be repeated.
        folder: working directory of the worker, where it is not ours (on another machine).
    """

    target: str
    task: str
    python: bool
    settings: dict[str, Any]
    load: dict[str, Any]
    limits: Limits
    preload: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    walled: bool = True
    traced: bool = False
    known: dict[str, Any] = field(default_factory=dict)
    folder: str | None = None

    def record(self) -> Record:
        """The job as it travels."""
        limits = self.limits
        return {
            "target": self.target,
            "task": self.task,
            "isolated": self.walled and not self.python,
            "traced": self.traced,
            "known": self.known,
            "folder": self.folder,
            "options": self.options,
            "settings": self.settings,
            "load": self.load,
            "limits": {
                "cpu_seconds": limits.cpu_seconds,
                "memory_bytes": limits.memory_bytes,
                "file_bytes": limits.file_bytes,
                "open_files": limits.open_files,
            },
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended.

    Attributes:
        job: the job.
        record: the target object; None when nothing was checked.
        message: why nothing was checked.
        call: True when the message is about the call (an unknown rule), not about the target.
        stderr: what the worker wrote to standard error.
        wall_missing: parts of the second wall (`initlint.sandbox`) that this system lacks.
    """

    job: Job
    record: Record | None
    message: str = ""
    call: bool = False
    stderr: str = ""
    wall_missing: tuple[str, ...] = ()


class Worker:
    """One child process with a session of its own."""

    def __init__(self, process: Process, *, python: bool) -> None:
        self.python = python
        self._process = process
        _ALIVE.add(self)

    def send(self, job: Job) -> None:
        """Give the worker its job; a worker that is already dead says so through its pipe."""
        data = memoryview(encode(job.record()))
        with suppress(BrokenPipeError):
            while data:
                data = data[os.write(self._process.stdin, data) :]

    def reply(self, data: bytes) -> None:
        """Send what the worker asked for; one that is dead says so through its pipe."""
        view = memoryview(data)
        with suppress(OSError):
            while view and self._process.stdin >= 0:
                view = view[os.write(self._process.stdin, view[: 1 << 20]) :]

    def listen(self, tell: Callable[[str, bytes], None]) -> None:
        """Pass what arrives to ``tell(stream, data)``, from threads; empty data is the end."""
        streams = (("records", self._process.stdout), ("stderr", self._process.stderr))
        for name, descriptor in streams:
            threading.Thread(target=_drain, args=(descriptor, name, tell), daemon=True).start()

    def stop(self) -> int:
        """Kill whatever is left of the session; the exit status, negative for a signal.

        A process that is already dying keeps its own status. The session is killed before its
        leader is waited for, so that the number cannot belong to anybody else.
        """
        if self._process.status is None:
            _kill_session(self._process.pid)
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
        status = self._process.wait()
        self._process.hang_up()
        _ALIVE.discard(self)
        return status


def start_worker(preload: Sequence[str] = (), *, python: bool = False) -> Worker:
    """A new worker that imports ``preload`` while it waits for its job."""
    process = spawn(worker_command(preload, python=python), worker_environment(python=python))
    return Worker(process, python=python)


def _drain(descriptor: int, name: str, tell: Callable[[str, bytes], None]) -> None:
    data = b"-"
    while data:
        try:
            data = os.read(descriptor, 1 << 16)
        except OSError:
            data = b""
        tell(name, data)
    os.close(descriptor)


def _kill_session(leader: int) -> None:
    """Kill the worker's process group, and members of its session that left the group."""
    if not hasattr(os, "killpg"):
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
    for member in _session_members(leader):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(member, signal.SIGKILL)


def _session_members(session: int) -> Iterator[int]:
    """Processes of a session, from /proc (field 6 of ``stat``); nothing where there is none."""
    try:
        names = os.listdir("/proc")
    except OSError:
        return
    for name in filter(str.isdigit, names):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and int(name) != session:
            yield int(name)


_EARLY: list[Worker] = []


def adopt(process: Process, *, python: bool) -> None:
    """Hold an idle worker ready for the first job of its kind."""
    _EARLY.append(Worker(process, python=python))


def _worker_for(job: Job, nursery: Nursery | None) -> Worker:
    if _EARLY and _EARLY[0].python == job.python:
        return _EARLY.pop()
    if nursery is not None and not job.python:
        with suppress(OSError):
            return Worker(nursery.start(), python=False)
    return start_worker(job.preload, python=job.python)


@contextmanager
def _nursery(jobs: Sequence[Job]) -> Iterator[Nursery | None]:
    """A process that forks the workers of a call with several data files; None where none pays."""
    files = [job for job in jobs if not job.python]
    if len(files) - len(_EARLY) < LEAST_FORKS or sys.platform != "linux":
        yield None
        return
    from initlint.nursery import PROBE_PRELOAD, Nursery

    probed = any(
        job.task == "lint" and job.settings.get("probe", True) and job.target.endswith(".onnx")
        for job in files
    )
    modules = dict.fromkeys(name for job in files for name in job.preload)
    try:
        nursery = Nursery((*modules, *(PROBE_PRELOAD if probed else ())))
    except OSError:
        yield None
        return
    try:
        yield nursery
    finally:
        nursery.close()


def stop_all() -> None:
    """Kill every worker that is still alive."""
    _EARLY.clear()
    for worker in tuple(_ALIVE):
        worker.stop()


class Interrupted(BaseException):
    """The user, or the system, wants the command to end.

    Not a `KeyboardInterrupt`, which the command-line library turns into an exit code of its own.
    """


@contextmanager
def raising_on_signals() -> Iterator[None]:
    """Make Ctrl-C, SIGTERM and SIGHUP end the command alike: workers killed, nothing left."""

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None:
                before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Fetcher:
    """Answers one worker's requests for bytes of an object store, beside everything else."""

    def __init__(self, job: Job, worker: Worker) -> None:
        from concurrent.futures import ThreadPoolExecutor

        from initlint.remote import Store, is_remote

        other = job.options.get("other")
        urls = [job.target, *([other] if isinstance(other, str) and is_remote(other) else [])]
        self._store = Store(urls)
        self._worker = worker
        self._pool = ThreadPoolExecutor(1)

    def fetch(self, request: Record) -> None:
        """Fetch and reply, in a thread of its own."""
        self._pool.submit(lambda: self._worker.reply(self._store.answer(request)))

    def close(self) -> None:
        """Answer nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._store.close()


@dataclass(slots=True, eq=False)
class _Run:
    """A job under way."""

    job: Job
    worker: Worker
    deadline: float | None
    heard: Callable[[Record], None] = lambda record: None
    fetcher: _Fetcher | None = None
    decoder: Decoder = field(default_factory=Decoder)
    stage: str = "start"
    static: Record | None = None
    received: int = 0
    wall_missing: tuple[str, ...] = ()
    stderr: bytearray = field(default_factory=bytearray)

    def stop(self) -> None:
        """Let go of the worker."""
        self.worker.stop()
        if self.fetcher is not None:
            self.fetcher.close()


Reading = Callable[[int, Job, Record], None]
"""Told what a traced job reads: its number, the job, and what `initlint.load.files` tells."""

Progress = Callable[[int, int, str, str], None]
"""Told how many jobs are done, of how many, a target and its stage."""


def run(
    jobs: Sequence[Job],
    *,
    parallel: int = 1,
    progress: Progress | None = None,
    meanwhile: Callable[[], None] | None = None,
    reading: Reading | None = None,
    finished: Callable[[int, Outcome], None] | None = None,
) -> list[Outcome]:
    """Run the jobs, at most ``parallel`` at once; outcomes in the order of the jobs.

    Args:
        jobs: what to do.
        parallel: workers at once.
        progress: called on every change.
        meanwhile: called once, when the first workers are busy.
        reading: called whenever a traced job opens a file.
        finished: called with the number and the outcome of every job that has ended.
    """
    with _nursery(jobs) as nursery:
        return _run(jobs, nursery, parallel, progress, meanwhile, reading, finished)


def _run(
    jobs: Sequence[Job],
    nursery: Nursery | None,
    parallel: int,
    progress: Progress | None,
    meanwhile: Callable[[], None] | None,
    reading: Reading | None,
    finished: Callable[[int, Outcome], None] | None,
) -> list[Outcome]:
    outcomes: dict[int, Outcome] = {}
    waiting = deque(enumerate(jobs))
    runs: dict[int, _Run] = {}
    inbox: queue.SimpleQueue[tuple[int, str, bytes]] = queue.SimpleQueue()
    try:
        while waiting or runs:
            while waiting and len(runs) < max(parallel, 1):
                index, job = waiting.popleft()
                runs[index] = _start(index, job, _worker_for(job, nursery), inbox)
                if reading is not None:
                    runs[index].heard = partial(reading, index, job)
            if meanwhile is not None:
                meanwhile()
                meanwhile = None
            event = _next_event(inbox, runs)
            for index in list(runs):
                current = runs[index]
                outcome = None
                if event is not None and event[0] == index:
                    outcome = _handle(current, event[1], event[2])
                elif current.deadline is not None and time.monotonic() >= current.deadline:
                    outcome = _expire(current)
                if outcome is not None:
                    outcomes[index] = replace(outcome, wall_missing=current.wall_missing)
                    runs.pop(index).stop()
                    if finished is not None:
                        finished(index, outcomes[index])
                if progress is not None:
                    progress(len(outcomes), len(jobs), current.job.target, current.stage)
    finally:
        for current in runs.values():
            current.stop()
    return [outcomes[index] for index in range(len(jobs))]


def _start(
    index: int, job: Job, worker: Worker, inbox: queue.SimpleQueue[tuple[int, str, bytes]]
) -> _Run:
    worker.listen(lambda stream, data: inbox.put((index, stream, data)))
    worker.send(job)
    seconds = job.limits.static_seconds
    current = _Run(job, worker, None if seconds is None else time.monotonic() + seconds)
    if is_remote(job.target):
        current.fetcher = _Fetcher(job, worker)
    return current


def _next_event(
    inbox: queue.SimpleQueue[tuple[int, str, bytes]], runs: dict[int, _Run]
) -> tuple[int, str, bytes] | None:
    """What arrives before the next deadline; None when a deadline came first."""
    deadlines = [current.deadline for current in runs.values() if current.deadline is not None]
    wait = max(min(deadlines) - time.monotonic(), 0) if deadlines else None
    try:
        return inbox.get(timeout=wait)
    except queue.Empty:
        return None


def _handle(current: _Run, stream: str, data: bytes) -> Outcome | None:
    """Take in what a worker sent; the outcome when that decides it."""
    if stream == "stderr":
        current.stderr += data[: STDERR_LIMIT - len(current.stderr)]
        return None
    if not data:
        return _death(current)
    current.received += len(data)
    try:
        if current.received > OUTPUT_LIMIT:
            raise GarbledRecord(f"more than {OUTPUT_LIMIT} bytes")
        for record in current.decoder.feed(data):
            outcome = _take(current, record)
            if outcome is not None:
                return outcome
    except GarbledRecord as error:
        return _lost(current, f"the worker sent {error}")
    return None


def _take(current: _Run, record: Record) -> Outcome | None:
    kind = record.get("type")
    target = record.get("target")
    if kind == "stage":
        current.stage = str(record.get("stage"))
    elif kind == "read":
        current.heard(record)
    elif kind == "fetch" and current.fetcher is not None:
        current.fetcher.fetch(record)
    elif kind == "wall" and isinstance(record.get("missing"), list):
        current.wall_missing = tuple(map(str, record["missing"]))
    elif kind == "static" and isinstance(target, dict):
        current.static = target
        seconds = current.job.limits.probe_seconds
        current.deadline = None if seconds is None else time.monotonic() + seconds
    elif kind == "done" and isinstance(target, dict):
        return Outcome(current.job, target, stderr=_stderr(current))
    elif kind == "error":
        message = str(record.get("message"))
        if current.static is not None:
            return _lost(current, message)
        return Outcome(
            current.job, None, message, call=bool(record.get("call")), stderr=_stderr(current)
        )
    else:
        raise GarbledRecord("a record of no known kind")
    return None


def _stderr(current: _Run) -> str:
    return current.stderr.decode("utf-8", "replace")


def _doing(current: _Run) -> str:
    return _STAGES.get(current.stage, current.stage)


def _expire(current: _Run) -> Outcome:
    limits = current.job.limits
    if current.static is not None:
        seconds = (limits.probe_seconds or 0) - PROBE_GRACE
        return _lost(current, f"stopped after {seconds:g} s", status="timeout")
    return _lost(current, f"stopped after {limits.static_seconds:.0f} s {_doing(current)}")


def _death(current: _Run) -> Outcome:
    """The records ended without a last one."""
    status = current.worker.stop()
    cause = _signal_name(-status) if status < 0 else f"exit status {status}"
    if status == -int(getattr(signal, "SIGXCPU", 0)) or (
        status == -signal.SIGKILL and current.job.limits.cpu_seconds is not None
    ):
        cause += ", probably a limit on time or memory"
    if current.static is not None:
        return _lost(current, f"crashed: {cause}")
    last = _stderr(current).strip().rpartition("\n")[2]
    hint = f": {last}" if last and status >= 0 else ""
    return _lost(current, f"the worker died {_doing(current)} ({cause}){hint}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


PENDING = "the probe comes later"
"""The engine's reason for a rule that waits for the probe, in a static record."""


def _lost(current: _Run, message: str, status: str = "failed") -> Outcome:
    """A worker that ended badly: the static findings stand when it had sent them."""
    stderr = _stderr(current)
    if current.static is None:
        return Outcome(current.job, None, message, stderr=stderr)
    record = dict(current.static)
    skipped = dict(record.get("skipped") or {})
    waiting = skipped.pop(PENDING, [])
    if waiting:
        reason = "the probe did not run"
        skipped[reason] = sorted({*skipped.get(reason, []), *waiting})
    record["skipped"] = dict(sorted(skipped.items()))
    record["probe"] = {**(record.get("probe") or {}), "status": status, "detail": message}
    return Outcome(current.job, record, stderr=stderr)
