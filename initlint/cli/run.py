"""From target strings to a finished run: resolve, start workers, collect, suppress."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path

from initlint import __version__, supervisor
from initlint.cli import COMMANDS
from initlint.cli.console import Progress
from initlint.cli.early import preload_for
from initlint.cli.options import Options, UsageError
from initlint.jobs import Job, Outcome, data_limits, python_limits
from initlint.lint.allow import Ledger, remarks, suppress, unknown_rules
from initlint.lint.baseline import (
    BaselineError,
    apply_baseline,
    read_baseline,
    write_baseline,
)
from initlint.records import Failure, RecordError, Target
from initlint.report.run import Run
from initlint.report.text import Untrusted, one_line
from initlint.targets import Target as Requested
from initlint.targets import TargetError, resolve


def carry_out(
    targets: Sequence[str],
    task: str,
    options: Options,
    meanwhile: Callable[[], None] | None = None,
) -> Run:
    """Lint or describe every target.

    Args:
        targets: as the user wrote them.
        task: ``lint`` or ``describe``.
        options: merged options.
        meanwhile: what to do once the first workers are busy.

    Raises:
        UsageError: for an option whose value cannot be used.
    """
    requested: list[Requested] = []
    errors: list[Failure] = []
    for text in dict.fromkeys(targets):
        try:
            requested.extend(resolve(text, COMMANDS))
        except TargetError as error:
            errors.append(Failure(Untrusted(text), Untrusted(str(error))))
    unique = list({target.text: target for target in requested}.values())
    progress = Progress(enabled=not options.quiet)
    with _exports(options) as folder:
        jobs = [_job(target, task, options, folder) for target in unique]
        sizes = [target.size for target in unique]
        outcomes = _outcomes(jobs, sizes, options, progress, meanwhile)
    progress.clear()
    found: list[Target] = []
    for outcome in outcomes:
        result = _result(outcome)
        if isinstance(result, Target):
            found.append(result)
        elif result not in errors:  # a fault of the call is the same for every target
            errors.append(result)
    today = date.today()
    allows, ledger = options.config.allows, Ledger()
    found = [suppress(target, allows, ledger, today) for target in found]
    for entry in unknown_rules(allows, ledger):
        message = f"{entry.place}: unknown rule {entry.rule!r} in allow"
        errors.append(Failure(Untrusted(""), Untrusted(message)))
    return Run(
        __version__,
        tuple(found),
        tuple(errors),
        tuple(
            Untrusted(line)
            for line in (
                *remarks(allows, ledger, today),
                *(_wall_remarks(outcomes) if options.verbose else ()),
            )
        ),
        fail_on=options.fail_on,
        min_severity=options.min_severity,
        rules={name: text for target in found for name, text in target.documentation.items()},
    )


def _outcomes(
    jobs: Sequence[Job],
    sizes: Sequence[int],
    options: Options,
    progress: Progress,
    meanwhile: Callable[[], None] | None,
) -> list[Outcome]:
    """How the jobs end: on the cluster, from the cache where it is on and knows, else here."""
    if options.cluster is not None:
        from initlint.cluster.engines import ClusterError
        from initlint.cluster.running import run_on_cluster

        try:
            return run_on_cluster(
                jobs,
                sizes,
                options.cluster,
                parallel=options.parallel,
                progress=progress,
                meanwhile=meanwhile,
            )
        except ClusterError as error:
            raise UsageError(str(error)) from error
    if not options.cache:
        return supervisor.run(
            jobs, parallel=options.parallel, progress=progress, meanwhile=meanwhile
        )
    from initlint.cache.results import ResultCache, carry_out_with

    cache = ResultCache.open()
    if cache is None:
        return supervisor.run(
            jobs, parallel=options.parallel, progress=progress, meanwhile=meanwhile
        )
    return carry_out_with(
        cache, jobs, parallel=options.parallel, progress=progress, meanwhile=meanwhile
    )


def _wall_remarks(outcomes: Sequence[Outcome]) -> list[str]:
    """What the isolation of workers lacked on this system; without it they ran all the same."""
    missing = sorted({part for outcome in outcomes for part in outcome.wall_missing})
    return [f"isolation: this system has no {part}; workers ran without it" for part in missing]


@contextmanager
def _exports(options: Options) -> Iterator[str | None]:
    """A folder for exports: ours to remove, as a worker that is killed cannot."""
    if options.via is None:
        yield None
        return
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="initlint-") as folder:
        yield folder


def _job(target: Requested, task: str, options: Options, folder: str | None) -> Job:
    python = target.python or options.model is not None
    if python:
        limits = python_limits(options.probe_timeout, options.timeout)
        if options.seeds > 1:  # the first build's probe is followed by the other builds
            limits = replace(limits, probe_seconds=None)
    else:
        limits = data_limits(target.size, target.files, options.probe_timeout, options.timeout)
    return Job(
        target=target.text,
        task=task,
        python=python,
        settings=options.settings(),
        load={**options.load(), "folder": folder},
        limits=limits,
        preload=() if python else preload_for(target.text),
    )


def without_name(message: str, target: str) -> str:
    """A message without the target's name at its head, which the report puts there itself."""
    for name in (target, os.path.basename(target)):
        message = message.removeprefix(f"{name}: ")
    return message


def _result(outcome: Outcome) -> Target | Failure:
    name = Untrusted("" if outcome.call else outcome.job.target)
    detail = Untrusted(outcome.stderr)
    if outcome.record is None:
        message = without_name(one_line(outcome.message), outcome.job.target)
        return Failure(name, Untrusted(message), detail)
    try:
        return Target.parse(outcome.record)
    except RecordError as error:
        return Failure(name, Untrusted(f"the worker sent a record that is wrong: {error}"), detail)


def with_baseline(run: Run, read_from: str | None, write_to: str | None) -> Run:
    """The run with findings marked that a baseline accepts, after writing one where asked.

    Raises:
        BaselineError: when one cannot be read or written; also when something was not checked,
            for a baseline of half a run would hide that.
    """
    if write_to is not None:
        if run.unchecked:
            first = run.unchecked[0]
            raise BaselineError(
                f"{write_to}: not written, as not everything was checked: "
                f"{first.target}: {first.message}"
            )
        write_baseline(run.targets, Path(write_to))
        read_from = write_to
    if read_from is None:
        return run
    path = Path(read_from)
    targets, stale = apply_baseline(run.targets, read_baseline(path), path)
    notices = (*run.notices, *(Untrusted(line) for line in stale))
    return replace(run, targets=tuple(targets), notices=notices)
