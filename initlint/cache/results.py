"""Whole results by what was asked, what code answers, and what the files hold."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from threading import Event
from typing import Any

from initlint.cache.folder import Folder, location
from initlint.cache.identity import (
    HASHED_BYTES,
    Fact,
    Status,
    code_fingerprint,
    names_digest,
    read_fact,
    still_holds,
)
from initlint.cache.journal import Journal, read_journal
from initlint.jobs import Job, Outcome
from initlint.records import RecordError, Target
from initlint.remote import is_remote
from initlint.supervisor import Progress, run

VARIANTS = 4
"""Contents kept under one name: switching between branches finds each of them again."""

MOST_FILES = 8192
"""Files of one target that an entry remembers; twice the shards that an index may list."""

_LASTING = ("ok", "skipped")
"""Ends of a probe that would be the same again; a crash or a time-out may not."""


@dataclass(slots=True)
class _Seen:
    """What a worker has said that it reads."""

    facts: dict[str, Future[Fact | None]] = field(default_factory=dict)
    listings: dict[str, str] = field(default_factory=dict)
    presence: dict[str, bool] = field(default_factory=dict)
    bytes: int = 0
    doubtful: bool = False
    journal: Journal | None = None


class ResultCache:
    """Looks results up before workers start, and keeps those of workers that ended well.

    Args:
        folder: where entries are kept.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._code = code_fingerprint(folder)
        self._seen: dict[int, _Seen] = {}
        self._pool = ThreadPoolExecutor(1)
        self._wrote = False
        self._stop = Event()

    @classmethod
    def open(cls) -> ResultCache | None:
        """The user's cache; None where there is no folder to keep it in."""
        folder = Folder(location())
        return cls(folder) if folder.usable() else None

    def close(self) -> None:
        """Wait for nothing, and keep the folder within its size."""
        for seen in self._seen.values():
            if seen.journal is not None:
                seen.journal.close()
        self._stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._wrote:
            with self.folder.locked():
                self.folder.evict()

    def key(self, job: Job) -> str:
        """Digest of what is asked and of the code that answers, whatever the files hold."""
        asked = job.record()
        del asked["limits"], asked["traced"], asked["known"], asked["folder"]
        text = json.dumps([asked, self._code], sort_keys=True, default=str)
        return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()

    def look_up(self, job: Job) -> Outcome | None:
        """The result of an equal job on equal files; None when there is none."""
        if not _cacheable(job):
            return None
        key = self.key(job)
        variants = self._variants(key)
        for number, variant in enumerate(variants):
            try:
                facts = _unchanged(variant, _base(job))
                record = variant["record"]
                Target.parse(record)
            except (RecordError, KeyError, TypeError, ValueError):
                continue
            if facts is None:
                continue
            renewed = [fact.to_list() for fact in facts]
            if renewed != variant["files"]:
                self._keep(key, {**variant, "files": renewed}, drop=number)
            return Outcome(job, record)
        return None

    def _variants(self, key: str) -> list[dict[str, Any]]:
        held = self.folder.read("results", key)
        if not isinstance(held, list):
            return []
        return [variant for variant in held if _well_formed(variant)]

    def _keep(self, key: str, variant: Mapping[str, Any], drop: int | None = None) -> None:
        with self.folder.locked():
            others = self._variants(key)
            content = [fact[4] or fact[2] for fact in variant["files"]]
            kept = [
                other
                for number, other in enumerate(others)
                if number != drop and [f[4] or f[2] for f in other.get("files", [])] != content
            ]
            self._wrote |= self.folder.write("results", key, [variant, *kept[: VARIANTS - 1]])

    def saw(self, number: int, job: Job, record: Mapping[str, Any]) -> None:
        """Take in a worker's word that it opened or looked for something, and read it too.

        The worker may be wrong on purpose: only what lies in the target's folder is looked at, and
        a file must be the one that the worker opened.
        """
        seen = self._seen.setdefault(number, _Seen())
        kind, name = record.get("kind"), record.get("path")
        path = _inside(name, job)
        if kind == "measured":
            self._measured(seen, job, path, record)
        elif path is None or len(seen.facts) + len(seen.presence) > MOST_FILES:
            seen.doubtful = True
        elif kind == "names":
            seen.listings.setdefault(path, names_digest(os.path.join(_base(job), path)))
        elif kind == "has":
            seen.presence.setdefault(path, record.get("found") is True)
        elif kind == "file" and path not in seen.facts:
            status = Status.of(os.path.join(_base(job), path))
            device, inode, modified, _ = status.marks if status else (0, 0, 0, 0)
            told = record.get("identity")
            if status is None or told != [device, inode, status.size, modified]:
                seen.doubtful = True
                return
            seen.bytes += status.size
            whole = seen.bytes <= HASHED_BYTES
            absolute = os.path.join(_base(job), path)
            seen.facts[path] = self._pool.submit(
                read_fact, absolute, path, whole=whole, stop=self._stop.is_set
            )

    def resume(self, job: Job) -> Job:
        """The job, told what an interrupted run has measured of the same files."""
        if not _cacheable(job):
            return job
        held = read_journal(self._journal_path(job), lambda fact: self._same(fact, job))
        return replace(job, traced=True, known=held)

    def _journal_path(self, job: Job) -> Path:
        return self.folder.path("measured", self.key(job))

    def _same(self, fact: Fact, job: Job) -> bool:
        return still_holds(fact, os.path.join(_base(job), fact.path)) is not None

    def _measured(self, seen: _Seen, job: Job, path: str | None, record: Mapping[str, Any]) -> None:
        """Write down a measurement at once: what an interrupted run has done is not done again."""
        name, value = record.get("name"), record.get("value")
        if path not in seen.facts or not isinstance(name, str):
            return
        if seen.journal is None:
            seen.journal = Journal.open(self._journal_path(job))
            self._wrote = True
        if path not in seen.journal.files:
            absolute = os.path.join(_base(job), path)
            fact = read_fact(absolute, path, whole=False)
            seen.journal.add_file(path, fact)
        seen.journal.add(path, name, value)

    def store(self, number: int, outcome: Outcome) -> None:
        """Keep a result that would be the same again."""
        seen, record = self._seen.pop(number, None), outcome.record
        job = outcome.job
        if seen is None:
            return
        if seen.journal is not None:
            seen.journal.close()
        if record is None or seen.doubtful or not seen.facts:
            return
        probe = record.get("probe") or {}
        if record.get("failures") or probe.get("status") not in _LASTING or not _cacheable(job):
            return
        facts = [future.result() for future in seen.facts.values()]
        given = job.settings.get("input")
        if given:
            facts.append(read_fact(given, given, whole=True))
        variant = {
            "files": [fact.to_list() for fact in facts if fact is not None],
            "listings": seen.listings,
            "presence": seen.presence,
            "record": record,
        }
        if None not in facts and _unchanged(variant, _base(job), glance=True) is not None:
            self._keep(self.key(job), variant)
            self.folder.remove("measured", self.key(job))


