"""Findings, places and layers as the JSON report holds them."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

from initlint.lint.finding import Finding
from initlint.measure.measures import Measures
from initlint.model import Layer, Model, Param, Where, fans

Record = dict[str, Any]


def finding_record(finding: Finding) -> Record:
    """A finding as the JSON report holds it."""
    fix = finding.fix
    return {
        "code": finding.code,
        "name": finding.name,
        "severity": finding.severity.value,
        "confidence": finding.confidence.value,
        "layer": finding.layer,
        "param": finding.param,
        "message": finding.message,
        "why": finding.why,
        "measured": finding.measured,
        "expected": finding.expected,
        "evidence": dict(finding.evidence),
        "location": location_record(finding.where),
        "node": finding.where.node if finding.where else None,
        "layers": list(finding.layers),
        "fix": None
        if fix is None
        else {
            "scheme": fix.scheme,
            "applicability": fix.applicability,
            "code": fix.code,
            "params": list(fix.params),
            "arguments": dict(fix.arguments),
            **({} if fix.edit is None else {"edit": asdict(fix.edit)}),
        },
        "fingerprint": fingerprint(finding),
    }


def location_record(where: Where | None) -> Record | None:
    """File and line of a construction site; None where the file is unknown."""
    if where is None or where.file is None:
        return None
    return {"file": where.file, "line": where.line}


def fingerprint(finding: Finding) -> str:
    """Identity of a finding over runs: rule and place, no measured number."""
    key = "\n".join((finding.name, finding.layer, finding.param or ""))
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def layer_record(model: Model, measures: Measures, layer: Layer) -> Record:
    """One row of the table of layers: what it is, what it was drawn from, what it feeds."""
    return {
        "id": layer.id,
        "op": layer.op.value,
        "scope": layer.scope,
        "location": location_record(layer.where),
        "feeds": [consumer.id for consumer in model.graph.effective_consumers(layer.id)],
        "feeds_ops": sorted(
            {consumer.op.value for consumer in model.graph.effective_consumers(layer.id)}
        ),
        "params": [_param_record(measures, layer, param) for param in layer.params],
    }


def _param_record(measures: Measures, layer: Layer, param: Param) -> Record:
    moments = measures.moments(param)
    fan = fans(layer, param)
    return {
        "name": param.name,
        "role": param.role.value,
        "gate": param.gate,
        "shape": list(param.shape),
        "dtype": param.dtype,
        "trainable": param.trainable,
        "tied_to": param.tied_to,
        "fan_in": fan.fan_in if fan else None,
        "fan_out": fan.fan_out if fan else None,
        "mean": moments.mean if moments else None,
        "std": moments.std if moments else None,
        "scheme": measures.identify(param).scheme if moments else None,
        "stage": measures.stage(param).value,
    }
