"""One process that has imported everything and forks a worker per model, for calls with many.

Starting an interpreter and importing NumPy, onnx and onnxruntime takes longer than judging a small
model. The nursery does it once, then touches nothing but its socket: each model is read in a fork
of its own, with the session, the limits and the wall of every worker
(`docs/decisions/isolation.md`). A fork does not hold the nursery's socket, and what it does to its
memory stays its own.

Only Linux: elsewhere libraries that have been loaded do not always survive a fork.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise

from initlint.process import Process, worker_command, worker_environment

_PATIENCE = 60.0
"""Seconds for an answer: the first waits for the imports, the others for a fork."""

_MESSAGE = 64
"""Bytes of a message; both sides send whole ones."""

_START, _WAIT = b"start", b"wait"

_WALL = ("initlint.sandbox.landlock", "initlint.load.files")

PROBE_PRELOAD = (
    "numpy.random",
    "onnxruntime",
    "initlint.probe.onnxruntime",
    "initlint.probe.onnx_request",
    "initlint.probe.request",
    "initlint.probe.serve",
)


class Nursery:
    """The parent's side.

    Args:
        preload: modules that the workers will need.

    Raises:
        OSError: it could not be started.
    """

    def __init__(self, preload: Sequence[str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = worker_command(preload, python=False, module="initlint.nursery")
        actions = [
            (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ]
        with theirs:
            self._pid = os.posix_spawn(
                command[0], command, worker_environment(python=False), file_actions=actions
            )
        ours.settimeout(_PATIENCE)
        self._socket = ours

    def start(self) -> Process:
        """A new worker, waiting for its job.

        Raises:
            OSError: the nursery does not answer any more.
        """
        pipes = [os.pipe() for _ in range(3)]
        ours = [pipes[0][1], pipes[1][0], pipes[2][0]]
        theirs = [pipes[0][0], pipes[1][1], pipes[2][1]]
        try:
            socket.send_fds(self._socket, [_START], theirs)
            pid = self._answer()
        except OSError:
            self._socket.close()  # what it would answer later belongs to no question
            for end in ours:
                os.close(end)
            raise
        finally:
            for end in theirs:
                os.close(end)
        return _Forked(self, pid, *ours)

    def wait(self, pid: int) -> int:
        """The exit status of a worker that has ended; that of SIGKILL when nobody knows.

        Its process number stays its own until it has been waited for.
        """
        try:
            self._socket.send(b"%s %d" % (_WAIT, pid))
            return self._answer()
        except OSError:
            return -int(signal.SIGKILL)

    def _answer(self) -> int:
        data = self._socket.recv(_MESSAGE)
        if not data:
            raise OSError("the nursery is gone")
        return int(data)

    def close(self) -> None:
        """End it; its workers are ended by whoever asked for them."""
        self._socket.close()
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


class _Forked(Process):
    """A worker that is the nursery's child, not ours."""

    def __init__(self, nursery: Nursery, pid: int, *ends: int) -> None:
        super().__init__(pid, *ends)
        self._nursery = nursery

    def wait(self) -> int:
        if self.status is None:
            self.status = self._nursery.wait(self.pid)
        return self.status

    def reap(self) -> None:
        self.wait()  # the nursery's answers come one by one


def main() -> None:
    """The nursery's side: import, then fork on demand until the parent hangs up."""
    import gc

    from initlint import worker
    from initlint.sandbox import seccomp

    channel = socket.socket(fileno=0)
    gc.disable()  # what is imported stays; collecting would also copy pages that forks share
    worker.preload([*_WALL, *sys.argv[1:]])
    seccomp.prepare()
    if "initlint.engine" in sys.argv:
        rehearse()
    gc.freeze()
    while True:
        message, given, _, _ = socket.recv_fds(channel, _MESSAGE, 3)
        if not message:
            os._exit(0)
        if message.startswith(_WAIT):
            _, status = os.waitpid(int(message.split()[1]), 0)
            channel.send(b"%d" % os.waitstatus_to_exitcode(status))
            continue
        pid = os.fork()
        if pid == 0:
            _become_worker(channel, given)
        for end in given:
            os.close(end)
        channel.send(b"%d" % pid)


def rehearse() -> None:
    """Lint a network of our own, so that no fork pays for what the first run of any code costs.

    Caches, late imports and specialised bytecode: a third of what a small model takes.
    """
    from initlint import engine
    from initlint.measure.scattered import scattered
    from initlint.model import Edge, Kind, Layer, LayerGraph, Model, Op, Param, Role, from_array
    from initlint.settings import Settings

    side = 32
    width = (None, side)
    values = scattered(side, side).astype("float32")
    layers = [Layer("input", Op.INPUT, output_shape=width)]
    for number in range(4):
        name = f"{number}.weight"
        tensor = from_array(name, values * (number + 1))
        weight = Param(Role.WEIGHT, name, (side, side), "float32", tensor, stored_name=name)
        layers.append(Layer(f"{number}", Op.LINEAR, (weight,), output_shape=width))
        layers.append(Layer(f"{number}.relu", Op.RELU, output_shape=width))
    layers.append(Layer("output", Op.OUTPUT, output_shape=width))
    edges = [Edge(a.id, b.id, shape=width) for a, b in pairwise(layers)]
    model = Model("", Kind.ONNX, LayerGraph(layers, edges))
    with suppress(Exception):  # a rule that crashes is reported where it has a target
        engine.lint(model, Settings(probe=False))


def _become_worker(channel: socket.socket, given: Sequence[int]) -> None:
    """Serve one job behind three pipes, as a worker that was started alone does."""
    status = 1
    try:
        from initlint import worker

        os.setsid()
        channel.detach()  # number 0, which becomes the job's pipe
        for number, end in enumerate(given):
            os.dup2(end, number)
        for end in given:
            os.close(end)
        worker.work(worker.guard_records(), forked=True)
        status = 0
    finally:
        os._exit(status)
