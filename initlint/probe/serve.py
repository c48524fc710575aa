"""The child's side of the probe: what a locked-down process does with one request.

It imports NumPy and onnxruntime, then gives up every right that a run does not need
(`initlint.sandbox`), and only then reads the request. It opens no file for the model:
large weights lie in one that it inherits open.
"""

from __future__ import annotations

import gc
import json
import os
import struct
import sys
import threading
from contextlib import suppress
from typing import Any

LENGTH = struct.Struct("<Q")

LIMITS = struct.Struct("<QQ")
"""Bytes of address space and seconds of processor time, sent before the request."""


def main() -> None:
    """Entry point of the child: read a request from stdin, answer on stdout."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not reach the answer
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    sys.dont_write_bytecode = True
    gc.disable()  # what is imported stays; collecting meanwhile walks it in vain
    import numpy.random  # noqa: F401 - for the inputs; while the parent makes the request

    from initlint import sandbox
    from initlint.probe.onnxruntime import observe
    from initlint.probe.request import Request
    from initlint.probe.result import Activations, ProbeStatus

    sandbox.die_with_parent()
    with suppress(ImportError):  # reported when it is used
        import onnxruntime  # noqa: F401
    gc.freeze()
    gc.enable()
    head = sys.stdin.buffer.read(LIMITS.size)
    if len(head) < LIMITS.size:  # the model is not to be run after all
        os._exit(0)
    _limit(*LIMITS.unpack(head))
    sandbox.lock_down(())  # after which limits can no longer be set
    try:
        request = Request.read(sys.stdin.buffer.read)
        threading.Thread(target=_die_with_parent, daemon=True).start()
        found = observe(request)
    except MemoryError:
        found = Activations(ProbeStatus.FAILED, "the model does not fit into the memory limit")
    body = json.dumps(found, default=_fields).encode()
    answers.write(LENGTH.pack(len(body)) + body)
    answers.flush()
    os._exit(0)  # no teardown of native libraries, which may crash after a clean run


def _fields(record: Any) -> dict[str, Any]:
    """A record of `initlint.probe.result` as JSON holds it."""
    return {name: getattr(record, name) for name in record.__slots__}


def _die_with_parent() -> None:
    """The pipe closes when the parent is gone, however it went."""
    sys.stdin.buffer.read(1)
    os._exit(1)


def _limit(memory: int, cpu_seconds: int) -> None:
    """Limits that the kernel holds; the parent holds the one on the clock."""
    try:
        import resource
    except ImportError:  # Windows has none
        return
    for name, value in (
        ("RLIMIT_AS", memory),
        ("RLIMIT_CPU", cpu_seconds),
        ("RLIMIT_CORE", 0),
        ("RLIMIT_FSIZE", 0),
        ("RLIMIT_NOFILE", 64),
    ):
        kind = getattr(resource, name, None)
        if kind is None:
            continue
        _, hard = resource.getrlimit(kind)
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        try:
            resource.setrlimit(kind, (value, value))
        except (ValueError, OSError):
            continue  # macOS refuses some; the wall-clock limit still stands
