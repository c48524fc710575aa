"""Hostile, broken and odd inputs over every format, written anew from code for every run."""

from __future__ import annotations

from tests.hostile.case import Case, Cases, End
from tests.hostile.folders import EXPORTS, FOLDERS, TARGETS
from tests.hostile.names import NAMES
from tests.hostile.odd import ODD
from tests.hostile.onnx_files import DAMAGE, ESCAPES
from tests.hostile.onnx_graphs import BOMBS, GRAPHS
from tests.hostile.pickles import GADGETS, STREAMS, TRAP
from tests.hostile.safetensors_files import HEADERS, SHARDS
from tests.hostile.zips import ARCHIVES, TENSORS

__all__ = ["CASES", "TRAP", "Case", "End"]

_FAMILIES: tuple[Cases, ...] = (
    *(BOMBS, GRAPHS, ESCAPES, DAMAGE, GADGETS, STREAMS, ARCHIVES, TENSORS),
    *(HEADERS, SHARDS, EXPORTS, FOLDERS, TARGETS, NAMES, ODD),
)

CASES: tuple[Case, ...] = tuple(case for family in _FAMILIES for case in family.found)
"""Every case, in a fixed order."""
