"""Starting a worker process, with nothing imported that the interpreter has not loaded already.

The worker's own imports are the longest part of a run, so it is started before the parent imports
anything else; that is why this module does without `subprocess` and `dataclasses`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence


class Process:
    """A child process with three pipes.

    Attributes:
        pid: its number; also that of its session once it runs.
        stdin, stdout, stderr: our ends of the pipes.
        status: exit status, negative for a signal; None until waited for.
    """

    def __init__(self, pid: int, stdin: int, stdout: int, stderr: int) -> None:
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.status: int | None = None

    def kill(self) -> None:
        """End it at once, and wait for that."""
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def wait(self) -> int:
        """Wait for its end and return the exit status."""
        if self.status is None:
            _, status = os.waitpid(self.pid, 0)
            self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def reap(self) -> None:
        """Wait for the end of a killed process on a thread, which our own end waits for.

        The system takes as long to reclaim the memory of a large model as a report takes. Whoever
        asks what we used is told of our workers only when they have been waited for.
        """
        import threading

        threading.Thread(target=self.wait).start()

    def hang_up(self) -> None:
        """Close our end of its standard input; the readers of the other two close theirs."""
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1


def spawn(command: Sequence[str], environment: Mapping[str, str]) -> Process:
    """Start a command with pipes for its standard streams.

    Raises:
        OSError: when it cannot be started.
    """
    ours, theirs = [], []
    for number in range(3):
        reading, writing = os.pipe()
        ours.append(writing if number == 0 else reading)
        theirs.append(reading if number == 0 else writing)
    actions = [(os.POSIX_SPAWN_DUP2, end, number) for number, end in enumerate(theirs)]
    try:
        pid = os.posix_spawn(command[0], list(command), dict(environment), file_actions=actions)
    finally:
        for end in theirs:
            os.close(end)
    return Process(pid, *ours)


def search_path(*, python: bool) -> list[str]:
    """The module search path for a worker: ours, where the working directory shadows nothing.

    For the user's own code the working directory comes first, as with ``python -m``.
    """
    here = os.getcwd()
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = [entry for entry in sys.path if os.path.isabs(entry) and entry != here]
    if root not in path:
        path.append(root)
    return [here, *path] if python else path


def worker_command(
    preload: Sequence[str], *, python: bool, module: str = "initlint.worker"
) -> list[str]:
    """The command line of a worker, which begins with a session of its own.

    What the caller holds open stays the caller's: libraries may have opened files that spawning
    does not close.
    """
    boot = (
        f"import os, sys; os.setsid(); os.closerange(3, os.sysconf('SC_OPEN_MAX')); "
        f"sys.path[:] = {search_path(python=python)!r}; "
        f"from {module} import main; main()"
    )
    options = [] if python else ["-I"]
    if sys.dont_write_bytecode:  # isolation ignores the variable that may have said so
        options.append("-B")
    return [sys.executable, *options, "-c", boot, *preload]


KEPT_PAGES = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 28),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 28),
}
"""glibc hands freed arrays back to the system, page by page, and the next ones fault each page in
again: a quarter of the system's share of the time on a large checkpoint, and some in the passes of
a module. Other allocators do not know the names."""


def worker_environment(*, python: bool) -> dict[str, str]:
    """Ours, with onnxruntime's telemetry off; one thread per library for reproducible sums.

    For the user's own code torch keeps its threads; NumPy's would wait for them, and they for it.
    They sleep while they wait: a backward pass has threads of its own beside those of the forward
    pass, and two sets that spin for one another take ten to thirty times as long on small layers.
    """
    waiting = {"OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    environment = {**KEPT_PAGES, **waiting, **os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    if not python:
        # else a library is opened on a thread, which would wait for the main one's allocations
        environment.setdefault("MALLOC_ARENA_MAX", "1")
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            environment[name] = "1"
    return environment
