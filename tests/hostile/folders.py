"""Exported programs with payloads, hostile folders, odd kinds of files, other formats."""

from __future__ import annotations

import json
import os
import socket
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.hostile.case import Cases, End
from tests.hostile.onnx_files import LFS_POINTER, WEB_PAGE
from tests.hostile.onnx_graphs import FC, build
from tests.hostile.pickles import CODE, COMMAND, call, proto, text
from tests.hostile.safetensors_files import GOOD, entry, file_of
from tests.hostile.zips import Member, archive, checkpoint

EXPORTS = Cases("exported programs", ".pt2")
FOLDERS = Cases("folders", "")
TARGETS = Cases("targets", ".onnx")

EVIL = proto(call("os", "system", text(COMMAND)))


def weight(path: str = "weight_0", **changes: Any) -> dict[str, Any]:
    meta = {
        "dtype": 7,
        "sizes": [{"as_int": 4}, {"as_int": 3}],
        "strides": [{"as_int": 3}, {"as_int": 1}],
        "storage_offset": {"as_int": 0},
        "requires_grad": True,
    }
    meta.update(changes.pop("meta", {}))
    return {
        "path_name": path,
        "is_param": True,
        "use_pickle": False,
        "tensor_meta": meta,
        **changes,
    }


def exported(folder: Path, config: Any = None, extra: tuple[Member, ...] = ()) -> None:
    entries = {"config": {"fc.weight": weight()}} if config is None else config
    raw = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    members = (
        Member("m/archive_format", b"pt2"),
        Member("m/archive_version", b"0"),
        Member("m/models/model.json", b"{}"),
        Member("m/data/weights/model_weights_config.json", raw),
        Member("m/data/weights/weight_0", np.zeros(12, "<f4").tobytes()),
        *extra,
    )
    (folder / "model.pt2").write_bytes(archive(members))


EXPORTS.add("pickled_inputs", End.LINTED)(
    partial(exported, extra=(Member("m/data/sample_inputs/model.pt", EVIL),))
)
EXPORTS.add("pickled_constant", End.LINTED)(
    partial(exported, extra=(Member("m/data/constants/opaque_0", EVIL),))
)
EXPORTS.add("guards_code", End.LINTED)(
    partial(
        exported,
        extra=(Member("m/models/guards.json", json.dumps({"guards_code": [CODE]}).encode()),),
    )
)
for _name, _config in {
    "pickled_weights": {"config": {"w": weight(use_pickle=True)}},
    "path_escapes": {"config": {"w": weight("../../../etc/passwd")}},
    "path_missing": {"config": {"w": weight("gone")}},
    "symbolic_size": {"config": {"w": weight(meta={"sizes": [{"as_expr": CODE}, {"as_int": 3}]})}},
    "symbolic_tower": {"config": {"w": weight(meta={"sizes": [{"as_expr": "9**9**9**9"}]})}},
    "size_huge": {"config": {"w": weight(meta={"sizes": [{"as_int": 2**62}, {"as_int": 3}]})}},
    "size_bool": {"config": {"w": weight(meta={"sizes": [{"as_int": True}, {"as_int": 3}]})}},
    "offset_text": {"config": {"w": weight(meta={"storage_offset": "0"})}},
    "offset_huge": {"config": {"w": weight(meta={"storage_offset": {"as_int": 2**40}})}},
    "dtype_unknown": {"config": {"w": weight(meta={"dtype": 999})}},
    "dtype_list": {"config": {"w": weight(meta={"dtype": [7]})}},
    "config_list": {"config": [1]},
    "config_nested": b'{"config":' * 100_000,
    "config_empty": {"config": {}},
}.items():
    EXPORTS.add(_name)(partial(exported, config=_config))


@EXPORTS.add("old_layout", End.REFUSED, "pickled")
def _old(folder: Path) -> None:
    members = [
        Member("serialized_exported_program.json", b"{}"),
        Member("serialized_state_dict.pt", EVIL),
    ]
    (folder / "model.pt2").write_bytes(archive(members))


def hub(folder: Path, config: Any = None, **files: bytes) -> None:
    """A folder with ``config.json`` and one safetensors file, and more files beside."""
    raw = (
        config if isinstance(config, bytes) else json.dumps(config or {"model_type": "x"}).encode()
    )
    (folder / "config.json").write_bytes(raw)
    (folder / "model.safetensors").write_bytes(file_of(GOOD))
    for name, data in files.items():
        (folder / name.replace("__", ".")).write_bytes(data)


FOLDERS.add("code_beside", End.LINTED)(
    partial(
        hub,
        config={"auto_map": {"AutoModel": "modeling.Net"}, "model_type": "evil"},
        modeling__py=CODE.encode(),
        optimizer__pt=EVIL,
        training_args__bin=EVIL,
        pytorch_model__bin=EVIL,
        scheduler__pt=EVIL,
    )
)
FOLDERS.add("config_nested", End.REFUSED)(partial(hub, config=b"[" * 200_000))
FOLDERS.add("config_list", End.REFUSED)(partial(hub, config=b"[1]"))
FOLDERS.add("config_huge", End.REFUSED)(partial(hub, config=b'{"a":"' + b"x" * 2_000_000 + b'"}'))
FOLDERS.add("config_numbers", End.ANY)(partial(hub, config={"num_attention_heads": 10**30}))
FOLDERS.add("config_types", End.ANY)(
    partial(hub, config={"num_attention_heads": "many", "hidden_size": [1], "architectures": 7})
)


