"""The probe in a process of its own: a crash, a hang or a memory bomb costs the probe alone.

This is the parent's side: it sends a `Request` through a pipe and reads back one JSON object behind
its length. Of a large model the child inherits the open file, where it finds the weights.
`initlint.probe.serve` is the child's side.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from initlint.probe import serve
from initlint.probe.result import ATTENTION_WEIGHTS, Activations, OutputStats, ProbeStatus
from initlint.probe.serve import LENGTH, LIMITS
from initlint.process import KEPT_PAGES

if TYPE_CHECKING:
    from initlint.model import Model

MAPPED = 1 << 23
"""Bytes of a file from which the child maps its weights: sending as many takes as long as looking
for where they lie, some milliseconds."""

MAX_ANSWER = 1 << 28
"""Bytes of an answer: statistics of one layer take about 1 kB."""

CPU_GRACE = 5.0
"""Seconds of processor time beyond the clock's for `AT_ONCE` runs: imports, statistics."""

_BOOTSTRAP = (
    "import sys; sys.path.extend(sys.argv[1:]); from initlint.probe.serve import main; main()"
)


class _Fork:
    """A child that is a fork of this process: what `subprocess.Popen` is to a program."""

    def __init__(self, pid: int, stdin: int, stdout: int) -> None:
        self.pid = pid
        self.stdin: IO[bytes] | None = os.fdopen(stdin, "wb")
        self.stdout: IO[bytes] | None = os.fdopen(stdout, "rb")
        self._status: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """The exit status; raises `subprocess.TimeoutExpired` when it takes longer."""
        until = None if timeout is None else time.monotonic() + timeout
        while self._status is None:
            pid, status = os.waitpid(self.pid, 0 if until is None else os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
            elif until is not None and time.monotonic() >= until:
                raise subprocess.TimeoutExpired("probe", timeout or 0.0)
            else:
                time.sleep(0.005)
        return self._status

    def kill(self) -> None:
        """End it, unless it has been waited for."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)


_Child = subprocess.Popen[bytes] | _Fork


@dataclass(frozen=True)
class _Started:
    """A child, and the open file of a large model, which both have: weights go through no pipe."""

    process: _Child
    file: int | None


_IDLE: list[_Started] = []


def start_early(path: str | None = None, *, fork: bool = False) -> int | None:
    """Start the child of the next `run_in_child` now, while this process still may.

    Args:
        path: the model's file, if it is on this machine.
        fork: fork this process, which has imported what the child needs, instead of starting an
            interpreter. It must have no other thread and must have read nothing of the model.

    Returns:
        Its process number; None when it could not be started.
    """
    try:
        started = _started(path, fork=fork)
    except OSError:
        return None
    _IDLE.append(started)
    return started.process.pid


def _started(path: str | None, *, fork: bool = False) -> _Started:
    """Raises OSError where no process can be started."""
    file = None if path is None else _large(path)
    try:
        return _Started(_fork(file) if fork else _start(file), file)
    except OSError:
        if file is not None:
            os.close(file)
        raise


def _large(path: str) -> int | None:
    """A large regular file, opened for reading; None for everything else."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        descriptor = os.open(path, flags)
    except (OSError, ValueError):  # told by whoever reads it
        return None
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size >= MAPPED:
        return descriptor
    os.close(descriptor)
    return None


def run_in_child(
    model: Model,
    *,
    seed: int = 0,
    timeout: float = 30.0,
    memory_mb: int = 2048,
    inputs_file: str | None = None,
    train_norm: bool = False,
) -> Activations:
    """Run an ONNX model once in a child process and measure every visible layer's output.

    Args:
        model: a model whose ``runnable`` is an ``OnnxRunnable``.
        seed: seeds the inputs.
        timeout: seconds of wall-clock time; the child is killed after them.
        memory_mb: address space of the child beyond three times the weights.
        inputs_file: ``.npz`` file with one array per input; None: inputs are synthesised.
        train_norm: BatchNormalization that never ran uses batch statistics, as training would.

    Returns:
        What was measured. Whatever the model does to the child, this does not raise: the status
        says how it ended and ``detail`` why, on one line.
    """
    started = time.monotonic()
    try:
        child = _IDLE.pop() if _IDLE else _started(getattr(model.runnable, "path", None))
    except OSError as error:
        detail = f"the probe's process could not be started: {error.strerror}"
        return Activations(ProbeStatus.FAILED, detail)
    with _ended(child):  # it imports what it needs while the request is made
        from initlint.probe.onnx_request import Refusal, request_for
        from initlint.probe.onnx_runs import AT_ONCE

        try:
            request = request_for(
                model,
                seed=seed,
                memory_mb=memory_mb,
                inputs_file=inputs_file,
                train_norm=train_norm,
            )
        except Refusal as refusal:
            return Activations(refusal.status, str(refusal))
        weights = len(request.model) + sum(item.size for item in request.external)
        limits = LIMITS.pack(
            memory_mb * (1 << 20) + 3 * weights, int(AT_ONCE * timeout + CPU_GRACE)
        )
        left_out = getattr(model.runnable, "left_out", None)
        mapped = child.file is not None and left_out is not None and left_out.is_same(child.file)
        pieces = request.pieces(child.file if mapped else None)
        answer = _ask(child.process, chain((limits,), pieces), timeout)
    seconds = time.monotonic() - started
    return _activations({**answer, "seconds": seconds})


@contextmanager
def _ended(child: _Started) -> Iterator[None]:
    """Leave neither the child nor its pipes and file behind."""
    process = child.process
    try:
        yield
    finally:
        _let_go(process)
        if child.file is not None:
            os.close(child.file)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


def _start(file: int | None) -> subprocess.Popen[bytes]:
    """A child that imports what it needs and waits for its request.

    It stays in this process's session, so that whoever ends the session ends it too. What ``site``
    would do has been done here: the search path is passed on as it is.
    """
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", "-c", _BOOTSTRAP, *_import_paths()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=os.path.abspath(os.sep),
        env=_environment(),
        pass_fds=_kept(file),
    )


