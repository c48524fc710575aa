"""PyTorch's library is opened beside the imports that do without it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from initlint import torch_library

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone")

OPENED = """
import sys, threading
from initlint.torch_library import open_ahead
open_ahead()
for thread in threading.enumerate():
    if thread is not threading.current_thread():
        thread.join()
assert "libtorch_cpu" in open("/proc/self/maps").read()
assert "torch" not in sys.modules
import torch
assert torch.linalg.qr(torch.eye(3)).Q.shape == (3, 3)
"""

EXTENSIONS = """
import sys
def shared():
    return {n for n, m in sys.modules.items() if (getattr(m, "__file__", "") or "").endswith(".so")}
from contextlib import suppress
from importlib import import_module
from initlint.torch_library import _EXTENSIONS
for name in _EXTENSIONS:
    with suppress(ImportError):
        import_module(name)
before = shared()
import initlint.engine
from initlint.cli.early import _STANDARD
from initlint.lint.registry import all_rules
all_rules()
for name in _STANDARD:
    import_module(name)
print(sorted(shared() - before))
"""


def _printed(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_library_is_open_before_torch_is_imported():
    pytest.importorskip("torch")
    _printed(OPENED)


def test_what_is_imported_beside_opens_no_shared_object_that_would_wait_for_it():
    assert _printed(EXTENSIONS) == "[]"


def test_nothing_is_opened_without_torch(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(
        "importlib.import_module", lambda name: pytest.fail(f"{name} was imported for nothing")
    )
    torch_library.open_ahead()


def test_nothing_is_opened_on_other_systems(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: pytest.fail("looked for torch"))
    torch_library.open_ahead()
