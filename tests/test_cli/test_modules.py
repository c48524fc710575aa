"""Modules as targets, from end to end."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

SOURCE = """
import sys
import torch
from torch import nn

print("printed while importing")
print("to stderr", file=sys.stderr)


def stack(depth, width):
    layers = []
    for _ in range(depth):
        layers.append(nn.Linear(width, width))  # constructor
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class Net(nn.Module):
    def __init__(self, depth=8, width=64, std=0.01):
        super().__init__()
        self.body = stack(depth, width)
        self.head = nn.Linear(width, 5)
        for layer in self.body:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, 0.0, std)

    def forward(self, x):
        print("printed in forward")
        return self.head(self.body(x))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)  # prototype
        self.encoder = nn.TransformerEncoder(layer, 3)  # stack

    def forward(self, x):
        return self.encoder(x)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(7, 8), nn.Linear(3, 8)

    def forward(self, a, b):
        return self.left(a) * torch.sigmoid(self.right(b))


class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        raise RuntimeError("the user's own words")  # raises


class Needs(nn.Module):
    def __init__(self, width, depth=1):
        super().__init__()


def number():
    return 3


def seeded():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4))


shared = nn.Linear(8, 8)
"""


@pytest.fixture
def net(here: Path) -> Path:
    path = here / "net.py"
    path.write_text(SOURCE)
    return path


def line(path: Path, mark: str) -> int:
    lines = path.read_text().splitlines()
    return next(number for number, text in enumerate(lines, 1) if text.endswith(mark))


def findings(result, code=None):
    (target,) = json.loads(result.out)["targets"]
    if code is not None:
        assert result.code == code
    return target, {item["name"]: item for item in target["findings"]}


def test_place_of_the_constructor_and_an_inline_allow(call, net) -> None:
    _, found = findings(call("net.py:Net", "--format", "json"), 1)
    finding = found["gain-mismatch"]
    where = finding["location"]
    assert (Path(where["file"]).name, where["line"]) == ("net.py", line(net, "# constructor"))
    text = call("net.py:Net").out
    assert f"net.py:{line(net, '# constructor')}" in text
    net.write_text(
        SOURCE.replace("# constructor", "# initlint: allow[gain-mismatch] -- an experiment")
    )
    _, found = findings(call("net.py:Net", "--format", "json"))
    assert found["gain-mismatch"]["suppressed"]["kind"] == "inline"
    assert found["gain-mismatch"]["suppressed"]["reason"] == "an experiment"


def test_place_of_a_cloned_encoder_layer_is_the_prototype(call, net) -> None:
    _, found = findings(call("net.py:Encoder", "--format", "json", "--input-shape", "4,6,16"))
    assert found["duplicate-layers"]["location"]["line"] == line(net, "# prototype")


def test_place_in_a_model_of_a_library(call, here) -> None:
    pytest.importorskip("transformers")
    (here / "bert.py").write_text(
        textwrap.dedent(
            """
            import transformers

            def build():
                config = transformers.BertConfig(
                    vocab_size=30, hidden_size=16, num_hidden_layers=1,
                    num_attention_heads=2, intermediate_size=32,
                )
                model = transformers.BertModel(config)  # here
                model.pooler.dense.weight.data[0, 0] = float("nan")
                return model
            """
        )
    )
    result = call("bert.py:build", "--format", "json", "--no-probe")
    target, _ = findings(result)
    lines = {finding["location"]["line"] for finding in target["findings"]}
    assert lines == {line(here / "bert.py", "# here")}


def test_prints_do_not_reach_the_report(shell, net) -> None:
    result = shell("net.py:Net", "--format", "json")
    assert json.loads(result.out)["targets"][0]["target"] == "net.py:Net"
    assert "printed" not in result.out


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        (("--input-shape", "6,64"), "float32[6, 64]"),
        (("--args", '{"width": 32, "depth": 2}', "--input-shape", "5,32"), "float32[5, 32]"),
        (("--arg", "width=32"), "float32[16, 32]"),
        (("--args", '{"width": 16}', "--arg", "width=24"), "float32[16, 24]"),
        (("--input-shape", "6,64", "--input-dtype", "float64"), None),
    ],
)
def test_arguments_and_shapes(call, net, arguments, shape) -> None:
    result = call("net.py:Net", "--format", "json", *arguments)
    if shape is None:
        assert result.code == 2
        assert "forward raised RuntimeError" in result.err
        return
    target, _ = findings(result)
    assert target["probe"]["inputs"] == {"x": shape}


def test_inputs_from_a_file(call, net, here) -> None:
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(9, 7)), rng.normal(size=(9, 3))
    np.savez(here / "batch.npz", b=right.astype("f4"), a=left.astype("f4"))
    target, _ = findings(call("net.py:Pair", "--input", "batch.npz", "--format", "json"))
    assert target["probe"]["inputs"] == {"a": "float32[9, 7]", "b": "float32[9, 3]"}
    exported, _ = findings(
        call("net.py:Pair", "--input", "batch.npz", "--via", "onnx", "--format", "json")
    )
    assert exported["probe"]["status"] == "ok"


def test_inputs_beside_the_model(call, net) -> None:
    net.write_text(f"{SOURCE}\n\ndef example_inputs():\n    return torch.ones(3, 64)\n")
    target, _ = findings(call("net.py:Net", "--format", "json"))
    assert target["probe"]["inputs"] == {"x": "float32[3, 64]"}
    assert target["notices"] == []


def test_a_guess_is_said(call, net) -> None:
    assert "inputs worked out from the first layers" in call("net.py:Net").out


@pytest.mark.parametrize("loss", ["mse", "energy", "cross_entropy", "binary_cross_entropy"])
def test_losses(call, net, loss) -> None:
    target, _ = findings(call("net.py:seeded", "--loss", loss, "--format", "json"))
    assert target["probe"]["status"] == "ok"


def test_via_onnx_agrees_and_leaves_nothing(call, net, here, monkeypatch) -> None:
    pytest.importorskip("onnxscript")
    scratch = here / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr("tempfile.tempdir", None)
    _, left = findings(call("net.py:Net", "--format", "json"))
    exported, right = findings(call("net.py:Net", "--via", "onnx", "--format", "json"))
    assert not list(scratch.glob("initlint-*"))
    assert exported["kind"] == "onnx"
    one, two = left["gain-mismatch"], right["gain-mismatch"]
    for key in ("layer", "layers", "param", "severity", "location", "fingerprint"):
        assert one[key] == two[key]


def test_via_onnx_needs_a_module(call) -> None:
    result = call("healthy.safetensors", "--via", "onnx")
    assert result.code == 2
    assert "exports a module (pkg.module:Net), not a checkpoint" in result.err


def test_seeds(call, net) -> None:
    _, found = findings(call("net.py:seeded", "--seeds", "3", "--format", "json"))
    assert found["seed-insensitive"]["severity"] == "warning"
    target, found = findings(call("net.py:shared", "--seeds", "2", "--format", "json"))
    assert "seed-insensitive" not in found
    assert any("only one draw" in notice for notice in target["notices"])
    target, _ = findings(call("healthy.safetensors", "--seeds", "2", "--format", "json"))
    assert any("a file holds one draw" in notice for notice in target["notices"])


def test_structure_only_allocates_nothing(call, net) -> None:
    arguments = ("--args", '{"width": 200000, "depth": 40}', "--structure-only")
    target, _ = findings(call("net.py:Net", "--format", "json", *arguments))
    assert target["parameters"] > 10**12
    assert target["findings"] == []
    assert any("structure only" in notice for notice in target["notices"])


@pytest.mark.parametrize(
    ("target", "arguments", "message"),
    [
        ("Broken", ("--input-shape", "2,4"), "RuntimeError: the user's own words at net.py:"),
        ("Needs", (), "needs width: give them with --args '{\"width\": …}'"),
        ("Needs", ("--arg", "wdth=3"), "needs width"),
        ("number", (), "expected a torch.nn.Module or something that returns one, got int"),
        ("Nett", (), "no 'Nett' in net; did you mean 'Net'?"),
        ("Net", ("--args", "[1]"), "--args is '[1]'; write it as a JSON object"),
        ("Net", ("--input", "gone.npz"), "gone.npz"),
        ("Net", ("--input-dtype", "float33", "--input-shape", "1,2"), "no such dtype"),
    ],
)
def test_mistakes_are_one_line(call, net, target, arguments, message) -> None:
    result = call(f"net.py:{target}", *arguments)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1


def test_import_errors_are_one_line(call, here) -> None:
    (here / "bad.py").write_text("x = 1\nimport no_such_package_here\n")
    result = call("bad.py:Net")
    assert result.code == 2
    assert "No module named 'no_such_package_here' at bad.py:2" in result.err
    (here / "worse.py").write_text("def f(:\n")
    assert "SyntaxError" in (result := call("worse.py:Net")).err
    assert "worse.py:1" in result.err
    assert "no module 'no_such_place'" in call("no_such_place.net:Net").err
