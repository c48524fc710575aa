"""The Python API: lint a module or a file from a notebook, a test or a training script."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from initlint.lint.finding import Severity

if TYPE_CHECKING:
    from os import PathLike

    from initlint.model import Model
    from initlint.settings import Settings


class InitialisationError(AssertionError):
    """Raised by `Report.raise_if`; the message holds the findings."""


@dataclass(frozen=True, slots=True)
class Report:
    """The result of linting one model.

    Attributes:
        record: the target object as the engine made it.
    """

    record: Mapping[str, Any]

    @property
    def findings(self) -> list[dict[str, Any]]:
        """Findings, worst first, as in the JSON report."""
        return list(self.to_dict()["findings"])

    @property
    def risk(self) -> float | None:
        """Predicted probability that training from here is harmed; None when not fresh."""
        risk: float | None = self.record["risk"]
        return risk

    @property
    def stage(self) -> str:
        """``fresh``, ``trained``, ``mixed`` or ``unknown``."""
        return str(self.record["stage"])

    def to_dict(self) -> dict[str, Any]:
        """The target object of the JSON report."""
        from initlint.records import Target

        return Target.parse(dict(self.record)).to_dict()

    def raise_if(self, severity: str = "error") -> Report:
        """Raise when a finding reaches a severity, or when a rule crashed.

        Args:
            severity: ``info``, ``warning`` or ``error``, inclusive.

        Raises:
            InitialisationError: with the findings as text.
        """
        limit = Severity(severity)
        bad = [found for found in self.findings if Severity(found["severity"]) >= limit]
        if bad or self.record["failures"]:
            raise InitialisationError(f"initlint: {self}")
        return self

    def save(self, path: str | PathLike[str], format: str | None = None) -> None:
        """Write the report to a file, in a format of the command line.

        Args:
            path: the file; an old one is replaced whole.
            format: ``json``, ``html``, ``markdown``…; from the file's ending when None.

        Raises:
            ValueError: when there is no such format.
            OSError: when the file cannot be written.
        """
        from pathlib import Path

        from initlint import __version__
        from initlint.output import write_atomically
        from initlint.records import Target
        from initlint.report.formats import FORMATS, render
        from initlint.report.run import Run
        from initlint.report.style import View

        file = Path(path)
        name = format or {"txt": "full", "md": "markdown", "xml": "junit"}.get(
            file.suffix[1:], file.suffix[1:]
        )
        if name not in FORMATS:
            raise ValueError(f"no format {name!r}; known: {', '.join(FORMATS)}")
        target = Target.parse(dict(self.record))
        run = Run(__version__, (target,), rules=dict(target.documentation))
        write_atomically(file, render(name, run, View()))

    def __str__(self) -> str:
        from initlint.report.full import render_target

        return render_target(self.record)

    def _repr_html_(self) -> str:
        from initlint.report.notebook import render

        return render(self.record)


_SELECTORS = ("select", "ignore", "extend_select")

_LOADING = ("arguments", "input_shape", "input_dtype", "model", "via", "structure_only")
"""Options of `initlint.load.LoadOptions` that a caller may give; ``args`` is ``arguments``."""


def settings_from(options: Mapping[str, Any]) -> Settings:
    """Engine settings from the command line's options in snake_case.

    Raises:
        TypeError: for an option that does not exist, with the names that do.
    """
    from dataclasses import fields

    from initlint.settings import Settings

    known = {field.name for field in fields(Settings)}
    unknown = sorted(set(options) - known)
    if unknown:
        every = ", ".join(sorted({*known, *_LOADING, "args"}))
        raise TypeError(f"unknown option {unknown[0]!r}; known: {every}")
    tuples = {name: _as_tuple(options[name]) for name in _SELECTORS if name in options}
    return Settings(**{**options, **tuples})


def _as_tuple(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def check(target: Any, *example_inputs: Any, **options: Any) -> Report:
    """Lint a ``torch.nn.Module`` or a file.

    Args:
        target: a module (linted in this process; it is left bit for bit as it was), or a path or
            spec as on the command line.
        *example_inputs: what the module's forward is called with; worked out from the first
            layers when left out.
        **options: the command line's options in snake_case (``select="SCL"``, ``probe=False``,
            ``seed=1``, ``via="onnx"``, ``structure_only=True``…), and example inputs by the names
            of forward's parameters (``input_ids=ids``).

    Raises:
        LoadError: when the target cannot be read or its forward fails.
        TypeError: for an unknown option.
    """
    import os
    from tempfile import TemporaryDirectory

    path = os.fspath(target) if isinstance(target, (str, os.PathLike)) else None
    named = {} if path is not None else _named_inputs(target, options)
    rest = {name: value for name, value in options.items() if name not in named}
    if "args" in rest:
        rest["arguments"] = rest.pop("args")
    loading = {name: rest.pop(name) for name in _LOADING if name in rest}
    settings = settings_from(rest)
    if path is not None and example_inputs:
        raise TypeError("example inputs go with a module; for a path, give input= or input_shape=")
    if path is None and settings.seeds > 1:
        raise TypeError("seeds= goes with a spec (pkg.module:Net): a module is one draw")
    loading |= {"seed": settings.seed, "input_file": settings.input}
    if path is not None:
        _read_urls(path)
    with TemporaryDirectory(prefix="initlint-") as folder:
        loading["folder"] = folder
        if path is not None:
            return Report(_lint_path(path, loading, settings))
        return Report(_lint_module(target, example_inputs, named, loading, settings))


def _read_urls(path: str) -> None:
    """Let readers of this process see what is behind a URL.

    Raises:
        LoadError: fsspec or the package of the protocol is missing.
    """
    from initlint.remote import RemoteError, Store, is_remote

    if not is_remote(path):
        return
    from initlint.load.files import connect
    from initlint.model import LoadError

    try:
        store = Store([path])
    except RemoteError as error:
        raise LoadError(f"{path}: {error}") from error

    def ask(request: dict[str, Any]) -> bytes:
        try:
            return store.fetch(request)
        except RemoteError as error:
            raise LoadError(f"{request['path']}: {error}") from error

    connect(ask)


def _named_inputs(module: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments that are forward's, not ours: its names, or tensors by any name."""
    import inspect
    from dataclasses import fields

    from initlint.settings import Settings

    ours = {"args", *_LOADING, *(field.name for field in fields(Settings))}
    try:
        theirs = set(inspect.signature(module.forward).parameters)
    except (AttributeError, TypeError, ValueError):
        theirs = set()

    def is_input(name: str, value: Any) -> bool:
        tensor = hasattr(value, "dtype") and hasattr(value, "shape")
        return tensor or (name in theirs and name not in ours)

    return {name: value for name, value in options.items() if is_input(name, value)}


def _lint_path(path: str, loading: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    from initlint.engine import lint
    from initlint.load import LoadOptions, is_spec, load

    options = LoadOptions(**loading)
    if settings.widths:
        from initlint.widths import with_widths

        def load_with(arguments: Mapping[str, Any]) -> Model:
            return load(path, replace(options, arguments={**options.arguments, **arguments}))

        return lint(with_widths(load_with, settings, is_spec=is_spec(path)), settings)
    if settings.seeds < 2 or not is_spec(path):
        return lint(load(path, options), settings)
    from initlint.draws import lint_seeds
    from initlint.load.torch_draws import compare_draws

    return lint_seeds(
        lambda seed: load(path, replace(options, seed=seed)),
        lambda seeds: compare_draws(path, options, seeds),
        settings,
    )


def _lint_module(
    module: Any,
    inputs: tuple[Any, ...],
    named: dict[str, Any],
    loading: Mapping[str, Any],
    settings: Settings,
) -> dict[str, Any]:
    from initlint.engine import lint
    from initlint.load import LoadOptions
    from initlint.load.torch_module import capture_with

    return lint(capture_with(module, inputs, named, LoadOptions(**loading)), settings)