def _well_formed(variant: Any) -> bool:
    try:
        return all(map(Fact.parse, variant["files"]))
    except (KeyError, TypeError, ValueError):
        return False


def _cacheable(job: Job) -> bool:
    """A local data file: what code does, or a store holds, is not known beforehand."""
    return not job.python and not is_remote(job.target) and job.task in ("lint", "describe")


def _base(job: Job) -> str:
    """The folder that paths of an entry are relative to."""
    if os.path.isdir(job.target):
        return job.target
    return os.path.dirname(job.target) or "."


def _inside(name: Any, job: Job) -> str | None:
    """A path that a worker named, relative to the target's folder; None when it lies elsewhere."""
    if not isinstance(name, str) or "\0" in name:
        return None
    base = os.path.abspath(_base(job))
    path = os.path.relpath(os.path.abspath(name), base)
    parent = os.path.realpath(os.path.join(base, os.path.dirname(path)))
    real = os.path.realpath(base)
    within = parent == real or parent.startswith(real.rstrip(os.sep) + os.sep)
    return path if within and not path.startswith("..") else None


def _unchanged(variant: Mapping[str, Any], base: str, *, glance: bool = False) -> list[Fact] | None:
    """The facts of an entry, renewed, when the disk still agrees with all of them.

    Args:
        variant: the entry.
        base: folder of relative paths.
        glance: believe the content when the status cannot tell (just after it was read).

    Raises:
        KeyError, TypeError, ValueError: the entry has another shape.
    """
    for folder, digest in variant["listings"].items():
        if names_digest(os.path.join(base, folder)) != digest:
            return None
    for path, found in variant["presence"].items():
        if os.path.lexists(os.path.join(base, path)) is not found:
            return None
    renewed: list[Fact] = []
    for fact in map(Fact.parse, variant["files"]):
        path = os.path.join(base, fact.path)
        if glance and fact.marks is None:
            status = Status.of(path)
            held: Fact | None = fact if status and status.size == fact.size else None
        else:
            held = still_holds(fact, path)
        if held is None:
            return None
        renewed.append(held)
    return renewed if renewed else None


def carry_out_with(
    cache: ResultCache,
    jobs: Sequence[Job],
    *,
    parallel: int,
    progress: Progress | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> list[Outcome]:
    """`supervisor.run`, for those jobs whose result is not kept; each is kept as it arrives."""
    found = {number: held for number, job in enumerate(jobs) if (held := cache.look_up(job))}
    rest = [number for number in range(len(jobs)) if number not in found]
    if meanwhile is not None and not rest:
        meanwhile()
    try:
        ended = run(
            [cache.resume(jobs[number]) for number in rest],
            parallel=parallel,
            progress=progress,
            meanwhile=meanwhile,
            reading=cache.saw,
            finished=cache.store,
        )
    finally:
        cache.close()
    found.update(zip(rest, ended, strict=True))
    return [found[number] for number in range(len(jobs))]
