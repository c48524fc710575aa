"""The pytest fixture ``initlint``; loaded by pytest itself, so it imports nothing heavy.

def test_init(initlint):
initlint.check(Net()).raise_if("error")
"""

from __future__ import annotations

from types import ModuleType

import pytest


@pytest.fixture(scope="session", name="initlint")
def _initlint() -> ModuleType:
    """The package: ``initlint.check(model).raise_if("error")``."""
    from importlib import import_module

    return import_module("initlint")
