"""The table of ``initlint describe``: what each layer was initialised with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from initlint.records import Target
from initlint.report.markdown import code
from initlint.report.style import Style
from initlint.report.summary import plural
from initlint.report.text import Untrusted, inert, shorten

_HEADINGS = ("parameter", "shape", "fan", "std", "gain", "stage", "seed", "hash", "scheme")
_INDENT = "  "
_GAP = "  "

_NARROW = (12, 9, 8, 6, 7)
_WIDE = (44, 16, 11, 9, 7, 7, 12, 16)
"""Columns of all cells but one: the scheme of a wide table, the name in a narrow one, which take
what the terminal leaves. A narrow table has scheme, seed and hash on a line of their own."""

_WIDE_FROM = 130


@dataclass(frozen=True, slots=True)
class _Row:
    """One parameter as text."""

    name: str
    shape: str
    fans: str
    std: str
    gain: str
    scheme: str
    stage: str
    seed: str
    hash: str

    @property
    def cells(self) -> tuple[str, ...]:
        return (
            self.name,
            self.shape,
            self.fans,
            self.std,
            self.gain,
            self.stage,
            self.seed,
            self.hash,
            self.scheme,
        )

    def lines(self, widths: tuple[int, ...], style: Style, *, wide: bool) -> list[str]:
        """The row of a text table."""
        if wide:
            return [_INDENT + _cells(self.cells, widths)]
        label = "scheme " if self.scheme == "unknown" else ""
        told = {"seed ": self.seed, "hash ": self.hash, label: self.scheme}
        more = ", ".join(f"{head}{value}" for head, value in told.items() if value)
        below = style.wrap(more, first=_INDENT * 2) if more else []
        return [_INDENT + _cells(self.cells[: len(widths)], widths), *below]


def as_text(target: Target, style: Style) -> str:
    """The table as text: a line per layer with what it feeds, below it a line per parameter."""
    wide = style.table_width >= _WIDE_FROM
    fixed = _WIDE if wide else _NARROW
    taken = len(_INDENT) + sum(fixed) + len(_GAP) * len(fixed)
    rest = max(style.table_width - taken, 8)
    widths = (*fixed, rest) if wide else (rest, *fixed)
    lines = [style.paint(_title(target), "bold"), *_hash(target), ""]
    lines.append(style.paint(_INDENT + _cells(_HEADINGS[: len(widths)], widths), "dim"))
    if not wide:
        lines.append(style.paint(_INDENT * 2 + ", ".join(_HEADINGS[-3:]), "dim"))
    for layer in target.layers:
        head = f"{_name(layer)}  {_operator(layer)}{_feeds(layer)}"
        lines.extend(style.wrap(head, rest="    ") if not wide else [head])
        for row in _rows(layer):
            lines.extend(row.lines(widths, style, wide=wide))
    lines.extend(f"- {notice}" for notice in target.notices)
    return "".join(f"{inert(line.rstrip())}\n" for line in lines)


def as_markdown(target: Target) -> str:
    """The table as GitHub's Markdown."""
    lines = [
        f"### {code(_title(target))}",
        "",
        *(line for text in _hash(target) for line in (text, "")),
        "| layer | operator | feeds | " + " | ".join(_HEADINGS) + " |",
        "|---" * (3 + len(_HEADINGS)) + "|",
    ]
    for layer in target.layers:
        for row in _rows(layer):
            cells = (_name(layer), _operator(layer), _feeds(layer).removeprefix(" -> "), *row.cells)
            lines.append("| " + " | ".join(code(cell) if cell else "" for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _title(target: Target) -> str:
    layers = plural(len(target.layers), "layer")
    count = target.record.get("parameters")
    parameters = f", {count:,} parameters" if isinstance(count, int) else ""
    return f"{target.target}: {target.kind} · stage {target.stage} · {layers}{parameters}"


def _hash(target: Target) -> list[str]:
    whole = target.record.get("hash")
    return [f"hash {_show(whole, 20)}"] if whole else []


def _show(value: Any, limit: int = 200) -> str:
    return "" if value is None else Untrusted(str(value)).show(limit)


def _name(layer: Mapping[str, Any]) -> str:
    return _show(layer.get("id"))


def _operator(layer: Mapping[str, Any]) -> str:
    return _show(layer.get("op"), 40)


def _feeds(layer: Mapping[str, Any]) -> str:
    operators = layer.get("feeds_ops") or []
    return " -> " + ", ".join(_show(op, 40) for op in operators[:4]) if operators else ""


def _owner(layer: Mapping[str, Any]) -> str:
    """What a layer's parameters share of their names: the module that holds them all."""
    names = [str(param.get("name") or "") for param in layer.get("params") or []]
    owners = {name.rpartition(".")[0] for name in names}
    return f"{owners.pop()}." if len(owners) == 1 else f"{layer.get('id')}."


def _rows(layer: Mapping[str, Any]) -> Iterator[_Row]:
    owner = _owner(layer)
    for param in layer.get("params") or []:
        gate = param.get("gate")
        short = str(param.get("name") or "").removeprefix(owner)
        fans = (param.get("fan_in"), param.get("fan_out"))
        yield _Row(
            name=_show(f"{short} [{gate}]" if gate else short),
            shape="x".join(_show(side, 20) for side in param.get("shape") or []) or "scalar",
            fans="" if fans[0] is None else "/".join(number(fan) for fan in fans),
            std=number(param.get("std")),
            gain=number(param.get("gain"), 3),
            scheme=_show(param.get("scheme")),
            stage=_show(param.get("stage"), 20),
            seed=_show(param.get("seed"), 20),
            hash=_show(param.get("hash"), 20),
        )


def number(value: Any, digits: int = 4) -> str:
    """A number in at most so many significant digits."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e6:
        value = int(value)
    return str(value) if isinstance(value, int) else f"{value:.{digits}g}"


def _cells(values: tuple[str, ...], widths: tuple[int, ...]) -> str:
    shown = (shorten(value, width) for value, width in zip(values, widths, strict=True))
    return _GAP.join(f"{value:<{width}}" for value, width in zip(shown, widths, strict=True))
