"""Calls that bypass Typer's coercion get the values that Typer would have given them."""

from __future__ import annotations

import functools
import subprocess
import sys
from typing import Any

import pytest
import typer

from initlint.cli import quick
from initlint.cli.check import check
from initlint.cli.describe import describe
from initlint.cli.help import GroupedCommand


def both_ways(function: Any, words: list[str]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Values without and with Typer's coercion; None where the first road declines."""
    received: dict[str, Any] = {}

    @functools.wraps(function)
    def record(**values: Any) -> None:
        received.update(values)

    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(cls=GroupedCommand)(record)
    command: Any = typer.main.get_command(app)
    try:
        ours = quick.arguments(command, function, command.context_class(command), words)
    except Exception:
        ours = None
    try:
        command.main(words, standalone_mode=False)
    except Exception:
        received = {}
    return ours, received


@pytest.mark.parametrize(
    "words",
    [
        ["model.onnx"],
        ["a.onnx", "b.onnx", "--no-probe"],
        ["a.onnx", "--probe", "--select", "SYM", "--select=NRM001,ATT", "--ignore", "x"],
        ["--fail-on", "warning", "a.onnx", "--stage=trained", "--format", "json"],
        ["a.onnx", "--timeout", "2.5", "--jobs", "3", "--seed", "7"],
        ["a.onnx", "-q", "--statistics", "--exit-zero", "--report", "json=x.json"],
        ["a.onnx", "--config", "some/where.toml", "--arg", "width=3", "--arg", "depth=4"],
        ["--", "-odd.onnx"],
    ],
)
def test_values_are_those_of_typer(words: list[str]) -> None:
    ours, typers = both_ways(check, words)
    assert ours == typers
    assert {name: type(value) for name, value in (ours or {}).items()} == {
        name: type(value) for name, value in typers.items()
    }


def test_describe_too() -> None:
    ours, typers = both_ways(describe, ["a.onnx", "--format", "markdown", "--seed", "0"])
    assert ours == typers != {}


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["a.onnx", "--nonsense"],
        ["a.onnx", "--jobs", "0"],
        ["a.onnx", "--jobs", "many"],
        ["a.onnx", "--timeout", "nan"],
        ["a.onnx", "--timeout"],
        ["a.onnx", "--fail-on", "Never"],
        ["a.onnx", "--format", "xml"],
        ["a.onnx", "--help"],
    ],
)
def test_what_leaves_a_doubt_is_left_to_typer(words: list[str]) -> None:
    assert both_ways(check, words)[0] is None


def test_an_option_that_declares_more_is_left_to_typer() -> None:
    def command(size: typer.Annotated[int, typer.Option(clamp=True, max=3)] = 1) -> None: ...

    with pytest.raises(Exception):  # noqa: B017, PT011 - any exception means: left to Typer
        quick.arguments(*_made(command), ["--size", "5"])


def _made(function: Any) -> tuple[Any, Any, Any]:
    app = typer.Typer()
    app.command()(function)
    command: Any = typer.main.get_command(app)
    return command, function, command.context_class(command)


def test_a_plain_lint_imports_neither_pydantic_nor_a_framework(tmp_path: Any) -> None:
    target = tmp_path / "nothing.onnx"
    script = (
        "import sys; from initlint.cli.app import run; "
        f"run([{str(target)!r}, '--no-probe']); "
        "print(sorted({'pydantic', 'numpy', 'onnx', 'torch', 'networkx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
