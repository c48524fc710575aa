"""What the commands that take one model share: its job, its limits, its record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from initlint import supervisor
from initlint.cli import COMMANDS
from initlint.cli.console import Progress
from initlint.cli.early import preload_for
from initlint.cli.options import Options, UsageError
from initlint.cli.run import without_name
from initlint.jobs import Job, data_limits, python_limits
from initlint.report.text import one_line
from initlint.targets import Target, TargetError, resolve

SECONDS = 600.0
"""Wall clock for a task that lints and runs the network several times, where none is given."""


class TaskError(Exception):
    """A task that could not be carried out: one line."""


def one_target(text: str) -> Target:
    """The one model that a target stands for.

    Raises:
        TaskError: it stands for none, or for several.
    """
    try:
        found = resolve(text, COMMANDS)
    except TargetError as error:
        raise TaskError(f"{text}: {error}") from error
    if len(found) != 1:
        raise TaskError(f"{text}: stands for {len(found)} models; name one")
    return found[0]


def carry_out_task(
    target: Target,
    task: str,
    options: Options,
    told: dict[str, Any],
    *,
    walled: bool,
    writes: int = 0,
    others: tuple[Target, ...] = (),
) -> dict[str, Any]:
    """Do one task in a worker and return its record.

    Args:
        target: the model.
        task: name of the worker's task.
        options: of the command line.
        told: the task's own options.
        walled: raise the second wall: for tasks that neither write nor run the network again.
        writes: largest file it may write, in bytes.
        others: further models that the task reads.

    Raises:
        TaskError: the worker could not do it.
    """
    python = any(item.python for item in (target, *others)) or options.model is not None
    seconds = options.timeout or SECONDS
    if python:
        limits = python_limits(options.probe_timeout, options.timeout)
    else:
        size = sum(item.size for item in (target, *others))
        files = sum(item.files for item in (target, *others))
        limits = data_limits(size, files, options.probe_timeout, seconds)
        limits = replace(
            limits, file_bytes=writes, cpu_seconds=None, memory_bytes=3 * (limits.memory_bytes or 0)
        )
    job = Job(
        target=target.text,
        task=task,
        python=python,
        settings=options.settings(),
        load=options.load(),
        limits=limits,
        preload=() if python else preload_for(target.text),
        options=told,
        walled=walled,
    )
    progress = Progress(enabled=not options.quiet)
    (outcome,) = supervisor.run([job], progress=progress)
    progress.clear()
    if outcome.record is None:
        message = without_name(one_line(outcome.message), target.text)
        raise TaskError(f"{target.text}: {message}")
    return outcome.record


def require(condition: object, message: str) -> None:
    """Refuse a call that cannot be meant.

    Raises:
        UsageError: with the message, unless the condition holds.
    """
    if not condition:
        raise UsageError(message)


def outcome(name: str, record: Any, text: Callable[[], str], page: str) -> str:
    """What a task found as ``text``, ``json`` or ``html`` (a function of the module of pages)."""
    if name == "json":
        from initlint.report.json import dump

        return dump(record) + "\n"
    if name == "html":
        from initlint import __version__
        from initlint.report.html import outcome as pages

        made: str = getattr(pages, page)(record, __version__)
        return made
    return text()


def write_outcomes(
    files: Sequence[tuple[str, Path]], told_as: Callable[[str], str], *kept: str | None
) -> bool:
    """Write every ``--report``, over none of the files that are kept; False when one failed."""
    from initlint.cli.console import complain
    from initlint.output import write_atomically

    complete = True
    for name, path in files:
        if path.resolve() in {Path(other).resolve() for other in kept if other}:
            complain(f"initlint: {path}: not overwritten: it is a target of this run")
            complete = False
            continue
        try:
            write_atomically(path, told_as(name))
        except OSError as error:
            complain(f"initlint: {path}: cannot be written: {(error.strerror or '').lower()}")
            complete = False
    return complete
