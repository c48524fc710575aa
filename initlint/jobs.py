"""A model and what to do with it: what the command gives to whoever starts workers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from initlint.wire import Record

STATIC_SECONDS = 45.0
"""Wall clock for reading and measuring a small data file, a hundred times what one needs. A graph
of 100,000 layers takes half of it, or all on a machine with as much else to do."""

BYTES_PER_SECOND = 20e6
"""Reading speed that the clock allows for beyond that: a slow network disk."""

PROBE_GRACE = 5.0
"""Seconds after the probe's own limit for running the rules once more."""

MEMORY_BASE = 2 << 30
MEMORY_PER_WEIGHT_BYTE = 3
"""Address space: libraries and a graph, plus the file, its parsed copy and one decoded copy."""

OPEN_FILES = 64
"""Descriptors beyond one per weight file: libraries, pipes, the model's folder."""


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
        settings, load: keyword arguments of `initlint.settings.Settings` and
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
