"""One fixed run that every reporter's test renders."""

from __future__ import annotations

from initlint.records import Failure, Suppression, Target
from initlint.report.run import Run
from initlint.report.text import Untrusted

CAUSE = {
    "code": "SCL208",
    "name": "relu-after-xavier",
    "severity": "error",
    "confidence": "high",
    "layer": "fc1",
    "param": "fc1.weight",
    "message": "29 linear layers that feed ReLU have Xavier weights: the signal shrinks 20000-fold",
    "why": "Xavier keeps the variance of a linear map; ReLU halves it, and nothing restores it",
    "measured": "std 0.0625",
    "expected": "std 0.0884 (He)",
    "evidence": {"decades": -4.3, "std": 0.0625, "limit": float("inf")},
    "location": {"file": "net.py", "line": 12},
    "node": None,
    "layers": [f"fc{index}" for index in range(1, 30)],
    "fix": {
        "scheme": "he_normal",
        "applicability": "unsafe",
        "code": 'torch.nn.init.kaiming_normal_(fc1.weight, nonlinearity="relu")',
        "params": ["fc1.weight"],
        "arguments": {},
    },
    "fingerprint": "0123456789abcdef",
    "tensor": "float32[256, 256]",
    "feeds": "relu_1 (relu)",
    "places": [{"file": "net.py", "line": 12}] * 29,
}
WARNING = {
    **CAUSE,
    "code": "PRB103",
    "name": "dead-relu",
    "severity": "warning",
    "confidence": "medium",
    "layer": "relu_7",
    "param": None,
    "message": "12 of 64 units never fire",
    "why": "",
    "measured": "",
    "expected": "",
    "location": None,
    "layers": ["relu_7"],
    "fix": None,
    "fingerprint": "f" * 16,
    "tensor": "",
    "feeds": "",
    "places": None,
}
INFO = {
    **WARNING,
    "code": "REC402",
    "name": "recurrent-not-orthogonal",
    "severity": "info",
    "layer": "rnn",
    "message": "the recurrent weights are uniform, which halves the memory of every tenth step",
}
DEEP = {
    "target": "deep.onnx",
    "kind": "onnx",
    "stage": "fresh",
    "risk": 0.93,
    "summary": {"error": 1, "warning": 1, "info": 1},
    "probe": {"status": "ok", "detail": "8 samples", "seconds": 0.123, "inputs": {"x": "float32"}},
    "producer": "pytorch 2.13",
    "parameters": 1_900_000,
    "findings": [INFO, WARNING, CAUSE],
    "notices": ["the input size was not given; 224 was assumed"],
    "skipped": {"there are no gradients": ["gradient-drift", "unreached-parameter"]},
    "ended_at": ["custom_3"],
    "failures": [],
    "seconds": 1.5,
    "ran": ["dead-relu", "recurrent-not-orthogonal", "relu-after-xavier"],
    "rules": {"relu-after-xavier": "SCL208"},
    "sources": {},
}
HEALTHY = {
    **DEEP,
    "target": "healthy.onnx",
    "risk": None,
    "findings": [],
    "notices": [],
    "skipped": {},
    "ended_at": [],
    "stage": "trained",
    "probe": {"status": "failed", "detail": "crashed: SIGFPE", "seconds": 0.0},
}
LAYERS = [
    {
        "id": "blocks.0.attn",
        "op": "linear",
        "scope": "blocks.0",
        "location": None,
        "feeds": ["softmax_1"],
        "feeds_ops": ["softmax"],
        "params": [
            {
                "name": "blocks.0.attn.weight",
                "role": "weight",
                "gate": "query",
                "shape": [256, 256],
                "dtype": "float32",
                "trainable": True,
                "tied_to": None,
                "fan_in": 256,
                "fan_out": 256,
                "mean": 0.00001,
                "std": 0.0625,
                "scheme": "xavier_normal | lecun_normal",
                "stage": "fresh",
            },
            {
                "name": "blocks.0.attn.bias",
                "role": "bias",
                "gate": None,
                "shape": [256],
                "dtype": "float32",
                "trainable": True,
                "tied_to": None,
                "fan_in": None,
                "fan_out": None,
                "mean": None,
                "std": None,
                "scheme": None,
                "stage": "unknown",
            },
        ],
    }
]

PARAM = LAYERS[0]["params"][0]


def sample_run(**options) -> Run:
    """Two linted targets, one that was not checked, one suppressed finding."""
    deep = Target.parse(DEEP)
    accepted = deep.findings[1].suppress(Suppression("config", "measured, fine", "p.toml:3"))
    deep = deep.with_findings([deep.findings[0], accepted, deep.findings[2]])
    return Run(
        version="0.1.0",
        targets=(deep, Target.parse(HEALTHY)),
        errors=(Failure(Untrusted("gone.onnx"), Untrusted("there is no such file or folder")),),
        notices=(Untrusted("p.toml:9: the allow of zero-weight is not needed"),),
        **options,
    )


HOSTILE = "\x1b[2J\n::error::x ##[group] ##vso[a] \u202e\u2028 </script>|`]]>&\"'\udc80"


def hostile_run() -> Run:
    """A run in which every string that a file can choose is an attack."""
    finding = {
        **CAUSE,
        "layer": HOSTILE,
        "param": HOSTILE,
        "message": HOSTILE,
        "why": HOSTILE,
        "measured": HOSTILE,
        "expected": HOSTILE,
        "layers": [HOSTILE] * 30,
        "location": {"file": HOSTILE, "line": 1},
        "fix": {"scheme": HOSTILE, "applicability": "unsafe", "code": HOSTILE},
        "evidence": {HOSTILE: HOSTILE},
        "tensor": HOSTILE,
        "feeds": HOSTILE,
        "node": HOSTILE,
    }
    findings = [{**finding, "severity": severity} for severity in ("error", "warning", "info")]
    record = {
        **DEEP,
        "target": HOSTILE,
        "producer": HOSTILE,
        "findings": findings,
        "notices": [HOSTILE],
        "skipped": {HOSTILE: [HOSTILE]},
        "ended_at": [HOSTILE] * 9,
        "failures": [HOSTILE],
        "probe": {"status": "failed", "detail": HOSTILE, "seconds": 0.0},
        "layers": [
            {"id": HOSTILE, "op": HOSTILE, "feeds_ops": [HOSTILE], "params": LAYERS[0]["params"]},
            {**LAYERS[0], "params": [{**PARAM, "name": HOSTILE, "scheme": HOSTILE}]},
        ],
    }
    return Run(
        version="0.1.0",
        targets=(Target.parse(record),),
        errors=(Failure(Untrusted(HOSTILE), Untrusted(HOSTILE), Untrusted(HOSTILE)),),
        notices=(Untrusted(HOSTILE),),
    )
