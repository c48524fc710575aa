"""One self-contained HTML file: opens anywhere, loads nothing, works without JavaScript."""

from __future__ import annotations

from collections.abc import Iterator

from initlint.records import Target
from initlint.report.html.findings import findings_section, worst_by_layer
from initlint.report.html.layers import layers_section
from initlint.report.html.markup import Markup, element
from initlint.report.html.page import document
from initlint.report.html.signals import signals_section
from initlint.report.html.words import term
from initlint.report.profile import parse
from initlint.report.run import Run
from initlint.report.style import View
from initlint.report.summary import counts_text, plural, probe_text, unchecked


def render(run: Run, view: View) -> str:
    """The whole run as one HTML document."""
    return document(_title(run), *_main(run), version=run.version, top=_top(run))


def _title(run: Run) -> str:
    names = ", ".join(target.target.show(60) for target in run.targets[:3])
    return f"initlint: {names}" if names else "initlint"


def _top(run: Run) -> Markup:
    total = counts_text(run.counts) or "no findings"
    text = f"{plural(len(run.targets), 'target')} checked: {total}"
    if run.errors:
        text += f" · {len(run.errors)} not checked"
    links = [
        element("a", target.target.show(80), href=f"#t{index}", class_=_state(target))
        for index, target in enumerate(run.targets)
    ]
    menu = element("nav", *links, aria_label="Targets") if len(links) > 1 else Markup("")
    return element("header", element("b", "initlint"), " ", text, menu, class_="top")


def _main(run: Run) -> Iterator[Markup]:
    if run.unchecked:
        items = [
            element("li", element("b", failure.target.show()), " ", failure.message.show(300))
            for failure in run.unchecked
        ]
        yield element(
            "section", element("h2", "Not checked"), element("ul", *items), class_="unchecked"
        )
    for index, target in enumerate(run.targets):
        yield _target(run, target, f"t{index}")
    if run.notices:
        items = [element("li", notice.show(300)) for notice in run.notices]
        yield element("section", element("h2", "Notices"), element("ul", *items))


def _state(target: Target) -> str:
    if target.failures:
        return "error"
    return next((s for s, count in target.counts.items() if count), "good")


def _target(run: Run, target: Target, key: str) -> Markup:
    profile = parse(target.record.get("profile"))
    worst = worst_by_layer(target)
    parts = [_verdict(target), findings_section(run, target, profile, key)]
    if profile is not None:
        parts += [
            signals_section(profile, worst),
            layers_section(target, profile, worst, key),
        ]
    parts.append(_rest(target))
    return element("article", *parts, id=key)


def _verdict(target: Target) -> Markup:
    state = _state(target)
    facts = [
        term(f"stage {target.stage}", "stage"),
        Markup(element("span", target.kind)),
    ]
    count = target.record.get("parameters")
    if isinstance(count, int):
        facts.append(term(f"{count:,} parameters", "parameters"))
    facts.append(term(probe_text(target), "probe"))
    if target.suppressed:
        facts.append(term(f"{len(target.suppressed)} accepted", "accepted"))
    risk = []
    if target.risk is not None:
        share = min(max(target.risk, 0.0), 1.0)
        risk = [element("div", *_risk(target, share), class_="risk")]
    return element(
        "header",
        element("h1", target.target.show()),
        element("p", _sentence(target), class_=f"verdict {state}"),
        *risk,
        element("p", *facts, class_="facts"),
    )


def _risk(target: Target, share: float) -> Iterator[Markup]:
    """The number, a bar in the colour of its level, and what it comes from."""
    level = next(name for limit, name in _LEVELS if share >= limit)
    bar = element(
        "svg",
        element("rect", class_="trough", width=100, height=10),
        element("rect", class_=f"level {level}", width=100 * share, height=10),
        class_="bar",
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
        aria_hidden="true",
    )
    yield element("p", term(f"Risk {share:.0%}", "risk", class_=level), " ", bar)
    reasons = [element("li", reason.show(120)) for reason in target.risk_reasons]
    if reasons:
        yield element("ul", *reasons)
    basis = target.risk_basis.show(120)
    if basis:
        yield element("p", term("rests on", "rests on"), f" {basis}", class_="basis")


_LEVELS = ((0.5, "error"), (0.2, "warning"), (0.0, "good"))
"""Risk from which a model is more likely harmed than not, and from which harm is one in five: the
offset alone, with no evidence of harm, is one in eight."""


def _sentence(target: Target) -> str:
    """The verdict in words; never "no findings" of what was not checked."""
    if target.failures:
        return "not fully checked: a rule crashed"
    found = counts_text(target.counts)
    if found:
        return f"{_OUTLOOK.get(_state(target), '')}{found}" if target.stage == "fresh" else found
    if target.ran is not None and not target.ran:
        return "not checked by any rule"
    return f"no findings from {plural(len(target.ran), 'rule')}" if target.ran else "no findings"


_OUTLOOK = {
    "error": "Training from these weights is expected to fail or to stall: ",
    "warning": "Training from these weights is expected to suffer: ",
}
"""What the severities of a fresh model mean: they come from predicted and measured harm."""


def _rest(target: Target) -> Markup:
    lines = unchecked(target)
    if not lines:
        return Markup("")
    items = [element("li", line) for line in lines]
    return element("section", element("h2", "What was left out"), element("ul", *items))
