"""Options as the command line and the configuration give them, in that order of precedence."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from initlint.config import Config
from initlint.selection import split_selectors


class UsageError(Exception):
    """A call that cannot be carried out: one line."""


def usable_cpus() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Options:
    """Every option of ``check`` and ``describe`` with its value; names as on the command line."""

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    extend_select: tuple[str, ...] = ()
    preview: bool = False
    expect: str | None = None
    fail_on: str = "error"
    min_severity: str = "info"
    format: str = "full"
    report: tuple[str, ...] = ()
    baseline: str | None = None
    write_baseline: str | None = None
    no_probe: bool = False
    probe_timeout: float = 30.0
    probe_memory: int = 2048
    timeout: float | None = None
    input: str | None = None
    seed: int = 0
    sequence_length: int | None = None
    class_prior: float | None = None
    model: str | None = None
    stage: str = "auto"
    jobs: int = 0
    cache: bool = False
    cluster: str | None = None
    quiet: bool = False
    plot: bool = False
    verbose: bool = False
    statistics: bool = False
    exit_zero: bool = False
    input_shape: str | None = None
    input_dtype: str | None = None
    arg: tuple[str, ...] = ()
    args: str | None = None
    via: str | None = None
    structure_only: bool = False
    seeds: int = 1
    widths: str | None = None
    loss: str | None = None
    config: Config = field(default_factory=Config)

    @property
    def parallel(self) -> int:
        """Workers at once."""
        return self.jobs or min(usable_cpus(), 4)

    @property
    def charted(self) -> bool:
        """True when some output shows charts."""
        wanted = (self.format, *(value.partition("=")[0] for value in self.report))
        return self.plot or "html" in wanted

    def settings(self) -> dict[str, Any]:
        """Keyword arguments of `initlint.settings.Settings`."""
        return {
            "select": self.select,
            "ignore": self.ignore,
            "extend_select": self.extend_select,
            "preview": self.preview,
            "stage": self.stage,
            "probe": not self.no_probe,
            "probe_timeout": self.probe_timeout,
            "probe_memory": int(self.probe_memory),
            "input": self.input and os.path.abspath(self.input),
            "seed": self.seed,
            "seeds": self.seeds,
            "widths": widths(self.widths),
            "sequence_length": self.sequence_length or None,
            "loss": self.loss,
            "rule_options": self._rule_options(),
            "layers": self.verbose or self.charted,
            "profile": self.verbose or self.charted,
        }

    def _rule_options(self) -> dict[str, Mapping[str, Any]]:
        """The file's options of rules, and the flags that are options of one rule."""
        found = dict(self.config.rule_options)
        if self.class_prior is not None:
            if not 0.0 < self.class_prior < 1.0:
                raise UsageError(
                    f"--class-prior is {self.class_prior:g}; give a share between 0 and 1, such "
                    "as 0.01"
                )
            prior = {"class-prior": self.class_prior}
            found["output-prior"] = {**found.get("output-prior", {}), **prior}
        if self.expect:
            rule = "declared-differs"
            found[rule] = {**found.get(rule, {}), "expect": expected_scheme(self.expect)}
        return found

    def load(self) -> dict[str, Any]:
        """Keyword arguments of `initlint.load.LoadOptions`."""
        return {
            "arguments": {**json_arguments(self.args), **keyword_arguments(self.arg)},
            "input_shape": shape(self.input_shape),
            "input_dtype": self.input_dtype,
            "input_file": self.input and os.path.abspath(self.input),
            "model": self.model,
            "via": self.via,
            "seed": self.seed,
            "structure_only": self.structure_only,
        }


def from_environment(name: str) -> bool | None:
    """A switch in the environment: 0, false, no and off are off; unset or empty is None.

    Above the configuration, as it is about this machine, and below the command line.
    """
    value = os.environ.get(name, "").strip().lower()
    return value not in ("0", "false", "no", "off") if value else None


_SELECTORS = ("select", "ignore", "extend_select")


