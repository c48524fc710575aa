"""The command line as a whole: commands, the default command, exit codes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from copy import copy
from functools import lru_cache
from typing import Annotated, Any

import typer

from initlint import __version__
from initlint.cli import COMMANDS
from initlint.cli.baseline import baseline
from initlint.cli.cache import cache
from initlint.cli.check import EXAMPLES, check
from initlint.cli.compare import EXAMPLES as COMPARE_EXAMPLES
from initlint.cli.compare import compare
from initlint.cli.console import write
from initlint.cli.describe import describe
from initlint.cli.diff import EXAMPLES as DIFF_EXAMPLES
from initlint.cli.diff import diff
from initlint.cli.explain import explain
from initlint.cli.fix import EXAMPLES as FIX_EXAMPLES
from initlint.cli.fix import fix
from initlint.cli.help import GroupedCommand, paragraphs
from initlint.cli.quick import call
from initlint.cli.report import EXAMPLES as REPORT_EXAMPLES
from initlint.cli.report import report
from initlint.cli.rules import rules

_EPILOG = paragraphs(
    """\
    Examples:
      initlint model.onnx                  lint one file
      initlint checkpoints/ --format json  everything in a folder, for a program
      initlint net.py:Net                  a PyTorch module, built by your own code
      initlint explain relu-after-xavier   what a rule is about
      initlint describe model.onnx         what each layer was initialised with
      initlint compare model.onnx          which initialisation suits this network
      initlint diff step0.pt step1000.pt   what moved, what did not, what broke
      initlint fix model.onnx -o good.onnx draw again what is wrong, and verify it

    Exit codes: 0 nothing at or above --fail-on; 1 findings; 2 something was not checked.
    """
)

_HELP = ("-h", "--help")

app = typer.Typer(
    name="initlint",
    help="The linter for neural-network weight initialisation.",
    epilog=_EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": list(_HELP)},
)
app.command(cls=GroupedCommand, epilog=EXAMPLES)(check)
app.command(cls=GroupedCommand, epilog=COMPARE_EXAMPLES)(compare)
app.command(cls=GroupedCommand)(describe)
app.command(cls=GroupedCommand, epilog=DIFF_EXAMPLES)(diff)
app.command(cls=GroupedCommand)(explain)
app.command(cls=GroupedCommand, epilog=FIX_EXAMPLES)(fix)
app.command(cls=GroupedCommand, epilog=REPORT_EXAMPLES)(report)
app.command(cls=GroupedCommand)(rules)
app.add_typer(baseline)
app.add_typer(cache)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"initlint {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """The linter for neural-network weight initialisation.

    `initlint TARGET` is short for `initlint check TARGET`; see `initlint check --help`.
    """


_GROUP_OPTIONS = (*_HELP, "--version", "--install-completion", "--show-completion")


def with_default_command(arguments: Sequence[str]) -> list[str]:
    """The arguments with ``check`` in front, unless they name a command already."""
    if not arguments or arguments[0] in (*COMMANDS, *_GROUP_OPTIONS):
        return list(arguments)
    return ["check", *arguments]


@lru_cache(maxsize=1)
def _group(chosen: str | None) -> Any:
    """What Typer makes of the commands: one of them whole, the others by name and summary.

    Typer evaluates every annotation of every option that it is given, twice; an overview shows none
    of them, and a call needs those of its own command.
    """
    sparse = copy(app)
    sparse.registered_commands = [
        info if _name(info) == chosen else _without_options(info)
        for info in app.registered_commands
    ]
    sparse.registered_groups = []
    for info in app.registered_groups:
        entry, inner = copy(info), copy(info.typer_instance)
        assert inner is not None
        if inner.info.name != chosen:
            inner.registered_commands = []
        entry.typer_instance = inner
        sparse.registered_groups.append(entry)
    return typer.main.get_command(sparse)


def _name(info: Any) -> str:
    return str(info.name or info.callback.__name__)


def _without_options(info: Any) -> Any:
    def nothing() -> None: ...

    nothing.__name__, nothing.__doc__ = info.callback.__name__, info.callback.__doc__
    entry = copy(info)
    entry.callback = nothing
    return entry


def help_page(arguments: Sequence[str]) -> str | None:
    """The help page that the arguments ask for; None when they ask for something else.

    Typer would first coerce every parameter, for which it imports pydantic: three times the work.
    """
    words = with_default_command(arguments)
    overview = not arguments or arguments[0] in _HELP
    if not overview and (not set(words) & set(_HELP) or words[0] not in COMMANDS):
        return None
    command = _group(None if overview else words[0])
    context = command.context_class(command, info_name="initlint", help_option_names=list(_HELP))
    if overview:
        return str(command.get_help(context))
    chosen = command.get_command(context, words[0])
    context = chosen.context_class(chosen, context, info_name=words[0])
    if len(words) > 1 and hasattr(chosen, "get_command"):
        inner = chosen.get_command(context, words[1])
        if inner is not None:
            context = inner.context_class(inner, context, info_name=words[1])
            chosen = inner
    return str(chosen.get_help(context))


def call_quickly(words: Sequence[str]) -> int | None:
    """Run a command that needs nothing of Typer but its parser; None when it needs more."""
    functions: dict[str, Callable[..., None]] = {"check": check, "describe": describe}
    if words[0] not in functions:
        return None
    group = _group(words[0])
    context = group.context_class(group, info_name="initlint")
    command = group.get_command(context, words[0])
    context = command.context_class(command, parent=context, info_name=words[0])
    return call(command, functions[words[0]], context, words[1:])


def run(arguments: Sequence[str]) -> int:
    """Run the command line; the exit code is 0, 1 or 2."""
    completing = "_INITLINT_COMPLETE" in os.environ
    page = None if completing else help_page(arguments)
    if page is not None:
        write(page + "\n")
        return 0
    words = list(arguments) if completing else with_default_command(arguments)
    quick = None if completing else call_quickly(words)
    if quick is not None:
        return quick
    try:
        app(words, prog_name="initlint")
    except SystemExit as end:
        code = end.code
    else:
        code = 0
    return code if isinstance(code, int) and code in (0, 1, 2) else 2
