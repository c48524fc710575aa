"""The whole command in this process, for fuzzing: arguments in, exit code and text out.

What a worker does happens here instead, behind the same encoding of jobs and records: a fuzzer
follows coverage inside one process only. The walls, the limits and the probe are not part of it;
``benchmarks/hostile.py`` tries those with real processes.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from xml.etree import ElementTree

from initlint import supervisor, worker
from initlint.cli.app import run
from initlint.jobs import Job, Outcome
from initlint.process import Process
from initlint.wire import Decoder, encode
from initlint.workers import _ALIVE, Worker

SUFFIXES = (".onnx", ".safetensors", ".pt", ".pt2", ".safetensors.index.json", ".json", ".bin")

_STATIC = ("--no-probe",)
COMMANDS: tuple[tuple[str, ...], ...] = (
    *(
        ("check", "{}", *_STATIC, "--format", name)
        for name in (
            *("full", "concise", "json", "jsonl", "sarif", "github", "gitlab", "junit"),
            *("markdown", "html"),
        )
    ),
    ("check", "{}", *_STATIC, "--plot", "--verbose"),
    ("check", "{}", *_STATIC, "--statistics", "--min-severity", "warning", "--quiet"),
    *(("describe", "{}", "--format", name) for name in ("text", "json", "markdown")),
    ("diff", "{}", "{}"),
    ("diff", "{}", "{}", "--format", "json"),
    ("fix", "{}", "--diff", "--no-probe"),
    ("report", "{}"),
)
"""Command lines; ``{}`` is the file."""

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_ORDERS = re.compile(r"^::|##\[|##vso\[|##teamcity\[", re.MULTILINE)
_DEFECT = re.compile(r"a defect of initlint|initlint failed|Traceback|sent a record|crashed")


def split(data: bytes) -> tuple[tuple[str, ...], str, bytes]:
    """A command line, the suffix of its file, and the file: two bytes choose the first two."""
    first, second = (data + b"\0\0")[:2]
    return COMMANDS[first % len(COMMANDS)], SUFFIXES[second % len(SUFFIXES)], data[2:]


def check(data: bytes, folder: Path) -> None:
    """Run one input.

    Raises:
        AssertionError: for whatever must not happen with any file.
    """
    words, suffix, content = split(data)
    path = folder / f"model{suffix}"
    path.write_bytes(content)
    try:
        code, out, err = call([word.replace("{}", str(path)) for word in words])
        left = {entry.name for entry in folder.iterdir()}
    finally:
        path.unlink(missing_ok=True)
    assert left == {path.name}, left
    assert code in (0, 1, 2), code
    assert not _DEFECT.search(err + out), (out, err)
    assert code != 2 or err.strip() or out.strip(), "exit code 2 without a reason"
    assert not _CONTROLS.search(err), ascii(err)
    assert not _ORDERS.search(err), err
    _readable(words, out)


def call(words: Sequence[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command line."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="\n") for _ in range(2))
    with redirect_stdout(out), redirect_stderr(err):
        code = run(list(words))
    return code, *(stream.buffer.getvalue().decode() for stream in (out, err))  # type: ignore[attr-defined,return-value]


def _readable(words: Sequence[str], out: str) -> None:
    """Standard output is what its format promises, or nothing."""
    name = words[words.index("--format") + 1] if "--format" in words else "full"
    if not out:
        return
    if name in ("json", "sarif", "gitlab"):
        json.loads(out, parse_constant=_refuse)
    elif name == "jsonl":
        for line in out.splitlines():
            json.loads(line, parse_constant=_refuse)
    elif name == "junit":
        ElementTree.fromstring(out)
    elif name == "html":
        assert out.count("<script") == 1 + out.count('<script type="application/json"'), "a script"
    else:
        assert not _CONTROLS.search(out), ascii(out)
        assert name == "github" or not _ORDERS.search(out), out


def _refuse(text: str) -> None:
    raise AssertionError(f"{text} is not JSON")


class _Nobody(Worker):
    """Stands for the worker that a run belongs to; there is no process behind it."""

    def __init__(self) -> None:
        super().__init__(Process(0, -1, -1, -1), python=False)
        _ALIVE.discard(self)


def _run_here(
    jobs: Sequence[Job],
    *,
    meanwhile: Callable[[], None] | None = None,
    **options: object,
) -> list[Outcome]:
    """`supervisor.run` without processes."""
    if meanwhile is not None:
        meanwhile()
    return [_serve(job) for job in jobs]


def _serve(job: Job) -> Outcome:
    current = supervisor._Run(job, _Nobody(), None)
    (told,) = Decoder().feed(encode(job.record()))
    outcomes: list[Outcome] = []

    def emit(record: dict[str, object]) -> None:
        outcome = supervisor._handle(current, "records", encode(record))
        if outcome is not None:
            outcomes.append(outcome)

    worker.serve(told, emit)
    return outcomes[0]


def without_processes() -> None:
    """Let every command do its work in this process from now on."""
    supervisor.run = _run_here