def _kept(file: int | None) -> tuple[int, ...]:
    """Descriptors that a child inherits besides its pipes."""
    return () if file is None else (file,)


def _fork(file: int | None) -> _Fork:
    """A child that shares what this process has imported; it keeps none of its pipes."""
    requests, answers = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.chdir(os.sep)
            os.dup2(requests[0], 0)
            os.dup2(answers[1], 1)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            first = 3
            for kept in _kept(file):
                os.closerange(first, kept)
                first = kept + 1
            os.closerange(first, os.sysconf("SC_OPEN_MAX"))
            serve.main()
        finally:
            os._exit(1)
    os.close(requests[0])
    os.close(answers[1])
    return _Fork(pid, requests[1], answers[0])


def _ask(process: _Child, pieces: Iterator[bytes | memoryview], timeout: float) -> dict[str, Any]:
    """The child's answer, or a stand-in that says why there is none."""
    assert process.stdin is not None
    assert process.stdout is not None
    _widen(process.stdin)
    answer: list[bytes] = []
    writer = threading.Thread(target=_send, args=(process.stdin, pieces), daemon=True)
    reader = threading.Thread(target=_receive, args=(process.stdout, answer), daemon=True)
    try:
        writer.start()
        reader.start()
        reader.join(timeout)
        late = reader.is_alive()
    finally:
        status = 0 if answer else _end(process)
    reader.join(1.0)
    writer.join(1.0)
    if answer:
        try:
            found: dict[str, Any] = json.loads(answer[0])
            return found
        except ValueError:
            return _failed("the probe's answer was damaged")
    if late:
        return {"status": ProbeStatus.TIMEOUT, "detail": f"stopped after {timeout:g} s"}
    return _failed(_death(status))


def _widen(stream: IO[bytes]) -> None:
    """Let a pipe hold more than 64 KiB, where the system can: a model is sent with fewer turns."""
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(stream.fileno(), fcntl.F_SETPIPE_SZ, 1 << 20)


def _send(stream: IO[bytes], pieces: Iterator[bytes | memoryview]) -> None:
    try:
        for piece in pieces:
            stream.write(piece)
        stream.flush()
    except (OSError, ValueError):  # the child ended early, or shall: its exit status tells why
        with suppress(OSError):
            stream.close()


def _receive(stream: IO[bytes], answer: list[bytes]) -> None:
    try:
        head = stream.read(LENGTH.size)
        if len(head) < LENGTH.size:
            return
        (length,) = LENGTH.unpack(head)
        if length > MAX_ANSWER:
            return
        body = stream.read(length)
        if len(body) == length:
            answer.append(body)
    except (OSError, ValueError):
        return


def _end(process: _Child) -> int:
    """Kill a child that did not answer. Returns its exit status."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(0.2)  # a child that died by itself has a status worth reporting
    with suppress(ProcessLookupError, PermissionError):
        process.kill()
    return process.wait()


def _let_go(process: _Child) -> None:
    """Kill a child, and wait on a thread: the system takes its time to reclaim a large one."""
    with suppress(ProcessLookupError, PermissionError):
        process.kill()
    threading.Thread(target=process.wait).start()


def _death(status: int) -> str:
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        if -status == getattr(signal, "SIGXCPU", None):
            return "the run used up its processor time"
        return f"onnxruntime crashed ({name})"
    return f"the probe's process ended without an answer (exit status {status})"


def _failed(detail: str) -> dict[str, Any]:
    return {"status": ProbeStatus.FAILED, "detail": detail}


def _activations(data: dict[str, Any]) -> Activations:
    outputs = {
        layer: OutputStats(
            **{
                **stats,
                "histogram": tuple(stats["histogram"]),
                "histogram_range": tuple(stats["histogram_range"]),
                "unit_std": tuple(stats["unit_std"]),
                "entropy": tuple(stats.get("entropy", ())),
            }
        )
        for layer, stats in data.get("outputs", {}).items()
    }
    for name in [name for name in outputs if name.endswith(ATTENTION_WEIGHTS)]:
        entropy, layer = outputs.pop(name).entropy, name[: -len(ATTENTION_WEIGHTS)]
        if layer in outputs:
            outputs[layer] = replace(outputs[layer], entropy=entropy)
    return Activations(
        status=ProbeStatus(data["status"]),
        detail=data["detail"],
        seconds=data["seconds"],
        samples=data.get("samples", 0),
        outputs=outputs,
        train_mode=data.get("train_mode", False),
        inputs=data.get("inputs", {}),
        invalid=data.get("invalid", False),
    )


def _import_paths() -> list[str]:
    """Where the child finds the packages that this process uses; never the working directory."""
    package = str(Path(__file__).resolve().parents[2])
    here = os.getcwd()
    found = [path for path in sys.path if path and os.path.isabs(path) and path != here]
    return list(dict.fromkeys([*found, package]))


def _environment() -> dict[str, str]:
    """This environment without telemetry, and with one thread for NumPy's linear algebra.

    OpenBLAS reserves memory per core when it is imported, which counts against the limit.
    """
    return {**KEPT_PAGES, **os.environ, "ORT_DISABLE_TELEMETRY": "1", "OPENBLAS_NUM_THREADS": "1"}
