"""onnx's messages without its package are the package's own."""

from __future__ import annotations

import subprocess
import sys

import onnx
import pytest

from initlint.load.onnx import proto

SCRIPT = """
import sys
from initlint.load.onnx.proto import messages
found = messages()
assert "onnx" not in sys.modules and "onnx.onnx_ml_pb2" not in sys.modules
data = found.ModelProto(ir_version=7).SerializeToString()
import onnx, onnx.helper
assert onnx.onnx_ml_pb2.ModelProto is onnx.ModelProto is found.ModelProto
assert onnx.IR_VERSION == found.IR_VERSION
assert onnx.ModelProto.FromString(data).ir_version == 7
print("same")
"""


def test_the_messages_are_those_of_the_package():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.stdout == "same\n", done.stderr


def test_a_package_laid_out_otherwise_is_imported(monkeypatch):
    def refuse():
        raise ImportError("onnx")

    monkeypatch.delitem(sys.modules, "onnx")
    monkeypatch.setattr(proto, "_generated", refuse)
    proto.messages.cache_clear()
    assert proto.messages().ModelProto is onnx.ModelProto
    proto.messages.cache_clear()


def test_operator_sets_that_any_supported_package_knows():
    newest = onnx.defs.onnx_opset_version()
    assert newest >= proto.OLDEST_NEWEST_OPSET
    assert proto.knows_opset(1)
    assert proto.knows_opset(newest)


@pytest.mark.parametrize("version", [0, -1, 10_000])
def test_other_operator_sets_are_unknown(version):
    assert not proto.knows_opset(version)
