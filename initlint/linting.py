"""The Python API: lint a module or a file from a notebook, a test or a training script."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from initlint.lint.finding import Severity

if TYPE_CHECKING:
    from initlint.engine import Settings
    from initlint.model import Model


class InitialisationError(AssertionError):
    """Raised by `Report.raise_if`; the message holds the findings."""


@dataclass(frozen=True, slots=True)
class Report:
    """The result of linting one model.

    Attributes:
        record: the target object of the JSON report, exactly.
    """

    record: Mapping[str, Any]

    @property
    def findings(self) -> list[dict[str, Any]]:
        """Findings, worst first, as in the JSON report."""
        return list(self.record["findings"])

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
        return dict(self.record)

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

    def __str__(self) -> str:
        from initlint.report.full import render_target

        return render_target(self.record)

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(str(self))}</pre>"


def settings_from(options: Mapping[str, Any]) -> Settings:
    """Engine settings from the command line's options in snake_case.

    Raises:
        TypeError: for an option that does not exist, with the names that do.
    """
    from dataclasses import fields

    from initlint.engine import Settings

    known = {field.name for field in fields(Settings)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r}; known: {', '.join(sorted(known))}")
    tuples = {name: _as_tuple(options[name]) for name in _SELECTORS if name in options}
    return Settings(**{**options, **tuples})


_SELECTORS = ("select", "ignore", "extend_select")


def _as_tuple(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def check(target: Any, *example_inputs: Any, **options: Any) -> Report:
    """Lint a ``torch.nn.Module`` or a file.

    Args:
        target: a module (linted in this process; it is left bit for bit as it was), or a path or
            spec as on the command line.
        *example_inputs: what the module's forward is called with; worked out from the first
            layers when left out.
        **options: the command line's options in snake_case (``select="SCL"``, ``probe=False``…).

    Raises:
        LoadError: when the target cannot be read or its forward fails.
        TypeError: for an unknown option.
    """
    from initlint.engine import lint

    settings = settings_from(options)
    return Report(lint(_model(target, example_inputs, settings), settings))


def _model(target: Any, example_inputs: tuple[Any, ...], settings: Settings) -> Model:
    import os

    if isinstance(target, (str, os.PathLike)):
        from initlint.load import LoadOptions, load

        return load(os.fspath(target), LoadOptions(seed=settings.seed))
    from initlint.load.torch_module import capture

    return capture(target, *example_inputs)
