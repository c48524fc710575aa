"""``initlint report``: a JSON report in other formats, without linting again."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from initlint.cli.check import REPORT, RUN, FailOn, Format, ListOption, MinSeverity
from initlint.cli.help import paragraphs

if TYPE_CHECKING:
    from initlint.report.run import Run

SIZE_LIMIT = 512 << 20
"""Bytes of a report that are read: chart data of 50,000 layers."""

_FULL = Format("full")

EXAMPLES = paragraphs(
    """\
    Examples:
      initlint model.onnx --verbose --report json=run.json
      initlint report run.json --report html=run.html --report sarif=run.sarif
      initlint report run.json --format markdown >> "$GITHUB_STEP_SUMMARY"
    """
)


def report(
    file: Annotated[
        str,
        typer.Argument(metavar="RUN.json", help="A report written with --format json; - is stdin."),
    ],
    format: Annotated[
        Format,
        typer.Option(rich_help_panel=REPORT, help="Format on standard output."),
    ] = _FULL,
    report: Annotated[
        ListOption,
        typer.Option(
            metavar="FORMAT=PATH",
            rich_help_panel=REPORT,
            show_default=False,
            help="Also write a report to a file; may be repeated.",
        ),
    ] = None,
    min_severity: Annotated[
        MinSeverity,
        typer.Option(rich_help_panel=REPORT, help="Show findings from this severity on."),
    ] = MinSeverity.INFO,
    plot: Annotated[
        bool,
        typer.Option(
            "--plot", rich_help_panel=REPORT, help="Add the signal by depth as a text chart."
        ),
    ] = False,
    statistics: Annotated[
        bool,
        typer.Option(
            "--statistics", rich_help_panel=REPORT, help="Add a table of findings per rule."
        ),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", rich_help_panel=REPORT, help="Findings only, no summary."),
    ] = False,
    fail_on: Annotated[
        FailOn | None,
        typer.Option(
            rich_help_panel=RUN, help="Exit with 1 from this severity on [default: error]."
        ),
    ] = None,
    exit_zero: Annotated[
        bool,
        typer.Option(
            "--exit-zero", rich_help_panel=RUN, help="Exit with 0 whatever was found (never for 2)."
        ),
    ] = False,
) -> None:
    """Write a JSON report in other formats, without linting again.

    The exit code is that of the run. Charts need a report written with --verbose.
    """
    from initlint.cli.check import write_reports
    from initlint.cli.console import complain, write
    from initlint.cli.options import Options, UsageError, report_files
    from initlint.report.formats import FORMATS, render
    from initlint.report.style import View, project_root, style_for

    options = Options(quiet=quiet, statistics=statistics, plot=plot)
    try:
        files = report_files(tuple(report or ()), FORMATS)
        run = read_run(file)
    except UsageError as error:
        complain(f"initlint: {error}")
        raise typer.Exit(2) from error
    run = replace(
        run,
        fail_on=fail_on.value if fail_on is not None else "error",
        min_severity=min_severity.value,
    )
    view = View(
        style_for(sys.stdout), quiet=quiet, statistics=statistics, plot=plot, root=project_root()
    )
    write(render(str(format.value), run, view))
    complete = write_reports(files, run, options)
    raise typer.Exit(run.exit_code(exit_zero=exit_zero) if complete else 2)


def read_run(name: str) -> Run:
    """The run that a JSON report describes.

    Raises:
        UsageError: for a file that cannot be read or is no such report, in one line.
    """
    from initlint.cli.options import UsageError
    from initlint.records import RecordError
    from initlint.report.run import Run
    from initlint.report.text import Untrusted, one_line

    shown = "standard input" if name == "-" else Untrusted(name).show(160)
    try:
        text = _text(name)
        return Run.parse(json.loads(text))
    except RecordError as error:
        raise UsageError(
            f"{shown}: is no JSON report of initlint: {one_line(str(error))}"
        ) from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"{shown}: cannot be read: {reason}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{shown}: is not JSON; write it with `initlint TARGET --report json=run.json`"
        ) from error


def _text(name: str) -> str:
    if name == "-":
        return sys.stdin.buffer.read(SIZE_LIMIT).decode("utf-8")
    path = Path(name)
    if path.stat().st_size > SIZE_LIMIT:
        raise OSError("larger than any report")
    return path.read_text(encoding="utf-8")
