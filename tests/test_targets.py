"""What target strings mean."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from initlint.targets import Form, TargetError, check_file, is_spec, resolve

ONNX = b"\x08\x08\x12\x07pytorch"
ZIP = b"PK\x03\x04" + b"\0" * 60
SAFETENSORS = (2).to_bytes(8, "little") + b"{}"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(path, data=ONNX):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def texts(text):
    return [target.text for target in resolve(text)]


def problem(text, commands=()):
    with pytest.raises(TargetError) as caught:
        resolve(text, commands)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) <= 300
    return message


@pytest.mark.parametrize("text", ["pkg.module:Net", "net:build", "a.b:C.create", "sub/net.py:Net"])
def test_specs(text):
    assert is_spec(text)


@pytest.mark.parametrize(
    "text", ["model.onnx", "a:b()", "a.b:c d", "os:system;x", "C:\\m.onnx", "a:", ":b", "a-b:c"]
)
def test_not_specs(text):
    assert not is_spec(text)


def test_spec_is_the_users_own_code(here):
    put(here / "net.py", b"")
    (target,) = resolve("net.py:Net")
    assert target.python
    assert target.form is Form.SPEC
    assert problem("other.py:Net") == "there is no file other.py"


def test_a_file_named_like_a_spec_is_a_file(here):
    put(here / "net:build")
    assert not is_spec("net:build")


def test_file_with_its_external_data(here):
    put(here / "m.onnx")
    put(here / "m.onnx.data", b"x" * 8192)
    put(here / "other.onnx", b"y" * 8192)
    (target,) = resolve("m.onnx")
    assert (target.form, target.files) == (Form.FILE, 2)
    assert target.size >= 8192


def test_sparse_file_does_not_raise_the_memory_limit(here):
    put(here / "m.onnx")
    with open(here / "m.onnx.data", "wb") as file:
        file.truncate(1 << 40)
    (target,) = resolve("m.onnx")
    assert target.size < 1 << 30


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("m.onnx", b"", "is empty"),
        ("m.onnx", b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        ("m.onnx", b"\n<!DOCTYPE html>\n<html>", "is a web page"),
        ("m.onnx", b"<HTML>", "is a web page"),
        ("m.onnx", ZIP, "rename it to *.pt"),
        ("m.onnx", SAFETENSORS, "rename it to *.safetensors"),
        ("m.safetensors", b"\x80\x02}q\0.", "holds a pickle"),
        ("m.pt", SAFETENSORS, "rename it to *.safetensors"),
        ("m.gguf", b"GGUF\3\0\0\0", "is a GGUF file"),
        ("m.h5", b"\x89HDF", "is a Keras file"),
        ("m.pb", b"\x0a\x20", "export it as ONNX"),
        ("m.txt", b"hello", "no extension of a model file"),
        ("net.py", b"import torch", "net.py:Net"),
    ],
)
def test_what_is_no_model_is_said_in_one_line(here, name, data, expected):
    put(here / name, data)
    assert expected in problem(name)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("m.onnx", ONNX),
        ("M.ONNX", ONNX),
        ("m.pt", ZIP),
        ("m.pth", b"\x80\x02}q\0."),
        ("m.ckpt", ZIP),
        ("m.pt2", ZIP),
        ("m.safetensors", SAFETENSORS),
        ("m.safetensors.index.json", b'{"weight_map": {}}'),
    ],
)
def test_model_files_pass(here, name, data):
    put(here / name, data)
    check_file(name)


def test_missing_names_what_is_near(here):
    put(here / "model.onnx")
    assert problem("modle.onnx").endswith("did you mean model.onnx?")
    assert "`initlint explain`" in problem("explian", ["check", "explain"])
    assert "not a spec" in problem("some-thing:x")
    assert problem("nope") == "there is no such file or folder"


def test_unreadable_kinds_of_path(here):
    os.mkfifo(here / "pipe.onnx")
    assert problem("pipe.onnx") == "is not a regular file"
    assert "NUL" in problem("a\0b")
    assert "cannot be read" in problem("x" * 5000)


def test_permission_denied(here):
    path = put(here / "m.onnx")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("runs as a user that may read everything")
    assert "permission denied" in problem("m.onnx")


def test_folder_of_models(here):
    for name in ("b.onnx", "a.pt", "sub/c.safetensors", ".hidden/d.onnx", "notes.txt"):
        put(here / "models" / name, ZIP if name.endswith(".pt") else ONNX)
    put(here / "models" / "raw.bin", b"\0" * 64)
    put(here / "models" / "optimizer.pt", ZIP)
    assert texts("models") == ["models/a.pt", "models/b.onnx", "models/sub/c.safetensors"]


def test_shards_are_one_model(here):
    for name in ("m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"):
        put(here / "d" / name, SAFETENSORS + b"\0" * 5000)
    put(here / "d" / "m.safetensors.index.json", b"{}")
    (target,) = resolve("d")
    assert target.text == "d/m.safetensors.index.json"
    assert target.files == 3


def test_hugging_face_folder_is_one_target(here):
    put(here / "bert" / "config.json", b"{}")
    put(here / "bert" / "model.safetensors", SAFETENSORS)
    put(here / "bert" / "onnx" / "model.onnx")
    found = resolve("bert")
    assert [(target.text, target.form) for target in found] == [
        ("bert", Form.FOLDER),
        ("bert/onnx/model.onnx", Form.FILE),
    ]


def test_config_alone_is_no_model(here):
    put(here / "d" / "config.json", b"{}")
    assert "no model in this folder" in problem("d")


def test_pattern(here):
    put(here / "a.onnx")
    put(here / "b.onnx")
    put(here / "b.txt")
    assert texts("*.onnx") == ["a.onnx", "b.onnx"]
    assert texts("**/*.onnx") == ["a.onnx", "b.onnx"]
    assert problem("*.safetensors") == "no model matches this pattern"


def test_depth_of_a_folder_is_no_recursion(tmp_path):
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    try:
        with pytest.raises(TargetError, match="no model"):
            resolve(str(tmp_path))
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)  # shutil recurses too


def test_patterns_reach_below_and_meet_each_file_once(here):
    for name in (
        "a/m.onnx",
        "a/deep/er/m.onnx",
        "b/w.safetensors",
        ".hidden/x.onnx",
        "logs/run.txt",
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"data")
    os.symlink("..", "a/loop")
    os.symlink("../..", "a/deep/loop")
    expected = ["a/deep/er/m.onnx", "a/m.onnx", "b/w.safetensors"]
    assert sorted(os.path.normpath(t.text) for t in resolve("**")) == expected
    assert [t.text for t in resolve("**/*.onnx")] == ["a/deep/er/m.onnx", "a/m.onnx"]
    assert sorted(t.text for t in resolve("*")) == expected  # a folder without models is no fault
    assert sorted(t.text for t in resolve(".")) == [f"./{name}" for name in expected]
    with pytest.raises(TargetError, match="no model matches"):
        resolve("logs*")
