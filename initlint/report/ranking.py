"""Schemes ranked for one network, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from initlint.report.style import Style
from initlint.report.summary import plural
from initlint.report.text import Untrusted, inert

_SHADES = " .:-=+*#%@"
_CENTRE = 5
_CHART_WIDTH = 32


def render(record: Mapping[str, Any], style: Style) -> str:
    """The record of `initlint.fix.ranking.compare` as text."""
    names = [str(Untrusted(row["scheme"])) for row in record["schemes"]]
    width = max([17, *map(len, names)]) + 1
    lines = [
        style.paint(str(Untrusted(record["target"])), "bold"),
        f"{plural(record['seeds'], 'draw')} of each scheme, best first; decades of rms, 0 is ideal",
        "",
        f"  {'scheme':<{width}}{'signal':>9}{'spread':>8}{'gradient':>10}{'dead':>7}{'satur.':>8}"
        f"{'1-cos':>9}{'risk':>7}",
    ]
    for row in record["schemes"]:
        lines.append(_row(row, width))
    if chart := _chart(record["schemes"], width):
        lines += ["", *chart]
    if record["best"] is not None:
        best = style.paint(str(Untrusted(record["best"])), "good")
        lines += ["", f"best for this network: {best}"]
        if equal := ", ".join(str(Untrusted(name)) for name in record["as_good"]):
            lines += style.wrap(f"as good, for the differences cost nothing: {equal}")
    if record.get("training"):
        lines += ["", *_training(record["training"], record["best"], width)]
    return "".join(f"{inert(line.rstrip())}\n" for line in lines)


def _training(training: Mapping[str, Any], recommended: str, width: int) -> list[str]:
    """Losses after the short run, lowest first, and whether the recommendation holds."""
    lines = [
        f"  trained {training['steps']} steps on {Untrusted(training['data'])} "
        f"(loss at the start {_cell(training['chance'], 0, '.4g')})"
    ]
    worst = float("inf")
    losses = sorted(training["losses"].items(), key=lambda item: item[1] or worst)
    for name, loss in losses:
        told = "diverged" if loss is None else f"{loss:.4g}"
        lines.append(f"  {Untrusted(name)!s:<{width}}{told:>9}")
    if training["best"] is None:
        return [*lines, "  every run diverged"]
    if training["agrees"]:
        return [*lines, f"  confirmed: {Untrusted(recommended)} trains as well as the best"]
    return [*lines, f"  NOT confirmed: {Untrusted(training['best'])} trained better"]


def _cell(value: float | None, width: int, form: str) -> str:
    return f"{'-' if value is None else format(value, form):>{width}}"


def _row(row: Mapping[str, Any], width: int) -> str:
    name = f"  {Untrusted(row['scheme'])!s:<{width}}"
    if row["score"] is None:
        return f"{name} {Untrusted(row['reason'])}"
    return (
        name
        + _cell(row["forward_decades"], 9, "+.2f")
        + _cell(row["spread"], 8, ".2f")
        + _cell(row["backward_decades"], 10, "+.2f")
        + _cell(row["dead_share"], 7, ".0%")
        + _cell(row["saturated_share"], 8, ".0%")
        + _cell(row["distance"], 9, ".1e")
        + _cell(row["risk"], 7, ".2f")
    )


def _chart(rows: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """One line a scheme: the signal from the first layer to the last, one shade half a decade."""
    lines = ["  signal by depth (= as in the first layer, one shade lighter or darker per 10^0.5)"]
    for row in rows:
        profile = row.get("profile") or []
        if len(profile) > 1:
            step = max(1, -(-len(profile) // _CHART_WIDTH))
            marks = "".join(_shade(value - profile[0]) for value in profile[::step])
            lines.append(f"  {Untrusted(row['scheme'])!s:<{width}}[{marks}]")
    return lines if len(lines) > 1 else []


def _shade(decades: float) -> str:
    index = _CENTRE - 1 + round(2 * decades)
    return _SHADES[min(max(index, 0), len(_SHADES) - 1)]