@FOLDERS.add("project_settings", End.NOT_CLEAN)
def _settings(folder: Path) -> None:
    hub(folder)
    not_numbers = np.full(12, np.nan, "<f4").tobytes()
    (folder / "model.safetensors").write_bytes(file_of(GOOD, not_numbers))
    (folder / "pyproject.toml").write_text('[tool.initlint]\nignore = ["ALL"]\nexit-zero = true\n')
    (folder / "initlint.toml").write_text('ignore = ["ALL"]\n')


def _linked(folder: Path, name: str, target: str) -> None:
    hub(folder)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)


FOLDERS.add("weights_link_outside", End.REFUSED)(
    partial(_linked, name="model.safetensors", target="/etc/passwd")
)
FOLDERS.add("config_link_outside", End.REFUSED)(
    partial(_linked, name="config.json", target="/etc/passwd")
)


@FOLDERS.add("config_fifo", End.REFUSED)
def _config_fifo(folder: Path) -> None:
    hub(folder)
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


@FOLDERS.add("blob_link_escapes", End.REFUSED, target="models--a--b/snapshots/0")
def _blob(folder: Path) -> None:
    snapshot = folder / "models--a--b" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (folder / "models--a--b" / "blobs").mkdir()
    (folder / "models--a--b" / "blobs" / "abc").symlink_to("/etc/passwd")
    hub(snapshot)
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to("../../blobs/abc")


@FOLDERS.add("blob_of_other_repository", End.REFUSED, target="models--a--b/snapshots/0")
def _other_blob(folder: Path) -> None:
    snapshot = folder / "models--a--b" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (folder / "models--c--d" / "blobs").mkdir(parents=True)
    (folder / "models--c--d" / "blobs" / "abc").write_bytes(file_of(GOOD))
    hub(snapshot)
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to("../../../models--c--d/blobs/abc")


@FOLDERS.add("shards_without_index_and_one_missing", End.REFUSED, "missing")
def _lost(folder: Path) -> None:
    hub(folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")


@FOLDERS.add("only_evil_pickle", End.REFUSED)
def _pickle(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    checkpoint(folder, EVIL, name="pytorch_model.bin")


@FOLDERS.add("no_model", End.REFUSED, "no model")
def _empty(folder: Path) -> None:
    (folder / "README.md").write_text("nothing")


@FOLDERS.add("loop_of_links", End.LINTED)
def _loop(folder: Path) -> None:
    hub(folder)
    (folder / "again").symlink_to(".")


@FOLDERS.add("entries_120000", End.REFUSED, "more than")
def _many(folder: Path) -> None:
    for block in range(3):
        (folder / f"d{block}").mkdir()
        for number in range(40_000):
            (folder / f"d{block}" / f"{number}").touch()


@FOLDERS.add("depth_2000", End.REFUSED)
def _deep(folder: Path) -> None:
    here = os.open(folder, os.O_RDONLY)
    for _ in range(2000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def _special(folder: Path, kind: str) -> None:
    path = folder / "model.onnx"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        here = os.getcwd()
        os.chdir(folder)  # the path of a socket may not be long
        try:
            socket.socket(socket.AF_UNIX).bind("model.onnx")
        finally:
            os.chdir(here)
    elif kind == "folder":
        path.mkdir()
    elif kind == "dangling":
        path.symlink_to("gone")
    elif kind == "circle":
        path.symlink_to("model.onnx")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "process":
        path.symlink_to("/proc/self/environ")


for _kind in ("fifo", "socket", "folder", "dangling", "circle", "device", "process"):
    TARGETS.add(_kind)(partial(_special, kind=_kind))
TARGETS.add("gone")(lambda folder: None)

for _suffix in (".onnx", ".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".pt2"):
    TARGETS.content(f"pointer{_suffix}", LFS_POINTER, words="Git LFS", suffix=_suffix)
    TARGETS.content(f"page{_suffix}", WEB_PAGE, words="web page", suffix=_suffix)
    TARGETS.content(f"empty{_suffix}", b"", words="empty", suffix=_suffix)
    TARGETS.content(f"noise{_suffix}", bytes(range(255, 0, -1)) * 30, suffix=_suffix)
for _suffix in (".h5", ".gguf", ".tflite", ".npz", ".pkl", ".txt", ".py", ".gz", ""):
    TARGETS.content(f"other{_suffix}", b"\x89something" * 50, End.REFUSED, suffix=_suffix or ".")
_ONNX = build([FC]).SerializeToString()
TARGETS.content("onnx_as_pt", _ONNX, suffix=".pt")
TARGETS.content("onnx_as_safetensors", _ONNX, suffix=".safetensors")
TARGETS.content("safetensors_as_onnx", file_of({"w": entry()}), words="safetensors")
TARGETS.content("safetensors_as_pt", file_of({"w": entry()}), End.ANY, suffix=".pt")
TARGETS.content("pickle_as_onnx", EVIL, words="pickle")
TARGETS.content("tar_as_pt", b"x" * 257 + b"ustar\0" + bytes(1000), suffix=".pt")
TARGETS.content("program_as_onnx", b"\x7fELF" + bytes(1000))
for _label, _file in (
    ("terminal_codes", "a\x1b[31mred\x1b[0m.onnx"),
    ("new_lines", "a\n::error::pwned\n.onnx"),
    ("not_utf8", os.fsdecode(b"a\xff\xfe.onnx")),
    ("option", "--help.onnx"),
    ("glob", "[a-z]*?.onnx"),
    ("spec", "os:system.onnx"),
):
    TARGETS.add(f"name_{_label}", End.NOT_CLEAN, target=_file)(
        lambda folder, name=_file: (folder / name).write_bytes(_ONNX) and None
    )
