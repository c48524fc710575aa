"""Write the seed corpus from the small files of ``tests/hostile``: ``python fuzz/seed.py``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fuzz.command import COMMANDS, SUFFIXES, call, without_processes  # noqa: E402
from fuzz.fuzz import TARGETS  # noqa: E402
from tests.hostile import CASES  # noqa: E402

LARGEST = 4096
"""Bytes: libFuzzer starts from small inputs, and the repository stays small."""

FAMILIES = ("valid but odd", "onnx inconsistent graphs", "pickled tensors", "exported programs")


def main() -> None:
    """One folder per target."""
    readers = {target: suffix for target, suffix in TARGETS.items() if suffix}
    for target, suffix in readers.items():
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
    _for_the_command(readers)


def _for_the_command(readers: dict[str, str]) -> None:
    """Every command line on files of every reader, those of a reader taken in turn."""
    corpus = ROOT / "fuzz" / "corpus"
    folder = corpus / "command"
    folder.mkdir(exist_ok=True)
    files = {name: sorted((corpus / name).iterdir()) for name in readers}
    for number, words in enumerate(COMMANDS):
        for name, suffix in readers.items():
            file = files[name][number % len(files[name])]
            head = bytes([number, SUFFIXES.index(suffix)])
            (folder / f"{number:02}-{words[0]}-{name}").write_bytes(head + file.read_bytes())
    for made, record in _records(files["onnx"]).items():
        for number, words in enumerate(COMMANDS):
            if words[0] in ("report", "diff"):
                head = bytes([number, SUFFIXES.index(".json")])
                (folder / f"{number:02}-{words[0]}-{made}").write_bytes(head + record)


def _records(files: list[Path]) -> dict[str, bytes]:
    """What `check` and `describe` write as JSON about the file that they say most about."""
    without_processes()
    found: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for file in files:
            path = Path(scratch) / "model.onnx"
            path.write_bytes(file.read_bytes())
            for words in (("check", "--no-probe"), ("describe",)):
                code, out, _ = call([*words, str(path), "--format", "json"])
                text = out.replace(scratch, "").encode()
                if code != 2 and LARGEST >= len(text) > len(found.get(words[0], b"")):
                    found[words[0]] = text
    return found


if __name__ == "__main__":
    main()
