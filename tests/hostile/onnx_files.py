"""ONNX files that reach outside their folder, lie about sizes, or are damaged."""

from __future__ import annotations

import os
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.hostile.case import Cases, End
from tests.hostile.onnx_graphs import FC, build, save

ESCAPES = Cases("onnx external data", ".onnx")
DAMAGE = Cases("onnx damaged files", ".onnx")

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"
WEB_PAGE = b"<!DOCTYPE html>\n<html><body>404 not found</body></html>\n"


def external_tensor(name: str, *entries: tuple[str, str], dims: Any = (4, 3)) -> onnx.TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=1)
    for key, value in entries:
        tensor.external_data.add(key=key, value=value)
    return tensor


def external(*entries: tuple[str, str], dims: Any = (4, 3)) -> onnx.ModelProto:
    """A model whose weight ``v`` lies where the entries say."""
    nodes = [FC, helper.make_node("MatMul", ["x", "v"], ["y"], "outer")]
    return build(nodes, [external_tensor("v", *entries, dims=dims)])


def _at(folder: Path, location: str, **more: str) -> None:
    (folder / "data.bin").write_bytes(bytes(48))
    save(external(("location", location), *more.items()), folder)


for _name, _location, _words in (
    ("absolute", "/etc/passwd", "own folder"),
    ("parent", "../data.bin", "own folder"),
    ("parent_inside", "a/../../data.bin", "own folder"),
    ("backslash", "..\\data.bin", "own folder"),
    ("drive", "C:\\data.bin", "own folder"),
    ("nul", "data.bin\0.txt", "own folder"),
    ("empty", "", ""),
    ("dot", ".", ""),
    ("trailing_slash", "data.bin/", ""),
    ("memory_address", "*/_ORT_MEM_ADDR_/*", ""),
    ("device", "/dev/zero", "own folder"),
    ("process", "/proc/self/mem", "own folder"),
    ("url", "file:///etc/passwd", ""),
    ("long", "x" * 100_000, ""),
    ("controls", "\x1b[31m\r\n::error::x", ""),
):
    ESCAPES.add(_name, End.REFUSED, _words)(partial(_at, location=_location))

for _name, _more in (
    ("offset_negative", {"offset": "-8"}),
    ("offset_hexadecimal", {"offset": "0x10"}),
    ("offset_plus", {"offset": "+4"}),
    ("offset_unicode", {"offset": "٤"}),
    ("offset_fraction", {"offset": "1e3"}),
    ("offset_huge", {"offset": "9" * 30}),
    ("offset_endless", {"offset": "9" * 10_000}),
    ("length_huge", {"length": str(2**62)}),
    ("length_negative", {"length": "-1"}),
    ("length_short", {"length": "4"}),
):
    ESCAPES.add(_name, End.REFUSED)(partial(_at, location="data.bin", **_more))


ESCAPES.add("key_dunder", End.ANY)(partial(_at, location="data.bin", **{"__class__": "evil"}))
ESCAPES.add("key_unknown", End.ANY)(partial(_at, location="data.bin", url="http://example.com"))


@ESCAPES.add("location_twice", End.REFUSED)
def _twice(folder: Path) -> None:
    (folder / "data.bin").write_bytes(bytes(48))
    save(external(("location", "data.bin"), ("location", "/etc/passwd")), folder)


def _link(folder: Path, target: str) -> None:
    os.symlink(target, folder / "link.bin")
    save(external(("location", "link.bin")), folder)


ESCAPES.add("link_to_file_outside", End.REFUSED, "symbolic link")(
    partial(_link, target="/etc/passwd")
)
ESCAPES.add("link_to_itself", End.REFUSED, "symbolic link")(partial(_link, target="link.bin"))
ESCAPES.add("link_to_device", End.REFUSED, "symbolic link")(partial(_link, target="/dev/zero"))


@ESCAPES.add("folder_link_outside", End.REFUSED)
def _folder_link(folder: Path) -> None:
    os.symlink("/etc", folder / "sub")
    save(external(("location", "sub/passwd")), folder)


