"""``initlint baseline``: accept what is there now, and forget what is gone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from initlint.cli.check import ConfigOption, TextOption
from initlint.cli.help import GroupedCommand, paragraphs

if TYPE_CHECKING:
    from initlint.cli.options import Options
    from initlint.report.run import Run

DEFAULT = "initlint-baseline.jsonl"

EXAMPLES = paragraphs(
    """\
    Examples:
      initlint baseline write checkpoints/
      initlint checkpoints/ --baseline initlint-baseline.jsonl
      initlint baseline prune
    """
)

baseline = typer.Typer(
    name="baseline",
    help="Accept what is found now, so that only new findings count.",
    epilog=EXAMPLES,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

FileOption = Annotated[
    TextOption,
    typer.Option("--baseline", metavar="FILE", help=f"The baseline [default: {DEFAULT}]."),
]


@baseline.command(cls=GroupedCommand)
def write(
    targets: Annotated[
        list[str], typer.Argument(metavar="TARGET", help="Models, as for `initlint check`.")
    ],
    baseline: FileOption = None,
    config: ConfigOption = None,
) -> None:
    """Accept everything that is found in these models.

    Lines about other models stay. For more options: `initlint check --write-baseline FILE`.
    """
    from initlint.cli.console import complain
    from initlint.lint.baseline import BaselineError, write_baseline
    from initlint.report.summary import plural

    try:
        options, path = _options(baseline, config)
        run = _lint(targets, options, path)
        count = write_baseline(run.targets, path)
    except BaselineError as error:
        complain(f"initlint: {error}")
        raise typer.Exit(2) from error
    complain(f"initlint: {path}: {plural(count, 'accepted finding')}")


@baseline.command(cls=GroupedCommand)
def prune(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TARGET]...", help="Models to look at [default: those in the baseline]."
        ),
    ] = None,
    baseline: FileOption = None,
    config: ConfigOption = None,
) -> None:
    """Remove lines whose finding is gone, and those of models that are gone.

    Nothing is added: what is new or worse stays a finding.
    """
    from initlint.cli.console import complain
    from initlint.lint.baseline import BaselineError, missing_targets, prune_baseline, read_baseline
    from initlint.report.summary import plural

    try:
        options, path = _options(baseline, config)
        entries = read_baseline(path)
        gone = missing_targets(entries, path, None if targets is None else map(Path, targets))
        known = dict.fromkeys(entry.target for entry in entries)
        wanted = targets or [_from_here(name, path) for name in known if name not in gone]
        linted = _lint(wanted, options, path).targets if wanted else ()
        removed = prune_baseline(linted, path, gone)
    except BaselineError as error:
        complain(f"initlint: {error}")
        raise typer.Exit(2) from error
    for entry in removed:
        complain(f"initlint: removed: {entry.rule} on {entry.path} of {entry.target}")
    left = len(entries) - len(removed)
    complain(f"initlint: {path}: {plural(left, 'accepted finding')} left")


def _options(baseline: str | None, config: Path | None) -> tuple[Options, Path]:
    from initlint.cli.options import UsageError, merge
    from initlint.config import ConfigError, load_config
    from initlint.lint.baseline import BaselineError

    try:
        options = merge({"baseline": baseline}, load_config(config, Path.cwd()))
    except (ConfigError, UsageError) as error:
        raise BaselineError(str(error)) from error
    return options, Path(options.baseline or DEFAULT)


def _lint(targets: list[str], options: Options, path: Path) -> Run:
    """Lint everything; a baseline of half a run would hide the other half."""
    from initlint.cli.check import complain_all
    from initlint.cli.options import UsageError
    from initlint.cli.run import carry_out
    from initlint.lint.baseline import BaselineError

    try:
        run = carry_out(targets, "lint", options)
    except UsageError as error:
        raise BaselineError(str(error)) from error
    complain_all(run, verbose=False)
    if run.unchecked:
        raise BaselineError(f"{path}: left as it was, as not everything was checked")
    return run


def _from_here(name: str, path: Path) -> str:
    """A target of the baseline as seen from the working directory; a spec as it is."""
    place = path.parent / name
    return str(place) if place.exists() else name
