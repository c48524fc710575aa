"""Coverage-guided fuzzing of the readers, of the whole engine and of the whole command.

``python fuzz/fuzz.py TARGET [libFuzzer options]`` with a target of `TARGETS`; ``make fuzz TIME=60``
runs each in turn. An input is a file; a reader may refuse it with `LoadError` and do nothing else.
The seeds in ``fuzz/corpus`` are read, new inputs go to ``build/fuzz``.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "rules")]

TARGETS = {
    "onnx": ".onnx",
    "safetensors": ".safetensors",
    "pickle": ".pt",
    "exported": ".pt2",
    "index": ".safetensors.index.json",
    "command": "",
}
"""Targets, and the suffix of their files: one per reader, and `fuzz.command`, which draws one."""


def main() -> int:
    """Fuzz one target until libFuzzer's limit; 0 as well when atheris is not installed."""
    try:
        import atheris
    except ImportError:
        print("fuzz: skipped: atheris is not installed (pip install atheris; Linux and macOS)")
        return 0
    name, *options = sys.argv[1:]
    with atheris.instrument_imports(include=["initlint"]):
        import initlint.engine
        import initlint.load
        import initlint.load.onnx
        import initlint.load.torch_export  # noqa: F401
        from fuzz import command
    from initlint.engine import Settings, lint
    from initlint.load import load
    from initlint.model import LoadError

    folder = Path(tempfile.mkdtemp(prefix="initlint-fuzz-", dir=_memory()))
    command.without_processes()
    path = folder / f"model{TARGETS[name]}"
    settings = Settings(probe=False)

    def check(data: bytes) -> None:
        path.write_bytes(data)
        try:
            record = lint(load(str(path)), settings)
        except (LoadError, MemoryError):
            return
        finally:
            strays = [entry for entry in os.listdir(folder) if entry != path.name]
            assert not strays, strays
        crashed = [line for line in record["failures"] if "crashed" in line]
        assert not crashed, crashed

    def check_command(data: bytes) -> None:
        command.check(data, folder)

    found = ROOT / "build" / "fuzz" / name
    found.mkdir(parents=True, exist_ok=True)
    os.chdir(found)
    corpora = [str(found), str(ROOT / "fuzz" / "corpus" / name)]
    artifacts = f"-artifact_prefix={found.parent}/{name}-"
    atheris.Setup(
        [sys.argv[0], artifacts, *options, *corpora], check_command if name == "command" else check
    )
    atheris.Fuzz()
    return 0


def _memory() -> str | None:
    """A folder in memory, where there is one: every input is written to a file."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


if __name__ == "__main__":
    sys.exit(main())
