"""The HTML page in a real browser: nothing cut, nothing overlapping, every number explained.

Needs Chromium and the ``playwright`` package; skips where either is missing.
"""

from __future__ import annotations

import json
import os
import shutil

import pytest

from fixtures.onnx_models import main as write_model
from initlint.__main__ import main
from initlint.records import Target
from initlint.report.formats import render
from initlint.report.run import Run
from initlint.report.style import View
from tests.report_sample import DEEP

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

MODELS = ("bad_residual_unscaled", "good_residual_scaled")
"""Fifty weighted layers each."""

PHONE, TABLET, WIDE = 390, 800, 1280

OVERLAPS = """
() => {
  const found = [];
  for (const row of document.querySelectorAll('summary, .card dl, .facts, .filter, .numbers, .x')) {
    const parts = [...row.children].filter((e) => e.checkVisibility() && !e.matches('.gutter'));
    const boxes = parts.map((e) => e.getBoundingClientRect()).filter((b) => b.width && b.height);
    boxes.forEach((a, i) => boxes.slice(i + 1).forEach((b) => {
      const x = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (x > 1 && y > 1) found.push(row.textContent.trim().slice(0, 80));
    }));
  }
  return found;
}
"""

CUT = """
() => [...document.querySelectorAll('body *')].filter((e) => {
  if (!e.checkVisibility() || e.closest('svg') || !e.textContent.trim()) return false;
  const box = e.getBoundingClientRect();
  return box.left < -0.5 || box.right > innerWidth + 0.5 || e.scrollWidth > e.clientWidth + 1 &&
    getComputedStyle(e).display !== 'inline' && getComputedStyle(e).overflowX !== 'visible';
}).map((e) => e.outerHTML.slice(0, 80))
"""

CONTRAST = """
() => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3)
      .map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (colour !== 'rgba(0, 0, 0, 0)') return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const low = [];
  for (const e of document.querySelectorAll('body :not(svg *)')) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
    if (!e.checkVisibility() || e.closest('output, script')) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(ground(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push(`${ratio.toFixed(2)} ${e.outerHTML.slice(0, 80)}`);
  }
  return low;
}
"""


@pytest.fixture(scope="module")
def browser():
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield found
        found.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    before = os.getcwd()
    os.chdir(folder)
    try:
        for name in MODELS:
            write_model([name, f"{name}.onnx"])
            code = main([f"{name}.onnx", "--quiet", "--report", f"html={name}.html"])
            assert code == int(name.startswith("bad"))
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def visit(browser, pages):
    """Open a page; anything it says on the console or asks of the network fails the test."""
    contexts, said, asked = [], [], []

    def go(name, width=WIDE, scheme="light", **options):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, **options
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        path = pages / f"{name}.html"
        page.goto(path.as_uri())
        return page

    yield go
    for context in contexts:
        context.close()
    assert not said
    assert all(url.startswith(("file:", "data:image/png")) for url in asked)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, TABLET, WIDE])
@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_cut_or_overlaps(visit, name, width, scheme):
    page = visit(name, width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach((d, i) => { d.open = i % 7 < 2 })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CUT) == []
    assert page.evaluate(OVERLAPS) == []
    assert page.evaluate(CONTRAST) == []


def test_what_it_shows(visit):
    page = visit("bad_residual_unscaled")
    assert "expected to fail or to stall: 1 error" in page.inner_text(".verdict")
    assert page.locator(".card.error").count() == 1
    assert page.locator("svg.profile").count() == 2
    assert page.locator("svg.profile .measured").count() == 26  # stem, 24 sums, head
    assert page.locator(".row.found.error").count() == 24
    assert page.locator(".gutter .skip").count() >= 24 * 2
    healthy = visit("good_residual_scaled")
    assert "expected to" not in healthy.inner_text(".verdict")
    assert healthy.locator(".row.found.error, .card.error, .card.warning").count() == 0


