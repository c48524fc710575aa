"""initlint: the linter for neural-network weight initialisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from initlint.fix.module import fix
    from initlint.integrations.watch import watch
    from initlint.linting import Report, check
    from initlint.model.errors import LoadError

__version__ = "0.1.0"

__all__ = ["LoadError", "Report", "__version__", "check", "fix", "watch"]


def __getattr__(name: str) -> Any:
    if name in ("check", "Report"):
        from initlint import linting as module

        return getattr(module, name)
    if name == "LoadError":
        from initlint.model.errors import LoadError

        return LoadError
    if name == "watch":
        from initlint.integrations.watch import watch

        return watch
    if name == "fix":
        from importlib import import_module

        return import_module("initlint.fix")
    raise AttributeError(f"module 'initlint' has no attribute {name!r}")
