"""``initlint fix``: re-initialise what is wrong, and prove that it is right now."""

from __future__ import annotations

import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from initlint.cli.check import (
    MODEL,
    PROBE,
    RULES,
    ConfigOption,
    CountOption,
    FailOn,
    ListOption,
    StageOption,
    TextOption,
)
from initlint.cli.help import paragraphs

WRITING = "Writing"

HEADROOM = 64 << 20
"""Bytes a written file may be larger than the weights that were read: graph and header."""

EXAMPLES = paragraphs(
    """\
    Examples:
      initlint fix model.onnx -o fixed.onnx
      initlint fix model.onnx --diff
      initlint fix net.py:Net -o start.safetensors
      initlint fix model.onnx -o lsuv.onnx --scheme lsuv

    Exit codes: 0 fixed and verified, or nothing to fix; 1 findings at or above --fail-on are left;
    2 nothing could be done, or the result could not be verified.
    """
)


class FixFormat(str, Enum):
    """How the repair is told."""

    TEXT = "text"
    JSON = "json"
    HTML = "html"


def fix(
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", show_default=False, help="Model, as for check."),
    ],
    output: Annotated[
        TextOption,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            rich_help_panel=WRITING,
            help="Where to write: an ONNX file for one, else safetensors.",
        ),
    ] = None,
    in_place: Annotated[
        bool,
        typer.Option("--in-place", rich_help_panel=WRITING, help="Replace the file itself."),
    ] = False,
    diff: Annotated[
        bool,
        typer.Option("--diff", rich_help_panel=WRITING, help="Show the changes, write nothing."),
    ] = False,
    scheme: Annotated[
        TextOption,
        typer.Option(
            metavar="NAME",
            rich_help_panel=WRITING,
            help="Put the whole network under one scheme: lsuv, he_normal, orthogonal, fixup...",
        ),
    ] = None,
    include_trained: Annotated[
        bool,
        typer.Option(
            "--include-trained", rich_help_panel=WRITING, help="Change trained weights as well."
        ),
    ] = False,
    seed: Annotated[
        CountOption,
        typer.Option(
            metavar="N", min=0, rich_help_panel=WRITING, help="Seed of draws, inputs and modules."
        ),
    ] = None,
    select: Annotated[
        ListOption,
        typer.Option(
            metavar="RULE", rich_help_panel=RULES, show_default=False, help="Cure these alone."
        ),
    ] = None,
    ignore: Annotated[
        ListOption,
        typer.Option(
            metavar="RULE", rich_help_panel=RULES, show_default=False, help="Leave these alone."
        ),
    ] = None,
    fail_on: Annotated[
        FailOn,
        typer.Option(rich_help_panel=RULES, help="Findings left from here on give exit code 1."),
    ] = FailOn.ERROR,
    stage: Annotated[
        StageOption, typer.Option(rich_help_panel=RULES, help="What to take the weights for.")
    ] = StageOption.AUTO,
    no_probe: Annotated[
        bool,
        typer.Option(
            "--no-probe",
            rich_help_panel=PROBE,
            help="Do not run the network: the fix is then not verified.",
        ),
    ] = False,
    input: Annotated[
        TextOption,
        typer.Option(metavar="FILE.npz", rich_help_panel=PROBE, help="Inputs for the runs."),
    ] = None,
    model: Annotated[
        TextOption,
        typer.Option(
            metavar="SPEC", rich_help_panel=MODEL, help="Module whose architecture a file has."
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
        typer.Option(metavar="N,N,...", rich_help_panel=MODEL, help="Shape of its example input."),
    ] = None,
    input_dtype: Annotated[
        TextOption,
        typer.Option(metavar="DTYPE", rich_help_panel=MODEL, help="Its dtype, such as int64."),
    ] = None,
    format: Annotated[FixFormat, typer.Option(help="Format of the report.")] = FixFormat.TEXT,
    report: Annotated[
        ListOption,
        typer.Option(
            metavar="FORMAT=PATH",
            show_default=False,
            help="Also write a report to a file (html: before and after); may be repeated.",
        ),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Re-initialise what is wrong, lint and run the result, and show before and after.

    Weights that were drawn at a wrong scale are rescaled; zeros, copies and broken values are drawn
    again. Nothing else in the file changes. Findings that your configuration allows are left alone,
    and so are trained weights. A fix that could not be verified is never called one.
    """
    from initlint.cli.console import complain, write
    from initlint.cli.options import UsageError, merge, report_files
    from initlint.cli.tasks import TaskError, outcome, write_outcomes
    from initlint.config import ConfigError, load_config
    from initlint.report.repair import render
    from initlint.report.style import Style, style_for

    given = {
        "select": select,
        "ignore": ignore,
        "set_fail_on": fail_on.value,
        "set_stage": stage.value,
        "no_probe": no_probe,
        "input": input,
        "model": model,
        "arg": arg,
        "input_shape": input_shape,
        "input_dtype": input_dtype,
        "seed": seed,
    }
    told: dict[str, Any] = {"scheme": scheme, "include_trained": include_trained}
    try:
        options = merge(given, load_config(config, Path.cwd()))
        told["seed"] = options.seed
        files = report_files(tuple(report or ()), {f.value: f.value for f in FixFormat})
        record = _run(target, options, told, output, in_place=in_place, diff=diff)
    except (ConfigError, UsageError, TaskError) as error:
        complain(f"initlint: {error}")
        raise typer.Exit(2) from error

    def told_as(name: str, style: Style) -> str:
        return outcome(name, record, lambda: render(record, style, planned=diff), "repair_page")

    write(told_as(format.value, style_for(sys.stdout)))
    if not write_outcomes(files, lambda name: told_as(name, Style()), target, output):
        raise typer.Exit(2)
    raise typer.Exit(exit_code(record, options.fail_on))


def exit_code(record: Any, fail_on: str) -> int:
    """0 verified, or nothing to fix; 1 findings left; 2 not verified or nothing helped."""
    status = record["verdict"]["status"]
    if status in ("unverified", "failed") or record["after"]["failures"]:
        return 2
    if fail_on == "never":
        return 0
    severities = ("info", "warning", "error")
    counted = severities[severities.index(fail_on) :]
    return int(any(record["after"]["summary"].get(name) for name in counted))


def _run(
    text: str, options: Any, told: dict[str, Any], output: str | None, *, in_place: bool, diff: bool
) -> dict[str, Any]:
    from initlint.cli.run import carry_out
    from initlint.cli.tasks import TaskError, carry_out_task, one_target, require

    said = {"-o": output is not None, "--in-place": in_place, "--diff": diff}
    places = [name for name, given in said.items() if given]
    where = "-o FILE, --in-place, or --diff to write nothing"
    require(bool(places), f"say where the result goes: {where}")
    require(len(places) == 1, f"{' and '.join(places)} exclude each other: say {where}")
    target = one_target(text)
    out = None if diff else _destination(target.text, output, python=target.python)
    if told["scheme"] is None:
        linted = carry_out([target.text], "lint", options)
        if linted.errors or not linted.targets:
            message = str(linted.errors[0].message) if linted.errors else "it was not checked"
            raise TaskError(f"{target.text}: {message}")
        told["only"] = [item.fingerprint for item in linted.targets[0].active]
    told["out"] = None if out is None else str(out)
    return carry_out_task(
        target, "fix", options, told, walled=False, writes=0 if diff else target.size + HEADROOM
    )


def _destination(target: str, output: str | None, *, python: bool) -> Path:
    """Where to write, as an absolute path.

    Raises:
        UsageError: a place that would lose something, or a name that hides what the file is.
    """
    from initlint.cli.tasks import require

    if output is None:
        require(not python, "--in-place is for files; your module's weights live in memory")
        require(os.path.isfile(target), "--in-place needs a single file")
        own = Path(target)
        safe = own.suffix.lower() in (".onnx", ".safetensors")
        require(safe, f"{target}: a fixed {own.suffix} file becomes safetensors; use -o")
        return own.resolve()
    path = Path(output).absolute()
    require(path.parent.is_dir(), f"{output}: there is no folder {path.parent}")
    require(not path.is_dir(), f"{output}: is a folder; name a file")
    same = path.exists() and os.path.exists(target) and os.path.samefile(path, target)
    require(not same, f"{output}: is the target itself; say --in-place if that is meant")
    wanted = ".onnx" if target.lower().endswith(".onnx") else ".safetensors"
    require(
        path.suffix.lower() == wanted, f"{output}: a fixed {target} is a {wanted} file; name it so"
    )
    return path
