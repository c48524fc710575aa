"""Models in object stores: the same report, few bytes, and nothing beside the model."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from initlint.__main__ import main

fsspec = pytest.importorskip("fsspec", reason="needs the extra initlint[remote]")

from fsspec.implementations.memory import MemoryFileSystem  # noqa: E402

from initlint import check  # noqa: E402
from initlint.load import files  # noqa: E402
from initlint.load.checkpoint import load_checkpoint  # noqa: E402
from initlint.remote import RemoteError, Store, is_remote  # noqa: E402


class Counted(MemoryFileSystem):
    """An object store in memory that counts what is fetched."""

    protocol = "counted"
    store: dict = {}  # noqa: RUF012 - as in the base class
    pseudo_dirs = [""]  # noqa: RUF012
    ranges: list = []  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.replace("counted://", "memory://", 1))

    def cat_file(self, path, start=None, end=None, **more):
        data = super().cat_file(path, start, end, **more)
        self.ranges.append((path, start, len(data)))
        return data


@pytest.fixture
def store():
    fsspec.register_implementation("counted", Counted, clobber=True)
    Counted.store.clear()
    Counted.ranges.clear()
    yield fsspec.filesystem("counted")
    Counted.store.clear()
    files._links.clear()


def weights(seed: int, layers: int = 3, side: int = 64) -> dict:
    rng = np.random.default_rng(seed)
    return {f"layers.{n}.weight": rng.normal(size=(side, side)).astype("f4") for n in range(layers)}


def lint(capsys, *arguments: str) -> list:
    code = main([*arguments, "--format", "json", "--exit-zero"])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    return json.loads(shown.out)["targets"]


def test_same_findings_as_the_local_file_and_no_byte_twice(store, tmp_path, capsys):
    broken = weights(0, layers=4, side=512)
    broken["layers.1.weight"][3, 5] = np.nan
    save_file(broken, tmp_path / "m.safetensors")
    data = (tmp_path / "m.safetensors").read_bytes()
    store.pipe_file("/b/m.safetensors", data)
    (here,) = lint(capsys, str(tmp_path / "m.safetensors"))
    (there,) = lint(capsys, "counted://b/m.safetensors")
    assert there["target"] == "counted://b/m.safetensors"
    assert there["findings"] == here["findings"]
    assert here["findings"]
    sniffed = 512  # by the command, before a worker is started
    assert sum(length for *_, length in Counted.ranges) <= len(data) + (1 << 18) + sniffed


def test_opening_a_checkpoint_fetches_its_header_alone(store):
    data = save(weights(0, layers=8, side=512))
    store.pipe_file("/b/m.safetensors", data)
    served = Store(["counted://b/m.safetensors"])
    files.connect(served.fetch)
    model = load_checkpoint("counted://b/m.safetensors")
    assert len(model.graph) == 8
    assert sum(length for *_, length in Counted.ranges) <= 1 << 18 < len(data) / 20


def test_shards_folders_and_patterns(store, capsys):
    placed = {}
    for number in (1, 2):
        name = f"model-0000{number}-of-00002.safetensors"
        part = {f"layers.{number}.weight": weights(number, 1)["layers.0.weight"]}
        store.pipe_file(f"/hub/m/{name}", save(part))
        placed[f"layers.{number}.weight"] = name
    index = json.dumps({"weight_map": placed}).encode()
    store.pipe_file("/hub/m/model.safetensors.index.json", index)
    store.pipe_file("/hub/m/config.json", b"{}")
    store.pipe_file("/hub/other/deep/x.safetensors", save(weights(3)))
    store.pipe_file("/hub/notes.txt", b"no model")
    names = [target["target"] for target in lint(capsys, "counted://hub")]
    assert names == ["counted://hub/m", "counted://hub/other/deep/x.safetensors"]
    (sharded,) = lint(capsys, "counted://hub/m/model.safetensors.index.json")
    assert sharded["parameters"] == 2 * 64 * 64
    (globbed,) = lint(capsys, "counted://hub/other/*/x.safetensors")
    assert globbed["target"] == "counted://hub/other/deep/x.safetensors"


def test_onnx_with_external_data(store, tmp_path, capsys):
    import onnx
    from onnx import TensorProto, helper

    weight = onnx.numpy_helper.from_array(weights(1)["layers.0.weight"], "w")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, [8, 64])],
        [value("y", TensorProto.FLOAT, [8, 64])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.data", size_threshold=0)
    for name in ("m.onnx", "w.data"):
        store.pipe_file(f"/b/{name}", (tmp_path / name).read_bytes())
    (here,) = lint(capsys, str(path))
    (there,) = lint(capsys, "counted://b/m.onnx")
    assert there["findings"] == here["findings"]
    assert there["probe"]["status"] == here["probe"]["status"] == "ok"


def test_python_api(store):
    store.pipe_file("/b/m.safetensors", save(weights(0)))
    assert check("counted://b/m.safetensors").record["parameters"] == 3 * 64 * 64


def test_a_worker_gets_nothing_beside_the_model(store):
    store.pipe_file("/b/m/x.safetensors", b"x")
    store.pipe_file("/b/secret", b"y")
    served = Store(["counted://b/m/x.safetensors"])
    asked = (
        "counted://b/secret",
        "counted://b/m/../secret",
        "file:///etc/passwd",
        "/etc/passwd",
        5,
    )
    for url in asked:
        with pytest.raises(RemoteError, match="refused"):
            served.fetch({"what": "range", "path": url, "offset": 0, "length": 1})
    for offset, length in ((-1, 1), (0, -1), (0, 1 << 40), ("0", 1)):
        with pytest.raises(RemoteError, match="refused"):
            served.fetch(
                {
                    "what": "range",
                    "path": "counted://b/m/x.safetensors",
                    "offset": offset,
                    "length": length,
                }
            )


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("counted://b/none.safetensors", "there is no such file"),
        ("counted://b/empty.safetensors", "is empty"),
        ("counted://b/page.safetensors", "is a web page"),
        ("nosuch://b/m.safetensors", "nosuch"),
    ],
)
def test_mistakes_are_one_line(store, capsys, url, message):
    store.pipe_file("/b/empty.safetensors", b"")
    store.pipe_file("/b/page.safetensors", b"<!doctype html><html>")
    assert main([url]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_a_missing_package_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    assert main(["s3://bucket/m.safetensors"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "initlint[remote]" in error


def test_a_missing_protocol_package_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    assert main(["s3://bucket/m.safetensors"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "s3" in error


def test_a_file_that_changes_meanwhile_is_noticed(store):
    store.pipe_file("/b/m.safetensors", save(weights(0)))
    served = Store(["counted://b/m.safetensors"])
    files.connect(served.fetch)
    model = load_checkpoint("counted://b/m.safetensors")
    store.pipe_file("/b/m.safetensors", b"short")
    file = model.graph.order[0].params[0].tensor.source.file
    with pytest.raises(files.LoadError, match="changed while it was read"):
        file.check_unchanged()


def test_another_process_reads_ranges_over_http(tmp_path, capsys):
    pytest.importorskip("aiohttp", reason="fsspec reads http with aiohttp")
    data = save(weights(0, layers=4, side=256))

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Accept-Ranges", "bytes")
            self.end_headers()

        def do_GET(self):
            first, _, last = self.headers.get("Range", "bytes=0-")[6:].partition("-")
            start, stop = int(first), min(int(last or len(data) - 1), len(data) - 1)
            self.send_response(206)
            self.send_header("Content-Length", str(stop + 1 - start))
            self.send_header("Content-Range", f"bytes {start}-{stop}/{len(data)}")
            self.end_headers()
            self.wfile.write(data[start : stop + 1])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/m.safetensors"
    command = [sys.executable, "-m", "initlint", url, "--format", "json", "--exit-zero"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    server.shutdown()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["targets"][0]["parameters"] == 4 * 256 * 256


def test_what_is_a_url():
    for url in ("s3://b/m.onnx", "gs://b/x", "hf://org/m", "memory://x", "zip::s3://b/z.zip"):
        assert is_remote(url)
    for path in ("m.onnx", "C:\\m.onnx", "pkg.mod:Net", "./s3:/x", "a/b://c"):
        assert not is_remote(path)
