"""``initlint diff``: what training, or a bug, did to the weights."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from initlint.cli.check import MODEL, ConfigOption, CountOption, FailOn, ListOption, TextOption
from initlint.cli.help import paragraphs

EXAMPLES = paragraphs(
    """\
    Examples:
      initlint diff step0.safetensors step1000.safetensors --steps 1000
      initlint diff net.py:Net last.pt
      initlint diff old.onnx new.onnx --format json
      initlint diff run1.json run2.json      (records of initlint describe --format json)

    Exit codes: 0 nothing at or above --fail-on; 1 findings; 2 something could not be read.
    """
)


class DiffFormat(str, Enum):
    """How the difference is told."""

    TEXT = "text"
    JSON = "json"


def diff(
    before: Annotated[
        str, typer.Argument(metavar="BEFORE", show_default=False, help="The earlier state.")
    ],
    after: Annotated[
        str, typer.Argument(metavar="AFTER", show_default=False, help="The later state.")
    ],
    steps: Annotated[
        CountOption,
        typer.Option(metavar="N", min=1, help="Optimiser steps between them."),
    ] = None,
    fail_on: Annotated[
        FailOn, typer.Option(help="Findings from here on give exit code 1.")
    ] = FailOn.ERROR,
    format: Annotated[DiffFormat, typer.Option(help="Format of the report.")] = DiffFormat.TEXT,
    arg: Annotated[
        ListOption,
        typer.Option(
            metavar="NAME=VALUE",
            rich_help_panel=MODEL,
            show_default=False,
            help="Argument for a module's constructor; may be repeated.",
        ),
    ] = None,
    input_shape: Annotated[
        TextOption,
        typer.Option(metavar="N,N,...", rich_help_panel=MODEL, help="Shape of its example input."),
    ] = None,
    input_dtype: Annotated[
        TextOption,
        typer.Option(metavar="DTYPE", rich_help_panel=MODEL, help="Its dtype, such as int64."),
    ] = None,
    seed: Annotated[
        CountOption,
        typer.Option(metavar="N", min=0, rich_help_panel=MODEL, help="Seed for building it."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Compare two states of a network, for CI between step 0 and step 1000.

    Says what did not move (frozen or forgotten), what moved too much, what became zero or not
    finite, which units died, what was drawn anew, and which parameters were added or lost. Either
    state may be a file or your own module; two ONNX files or modules are run as well.
    """
    from initlint import described
    from initlint.cli.console import complain, write
    from initlint.cli.options import UsageError, merge
    from initlint.cli.tasks import TaskError, carry_out_task, one_target
    from initlint.config import ConfigError, load_config
    from initlint.report.difference import render
    from initlint.report.json import dump
    from initlint.report.style import style_for

    given = {
        "set_fail_on": fail_on.value,
        "arg": arg,
        "input_shape": input_shape,
        "input_dtype": input_dtype,
        "seed": seed,
    }
    try:
        options = merge(given, load_config(config, Path.cwd()))
        if described.are_records(before, after):
            record = described.compare(before, after)
        else:
            first, second = one_target(before), one_target(after)
            told = {"other": second.text, "steps": steps}
            runs = all(one.text.lower().endswith(".onnx") for one in (first, second))
            record = carry_out_task(first, "diff", options, told, walled=not runs, others=(second,))
    except (ConfigError, UsageError, TaskError, described.RecordError) as error:
        complain(f"initlint: {error}")
        raise typer.Exit(2) from error
    if format is DiffFormat.JSON:
        write(dump(record) + "\n")
    else:
        write(render(record, style_for(sys.stdout)))
    raise typer.Exit(exit_code(record, options.fail_on))


def exit_code(record: Any, fail_on: str) -> int:
    """0, 1 for findings at or above ``fail_on``, 2 when there was nothing to compare."""
    if not record["compared"] and not record["findings"]:
        return 2
    severities = ("info", "warning", "error")
    counted = () if fail_on == "never" else severities[severities.index(fail_on) :]
    return int(any(record["summary"].get(name) for name in counted))
