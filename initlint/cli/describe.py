"""``initlint describe``: what each layer was initialised with."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from initlint.cli.check import MODEL, ConfigOption, CountOption, ListOption, TextOption


class DescribeFormat(str, Enum):
    """How the table is written."""

    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"


def describe(
    targets: Annotated[
        list[str], typer.Argument(metavar="TARGET", help="Models, as for `initlint check`.")
    ],
    format: Annotated[DescribeFormat, typer.Option(help="Format of the table.")] = (
        DescribeFormat.TEXT
    ),
    model: Annotated[
        TextOption,
        typer.Option(
            metavar="SPEC",
            rich_help_panel=MODEL,
            help="Your module whose architecture a checkpoint has, as pkg.module:Net.",
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
    input_shape: Annotated[
        TextOption,
        typer.Option(
            metavar="N,N,...", rich_help_panel=MODEL, help="Shape of the module's example input."
        ),
    ] = None,
    input_dtype: Annotated[
        TextOption,
        typer.Option(metavar="DTYPE", rich_help_panel=MODEL, help="Its dtype, such as int64."),
    ] = None,
    seed: Annotated[
        CountOption,
        typer.Option(metavar="N", min=0, rich_help_panel=MODEL, help="Seed for building it."),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(metavar="S", min=0.1, help="Seconds for one model."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Print layer by layer what a model was initialised with.

    The record to keep with an experiment: operator, shape, fans, standard deviation, the schemes
    that fit, whether the weights are fresh or trained, and what the layer feeds.
    """
    from initlint.cli.check import complain_all
    from initlint.cli.console import complain, write
    from initlint.cli.options import UsageError, merge
    from initlint.cli.run import carry_out
    from initlint.config import ConfigError, load_config
    from initlint.report import layers
    from initlint.report.style import style_for

    given = {
        "model": model,
        "arg": arg,
        "input_shape": input_shape,
        "input_dtype": input_dtype,
        "seed": seed,
        "timeout": timeout,
    }
    try:
        run = carry_out(targets, "describe", merge(given, load_config(config, Path.cwd())))
    except (ConfigError, UsageError) as error:
        complain(f"initlint: {error}")
        raise typer.Exit(2) from error
    complain_all(run, verbose=False)
    if format is DescribeFormat.JSON:
        from initlint.report.json import dump

        write(dump(run.to_dict()) + "\n")
    elif format is DescribeFormat.MARKDOWN:
        write("\n".join(layers.as_markdown(target) for target in run.targets))
    else:
        style = style_for(sys.stdout)
        write("\n".join(layers.as_text(target, style) for target in run.targets))
    raise typer.Exit(run.exit_code())
