"""Repair: schemes, plans, and files changed in nothing but the planned tensors.

The package is callable, because ``initlint.fix(module)`` is the public name of
`initlint.fix.module.fix` and a package of the same name would otherwise hide it.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from initlint.fix.module import FixReport


class _Package(ModuleType):
    def __call__(self, module: Any, *example_inputs: Any, **options: Any) -> FixReport:
        """See `initlint.fix.module.fix`."""
        from initlint.fix.module import fix

        return fix(module, *example_inputs, **options)


sys.modules[__name__].__class__ = _Package
