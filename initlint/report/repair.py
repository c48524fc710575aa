"""A repair for people: what was wrong, what was changed, and what that did."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from initlint.report.places import from_here
from initlint.report.style import Style
from initlint.report.summary import plural
from initlint.report.text import Untrusted, inert

Record = Mapping[str, Any]

_MOST = 12
"""Changes and layers listed one by one; a long network repeats itself."""

_NAME_LIMIT = 48
"""Characters of a layer's name in a table that fits a terminal."""

_CODE_LIMIT = 2000
"""Characters of a line of code: one that is cut cannot be pasted."""

STATUS = {
    "nothing": "nothing to fix",
    "fixed": "fixed and verified: nothing above info is left, and the network ran",
    "improved": "improved, not clean: findings are left",
    "unverified": "NOT VERIFIED",
    "failed": "no change of weights cured the findings",
}


def render(record: Record, style: Style, *, planned: bool) -> str:
    """The record of `initlint.fix.report.repair_record` as text.

    Args:
        record: what the worker sent.
        style: of the stream.
        planned: nothing was to be written (``--diff``).
    """
    lines = [style.paint(str(Untrusted(record["target"])), "bold"), ""]
    lines += _findings("before", record["before"])
    lines += _changes(record["changes"], planned=planned)
    if record["changes"]:
        lines += _findings("after", record["after"])
        lines += _risk(record["risk"])
        lines += _profile(record["profile"])
    lines += _untouched(record["untouched"])
    lines += [f"note: {Untrusted(note)}" for note in record["notes"]]
    lines += _code(record["code"])
    lines += _verdict(record, planned=planned)
    return "".join(f"{inert(line.rstrip())}\n" for line in lines)


def _findings(when: str, target: Record) -> list[str]:
    counts = target["summary"]
    total = ", ".join(f"{counts.get(name, 0)} {name}" for name in ("error", "warning", "info"))
    lines = [f"findings {when}: {total}"]
    for item in target["findings"][:_MOST]:
        lines.append(
            f"  {item['severity']:<8}{Untrusted(item['name'])}: {Untrusted(item['message'])}"
        )
    hidden = len(target["findings"]) - _MOST
    return [*lines, *([f"  and {hidden} more"] if hidden > 0 else []), ""]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _changes(changes: Sequence[Record], *, planned: bool) -> list[str]:
    if not changes:
        return []
    tensors = len({change["stored"] for change in changes})
    word = "would change" if planned else "changed"
    lines = [f"{word} {plural(tensors, 'tensor')} (unsafe: weights change)"]
    for way, items in grouped(changes):
        lines.append(f"  {Untrusted(way)}")
        for item in items[:_MOST]:
            sides = "x".join(map(str, item["shape"]))
            lines.append(
                f"    {Untrusted(item['key'])}  {item['dtype']}[{sides}]  "
                f"{_moved(item['before'], item['after'])}, {item['elements']:,} "
                f"value{'s' * (item['elements'] != 1)}"
            )
        if len(items) > _MOST:
            lines.append(f"    and {len(items) - _MOST} more")
    return [*lines, ""]


def _moved(before: Mapping[str, float | None], after: Mapping[str, float | None]) -> str:
    """What became of a tensor: its spread; of constants the value, of what is off centre both."""
    told = []
    if any(abs(side["mean"] or 0.0) > (side["std"] or 0.0) for side in (before, after)):
        told.append("mean")
    if before["std"] or after["std"] or not told:
        told.append("std")
    return ", ".join(f"{key} {_number(before[key])} -> {_number(after[key])}" for key in told)


def grouped(changes: Sequence[Record]) -> list[tuple[str, list[Record]]]:
    """Changes by how they were made, in words."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for change in changes:
        groups[_way(change)].append(change)
    return [(f"{way}{_factors(items)}", items) for way, items in groups.items()]


def _way(change: Record) -> str:
    """How a change was made: with one scheme, every layer needs a factor of its own."""
    arguments = change["arguments"]
    if arguments.get("to") == "scale_preserving":
        return f"{change['scheme']} to the scale that keeps the signal"
    if arguments.get("to"):
        return f"{change['scheme']} to the scale of {arguments['to']}"
    told = ", ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in sorted(arguments.items())
        if value is not None and key != "factor"
    )
    way = f"{change['scheme']}({told})" if told else str(change["scheme"])
    if "factor" in arguments and change["scheme"] != "rescale":
        return f"{way}, scaled"
    return way


def _factors(items: Sequence[Record]) -> str:
    """The factors of one scheme, from the least to the largest."""
    factors = [item["arguments"]["factor"] for item in items if "factor" in item["arguments"]]
    if not factors:
        return ""
    low, high = _number(min(factors)), _number(max(factors))
    return f" (factor {low})" if low == high else f" (factors {low} to {high})"


def _risk(risk: Record) -> list[str]:
    if risk["before"] is None and risk["after"] is None:
        return []
    return [f"risk: {_number(risk['before'])} -> {_number(risk['after'])}", ""]


def _profile(rows: Sequence[Record]) -> list[str]:
    """First, last and evenly spaced layers between: signal, and gradient where there is one."""
    rows = [row for row in rows if row["rms_after"] is not None]
    if not rows:
        return []
    step = max(1, -(-len(rows) // _MOST))
    shown = [*rows[:-1:step], rows[-1]] if len(rows) > 1 else list(rows)
    gradients = any(row["gradient_after"] is not None for row in rows)
    width = max(32, 1 + max(len(Untrusted(row["layer"]).show(_NAME_LIMIT)) for row in shown))
    head = f"  {'layer':<{width}}{'signal rms':>22}"
    lines = ["measured by running the network", head + (f"{'gradient rms':>24}" * gradients)]
    for row in shown:
        line = f"  {Untrusted(row['layer']).show(_NAME_LIMIT):<{width}}"
        line += f"{_number(row['rms_before']):>10} -> {_number(row['rms_after']):<8}"
        if gradients:
            line += f"{_number(row['gradient_before']):>12} -> {_number(row['gradient_after'])}"
        lines.append(line)
    return [*lines, ""]


def _untouched(items: Sequence[Record]) -> list[str]:
    if not items:
        return []
    lines = ["left as it is"]
    for item in items[:_MOST]:
        lines.append(f"  {Untrusted(item['name'])}: {Untrusted(item['reason'])}")
    hidden = len(items) - _MOST
    return [*lines, *([f"  and {hidden} more"] if hidden > 0 else []), ""]


def _code(entries: Sequence[Record]) -> list[str]:
    if not entries:
        return []
    lines = ["code to paste where the model is built"]
    before = ""
    for entry in entries:
        where = _built(entry)
        if where != before:
            lines += [where] if where else []
            before = where
        lines += [f"  {Untrusted(line).show(_CODE_LIMIT)}" for line in entry["code"]]
    return [*lines, ""]


def _built(entry: Record) -> str:
    if not entry["file"]:
        return ""
    return f"  # built at {Untrusted(from_here(entry['file']))}:{entry['line']}"


def _verdict(record: Record, *, planned: bool) -> list[str]:
    verdict = record["verdict"]
    lines = [STATUS.get(verdict["status"], str(verdict["status"]))]
    lines += [f"  {Untrusted(reason)}" for reason in verdict["reasons"]]
    if planned:
        lines.append("nothing was written (--diff)")
    elif "written" in record and not record["written"]:  # a module is changed where it is
        lines.append("nothing was written")
    return [*lines, *(f"written: {Untrusted(path)}" for path in record.get("written") or ())]