@ESCAPES.add("fifo", End.REFUSED)
def _fifo(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    save(external(("location", "pipe")), folder)


@ESCAPES.add("folder_as_data", End.REFUSED)
def _folder_as_data(folder: Path) -> None:
    (folder / "sub").mkdir()
    save(external(("location", "sub")), folder)


@ESCAPES.add("pointer_as_data", End.REFUSED, "Git LFS")
def _pointer(folder: Path) -> None:
    (folder / "data.bin").write_bytes(LFS_POINTER)
    save(external(("location", "data.bin")), folder)


@ESCAPES.add("missing_data", End.REFUSED, "no such file")
def _missing(folder: Path) -> None:
    save(external(("location", "gone.bin")), folder)


@ESCAPES.add("claims_a_terabyte", End.REFUSED)
def _claim(folder: Path) -> None:
    (folder / "data.bin").write_bytes(bytes(48))
    save(external(("location", "data.bin"), dims=(2**19, 2**19)), folder)


@ESCAPES.add("sparse_file_of_a_terabyte", End.REFUSED)
def _sparse_file(folder: Path) -> None:
    with open(folder / "data.bin", "wb") as file:
        file.truncate(1 << 40)
    save(external(("location", "data.bin"), dims=(2**19, 2**19)), folder)


@ESCAPES.add("same_bytes_20000_times", End.ANY)
def _overlap(folder: Path) -> None:
    (folder / "data.bin").write_bytes(bytes(1 << 20))
    names = [f"v{n}" for n in range(20_000)]
    tensors = [external_tensor(n, ("location", "data.bin"), dims=(512, 512)) for n in names]
    nodes = [helper.make_node("MatMul", ["x", n], [f"y{n}"]) for n in names]
    save(build([FC, *nodes, helper.make_node("Identity", ["h"], ["y"])], tensors), folder)


def _hidden(folder: Path, where: str) -> None:
    """External data where a careless walk does not look."""
    tensor = external_tensor("v", ("location", "/etc/passwd"))
    node = helper.make_node("Constant", [], ["v"])
    attribute = node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    attribute.t.CopyFrom(tensor)
    used = helper.make_node("MatMul", ["x", "v"], ["y"], "outer")
    model = build([FC, node, used])
    if where == "subgraph":
        body = helper.make_graph(
            [node, helper.make_node("MatMul", ["x", "v"], ["o"])],
            "b",
            [],
            [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)],
        )
        go = numpy_helper.from_array(np.array(True), "go")
        branch = helper.make_node("If", ["go"], ["y"], then_branch=body, else_branch=body)
        model = build([FC, branch], [go])
    elif where == "function":
        inner = helper.make_node("MatMul", ["a", "v"], ["b"])
        opset = helper.make_opsetid("", 17)
        called = helper.make_function("local", "f", ["a"], ["b"], [node, inner], [opset])
        call = helper.make_node("f", ["x"], ["y"], domain="local")
        model = build([FC, call], functions=[called])
    elif where == "sparse":
        model = build([FC, used])
        sparse = model.graph.sparse_initializer.add(dims=[4, 3])
        sparse.values.CopyFrom(external_tensor("v", ("location", "/etc/passwd"), dims=(2,)))
        sparse.indices.CopyFrom(numpy_helper.from_array(np.array([0, 5]), "i"))
    elif where == "training":
        model = build([FC, helper.make_node("Identity", ["h"], ["y"])])
        info = model.training_info.add()
        info.initialization.initializer.add().CopyFrom(tensor)
        info.algorithm.name = "a"
    save(model, folder)


for _where in ("constant", "subgraph", "function", "sparse"):
    ESCAPES.add(f"hidden_in_{_where}", End.NOT_CLEAN)(partial(_hidden, where=_where))
ESCAPES.add("hidden_in_training", End.LINTED)(partial(_hidden, where="training"))


