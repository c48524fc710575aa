"""Write the seed corpus from the small files of ``tests/hostile``: ``python fuzz/seed.py``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fuzz.fuzz import TARGETS  # noqa: E402
from tests.hostile import CASES  # noqa: E402

LARGEST = 4096
"""Bytes: libFuzzer starts from small inputs, and the repository stays small."""

FAMILIES = ("valid but odd", "onnx inconsistent graphs", "pickled tensors", "exported programs")


def main() -> None:
    """One folder per target."""
    for target, suffix in TARGETS.items():
        folder = ROOT / "fuzz" / "corpus" / target
        folder.mkdir(parents=True, exist_ok=True)
        for case in CASES:
            wanted = case.family in FAMILIES or target == "index"
            if not (wanted and case.target.endswith(suffix) and "/" not in case.target):
                continue
            with tempfile.TemporaryDirectory() as scratch:
                path = case.make(Path(scratch))
                if path.is_file() and 0 < path.stat().st_size <= LARGEST:
                    (folder / case.name).write_bytes(path.read_bytes())


if __name__ == "__main__":
    main()
