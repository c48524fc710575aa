"""``initlint check``: lint models."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from initlint.cli.help import paragraphs
from initlint.report.formats import FORMATS

# The names stand with the formats; mypy wants to see them here.
Format = Enum("Format", {name: name for name in FORMATS}, type=str)  # type: ignore[misc]


class FailOn(str, Enum):
    """Severity from which on the command fails."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    NEVER = "never"


class MinSeverity(str, Enum):
    """Severity from which on findings are shown."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class StageOption(str, Enum):
    """What to take the weights for."""

    AUTO = "auto"
    FRESH = "fresh"
    TRAINED = "trained"


class Via(str, Enum):
    """Formats that a module can be linted in."""

    ONNX = "onnx"


class LossOption(str, Enum):
    """Losses of the probe."""

    CROSS_ENTROPY = "cross_entropy"
    BINARY_CROSS_ENTROPY = "binary_cross_entropy"
    MSE = "mse"
    ENERGY = "energy"


EXAMPLES = paragraphs(
    """\
    Examples:
      initlint model.onnx
      initlint model.onnx --select relu-after-xavier,SYM --fail-on warning
      initlint 'exports/*.onnx' --no-probe --format concise
      initlint runs/last.safetensors --report json=lint.json
      initlint net.py:Net --arg width=256 --input-shape 8,3,32,32
    """
)

RULES, REPORT, PROBE, MODEL, RUN = "Rules", "Report", "Probe", "Model", "Run"

TargetsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="TARGET",
        show_default=False,
        help="Model files (.onnx .safetensors .pt .pth .bin .pt2), folders, patterns, or your own "
        "code as pkg.module:Net or file.py:build.",
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        rich_help_panel=RUN,
        help="Configuration file [default: [tool.initlint] of the nearest pyproject.toml, or "
        "initlint.toml].",
    ),
]
TextOption = str | None
NumberOption = float | None
CountOption = int | None
ListOption = list[str] | None
FlagOption = bool | None


def check(
    targets: TargetsArgument,
    select: Annotated[
        ListOption,
        typer.Option(
            metavar="RULES",
            rich_help_panel=RULES,
            show_default=False,
            help="Run only these: names, codes or code prefixes, separated by commas; or ALL.",
        ),
    ] = None,
    ignore: Annotated[
        ListOption,
        typer.Option(
            metavar="RULES", rich_help_panel=RULES, show_default=False, help="Do not run these."
        ),
    ] = None,
    extend_select: Annotated[
        ListOption,
        typer.Option(
            metavar="RULES",
            rich_help_panel=RULES,
            show_default=False,
            help="Run these too.",
        ),
    ] = None,
    preview: Annotated[
        FlagOption,
        typer.Option(
            "--preview/--no-preview",
            rich_help_panel=RULES,
            show_default=False,
            help="Also run rules that are new.",
        ),
    ] = None,
    expect: Annotated[
        TextOption,
        typer.Option(
            metavar="SCHEME",
            rich_help_panel=RULES,
            help="Scheme that weight matrices are meant to have, such as he_normal or "
            "normal(0.02); see declared-differs.",
        ),
    ] = None,
    fail_on: Annotated[
        FailOn | None,
        typer.Option(
            rich_help_panel=RUN, help="Exit with 1 from this severity on [default: error]."
        ),
    ] = None,
    min_severity: Annotated[
        MinSeverity | None,
        typer.Option(
            rich_help_panel=REPORT, help="Show findings from this severity on [default: info]."
        ),
    ] = None,
    format: Annotated[
        Format | None,
        typer.Option(rich_help_panel=REPORT, help="Format on standard output [default: full]."),
    ] = None,
    report: Annotated[
        ListOption,
        typer.Option(
            metavar="FORMAT=PATH",
            rich_help_panel=REPORT,
            show_default=False,
            help="Also write a report to a file; may be repeated.",
        ),
    ] = None,
    baseline: Annotated[
        TextOption,
        typer.Option(
            metavar="FILE",
            rich_help_panel=RUN,
            help="Findings in this file do not count, unless they got worse.",
        ),
    ] = None,
    write_baseline: Annotated[
        TextOption,
        typer.Option(
            metavar="FILE",
            rich_help_panel=RUN,
            help="Put what is found now into this file; other targets' lines stay.",
        ),
    ] = None,
    statistics: Annotated[
        bool,
        typer.Option(
            "--statistics", rich_help_panel=REPORT, help="Add a table of findings per rule."
        ),
    ] = False,
    plot: Annotated[
        bool,
        typer.Option(
            "--plot", rich_help_panel=REPORT, help="Add the signal by depth as a text chart."
        ),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", rich_help_panel=REPORT, help="Findings only, no summary."),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            rich_help_panel=REPORT,
            help="Add the table of layers to JSON, and what a failed worker said.",
        ),
    ] = False,
    probe: Annotated[
        FlagOption,
        typer.Option(
            "--probe/--no-probe",
            rich_help_panel=PROBE,
            show_default=False,
            help="Run the model once to measure activations [default: on].",
        ),
    ] = None,
    probe_timeout: Annotated[
        NumberOption,
        typer.Option(
            metavar="S", min=0.1, rich_help_panel=PROBE, help="Seconds it may take [default: 30]."
        ),
    ] = None,
    probe_memory: Annotated[
        CountOption,
        typer.Option(
            metavar="MB",
            min=64,
            rich_help_panel=PROBE,
            help="Memory it may take beyond the weights [default: 2048].",
        ),
    ] = None,
    input: Annotated[
        TextOption,
        typer.Option(
            metavar="FILE.npz",
            rich_help_panel=PROBE,
            help="Inputs for it, by name [default: made up from the graph].",
        ),
    ] = None,
    seed: Annotated[
        CountOption,
        typer.Option(
            metavar="N",
            min=0,
            rich_help_panel=PROBE,
            help="Seed of made-up inputs and of modules that are built [default: 0].",
        ),
    ] = None,
    stage: Annotated[
        StageOption | None,
        typer.Option(
            rich_help_panel=MODEL, help="Take the weights as fresh or trained [default: auto]."
        ),
    ] = None,
    sequence_length: Annotated[
        CountOption,
        typer.Option(
            metavar="N",
            min=1,
            rich_help_panel=MODEL,
            help="Sequence length for recurrent layers [default: the graph's, else 50].",
        ),
    ] = None,
    class_prior: Annotated[
        NumberOption,
        typer.Option(
            metavar="P",
            rich_help_panel=MODEL,
            help="Share of positive labels of a sigmoid head, such as 0.01 [default: unknown].",
        ),
    ] = None,
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
    args: Annotated[
        TextOption,
        typer.Option(
            metavar="JSON",
            rich_help_panel=MODEL,
            help="All its arguments as one JSON object, such as '{\"depth\": 12}'.",
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
        typer.Option(
            metavar="DTYPE", rich_help_panel=MODEL, help="Its dtype, such as float32 or int64."
        ),
    ] = None,
    via: Annotated[
        Via | None,
        typer.Option(
            rich_help_panel=MODEL, help="Lint the module's export in this format [default: none]."
        ),
    ] = None,
    structure_only: Annotated[
        bool,
        typer.Option(
            "--structure-only",
            rich_help_panel=MODEL,
            help="Build the module without weights, however large, and lint its structure.",
        ),
    ] = False,
    seeds: Annotated[
        CountOption,
        typer.Option(
            metavar="N",
            min=2,
            rich_help_panel=MODEL,
            help="Build the module with N seeds, and tell what depends on the draw.",
        ),
    ] = None,
    widths: Annotated[
        TextOption,
        typer.Option(
            metavar="NAME=N,N,...",
            rich_help_panel=MODEL,
            help="Build the module with these values of one argument, and tell what grows with it.",
        ),
    ] = None,
    loss: Annotated[
        LossOption | None,
        typer.Option(
            rich_help_panel=PROBE,
            help="Loss for the module's backward pass [default: the module's own, else by what "
            "the output looks like].",
        ),
    ] = None,
    config: ConfigOption = None,
    jobs: Annotated[
        CountOption,
        typer.Option(
            metavar="N", min=1, rich_help_panel=RUN, help="Models at once [default: processors]."
        ),
    ] = None,
    cache: Annotated[
        FlagOption,
        typer.Option(
            "--cache/--no-cache",
            rich_help_panel=RUN,
            show_default=False,
            help="Keep results, and take them again while files, options and rules stay the same "
            "[default: off].",
        ),
    ] = None,
    cluster: Annotated[
        TextOption,
        typer.Option(
            metavar="URL",
            rich_help_panel=RUN,
            help="Work on the machines of dask://host:port or ray://host:port, which see the "
            "same files.",
        ),
    ] = None,
    timeout: Annotated[
        NumberOption,
        typer.Option(
            metavar="S",
            min=0.1,
            rich_help_panel=RUN,
            help="Seconds for reading and measuring one model [default: 45, more for large "
            "files; none for your own code].",
        ),
    ] = None,
    exit_zero: Annotated[
        bool,
        typer.Option(
            "--exit-zero", rich_help_panel=RUN, help="Exit with 0 whatever was found (never for 2)."
        ),
    ] = False,
) -> None:
    """Lint models: find weights from which training cannot start."""
    given = dict(locals())
    given["no_probe"] = None
    given["set_no_probe"] = None if probe is None else not probe
    given["set_preview"] = preview
    given["set_cache"] = cache
    raise typer.Exit(check_targets(targets, given, config))


def check_targets(targets: list[str], given: dict[str, Any], config: Path | None) -> int:
    """Do the work of ``check`` and return the exit code."""
    from initlint.cli.console import complain, write
    from initlint.cli.options import UsageError, merge, report_files
    from initlint.cli.run import carry_out, with_baseline
    from initlint.config import ConfigError, load_config
    from initlint.lint.baseline import BaselineError
    from initlint.report.formats import prepare, render
    from initlint.report.style import View, project_root, style_for

    try:
        options = merge(_plain(given), load_config(config, Path.cwd()))
        if options.format not in FORMATS:
            raise UsageError(f"unknown format {options.format!r}; known: {', '.join(FORMATS)}")
        files = report_files(options.report, FORMATS)
        run = carry_out(targets, "lint", options, meanwhile=lambda: prepare(options.format))
        run = with_baseline(run, options.baseline, options.write_baseline)
    except (ConfigError, UsageError, BaselineError) as error:
        complain(f"initlint: {error}")
        return 2
    complain_all(run, verbose=options.verbose)
    view = View(
        style_for(sys.stdout),
        quiet=options.quiet,
        statistics=options.statistics,
        plot=options.plot,
        root=project_root(),
    )
    write(render(options.format, run, view))
    code = run.exit_code(exit_zero=options.exit_zero)
    return code if write_reports(files, run, options) else 2


def _plain(given: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.value if isinstance(value, Enum) else value for name, value in given.items()
    }


def complain_all(run: Any, *, verbose: bool) -> None:
    """Say on stderr what was not checked, one line each, and what else the user should know."""
    from initlint.cli.console import complain
    from initlint.report.text import LINE_LIMIT, shorten

    for failure in run.errors:
        head = f"{failure.target.show(160)}: " if failure.target else ""
        complain(shorten(f"initlint: {head}{failure.message.show(LINE_LIMIT)}", LINE_LIMIT))
        if verbose:
            for line in failure.detail.raw.splitlines()[-40:]:
                from initlint.report.text import one_line

                complain(f"  | {one_line(line)}")
    for notice in run.notices:
        complain(f"initlint: {notice.show(LINE_LIMIT)}")


def write_reports(files: list[tuple[str, Path]], run: Any, options: Any) -> bool:
    """Write every ``--report``; False when one could not be written."""
    from initlint.cli.console import complain
    from initlint.output import write_atomically
    from initlint.report.formats import render
    from initlint.report.style import Style, View, project_root

    view = View(Style(), quiet=options.quiet, statistics=options.statistics, root=project_root())
    linted = {Path(target.target.raw).resolve() for target in run.targets}
    complete = True
    for name, path in files:
        if path.resolve() in linted:
            complain(f"initlint: {path}: not overwritten: it is a target of this run")
            complete = False
            continue
        try:
            write_atomically(path, render(name, run, view))
        except OSError as error:
            complain(f"initlint: {path}: cannot be written: {(error.strerror or '').lower()}")
            complete = False
    return complete
