"""The pages of reference, written from the program: options, configuration, schema.

python docs/reference.py docs/reference
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from importlib.resources import files
from pathlib import Path
from typing import Any

import typer.main

from initlint.cli.app import app, run
from initlint.cli.catalogue import installed_rules
from initlint.config import OPTIONS

MARK = "<!-- Written by `make reference`. -->\n"


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, part in getattr(command, "commands", {}).items():
        yield from _commands(part, (*path, name))


def command_line() -> str:
    """Every command's help page, as a terminal of 80 columns shows it."""
    parts = [
        MARK,
        "# Command line\n",
        "What `--help` prints for each command. `initlint model.onnx` is short for "
        "`initlint check model.onnx`. Codes: [exit codes](exit-codes.md).\n",
    ]
    for path, _ in _commands(typer.main.get_command(app)):
        shown = io.StringIO()
        with redirect_stdout(shown):
            run([*path, "--help"])
        name = " ".join(("initlint", *path))
        parts.append(f"## `{name}`\n\n```text\n{shown.getvalue().rstrip()}\n```\n")
    return "\n".join(parts)


def _help_texts() -> Mapping[str, str]:
    """What `check --help` says of each option, by the option's long name."""
    check = typer.main.get_command(app).commands["check"]
    texts: dict[str, str] = {}
    for parameter in check.params:
        text = getattr(parameter, "help", None)
        if text:
            texts.update({name.lstrip("-"): text for name in parameter.opts})
            # `--no-x` is told by the text of `--x`.
            texts.update(
                {name.lstrip("-"): f"The opposite of: {text}" for name in parameter.secondary_opts}
            )
    return texts


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def configuration() -> str:
    """Every key of ``[tool.initlint]``, and the options of rules."""
    helps = _help_texts()
    rows = [
        f"| `{key}` | {_cell(words)} | {_cell(helps.get(key, ''))} |"
        for key, (words, _) in OPTIONS.items()
    ]
    rule_rows = [
        f"| [{rule.name}](../rules/{rule.name}.md) | `{key}` | `{json.dumps(option['default'])}` "
        f"| {_cell(option['why'])} |"
        for rule in sorted(installed_rules(), key=lambda rule: rule.name)
        for key, option in rule.options.items()
    ]
    return "\n".join(
        [
            MARK,
            "# Configuration\n",
            "`[tool.initlint]` of the nearest `pyproject.toml` from the working directory up, or "
            "the whole of an `initlint.toml`; never a file in a model's folder. The command "
            "line wins. An unknown key or a wrong value is an error with file and line.\n",
            "## Keys\n",
            "| key | value | meaning |\n|---|---|---|",
            *rows,
            "",
            "Paths in `baseline` and `input` are taken from the file's folder.\n",
            "## `[[tool.initlint.allow]]`\n",
            "| key | value |\n|---|---|",
            "| `rule` | name or code of a rule; required |",
            "| `reason` | why it is right here; required |",
            "| `target` | pattern of targets (default: all) |",
            "| `layer` or `param` | pattern of layers or parameters (default: all) |",
            "| `expires` | a date, from which the entry no longer holds |\n",
            "An entry whose rule ran and found nothing is reported as unused. In PyTorch source "
            "the same is said by a comment on the line that builds the layer:\n",
            "```python\nself.head = zero_(nn.Linear(64, 10))  "
            "# initlint: allow[zero-weight] -- starts as an identity\n```\n",
            "## `[tool.initlint.rules.<name>]`\n",
            "| rule | option | default | why |\n|---|---|---|---|",
            *rule_rows,
            "",
        ]
    )


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name})"
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(_type(part) for part in schema[key])
    kinds = schema.get("type", "any")
    text = " or ".join(kinds) if isinstance(kinds, list) else kinds
    if "items" in schema:
        text = text.replace("array", f"array of {_type(schema['items'])}")
    return text


def _table(schema: Mapping[str, Any]) -> str:
    required = schema.get("required", [])
    rows = [
        f"| `{name}` | {_type(part)} | {'always' if name in required else ''} "
        f"| {_cell(part.get('description', ''))} |"
        for name, part in schema.get("properties", {}).items()
    ]
    return "\n".join(["| field | type | present | meaning |\n|---|---|---|---|", *rows])


def json_report() -> str:
    """The fields of the JSON report, from the schema that ships."""
    text = files("initlint.report").joinpath("schema.json").read_text(encoding="utf-8")
    schema = json.loads(text)
    parts = [
        MARK,
        "# JSON report\n",
        "`--format json` writes one object; `--format jsonl` one finding a line. The schema "
        "ships as `initlint/report/schema.json` (JSON Schema 2020-12), and the tests validate "
        "reports against it.\n",
        "## report\n",
        _table(schema),
    ]
    for name, part in schema["$defs"].items():
        parts.append(f"\n## {name}\n")
        if "description" in part:
            parts.append(part["description"] + "\n")
        parts.append(_table(part))
    return "\n".join([*parts, ""])


PAGES = {
    "command-line.md": command_line,
    "configuration.md": configuration,
    "json.md": json_report,
}


def main(folder: str) -> None:
    """Write every page into ``folder``."""
    os.environ["COLUMNS"] = "80"
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (target / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