def _valid() -> bytes:
    weight = np.random.default_rng(0).normal(size=(3, 50)).astype(np.float32)
    nodes = [
        FC,
        helper.make_node("MatMul", ["h", "v"], ["m"], "next"),
        helper.make_node("Relu", ["m"], ["y"]),
    ]
    data: bytes = build(nodes, [numpy_helper.from_array(weight, "v")]).SerializeToString()
    return data


def _cut(folder: Path, share: float) -> None:
    data = _valid()
    (folder / "model.onnx").write_bytes(data[: int(len(data) * share)])


def _flip(folder: Path, seed: int) -> None:
    data = bytearray(_valid())
    chooser = random.Random(seed)
    for _ in range(chooser.choice((1, 3, 10, 60))):
        data[chooser.randrange(len(data))] ^= 1 << chooser.randrange(8)
    (folder / "model.onnx").write_bytes(data)


for _percent in (1, 5, 20, 50, 80, 99):
    DAMAGE.add(f"cut_at_{_percent}", End.NOT_CLEAN)(partial(_cut, share=_percent / 100))
for _seed in range(24):
    DAMAGE.add(f"flipped_{_seed}", End.ANY)(partial(_flip, seed=_seed))

DAMAGE.content("pointer", LFS_POINTER, words="Git LFS")
DAMAGE.content("page", WEB_PAGE, words="web page")
DAMAGE.content("repeated_start", b"\x08\x0a" * 100_000)
DAMAGE.content("unknown_groups", b"\x0b" * 100_000)
DAMAGE.content("endless_varint", b"\x3a" + b"\xff" * 1000)
DAMAGE.content("length_beyond", b"\x08\x0a\x3a\xff\xff\xff\xff\x07abc")


@DAMAGE.add("sparse_file_of_a_gigabyte", End.REFUSED)
def _zeros(folder: Path) -> None:
    with open(folder / "model.onnx", "wb") as file:
        file.write(b"\x08\x0a\x3a")
        file.truncate(1 << 30)


def _stored(folder: Path, **fields: Any) -> None:
    nodes = [FC, helper.make_node("MatMul", ["x", "v"], ["y"], "outer")]
    save(build(nodes, [TensorProto(name="v", **fields)]), folder)


DAMAGE.add("dims_without_data", End.REFUSED)(
    partial(_stored, data_type=1, dims=[2**31, 2**31], raw_data=b"")
)
DAMAGE.add("dims_overflow", End.REFUSED)(
    partial(_stored, data_type=1, dims=[2**32, 2**32, 4], raw_data=bytes(16))
)
DAMAGE.add("dims_rank_300", End.NOT_CLEAN)(
    partial(_stored, data_type=1, dims=[1] * 300, raw_data=bytes(4))
)
DAMAGE.add("both_kinds_of_data", End.NOT_CLEAN)(
    partial(_stored, data_type=1, dims=[1], raw_data=bytes(4), float_data=[1.0, 2.0])
)
DAMAGE.add("segment", End.ANY)(
    partial(
        _stored,
        data_type=1,
        dims=[4, 3],
        raw_data=bytes(48),
        segment=TensorProto.Segment(begin=-(2**62), end=2**62),
    )
)
DAMAGE.add("string_weights", End.NOT_CLEAN)(
    partial(_stored, data_type=8, dims=[4, 3], string_data=[b"\xff\xfe"] * 12)
)
DAMAGE.add("int4_odd_count", End.NOT_CLEAN)(
    partial(_stored, data_type=22, dims=[4, 3], raw_data=bytes(5))
)


@DAMAGE.add("sparse_duplicate_indices", End.REFUSED)
def _sparse_twice(folder: Path) -> None:
    model = build([FC, helper.make_node("MatMul", ["x", "v"], ["y"], "outer")])
    sparse = model.graph.sparse_initializer.add(dims=[4, 3])
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(3, np.float32), "v"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([5, 5, 5]), "i"))
    save(model, folder)
