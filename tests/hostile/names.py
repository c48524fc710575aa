"""Names from files that try to command a terminal, a log, a page, a table or a CI runner.

Every model holds a zero weight, so every report has a finding to show the name in.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from onnx import helper, numpy_helper

from tests.hostile.case import Cases, End
from tests.hostile.onnx_graphs import build, save
from tests.hostile.safetensors_files import entry, file_of
from tests.hostile.zips import checkpoint, state_dict, tensor

NAMES = Cases("names", ".onnx")

PAYLOADS = {
    "ansi": "fc\x1b[2J\x1b[31mPWNED\x1b[0m",
    "osc": "fc\x1b]8;;http://evil.example\x07click\x1b]8;;\x07",
    "c1": "fc\x9b31m\x85next",
    "carriage": "fc\rclean: no findings",
    "workflow": "fc\n::error file=a.py,line=1::PWNED\n",
    "workflow_blank": "\n   ::set-output name=x::PWNED",
    "runner": "fc ##[error]PWNED ##[add-path]/tmp",
    "azure": "fc ##vso[task.setvariable variable=x]PWNED",
    "teamcity": "fc ##teamcity[buildProblem description='PWNED']",
    "bidi": "fc\u202egnp.exe\u2066x\u2069",
    "zero_width": "f\u200bc\ufeff\u2060",
    "separators": "fc\u2028PWNED\u2029x",
    "script": "<script>alert('PWNED')</script>",
    "attribute": "\" onmouseover='alert(1)' x=\"",
    "cdata": "]]><PWNED/><![CDATA[",
    "comment": "--><PWNED><!--",
    "rich": "[bold red]PWNED[/] [link=http://evil.example]x[/link]",
    "markdown": "`` ` `` | [x](javascript:alert(1)) | ![](http://evil.example/x.png)\n# PWNED",
    "formula": "=cmd|' /C calc'!A0",
    "formula_at": "@SUM(1+1)",
    "percent": "%0A::error::PWNED%0D",
    "format": "{0.__class__} %s %n ${HOME} $(id)",
    "nul": "fc\0.weight",
    "long": "n" * 5000,
    "dots": "." * 500,
    "slashes": "/../" * 100,
    "uri": "file:///etc/passwd#L1",
    "json": '"},{"severity":"none","x":"',
    "emoji": "🔥" * 100 + "\U000e0041",
}


def _onnx(folder: Path, payload: str) -> None:
    weight = numpy_helper.from_array(np.zeros((4, 3), np.float32), payload)
    nodes = [
        helper.make_node("MatMul", ["x", payload], ["h"], payload),
        helper.make_node("Relu", ["h"], ["y"], f"{payload}2"),
    ]
    model = build(nodes, [weight])
    model.graph.name = model.producer_name = model.producer_version = payload
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = payload
    save(model, folder)


def _safetensors(folder: Path, payload: str) -> None:
    header = {"__metadata__": {"format": payload, payload: payload}, payload: entry()}
    (folder / "model.safetensors").write_bytes(file_of(header))


def _pickled(folder: Path, payload: str) -> None:
    checkpoint(folder, state_dict({payload: tensor(), f"{payload}.weight": tensor()}))


def _operator(folder: Path, payload: str) -> None:
    """In an error message: an operator, a domain and a value that do not exist."""
    nodes = [helper.make_node(payload, ["x", payload], ["y"], payload, domain=payload)]
    save(build(nodes), folder)


for _name, _payload in PAYLOADS.items():
    _long = len(_payload) > 4096
    NAMES.add(f"onnx_{_name}", End.LINTED)(partial(_onnx, payload=_payload))
    NAMES.add(
        f"safetensors_{_name}",
        End.REFUSED if _long else End.LINTED,
        target="model.safetensors",
    )(partial(_safetensors, payload=_payload))
    NAMES.add(f"pickle_{_name}", End.REFUSED if _long else End.LINTED, target="model.pt")(
        partial(_pickled, payload=_payload)
    )
    NAMES.add(f"operator_{_name}", End.NOT_CLEAN)(partial(_operator, payload=_payload))
