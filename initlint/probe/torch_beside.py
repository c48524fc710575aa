"""A module's passes beside the judging of its weights: one process becomes two.

The passes stay where PyTorch's threads are; a fork, which has none of them, judges the module as it
was at that moment and then waits for what the passes measured. Neither waits for the other's
interpreter, and a pass that takes its process down leaves the fork to say what it found.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress

import torch

from initlint.load.torch_run import TorchRunnable
from initlint.load.torch_tracer import on_meta
from initlint.model import Model
from initlint.probe.result import Activations

PATIENCE = 5.0
"""Seconds in which a fork that is alive uses processor time: the kernel counts in hundredths. One
that does not stands still, on a lock that a thread held which the fork does not have."""


def may_split(model: Model) -> bool:
    """True where two processes can hold one module.

    Linux forks a process that has threads; what lives on another device cannot be read in the fork,
    and of a very large module the passes may write to every page that the fork shares.
    """
    runnable = model.runnable
    if sys.platform != "linux" or not isinstance(runnable, TorchRunnable):
        return False
    tensors = runnable.names.tensors.values()
    here = all(tensor.device.type == "cpu" for tensor in tensors)
    return here and not torch.cuda.is_initialized() and not on_meta(runnable.names)


def split(run: Callable[[], Activations]) -> Callable[[], Activations]:
    """Run the passes here, and go on in a fork; returns in the fork.

    The process ends with the fork, or returns, too, when the fork has failed: whoever called then
    does the fork's work with what was measured.

    Args:
        run: the passes.

    Returns:
        A function that waits for what the passes measured; where there is nothing to wait for, the
        fork ends.
    """
    for stream in (sys.stdout, sys.stderr):  # else both would write what is waiting in them
        stream.flush()
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        fork = os.fork()
    if fork == 0:
        os.close(writing)
        torch.set_num_threads(1)  # the others stayed behind
        return lambda: _receive(reading)
    os.close(reading)
    waiting = threading.Thread(target=_end_with, args=(fork,), daemon=True)
    waiting.start()
    try:
        observed = run()
        with suppress(BrokenPipeError), open(writing, "wb", closefd=False) as stream:
            pickle.dump(observed, stream, pickle.HIGHEST_PROTOCOL)
    finally:
        os.close(writing)
        _wait(waiting, fork)
    return lambda: observed


def _receive(reading: int) -> Activations:
    try:
        with open(reading, "rb") as stream:
            found: Activations = pickle.load(stream)
    except (EOFError, pickle.UnpicklingError):  # the passes took their process down
        os._exit(1)
    return found


def _end_with(fork: int) -> None:
    """End this process when the fork has done everything; return when it has failed."""
    try:
        _, status = os.waitpid(fork, 0)
    except ChildProcessError:  # the module's own code has waited for it
        return
    if status == 0:
        os._exit(0)


def _wait(waiting: threading.Thread, fork: int) -> None:
    """Until the fork ends, which is made sure of."""
    before = None
    while waiting.is_alive():
        waiting.join(PATIENCE)
        now = _ticks(fork)
        if now is not None and now == before and waiting.is_alive():
            os.kill(fork, signal.SIGKILL)
        before = now


def _ticks(process: int) -> int | None:
    """Processor time in the kernel's ticks (fields 14 and 15 of ``stat``); None: nobody tells."""
    with suppress(OSError), open(f"/proc/{process}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
        return int(fields[11]) + int(fields[12])
    return None
