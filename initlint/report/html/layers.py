"""The layers: the graph beside their names, and for each what its weights and outputs look like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from initlint.records import Target
from initlint.report.html.charts import histogram, picture, spectrum
from initlint.report.html.graph import Layout, gutter, lay_out
from initlint.report.html.markup import Markup, element, number
from initlint.report.html.signals import severity_of
from initlint.report.html.words import slug, term
from initlint.report.profile import Output, Profile, Row, Weight
from initlint.report.summary import plural
from initlint.report.text import Untrusted

DRAWN_AT_ONCE = 250
"""Rows that are drawn before they are in sight; a picture of the whole page then has them all."""


def layers_section(target: Target, profile: Profile, worst: Mapping[str, str], key: str) -> Markup:
    """One row per layer, coloured by its worst finding, with residual arcs beside."""
    layout = lay_out(profile.rows)
    tables = {str(layer.get("id")): layer for layer in target.layers if isinstance(layer, dict)}
    rows = [
        _row(row, layout, severity_of(row, worst), tables.get(row.id.raw), f"{key}-l{row.index}")
        for row in profile.rows
    ]
    search = element(
        "label",
        "Filter ",
        element("input", type="search", class_="search", placeholder="name or operator"),
        class_="scripted",
    )
    only = element(
        "label", element("input", type="checkbox", class_="only-found"), " only with findings"
    )
    note = [element("p", _hidden(layout.hidden))] if layout.hidden else []
    many = " many" if len(rows) > DRAWN_AT_ONCE else ""
    return element(
        "section",
        element("h2", "Layers"),
        element(
            "div", only, search, element("span", class_="status", role="status"), class_="filter"
        ),
        *note,
        element("div", *rows, class_=f"rows lanes-{layout.lanes}{many}"),
        class_="layers",
    )


def _hidden(count: int) -> str:
    return f"{plural(count, 'long edge')} not drawn: the lanes beside the names are full."


def _row(row: Row, layout: Layout, severity: str, table: Any, key: str) -> Markup:
    operator = row.op.show(40)
    if row.activation is not None:
        operator += f" → {row.activation[1].show(40)}"
    summary = element(
        "summary",
        gutter(row, layout, severity),
        element("span", row.id.show(), class_="name"),
        element("span", operator, class_="op"),
        element("span", *_glance(row), class_="glance"),
    )
    found = f"found {severity}" if severity else ""
    return element(
        "details",
        summary,
        element("div", *_body(row, table), class_="body"),
        class_=f"row {found}".strip(),
        id=key,
    )


def _glance(row: Row) -> Iterator[Markup]:
    """The numbers that a closed row shows."""
    signal = row.forward.measured if row.forward.measured is not None else row.forward.predicted
    if signal is not None:
        yield _pointed(f"rms {number(signal)}", "rms")
    output = row.output
    if output is not None and output.dead_units:
        yield _pointed(f"dead {output.dead_units}/{output.units}", "dead units")
    if output is not None and output.saturated_share and output.saturated_share >= 0.01:
        yield _pointed(f"saturated {output.saturated_share:.0%}", "saturated")


def _pointed(text: str, name: str) -> Markup:
    """Explained when pointed at; the same number can be focused in the open row."""
    return element("span", text, data_term=slug(name))


def _body(row: Row, table: Any) -> Iterator[Markup]:
    yield element("dl", *_signals(row), class_="numbers")
    for weight in row.weights:
        yield _weight(weight, table)
    if row.output is not None:
        yield _output(row.output)


def _pairs(rows: list[tuple[str, str, str]]) -> Iterator[Markup]:
    for label, text, name in rows:
        if text:
            yield element("div", element("dt", term(label, name)), element("dd", text))


def _signals(row: Row) -> Iterator[Markup]:
    forward, gradient = row.forward, row.gradient
    rows = [
        ("rms, predicted", _known(forward.predicted), "rms"),
        ("rms, measured", _known(forward.measured), "rms"),
        ("gradient, predicted", _known(gradient.predicted), "gradient"),
        ("gradient, measured", _known(gradient.measured), "gradient"),
    ]
    return _pairs(rows)


def _known(value: float | None) -> str:
    return "" if value is None else number(value)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _figure(title: str, name: str, drawing: Markup, ends: tuple[str, str]) -> Markup:
    return element(
        "figure",
        element("figcaption", term(title, name)),
        drawing,
        element("div", element("span", ends[0]), element("span", ends[1]), class_="x"),
        class_="little",
    )


def _weight(weight: Weight, table: Any) -> Markup:
    figures: list[Markup] = []
    found = weight.histogram
    if found is not None:
        ends = (number(found.low), number(found.high))
        figures.append(_figure("values", "values", histogram(found, weight.density), ends))
    if weight.spectrum is not None:
        values = weight.spectrum.values
        part = f" of {weight.spectrum.rows}×{weight.spectrum.columns} of them"
        title = "singular values" + (part if weight.spectrum.sampled else "")
        ends = (f"largest {number(values[0])}", f"smallest {number(values[-1])}")
        figures.append(_figure(title, "singular values", spectrum(weight.spectrum), ends))
    if weight.picture:
        image = element("img", src=picture(weight.picture), alt="", class_="picture")
        figures.append(_figure("elements", "elements", image, ("", "")))
    rows = [
        ("shape", "×".join(map(str, weight.shape)), "shape"),
        ("fan in/out", _fans(weight, table), "fan in/out"),
        ("mean", _known(weight.mean), "mean"),
        ("std", _known(weight.std), "std"),
        ("scheme", weight.scheme.show(120), "scheme"),
    ]
    return element(
        "section",
        element("h4", weight.name.show()),
        element("dl", *_pairs(rows), class_="numbers"),
        element("div", *figures, class_="figures"),
    )


def _fans(weight: Weight, table: Any) -> str:
    params = table.get("params") if isinstance(table, dict) else None
    for param in params if isinstance(params, list) else ():
        if isinstance(param, dict) and Untrusted(str(param.get("name"))) == weight.name:
            fans = (param.get("fan_in"), param.get("fan_out"))
            if all(isinstance(fan, (int, float)) for fan in fans):
                return f"{number(fans[0])} / {number(fans[1])}"
    return ""


def _output(output: Output) -> Markup:
    dead = f"{output.dead_units} of {output.units}" if output.units else ""
    rows = [
        ("rms", _known(output.rms), "rms"),
        ("mean", _known(output.mean), "mean"),
        ("dead units", dead, "dead units"),
        ("dead by chance", _share(output.dead_chance), "dead by chance"),
        ("saturated", _share(output.saturated_share), "saturated"),
        ("zeros", _share(output.zero_share), "zeros"),
        ("likeness of inputs", _known(output.correlation), "likeness of inputs"),
    ]
    figures: list[Markup] = []
    found = output.histogram
    if found is not None:
        ends = (number(found.low), number(found.high))
        figures.append(_figure("outputs", "outputs", histogram(found), ends))
    return element(
        "section",
        element("h4", "Outputs, measured"),
        element("dl", *_pairs(rows), class_="numbers"),
        element("div", *figures, class_="figures"),
    )
