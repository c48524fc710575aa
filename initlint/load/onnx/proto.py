"""onnx's protobuf messages without the rest of its package.

``import onnx`` also imports its checker, parser, composer, version converter and what those need:
four times the work of the messages, and nothing that reading a file uses.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib.machinery import PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from os.path import join
from typing import Any

OLDEST_NEWEST_OPSET = 22
"""The newest operator set that the oldest supported onnx package (1.17) knows."""


@lru_cache(maxsize=1)
def messages() -> Any:
    """The generated module with ``ModelProto`` and its parts, and ``IR_VERSION``.

    It is not entered in `sys.modules`: protobuf has one class for a message, however often the
    generated code runs, so a later ``import onnx`` finds the same classes and a package as usual.
    """
    if "onnx" not in sys.modules:
        try:
            return _generated()
        except Exception:  # a package laid out otherwise is imported as a whole
            pass
    import onnx

    return onnx


def _generated() -> Any:
    package = PathFinder.find_spec("onnx")
    folder = ((package and package.submodule_search_locations) or [""])[0]
    spec = spec_from_file_location("onnx.onnx_ml_pb2", join(folder, "onnx_ml_pb2.py"))
    if spec is None or spec.loader is None:
        raise ImportError("onnx")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def knows_opset(version: int) -> bool:
    """True when the installed onnx package knows this version of the standard operator set."""
    return 1 <= version <= OLDEST_NEWEST_OPSET or 1 <= version <= newest_opset()


def newest_opset() -> int:
    """The newest version of the standard operator set that the installed onnx package knows."""
    import onnx

    return int(onnx.defs.onnx_opset_version())
