"""initlint: the linter for neural-network weight initialisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from initlint.linting import Report, check

__version__ = "0.1.0"

__all__ = ["Report", "__version__", "check"]


def __getattr__(name: str) -> Any:
    if name in ("check", "Report"):
        from initlint import linting as module

        return getattr(module, name)
    raise AttributeError(f"module 'initlint' has no attribute {name!r}")
