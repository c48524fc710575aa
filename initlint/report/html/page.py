"""The frame of every page: one file under a policy that lets nothing in but its own two texts."""

from __future__ import annotations

import base64
from hashlib import sha256
from pathlib import Path

from initlint.report.html.markup import Markup, element, join
from initlint.report.html.words import glossary
from initlint.report.text import inert

_HERE = Path(__file__).parent


def document(title: str, *content: str, version: str, top: str = "") -> str:
    """A whole HTML document."""
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup(style)),
    )
    body = element(
        "body",
        top or element("header", element("b", "initlint"), class_="top"),
        element("main", *content, glossary()),
        element("footer", "initlint ", version),
        element("output", id="tip", hidden=True),
        element("script", Markup(script)),
    )
    page = join(Markup("<!doctype html>\n"), element("html", head, body, lang="en"))
    return "".join(f"{inert(line)}\n" for line in page.split("\n"))


def _digest(text: str) -> str:
    """The hash by which the policy lets one inline text in; `inert` must leave that as it is."""
    return "sha256-" + base64.b64encode(sha256(text.encode("utf-8")).digest()).decode("ascii")
