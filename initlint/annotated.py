"""What a report needs beside a target's findings, and what only the worker knows."""

from __future__ import annotations

import inspect

from initlint.lint.registry import all_rules, summary
from initlint.load import is_spec
from initlint.measure.result import Stage
from initlint.model import Kind, LayerGraph, Model
from initlint.selection import choose
from initlint.settings import Settings
from initlint.wire import Record


def annotated(record: Record, model: Model, settings: Settings) -> Record:
    """Add what suppressions need: the rules that ran, and where each layer was constructed."""
    chosen = choose(
        all_rules(),
        select=settings.select,
        ignore=settings.ignore,
        extend_select=settings.extend_select,
        preview=settings.preview,
    )
    idle = {name for names in record["skipped"].values() for name in names}
    findings = [{**finding, **_context(finding, model.graph)} for finding in record["findings"]]
    stage = Stage(record["stage"])
    ran = sorted(r.name for r in chosen if stage in r.stages and r.name not in idle)
    return {
        **record,
        "findings": findings,
        "ran": ran,
        "rules": {rule.name: rule.code for rule in all_rules()},
        "documentation": _documentation(record["findings"]),
        "sources": _sources(model),
    }


def _documentation(findings: list[Record]) -> Record:
    """The texts of the rules that found something, for reports that are read far from here."""
    found = {finding["name"] for finding in findings}
    return {
        rule.name: {
            "code": rule.code,
            "summary": summary(rule),
            "help": _markdown(inspect.getdoc(rule) or ""),
        }
        for rule in all_rules()
        if rule.name in found
    }


def _markdown(docstring: str) -> str:
    """A rule's docstring as Markdown: what is indented is code there without the mark for it."""
    lines = [line for line in docstring.splitlines() if line.strip() != "::"]
    return "\n".join(lines)


def _context(finding: Record, graph: LayerGraph) -> Record:
    """What text shows beside a finding: its tensor, what it feeds, where it was built."""
    context: Record = {"places": [_place(graph, layer) for layer in finding["layers"]]}
    if finding["layer"] not in graph:
        return context
    for param in graph[finding["layer"]].params:
        if param.name == finding["param"]:
            context["tensor"] = f"{param.dtype}[{', '.join(map(str, param.shape))}]"
            break
    consumers = graph.effective_consumers(finding["layer"])[:3]
    context["feeds"] = ", ".join(f"{layer.id} ({layer.op.value})" for layer in consumers)
    return context


def _place(graph: LayerGraph, layer: str) -> Record | None:
    where = graph[layer].where if layer in graph else None
    return {"file": where.file, "line": where.line} if where and where.file else None


def _sources(model: Model) -> dict[str, list[int]]:
    """Construction sites by file, for a model that the user's own code built."""
    sources: dict[str, set[int]] = {}
    if model.kind is Kind.TORCH or is_spec(model.target):
        for layer in model.graph.order:
            if layer.where.file and layer.where.line:
                sources.setdefault(layer.where.file, set()).add(layer.where.line)
    return {file: sorted(lines) for file, lines in sorted(sources.items())}
