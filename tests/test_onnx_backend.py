"""The cases that the onnx package ships for other runtimes: every operator, every odd attribute.

Most are one node on made-up inputs. None may crash a reader, and none holds a fault that an
initialisation linter could name.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
import pytest

import initlint

FOLDERS = ("pytorch-converted", "pytorch-operator", "simple")


def node_cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loader = pytest.importorskip("onnx.backend.test.loader")
        return loader.load_model_tests(kind="node")


def faults(paths):
    """(file, finding or failure) for every file that is not linted to the end in silence."""
    for path in paths:
        try:
            findings = initlint.check(str(path), probe=False).findings
        except Exception as error:
            yield path.name, repr(error)
        else:
            yield from ((path.name, f["name"]) for f in findings if f["severity"] != "info")


def test_every_node_case_is_linted_in_silence(tmp_path):
    cases = node_cases()
    assert len(cases) > 1000
    for case in cases:
        (tmp_path / f"{case.name}.onnx").write_bytes(case.model.SerializeToString())
    assert list(faults(sorted(tmp_path.glob("*.onnx")))) == []


def shipped(folder):
    root = Path(onnx.__file__).parent / "backend" / "test" / "data" / folder
    files = sorted(root.glob("**/*.onnx"))
    if not files:
        pytest.skip(f"this onnx ships no {folder} models")
    return files


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_shipped_model_is_linted_in_silence(folder):
    assert list(faults(shipped(folder))) == []


def test_well_known_networks_with_constants_for_weights_are_linted():
    """The light models keep their graphs and lost their weights: equal units are what they have."""
    named = {name for _, name in faults(shipped("light"))}
    assert not any("Error" in name for name in named), named
