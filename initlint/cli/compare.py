"""``initlint compare``: which initialisation should this network have?"""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from initlint.cli.check import MODEL, ConfigOption, CountOption, ListOption, TextOption
from initlint.cli.help import paragraphs

SEEDS = 5

EXAMPLES = paragraphs(
    """\
    Examples:
      initlint compare model.onnx
      initlint compare net.py:Net --input-shape 32,128
      initlint compare model.onnx --schemes he_normal,orthogonal,lsuv --seeds 10
      initlint compare net.py:Net --train-steps 200 --data train.npz

    Exit codes: 0 ranked; 2 the network could not be read or run.
    """
)


class CompareFormat(str, Enum):
    """How the ranking is told."""

    TEXT = "text"
    JSON = "json"
    HTML = "html"


def compare(
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", show_default=False, help="An ONNX file or your module."),
    ],
    schemes: Annotated[
        ListOption,
        typer.Option(
            metavar="NAMES",
            show_default=False,
            help="Schemes to rank, separated by commas [default: those that suit the network].",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Draws of each scheme.")] = SEEDS,
    train_steps: Annotated[
        CountOption,
        typer.Option(
            "--train-steps",
            metavar="N",
            min=1,
            help="Train your module for N steps from each scheme, to confirm the ranking.",
        ),
    ] = None,
    data: Annotated[
        TextOption,
        typer.Option(
            metavar="FILE.npz|SPEC",
            help="What to train on: inputs and 'targets', or file.py:name of (inputs, targets).",
        ),
    ] = None,
    format: Annotated[CompareFormat, typer.Option(help="Format of the ranking.")] = (
        CompareFormat.TEXT
    ),
    report: Annotated[
        ListOption,
        typer.Option(
            metavar="FORMAT=PATH",
            show_default=False,
            help="Also write a report to a file (html: side by side); may be repeated.",
        ),
    ] = None,
    arg: Annotated[
        ListOption,
        typer.Option(
            metavar="NAME=VALUE",
            rich_help_panel=MODEL,
            show_default=False,
            help="Argument for the module's constructor; may be repeated.",
        ),
    ] = None,
    input: Annotated[
        TextOption,
        typer.Option(metavar="FILE.npz", rich_help_panel=MODEL, help="Inputs for the runs."),
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
        typer.Option(metavar="N", min=0, rich_help_panel=MODEL, help="First of the seeds."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Rank initialisation schemes for this network without training it.

    Every scheme is drawn with several seeds and judged by what theory predicts and what a run
    measures: drift of signal and gradient, dead and saturated units, likeness of inputs. With
    --train-steps and --data, a copy of your module is trained from each of them for a few steps
    (Adam 1e-3 and SGD 1e-2, the better counts), and the report says whether the ranking holds.
    """
    from initlint.cli.console import complain, write
    from initlint.cli.options import UsageError, merge, report_files
    from initlint.cli.tasks import (
        TaskError,
        carry_out_task,
        one_target,
        outcome,
        require,
        write_outcomes,
    )
    from initlint.config import ConfigError, load_config
    from initlint.report.ranking import render
    from initlint.report.style import Style, style_for

    given = {
        "arg": arg,
        "input": input,
        "input_shape": input_shape,
        "input_dtype": input_dtype,
        "seed": seed,
    }
    chosen = [name.strip() for text in schemes or () for name in text.split(",") if name.strip()]
    try:
        options = merge(given, load_config(config, Path.cwd()))
        require((train_steps is None) == (data is None), "--train-steps and --data belong together")
        one = one_target(target)
        require(train_steps is None or one.python, "--train-steps needs your module as the target")
        told = {"schemes": chosen, "seeds": seeds, "train_steps": train_steps, "data": data}
        files = report_files(tuple(report or ()), {f.value: f.value for f in CompareFormat})
        record = carry_out_task(one, "compare", options, told, walled=False)
    except (ConfigError, UsageError, TaskError) as error:
        complain(f"initlint: {error}")
        raise typer.Exit(2) from error

    def told_as(name: str, style: Style) -> str:
        return outcome(name, record, lambda: render(record, style), "ranking_page")

    write(told_as(format.value, style_for(sys.stdout)))
    if not write_outcomes(files, lambda name: told_as(name, Style()), target):
        raise typer.Exit(2)
    raise typer.Exit(0 if record["best"] is not None else 2)
