"""The parent's side of the workers: one short-lived process per model, watched and bounded.

Nothing a worker does can take the command down: it has a session of its own that is killed as a
whole, a clock, and a pipe whose records are checked. The parent imports only the standard library.
"""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from initlint.jobs import PROBE_GRACE, Job, Outcome
from initlint.remote import is_remote
from initlint.wire import Decoder, GarbledRecord, Record
from initlint.workers import Worker, nursery_for, worker_for

if TYPE_CHECKING:
    from initlint.nursery import Nursery

STDERR_LIMIT = 64 << 10
"""Bytes kept of what a worker writes to standard error."""

OUTPUT_LIMIT = 512 << 20
"""Bytes of records taken from one worker: twice the largest record (it may send two)."""

_STAGES = {
    "start": "starting",
    "read": "reading the model",
    "measure": "measuring the weights",
    "probe": "running the model",
}


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
        self.worker.let_go()
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
    with nursery_for(jobs) as nursery:
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
                runs[index] = _start(index, job, worker_for(job, nursery), inbox)
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
    stopped = f"stopped after {limits.static_seconds:.0f} s {_doing(current)}"
    return _lost(current, f"{stopped}; --timeout gives it longer")


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
