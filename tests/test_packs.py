"""The template of a rule pack: installed as a user would, and run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pack")
    shutil.copytree(ROOT / "fixtures" / "packs" / "template", folder / "source")
    target = folder / "site"
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target"]
    command = [sys.executable, "-m", "pip", "install", *options, str(target)]
    done = subprocess.run(
        [*command, str(folder / "source")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def model(tmp_path):
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 0.5, (4, 4)).astype(np.float32)
    bias = np.full(4, 9, np.float32)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 4]) for n in ("x", "y")]
    weights = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], weights)
    path = tmp_path / "net.onnx"
    save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        path,
    )
    return path


def initlint(site, *arguments):
    library = os.pathsep.join(map(str, (site, ROOT, ROOT / "rules")))
    return subprocess.run(
        [sys.executable, "-m", "initlint", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": library},
        capture_output=True,
        text=True,
        check=False,
    )


def test_its_rule_runs_with_the_others(installed, model):
    done = initlint(installed, model, "--select", "wide-bias", "--format", "json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["targets"][0]["findings"]
    assert (found["code"], found["evidence"]) == ("TPL001", {"max_abs": 9.0})
    assert "convention" in initlint(installed, "explain", "TPL001").stdout


def test_a_malformed_rule_is_named_with_file_and_line(installed, model, tmp_path):
    broken = tmp_path / "site"
    shutil.copytree(installed, broken)
    file = broken / "template_rules" / "wide_bias.py"
    file.write_text(file.read_text().replace('"TPL001"', '"T1"'))
    line = 1 + file.read_text().splitlines().index("class WideBias(Rule):")
    done = initlint(broken, model)
    assert done.returncode == 2
    assert f"wide_bias.py:{line}: WideBias.code is 'T1'" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