def test_every_number_explains_itself(visit):
    page = visit("bad_residual_unscaled")
    page.evaluate("document.querySelectorAll('.row')[3].open = true")
    tip = page.locator("#tip")
    marked = page.locator(".tip:visible")
    meanings = dict(
        zip(
            page.locator(".glossary dd").evaluate_all("all => all.map((e) => '#' + e.id)"),
            page.locator(".glossary dd").all_inner_texts(),
            strict=True,
        )
    )
    assert marked.count() > 20
    for index in range(marked.count()):
        marked.nth(index).focus()
        assert tip.inner_text() == meanings[marked.nth(index).get_attribute("href")]
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    page.locator(".glance [data-term]").first.hover()
    playwright.expect(tip).to_contain_text("size of the signal")
    bare = "[...document.querySelectorAll('.row[open] dd, .glance span')].filter((e) => "
    explained = "!(e.matches('[data-term]') || e.parentElement.querySelector('.tip')))"
    assert page.evaluate(f"{bare}{explained}.length") == 0


def test_arrow_keys_walk_through_a_profile(visit):
    page = visit("bad_residual_unscaled")
    chart = page.locator("svg.profile").first
    chart.focus()
    said = []
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "End", "ArrowRight", "Home"):
        page.keyboard.press(key)
        said.append(page.locator("#tip").inner_text().split(" · ")[0])
    assert said[0] == said[2] == said[5] == "stem"
    assert said[3] == said[4] == "head"
    assert said[1] != said[0]


def test_filters(visit):
    page = visit("bad_residual_unscaled")
    rows = page.locator(".row:visible")
    total = rows.count()
    page.locator(".layers .search").fill("blocks.7 linear")
    assert rows.count() == 2
    assert page.locator(".layers .status").inner_text() == f"2 of {total}"
    page.locator(".layers .search").fill("")
    page.locator(".only-found").check()
    assert rows.count() == 24


def test_a_link_opens_its_layer(visit):
    page = visit("bad_residual_unscaled")
    page.locator(".card summary").first.click()
    page.locator(".card .names a").nth(3).click()
    row = page.locator(".row[open]")
    playwright.expect(row).to_have_count(1)  # the browser says later that the address has changed
    assert "blocks.3.fc2" in row.locator("summary").inner_text()
    assert row.locator("svg.small").count() >= 3
    assert row.locator("img").evaluate("image => image.naturalWidth") == 24


def test_without_javascript(visit):
    page = visit("bad_residual_unscaled", java_script_enabled=False)
    assert page.locator("svg.profile .predicted").first.is_visible()
    row = page.locator(".row").nth(3)
    row.locator("summary").click()
    assert row.locator("svg.small").first.is_visible()
    assert page.locator(".search:visible").count() == 0
    page.locator(".only-found").check()
    assert page.locator(".row:visible").count() == 24


def test_print(visit):
    page = visit("bad_residual_unscaled", scheme="dark")
    page.emulate_media(media="print")
    assert page.locator(".filter:visible").count() == 0
    assert page.locator("svg.profile").first.is_visible()
    assert page.pdf().startswith(b"%PDF")


def test_a_thousand_layers(visit, pages):
    name = pages / "bad_residual_unscaled.onnx"
    code = main([str(name), "--format", "json", "--verbose", "--report", f"json={pages}/run.json"])
    assert code == 1
    record = json.loads((pages / "run.json").read_text())["targets"][0]
    template = next(row for row in record["profile"]["rows"] if row["weights"])
    rows = [
        {**template, "id": f"layer.{n}", "from": [max(n - 1, 0)] if n else []} for n in range(1000)
    ]
    record = {**DEEP, "findings": [], "profile": {"rows": rows, "band": [-0.7, 0.3]}}
    text = render("html", Run("0", (Target.parse(record),)), View())
    assert len(text) < 6_000_000
    (pages / "thousand.html").write_text(text)
    page = visit("thousand", PHONE)
    assert page.locator(".row").count() == 1000
    page.locator(".layers .search").fill("layer.99")
    assert page.locator(".row:visible").count() == 11
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE
