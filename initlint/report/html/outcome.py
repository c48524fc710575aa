"""Pages of what was tried: a network before and after a repair, and under several schemes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from initlint.report.html.charts import axis_for, comparison_chart
from initlint.report.html.markup import Markup, element, join, number
from initlint.report.html.page import document
from initlint.report.html.words import term
from initlint.report.profile import real
from initlint.report.repair import STATUS, grouped
from initlint.report.text import Untrusted

Record = Mapping[str, Any]

MOST = 100
"""Findings, or changes of one kind, that are listed."""


def repair_page(record: Record, version: str) -> str:
    """The record of `initlint.fix.report.repair_record`: before and after, side by side."""
    verdict = record["verdict"]
    good = verdict["status"] in ("fixed", "nothing")
    name = Untrusted(record["target"])
    head = element(
        "header",
        element("h1", name.show()),
        element(
            "p",
            STATUS.get(verdict["status"], str(verdict["status"])),
            class_=f"verdict {'good' if good else 'error'}",
        ),
        *(element("p", Untrusted(reason).show(300)) for reason in verdict["reasons"]),
        *(element("p", Untrusted(note).show(300)) for note in record["notes"]),
        *(
            element("p", f"written: {Untrusted(path).show(200)}")
            for path in record.get("written", ())
        ),
    )
    sides = element(
        "section",
        element("h2", "Findings"),
        element(
            "div",
            _side("Before", record["before"]),
            _side("After", record["after"]) if record["changes"] else "",
            class_="sides",
        ),
    )
    article = element(
        "article", head, sides, _signals(record["profile"]), _changes(record), _left(record)
    )
    return document(f"initlint fix: {name.show(60)}", article, version=version)


def _side(title: str, target: Record) -> Markup:
    items = [
        element(
            "li",
            element("b", item["severity"], class_=f"badge {item['severity']}"),
            f" {Untrusted(item['name']).show(60)}: {Untrusted(item['message']).show(300)}",
        )
        for item in target["findings"][:MOST]
    ]
    hidden = len(target["findings"]) - MOST
    if hidden > 0:
        items.append(element("li", f"and {hidden} more"))
    risk = real(target.get("risk"))
    said = [element("p", term(f"Risk {risk:.0%}", "risk"))] if risk is not None else []
    body = element("ul", *items) if items else element("p", "no findings")
    return element("div", element("h3", title), *said, body, class_="card")


def _signals(rows: Sequence[Record]) -> Markup:
    charts = []
    for key, title, name in (("rms", "Signal", "rms"), ("gradient", "Gradient", "gradient")):
        series = [
            (when, when, [real(row[f"{key}_{when}"]) for row in rows])
            for when in ("before", "after")
        ]
        series = [entry for entry in series if any(v is not None for v in entry[2])]
        if series:
            layers = [Untrusted(row["layer"]).show(60) for row in rows]
            charts.append(
                comparison_chart(title, term(f"{name} of each layer", name), layers, series)
            )
    if not charts:
        return Markup("")
    legend = element(
        "p",
        element("span", "before", class_="key before"),
        element("span", "after", class_="key after"),
        class_="legend",
    )
    return element("section", element("h2", "Signal by depth, measured"), legend, *charts)


def _changes(record: Record) -> Markup:
    if not record["changes"]:
        return Markup("")
    parts = []
    for way, items in grouped(record["changes"]):
        rows = [
            element(
                "li",
                element("code", Untrusted(item["key"]).show(120)),
                " ",
                term("std", "std"),
                f" {number(real(item['before']['std']))} → {number(real(item['after']['std']))}, "
                f"{item['elements']:,} values",
            )
            for item in items[:MOST]
        ]
        if len(items) > MOST:
            rows.append(element("li", f"and {len(items) - MOST} more"))
        title = element("summary", f"{Untrusted(way).show(120)}: {len(items)} tensors")
        parts.append(element("details", title, element("ul", *rows)))
    return element("section", element("h2", "Changes"), *parts)


def _left(record: Record) -> Markup:
    items = record["untouched"]
    if not items:
        return Markup("")
    rows = [
        element("li", f"{Untrusted(i['name']).show(120)}: {Untrusted(i['reason']).show(200)}")
        for i in items[:MOST]
    ]
    if len(items) > MOST:
        rows.append(element("li", f"and {len(items) - MOST} more"))
    return element("section", element("h2", "Left as it is"), element("ul", *rows))


_COLUMNS = (
    ("forward_decades", "signal drift", "+.2f"),
    ("spread", "spread", ".2f"),
    ("backward_decades", "gradient drift", "+.2f"),
    ("dead_share", "dead", ".1%"),
    ("saturated_share", "saturated", ".1%"),
    ("distance", "distance of inputs", ".1e"),
    ("risk", "risk", ".0%"),
)


def ranking_page(record: Record, version: str) -> str:
    """The record of `initlint.fix.ranking.compare`: the schemes side by side, best first."""
    name, best = Untrusted(record["target"]), record["best"]
    verdict = f"best for this network: {Untrusted(best).show(60)}" if best else "nothing ran"
    head = element(
        "header",
        element("h1", name.show()),
        element("p", verdict, class_=f"verdict {'good' if best else 'error'}"),
        element("p", f"{record['seeds']} draws of each scheme, best first"),
    )
    cards = element("div", *_schemes(record), class_="schemes")
    article = element(
        "article", head, element("section", element("h2", "Schemes"), cards), _training(record)
    )
    return document(f"initlint compare: {name.show(60)}", article, version=version)


def _schemes(record: Record) -> Iterator[Markup]:
    """A card each; all charts have one axis, so that they can be compared by eye."""
    rows = record["schemes"]
    drawn = {row["scheme"]: [_power(value) for value in row.get("profile") or ()] for row in rows}
    axis = axis_for([v for values in drawn.values() for v in values if v is not None])
    for row in rows:
        label, parts = Untrusted(row["scheme"]).show(60), []
        pairs = [
            element("div", element("dt", term(word, word)), element("dd", format(value, form)))
            for key, word, form in _COLUMNS
            if (value := real(row.get(key))) is not None
        ]
        values = drawn[row["scheme"]]
        if row["reason"]:
            parts.append(element("p", Untrusted(row["reason"]).show(200)))
        if len(values) > 1:
            names = [
                f"{100 * i / (len(values) - 1):.0f} % of the depth" for i in range(len(values))
            ]
            series = [(label, "after", values)]
            parts.append(comparison_chart("Signal", term("rms", "rms"), names, series, axis))
        chosen = " good" if row["scheme"] == record["best"] else ""
        title = join(label, element("small", " best") if chosen else "")
        yield element(
            "section",
            element("h3", title),
            element("dl", *pairs, class_="numbers"),
            *parts,
            class_=f"card scheme{chosen}",
        )


def _power(decades: Any) -> float | None:
    value = real(decades)
    return None if value is None else float(10.0 ** min(max(value, -300.0), 300.0))


def _training(record: Record) -> Markup:
    training = record.get("training")
    if not training:
        return Markup("")
    losses = sorted(training["losses"].items(), key=lambda item: (item[1] is None, item[1] or 0.0))
    rows = [
        element("li", f"{Untrusted(name).show(60)}: {'diverged' if loss is None else number(loss)}")
        for name, loss in losses
    ]
    said = f"Loss after {training['steps']} steps, {number(real(training['chance']))} at the start"
    return element("section", element("h2", "Trained"), element("p", said), element("ul", *rows))
