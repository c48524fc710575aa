"""Child processes, each with a session of its own that is killed as a whole.

A worker is started alone, taken from those that the command line started early, or forked by a
process that has imported everything (`initlint.nursery`).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from initlint.jobs import Job
from initlint.process import Process, spawn, worker_command, worker_environment
from initlint.wire import encode

if TYPE_CHECKING:
    from initlint.nursery import Nursery

LEAST_FORKS = 2
"""Workers to start from which a process that forks them costs less than starting each."""

_ALIVE: set[Worker] = set()


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
        self._kill()
        status = self._process.wait()
        self._process.hang_up()
        _ALIVE.discard(self)
        return status

    def let_go(self) -> None:
        """Kill whatever is left of the session, and do not stand and wait for its end."""
        self._kill()
        _ALIVE.discard(self)
        self._process.reap()
        self._process.hang_up()

    def _kill(self) -> None:
        if self._process.status is None:
            _kill_session(self._process.pid)
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)


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


def worker_for(job: Job, nursery: Nursery | None) -> Worker:
    """One that was started early for this kind of job, a fork of the nursery, or a new process."""
    if _EARLY and _EARLY[0].python == job.python:
        return _EARLY.pop()
    if nursery is not None and not job.python:
        with suppress(OSError):
            return Worker(nursery.start(), python=False)
    return start_worker(job.preload, python=job.python)


@contextmanager
def nursery_for(jobs: Sequence[Job]) -> Iterator[Nursery | None]:
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
