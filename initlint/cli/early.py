"""A worker that starts importing before the command line is even parsed.

Importing NumPy, networkx and onnx takes longer than everything the parent does; this lets the two
overlap. A wrong guess costs nothing but the process.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from initlint.cli import COMMANDS
from initlint.process import Process, spawn, worker_command, worker_environment

PRELOAD = ("initlint.engine", "initlint.load", "initlint.annotated")

_GRAPH_PRELOAD = (
    *PRELOAD,
    "initlint.load.onnx",
    "google.protobuf.message",
    "initlint.model.patterns",
    "initlint.theory.propagation",
)

_STANDARD = (
    "csv",
    "gzip",
    "importlib.metadata",
    "json",
    "multiprocessing.spawn",
    "pickletools",
    "tarfile",
    "timeit",
    "unittest.mock",
    "urllib.request",
    "uuid",
    "zipfile",
)
"""What PyTorch imports of the standard library, while its own is opened on a thread."""

_PYTHON_PRELOAD = (
    "initlint.engine",
    "initlint.annotated",
    *_STANDARD,
    "torch",
    "initlint.load.torch_spec",
    "initlint.probe.torch",
    "initlint.probe.torch_beside",
)

_LINTING = ("check", "describe")


def preload_for(target: str, *, probe: bool = True) -> tuple[str, ...]:
    """Modules that a worker for this data file will import anyway."""
    if not target.lower().endswith(".onnx"):
        return PRELOAD
    return (*_GRAPH_PRELOAD, "onnx") if probe else _GRAPH_PRELOAD


def start_early(arguments: Sequence[str]) -> tuple[Process, bool] | None:
    """Start a worker when the command line looks like one that lints.

    Returns:
        The process, and whether it is one for the user's own code.
    """
    if "_INITLINT_COMPLETE" in os.environ:
        return None
    if arguments[0] in COMMANDS and arguments[0] not in _LINTING:
        return None
    if any(map(_looks_like_spec, arguments)):
        command = worker_command(_PYTHON_PRELOAD, python=True)
        return spawn(command, worker_environment(python=True)), True
    words = [word for word in arguments if not word.startswith("-") and os.path.isfile(word)]
    if "--cache" in arguments or os.environ.get("INITLINT_CACHE"):
        return None  # most likely there is nothing to do
    files = [word for word in words if word.endswith((".onnx", ".safetensors", ".pt", ".pth"))]
    if not files or "--model" in arguments:
        return None
    preload = preload_for(files[0], probe="--no-probe" not in arguments)
    return spawn(worker_command(preload, python=False), worker_environment(python=False)), False


def _looks_like_spec(word: str) -> bool:
    """True for ``pkg.module:Net`` and ``file.py:Net``, by a glance."""
    place, colon, attribute = word.partition(":")
    if not colon or not attribute.replace(".", "_").isidentifier():
        return False
    return place.endswith(".py") or place.replace(".", "_").isidentifier()
