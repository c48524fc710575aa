"""The findings: a card each, worst first, with a filter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from initlint.records import SEVERITIES, Finding, Target
from initlint.report.html.markup import Markup, element, join
from initlint.report.html.words import TERMS, term
from initlint.report.profile import Profile
from initlint.report.run import Run
from initlint.report.summary import plural
from initlint.report.text import Untrusted, lines

MOST = 500
"""Cards per target: more is no reading."""

LISTED = 60
"""Layers that a card links to."""

HELP_LIMIT = 20_000
"""Characters of a rule's documentation."""


def worst_by_layer(target: Target) -> dict[str, str]:
    """Severity of the worst finding that counts, by layer id."""
    worst: dict[str, str] = {}
    for finding in target.active:  # worst first
        for layer in finding.layers:
            worst.setdefault(layer.raw, finding.severity)
    return worst


def findings_section(run: Run, target: Target, profile: Profile | None, key: str) -> Markup:
    """The cards of one target and the controls that filter them."""
    shown = run.shown(target.active)
    accepted = run.shown(target.suppressed)
    if not shown and not accepted:
        return Markup("")
    places = _places(profile, key)
    cards = [_card(run, target, finding, places) for finding in shown[:MOST]]
    if len(shown) > MOST:
        cards.append(element("p", f"… and {plural(len(shown) - MOST, 'finding')} more"))
    parts = [element("h2", "Findings")]
    if len(shown) > 1:
        parts.append(_filter(shown))
    parts.append(element("div", *cards, class_="cards"))
    if accepted:
        title = element("summary", f"{plural(len(accepted), 'accepted finding')}")
        inner = [_card(run, target, finding, places) for finding in accepted[:MOST]]
        parts.append(element("details", title, *inner, class_="accepted"))
    return element("section", *parts, class_="findings")


def _places(profile: Profile | None, key: str) -> Mapping[str, str]:
    """Where a layer's row is, by id of the layer or of the activation drawn with it."""
    places: dict[str, str] = {}
    for row in profile.rows if profile else ():
        places.setdefault(row.id.raw, f"#{key}-l{row.index}")
        if row.activation is not None:
            places.setdefault(row.activation[0].raw, f"#{key}-l{row.index}")
    return places


def _filter(shown: list[Finding]) -> Markup:
    boxes = []
    for severity in SEVERITIES:
        count = sum(finding.severity == severity for finding in shown)
        if count:
            box = element("input", type="checkbox", checked=True, class_=f"show-{severity}")
            boxes.append(element("label", box, f" {plural(count, severity)}"))
    search = element(
        "label",
        "Filter ",
        element("input", type="search", class_="search", placeholder="rule, layer or words"),
        class_="scripted",
    )
    status = element("span", class_="status", role="status")
    return element("div", *boxes, search, status, class_="filter", role="group")


def _card(run: Run, target: Target, finding: Finding, places: Mapping[str, str]) -> Markup:
    head = element(
        "h3",
        element("span", finding.severity, class_=f"badge {finding.severity}"),
        " ",
        element("code", finding.name),
        " ",
        element("small", finding.code),
    )
    return element(
        "article",
        head,
        element("p", finding.message.show(600), class_="message"),
        element("dl", *_facts(finding)),
        _layers(finding, places),
        _documentation(run, finding.name),
        class_=f"card {finding.severity}",
    )


def _facts(finding: Finding) -> Iterator[Markup]:
    subject = finding.param or finding.layer
    fix = finding.fix
    rows = [
        ("where", f"{subject} {finding.tensor.show(60)}".strip()),
        ("feeds", finding.feeds.show(200)),
        ("measured", finding.measured.show(300)),
        ("expected", finding.expected.show(300)),
        ("why", finding.why.show(600)),
        ("confidence", finding.confidence),
    ]
    if finding.location is not None:
        line = f":{finding.location.line}" if finding.location.line else ""
        rows.append(("built at", f"{finding.location.file}{line}"))
    if finding.suppression is not None:
        found = finding.suppression
        text = Untrusted(f"{found.kind}: {found.reason} ({found.place})").show(400)
        rows.append(("accepted", text))
    for label, text in rows:
        if text:
            yield element("dt", term(label, label) if label in TERMS else label)
            yield element("dd", text)
    if fix is not None:
        yield element("dt", "fix")
        text = fix.code.show(300) or f"initialise with {fix.scheme}"
        applied = term(fix.applicability, fix.applicability)
        yield element("dd", element("code", text), " (", applied, ")")


def _layers(finding: Finding, places: Mapping[str, str]) -> Markup:
    items: list[Markup] = []
    for layer in finding.layers[:LISTED]:
        place = places.get(layer.raw)
        items.append(element("a", layer.show(), href=place) if place else join(layer.show()))
    more = len(finding.layers) - LISTED
    if more > 0:
        items.append(join(f"and {more} more"))
    listed = [element("li", item) for item in items]
    title = element("summary", plural(len(finding.layers), "layer"))
    if len(finding.layers) == 1:
        return element("ul", *listed, class_="names")
    return element("details", title, element("ul", *listed, class_="names"))


def _documentation(run: Run, name: str) -> Markup:
    rule = run.rules.get(name)
    if rule is None:
        return Markup("")
    return element(
        "details",
        element("summary", "About this rule"),
        element("pre", lines(rule.help.raw, HELP_LIMIT), class_="help"),
    )
