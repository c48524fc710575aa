"""What the command line writes: reports to stdout, notices and progress to stderr."""

from __future__ import annotations

import os
import sys
import time
from typing import TextIO

from initlint.report.style import encodable
from initlint.report.text import inert, one_line

PATIENCE = 0.7
"""Seconds of work before progress is shown."""


def write(text: str, stream: TextIO | None = None) -> None:
    """Write a report; a reader that has left is no fault of ours."""
    stream = stream or sys.stdout
    try:
        stream.write(encodable(text, stream.encoding))
        stream.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def complain(message: str) -> None:
    """One line on stderr."""
    write(f"{inert(message)}\n", sys.stderr)


class Progress:
    """One line on a terminal's stderr that says what is being done, once it takes a while."""

    def __init__(self, stream: TextIO | None = None, *, enabled: bool = True) -> None:
        self._stream = stream or sys.stderr
        self._enabled = enabled and self._stream.isatty()
        self._started = time.monotonic()
        self._shown = ""

    def __call__(self, done: int, total: int, target: str, stage: str) -> None:
        """Show the present state (the arguments are those of `supervisor.Progress`)."""
        if not self._enabled or time.monotonic() - self._started < PATIENCE:
            return
        text = f"[{done}/{total}] {stage} {one_line(target, 50)}"
        if text != self._shown:
            self._shown = text
            self._stream.write(f"\r\x1b[K{encodable(text, self._stream.encoding)}")
            self._stream.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._shown = ""
