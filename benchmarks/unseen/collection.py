"""All models, registered by the modules that hold them."""

from __future__ import annotations

from importlib import import_module

from benchmarks.unseen.parts import CLEAN, FAULTS

__all__ = ["CLEAN", "FAULTS"]

MODULES = (
    "faulty_weights",
    "faulty_networks",
    "clean_zeros",
    "clean_scales",
    "clean_kinds",
    "clean_details",
    "later",
    "fourth",
    "fifth",
    "seventh",
)

for name in MODULES:
    import_module(f"benchmarks.unseen.{name}")
