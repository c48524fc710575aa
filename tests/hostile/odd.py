"""Valid files that strict checks, or careless readers, refuse: every one must be linted."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.hostile.case import Cases, End
from tests.hostile.folders import exported, hub
from tests.hostile.onnx_files import external, external_tensor
from tests.hostile.onnx_graphs import FC, FLOAT, GO, build, constant, loop, loop_body, save
from tests.hostile.safetensors_files import GOOD, entry, file_of
from tests.hostile.zips import Member, archive, checkpoint, state_dict, storage, tensor, values

ODD = Cases("valid but odd", ".onnx")

_NODES = [FC, helper.make_node("Relu", ["h"], ["y"])]


def _odd(name: str, target: str | None = None) -> Any:
    return ODD.add(name, End.LINTED, target=target)


def _proto(name: str, model: onnx.ModelProto) -> None:
    _odd(name)(partial(save, model))


def _hub_cache(folder: Path) -> Path:
    """An empty snapshot folder of a hub cache, with blobs beside it."""
    snapshot = folder / "hub" / "models--org--net" / "snapshots" / "0a1b"
    snapshot.mkdir(parents=True)
    (folder / "hub" / "models--org--net" / "blobs").mkdir()
    return snapshot


def _into_blobs(snapshot: Path) -> None:
    """Replace every file of a snapshot by a link into the blobs."""
    blobs = snapshot.parents[1] / "blobs"
    for number, path in enumerate(sorted(p for p in snapshot.rglob("*") if p.is_file())):
        blob = blobs / f"{number:040x}"
        path.rename(blob)
        path.symlink_to(os.path.relpath(blob, path.parent))


_SNAPSHOT = "hub/models--org--net/snapshots/0a1b"


@_odd("hub_cache_folder", _SNAPSHOT)
def _cache(folder: Path) -> None:
    snapshot = _hub_cache(folder)
    hub(snapshot)
    _into_blobs(snapshot)


@_odd("hub_cache_sharded", _SNAPSHOT)
def _cache_shards(folder: Path) -> None:
    snapshot = _hub_cache(folder)
    _shards(snapshot)
    (snapshot / "config.json").write_text("{}")
    _into_blobs(snapshot)


@_odd("hub_cache_onnx_with_data", f"{_SNAPSHOT}/onnx/model.onnx")
def _cache_onnx(folder: Path) -> None:
    snapshot = _hub_cache(folder)
    (snapshot / "onnx").mkdir()
    (snapshot / "onnx" / "model.onnx_data").write_bytes(bytes(48))
    save(external(("location", "model.onnx_data")), snapshot / "onnx")
    _into_blobs(snapshot)


@_odd("hub_cache_onnx_at_top", f"{_SNAPSHOT}/model.onnx")
def _cache_top(folder: Path) -> None:
    snapshot = _hub_cache(folder)
    (snapshot / "model.onnx_data").write_bytes(bytes(48))
    save(external(("location", "model.onnx_data")), snapshot)
    _into_blobs(snapshot)


@_odd("hub_cache_safetensors", f"{_SNAPSHOT}/model.safetensors")
def _cache_file(folder: Path) -> None:
    snapshot = _hub_cache(folder)
    (snapshot / "model.safetensors").write_bytes(file_of(GOOD))
    _into_blobs(snapshot)


def _shards(folder: Path) -> None:
    placed = {}
    for number in (1, 2):
        shard = f"model-0000{number}-of-00002.safetensors"
        (folder / shard).write_bytes(file_of({f"fc{number}.weight": entry()}))
        placed[f"fc{number}.weight"] = shard
    index = {"metadata": {"total_size": 96}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


_odd("sharded", "model.safetensors.index.json")(_shards)


@_odd("hard_links")
def _hard_links(folder: Path) -> None:
    (folder / "data.bin").write_bytes(bytes(48))
    save(external(("location", "data.bin")), folder)
    os.link(folder / "data.bin", folder / "second.bin")
    os.link(folder / "model.onnx", folder / "second.onnx")


@_odd("target_is_a_link", "link.onnx")
def _target_link(folder: Path) -> None:
    (folder / "deep").mkdir()
    save(build(_NODES), folder / "deep")
    (folder / "link.onnx").symlink_to("deep/model.onnx")


@_odd("data_below_with_offset")
def _below(folder: Path) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "w").write_bytes(bytes(4096 + 48))
    entries = (
        ("location", "./a/b/w"),
        ("offset", "4096"),
        ("length", "48"),
        ("checksum", "0" * 40),
    )
    save(external(*entries), folder)


@_odd("data_in_many_files")
def _many(folder: Path) -> None:
    names = [f"w{n}" for n in range(300)]
    for name in names:
        (folder / name).write_bytes(bytes(48))
    tensors = [external_tensor(name, ("location", name)) for name in names]
    nodes = [helper.make_node("MatMul", ["x", name], [f"y{name}"], name) for name in names]
    save(build([*nodes, FC, helper.make_node("Relu", ["h"], ["y"])], tensors), folder)


def _typed(dtype: int, raw: bytes) -> onnx.ModelProto:
    weight = TensorProto(name="v", data_type=dtype, dims=[4, 3], raw_data=raw)
    nodes = [
        FC,
        helper.make_node("Cast", ["v"], ["f"], to=FLOAT),
        helper.make_node("MatMul", ["x", "f"], ["m"], "typed"),
        helper.make_node("Add", ["h", "m"], ["y"]),
    ]
    return build(nodes, [weight], opset=21)


_proto("onnx_bfloat16", _typed(TensorProto.BFLOAT16, bytes(24)))
_proto("onnx_float8", _typed(TensorProto.FLOAT8E4M3FN, bytes(12)))
_proto("onnx_float8_fnuz", _typed(TensorProto.FLOAT8E5M2FNUZ, bytes(12)))
_proto("onnx_int4", _typed(TensorProto.INT4, bytes(6)))
_proto("onnx_float16", _typed(TensorProto.FLOAT16, bytes(24)))
_proto("onnx_double", _typed(TensorProto.DOUBLE, bytes(96)))


def _sparse() -> onnx.ModelProto:
    model = build([FC, helper.make_node("MatMul", ["x", "v"], ["y"], "outer")])
    sparse = model.graph.sparse_initializer.add(dims=[4, 3])
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(2, np.float32), "v"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([1, 7]), "i"))
    return model


def _changed(model: onnx.ModelProto, **fields: Any) -> onnx.ModelProto:
    for name, value in fields.items():
        setattr(model, name, value)
    return model


def _empty_graph() -> onnx.ModelProto:
    model = build([])
    del model.graph.initializer[:]
    del model.graph.output[:]
    return model


def _inputs_too() -> onnx.ModelProto:
    model = _changed(build(_NODES, opset=8), ir_version=3)
    model.graph.input.append(helper.make_tensor_value_info("w", FLOAT, [4, 3]))
    return model


def _shape_of(*shape: Any) -> onnx.ModelProto:
    return build(_NODES, shape=shape)


def _renamed(name: str) -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.zeros((4, 3), np.float32), name)
    nodes = [helper.make_node("MatMul", ["x", name], ["h"], name), _NODES[1]]
    return build(nodes, [weight])


_proto("sparse_initializer", _sparse())
_proto("empty_graph", _empty_graph())
_proto("identity_only", build([helper.make_node("Identity", ["x"], ["y"])]))
_proto("ir_3_with_weights_as_inputs", _inputs_too())
_proto("dimension_zero", _shape_of(0, 4))
_proto("dimension_question_mark", _shape_of("?", 4))
_proto("nodes_without_names", build([helper.make_node("MatMul", ["x", "w"], ["h"]), _NODES[1]]))
_proto("name_unicode", _renamed("слой/重み.weight"))
_proto("name_blanks", _renamed(" fc 1 : weight "))
_proto("name_number", _renamed("1"))
_proto("opset_7", build(_NODES, opset=7))
_proto("opset_13", build(_NODES, opset=13))
_proto("opset_22", build(_NODES, opset=22))
_proto("unused_weight", build(_NODES, [constant("unused", np.ones((5, 5)), np.float32)]))
_proto(
    "scalar_and_empty_weights",
    build(
        _NODES,
        [constant("s", 1.0, np.float32), constant("e", np.zeros((0, 4)), np.float32)],
    ),
)
_proto(
    "honest_loop",
    build(
        loop(3, loop_body([helper.make_node("Relu", ["a"], ["b"])], FLOAT), "h"),
        [GO, constant("trips", 3)],
    ),
)
_proto(
    "custom_operator", build([FC, helper.make_node("Mystery", ["h"], ["y"], domain="com.example")])
)
_proto("text_input", build([*_NODES, helper.make_node("Identity", ["x"], ["z"])]))


def _function_model() -> onnx.ModelProto:
    opset = helper.make_opsetid("", 17)
    inner = [helper.make_node("MatMul", ["a", "b"], ["c"]), helper.make_node("Relu", ["c"], ["d"])]
    function = helper.make_function("local", "block", ["a", "b"], ["d"], inner, [opset])
    call = helper.make_node("block", ["x", "w"], ["y"], "block1", domain="local")
    return build([call], functions=[function])


_proto("local_function", _function_model())


def _header(name: str, header: Any, data: bytes) -> None:
    ODD.content(name, file_of(header, data), End.LINTED, suffix=".safetensors")


_header("safetensors_bfloat16", {"fc.weight": entry(dtype="BF16", end=24)}, bytes(24))
_header("safetensors_float8", {"fc.weight": entry(dtype="F8_E4M3", end=12)}, bytes(12))
_header("safetensors_float8_e5m2", {"fc.weight": entry(dtype="F8_E5M2", end=12)}, bytes(12))
_header("safetensors_float4", {"fc.weight": entry((4, 4), dtype="F4", end=8)}, bytes(8))
_header("safetensors_padded", json.dumps(GOOD).encode() + b" " * 500, bytes(48))
_header("safetensors_scalar", {"temperature": entry((), end=4)}, bytes(4))
_header("safetensors_empty_tensor", {**GOOD, "e": entry((0, 7), start=48, end=48)}, bytes(48))
_header("safetensors_integers", {"position_ids": entry((6,), dtype="I64")}, bytes(48))
_header("safetensors_complex", {"rope": entry((6,), dtype="C64")}, bytes(48))
_header(
    "safetensors_order_reversed",
    {"b.weight": entry(start=48, end=96), "a.weight": entry()},
    bytes(96),
)


def _checkpoint(name: str, pickled: bytes, target: str = "model.pt", **more: Any) -> None:
    _odd(name, target)(partial(checkpoint, pickled=pickled, name=target, **more))


_checkpoint("pickle_pth", state_dict(), "model.pth")
_checkpoint("pickle_bin", state_dict(), "pytorch_model.bin")
_checkpoint("pickle_ckpt", state_dict(), "model.ckpt")
_checkpoint("pickle_tied", state_dict({"a.weight": tensor(), "b.weight": tensor()}))
_checkpoint("pickle_transposed", state_dict({"a.weight": tensor((3, 4), (1, 3))}))
_checkpoint("pickle_slice", state_dict({"a.weight": tensor((2, 2), (3, 1), 4)}))
_checkpoint(
    "pickle_bfloat16",
    state_dict({"a.weight": tensor(source=storage(kind="BFloat16Storage"))}),
    storages={"0": bytes(24)},
)
_checkpoint(
    "pickle_training_state",
    b"\x80\x02}(X\x05\0\0\0epochK\x03X\x0a\0\0\0state_dict" + state_dict()[2:-1] + b"u.",
)


@_odd("pickle_deflated", "model.pt")
def _deflated(folder: Path) -> None:
    members = [
        Member("archive/data.pkl", state_dict(), method=8),
        Member("archive/data/0", np.arange(12, dtype="<f4").tobytes(), method=8),
    ]
    (folder / "model.pt").write_bytes(archive(members))


@_odd("pickle_of_arrays", "model.pt")
def _arrays(folder: Path) -> None:
    buffer = io.BytesIO()
    pickle.dump(OrderedDict({"fc.weight": np.zeros((4, 3), np.float32)}), buffer, protocol=2)
    (folder / "model.pt").write_bytes(buffer.getvalue())


@_odd("folder_with_pickle", "")
def _bin_folder(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    checkpoint(folder, name="pytorch_model.bin", storages={"0": values()})


_odd("exported_program", "model.pt2")(exported)