def merge(given: Mapping[str, Any], config: Config) -> Options:
    """Options from the command line (None, empty or False: not given), else from the file."""
    values: dict[str, Any] = {}
    for option in fields(Options):
        name = option.name
        value = given.get(name)
        if name == "cache":
            value = from_environment("INITLINT_CACHE")
        if value is None or value == [] or (value is False and name != "cache"):
            value = config.options.get(name.replace("_", "-"))
        if given.get(f"set_{name}") is not None:
            value = given[f"set_{name}"]
        if value is not None:
            values[name] = tuple(value) if isinstance(value, list) else value
    for name in _SELECTORS:
        values[name] = split_selectors(values.get(name, ()))
    values["config"] = config
    return Options(**values)


EXPECTED = (
    "he_normal",
    "he_uniform",
    "xavier_normal",
    "xavier_uniform",
    "lecun_normal",
    "lecun_uniform",
    "torch_default",
    "orthogonal",
    "normal",
    "truncated_normal",
    "uniform",
)
"""Schemes that ``--expect`` takes; the last three also with a number: ``normal(0.02)``."""


def expected_scheme(text: str) -> str:
    """The scheme that ``--expect`` names.

    Raises:
        UsageError: an unknown one, with the nearest known name.
    """
    name, _, argument = text.partition("(")
    if name in EXPECTED and (not argument or argument.endswith(")")):
        return text
    near = get_close_matches(name, EXPECTED, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UsageError(f"--expect is {text!r}; known: {', '.join(EXPECTED)}{hint}")


def shape(text: str | None) -> list[int] | None:
    """``8,3,224,224`` or ``8x3x224x224`` as sides.

    Raises:
        UsageError: for anything else.
    """
    if text is None:
        return None
    try:
        sides = [int(side) for side in text.replace("x", ",").split(",")]
    except ValueError:
        sides = []
    if not sides or min(sides) < 1:
        raise UsageError(f"--input-shape is {text!r}; write it as 8,3,224,224")
    return sides


def keyword_arguments(pairs: tuple[str, ...]) -> dict[str, Any]:
    """``name=value`` pairs; a value that is JSON is decoded, any other is a string.

    Raises:
        UsageError: for a pair without a name.
    """
    arguments: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"--arg is {pair!r}; write it as name=value")
        try:
            arguments[name] = json.loads(value)
        except ValueError:
            arguments[name] = value
    return arguments


def widths(text: str | None) -> dict[str, list[int]] | None:
    """``hidden=64,128,256`` as the argument's name with its values.

    Raises:
        UsageError: no name, or fewer than three different sizes.
    """
    if text is None:
        return None
    name, _, values = text.partition("=")
    try:
        sizes = sorted({int(value) for value in values.split(",")})
    except ValueError:
        sizes = []
    if not name.isidentifier() or len(sizes) < 3 or sizes[0] < 1:
        raise UsageError(f"--widths is {text!r}; write it as hidden=64,128,256 (three or more)")
    return {name: sizes}


def json_arguments(text: str | None) -> dict[str, Any]:
    """Keyword arguments from one JSON object.

    Raises:
        UsageError: for anything else.
    """
    try:
        value = json.loads(text) if text else {}
    except ValueError:
        value = None
    if not isinstance(value, dict) or not all(name.isidentifier() for name in value):
        raise UsageError(f"--args is {text!r}; write it as a JSON object: '{{\"depth\": 12}}'")
    return value


def report_files(values: tuple[str, ...], formats: Mapping[str, str]) -> list[tuple[str, Path]]:
    """``FORMAT=PATH`` pairs of ``--report``.

    Raises:
        UsageError: for an unknown format, a missing path or ``-``.
    """
    files = []
    for value in values:
        name, _, path = value.partition("=")
        if name not in formats or not path:
            known = ", ".join(formats)
            raise UsageError(f"--report is {value!r}; write it as FORMAT=PATH with one of {known}")
        if path == "-":
            raise UsageError(f"--report {value}: is for files; --format {name} writes to stdout")
        files.append((name, Path(path)))
    return files
