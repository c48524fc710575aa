"""Jobs as payloads of a cluster, and the splitting of one large checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from typing import Any

from initlint.cluster.engines import ENGINES, Engine, Payload, Place
from initlint.jobs import Job, Limits, Outcome
from initlint.supervisor import Progress, run

SPLIT_BYTES = 8_000_000_000
"""A checkpoint larger than this is measured in parts of about so many bytes: 10 s to a minute of
one machine's disk, long beside the second that a task costs."""

MOST_PARTS = 512


def work(payload: Payload) -> Payload:
    """Carry one job out on the machine that this is called on, in an isolated worker.

    Args:
        payload: `payload_of` a job.

    Returns:
        The fields of its `Outcome`, less the job.
    """
    fields = dict(payload)
    limits = Limits(**fields.pop("limits"))
    fields["preload"] = tuple(fields["preload"])
    (outcome,) = run([Job(**fields, limits=limits)])
    return {
        "record": outcome.record,
        "message": outcome.message,
        "call": outcome.call,
        "stderr": outcome.stderr,
        "wall_missing": outcome.wall_missing,
    }


def payload_of(job: Job) -> Payload:
    """A job as plain data."""
    return asdict(replace(job, folder=os.getcwd(), traced=False))


def run_on_cluster(
    jobs: Sequence[Job],
    sizes: Sequence[int],
    address: str,
    *,
    parallel: int = 1,
    progress: Progress | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> list[Outcome]:
    """`supervisor.run` on the machines of a cluster; outcomes in the order of the jobs.

    A fleet is split by files. A checkpoint above `SPLIT_BYTES` is split by tensors: parts are
    measured anywhere, and then one machine lints with all measurements at hand. Each measurement is
    of a whole tensor by the code that measures it locally, so that the result does not depend on
    the split. What the engine gives up on, and the user's own code, which the machines do not have,
    is carried out here.

    Args:
        jobs: what to do; their files must be at the same path on every machine.
        sizes: bytes of weights of each.
        address: of the cluster, as ``--cluster`` takes it.
        parallel: workers at once, for what is carried out here.
        progress: called on every change.
        meanwhile: called once, when the first payloads are on their way.

    Raises:
        ClusterError: the address, the engine or the cluster cannot be used.
    """
    place = Place(address)
    # Ray prints its own news, a lost worker among them, to the stream that the report goes to.
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        engine = ENGINES[place.scheme](place, work)
        try:
            found = _carry_out(engine, jobs, sizes, place, progress, meanwhile)
        finally:
            engine.close()
    rest = [number for number in range(len(jobs)) if number not in found]
    here = run([jobs[number] for number in rest], parallel=parallel, progress=progress)
    found.update(zip(rest, here, strict=True))
    return [found[number] for number in range(len(jobs))]


def _carry_out(
    engine: Engine,
    jobs: Sequence[Job],
    sizes: Sequence[int],
    place: Place,
    progress: Progress | None,
    meanwhile: Callable[[], None] | None,
) -> dict[int, Outcome]:
    """Outcomes by number; those that the cluster could not reach are left out."""
    split = place.settings.get("split") or SPLIT_BYTES
    owners: list[tuple[int, bool]] = []  # of each payload: its job, and whether it is a part
    waiting: dict[int, int] = {}
    known: dict[int, dict[str, Any]] = {}

    def submit(number: int, job: Job, *, part: bool) -> None:
        owners.append((number, part))
        engine.submit(len(owners) - 1, payload_of(job))

    for number, (job, size) in enumerate(zip(jobs, sizes, strict=True)):
        parts = min(-(-size // split), MOST_PARTS)
        if job.python:
            continue
        if parts < 2 or job.task != "lint":
            submit(number, job, part=False)
            continue
        waiting[number], known[number] = parts, {}
        for part in range(parts):
            told = {"part": part, "parts": parts}
            submit(number, replace(job, task="measure", options=told), part=True)
    if meanwhile is not None:
        meanwhile()
    found: dict[int, Outcome] = {}
    for payload, result in engine.done():
        number, is_part = owners[payload]
        job = jobs[number]
        if is_part:
            measured = ((result or {}).get("record") or {}).get("measured") or {}
            known[number].update(measured)  # a part that failed is measured with the rest
            waiting[number] -= 1
            if not waiting[number]:
                submit(number, replace(job, known=known.pop(number)), part=False)
        elif result is not None:
            found[number] = Outcome(
                job, **{**result, "wall_missing": tuple(result["wall_missing"])}
            )
        if progress is not None:
            progress(len(found), len(jobs), job.target, "measure" if is_part else "lint")
    return found
