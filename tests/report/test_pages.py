"""Pages in a browser: the system's Chromium, driven by Playwright (`make test-pages` installs it)."""

import os
import random
import shutil
from pathlib import Path

import pytest

from fast_electra.cli.main import main
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.pipelines.run_page import write_page
from fast_electra.report.page import render_page
from fast_electra.report.study_page import study_content
from fast_electra.studies.grid.findings import results_of
from fast_electra.studies.grid.running import Listener, run_study
from tests import tiny
from tests.report.test_report import CONTENT
from tests.studies.test_study import study

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make test-pages does it")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine: install it, such as by apt-get install chromium", allow_module_level=True)
# Nothing but the page: no calls to its maker's servers. Root, as in a container, has no sandbox.
QUIET = [
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"),
    *(["--no-sandbox"] if os.getuid() == 0 else []),
]
NAMES = ("quickstart", "run", "runs", "evaluation", "comparison", "study")
every_page = pytest.mark.parametrize("name", NAMES)
PHONE, SCREEN = {"width": 390, "height": 844}, {"width": 1300, "height": 900}
# Text of charts as the reader sees it: its size in the drawing times what the drawing is scaled by.
SMALL_TEXT = """() => [...document.querySelectorAll('.plot svg text')].filter((text) => {
  const svg = text.ownerSVGElement;
  const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
  return scale * parseFloat(getComputedStyle(text).fontSize) < 11;
}).map((text) => text.textContent)"""
CUT_TEXT = """() => [...document.querySelectorAll('.plot svg text')].filter((text) => {
  const [inner, outer] = [text.getBoundingClientRect(), text.ownerSVGElement.getBoundingClientRect()];
  return inner.width > 0 && (inner.left < outer.left - 2 || inner.right > outer.right + 2);
}).map((text) => text.textContent)"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory, shards, auxiliary) -> Path:
    """A folder with one page of each kind."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "quickstart.html").write_text(render_page(CONTENT), encoding="utf-8")
    for name, rate in (("slow", 1e-3), ("fast", 3e-3)):
        config = tiny.settings(shards, "fast_electra", auxiliary, optimizer__learning_rate=rate)
        pretrain(config, folder / "runs" / name)
    runs = [folder / "runs" / "slow", folder / "runs" / "fast"]
    write_page(runs[:1], folder / "run.html")
    write_page([*runs, auxiliary], folder / "runs.html")
    draw = random.Random(0)
    texts = [" ".join(draw.choice(tiny.WORDS) for _ in range(5)) for _ in range(40)]
    rows = [f"{text} {('good', 'bad')[number % 2]},{number % 2}" for number, text in enumerate(texts)]
    (folder / "reviews.csv").write_text("\n".join(["review,stars", *rows]) + "\n")
    for run in runs:
        words = ["evaluate", run, "--train", folder / "reviews.csv", "--text", "review", "--label", "stars"]
        words += ["--recipe", "fast", "--seeds", "0", "1", "recipe.epochs=1"]
        assert main([*map(str, words)]) == 0
    shutil.copy(runs[0] / "evaluation" / "report.html", folder / "evaluation.html")
    assert main(["compare", *map(str, runs), "--page", str(folder / "comparison.html")]) == 0
    for document in tiny.documents(100):
        (folder / "text").mkdir(exist_ok=True)
        (folder / "text" / document.source).write_text(document.text)
    axes = {"optimizer.weight_decay": [0.1, 0.2], "corruption.masking.rate": [0.1, 0.2]}
    found = study(folder / "text", axes=axes)
    results = results_of(found, run_study(found, folder / "out", folder / "cells", Listener()), folder / "out", "")
    (folder / "study.html").write_text(render_page(study_content(results)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def show(browser, pages):
    """Opens a page with all its charts drawn; the test fails on any error or warning of the page."""
    said, opened = [], []

    def show(name: str, viewport: dict = SCREEN, scheme: str = "light"):
        page = browser.new_page(viewport=viewport, color_scheme=scheme)
        opened.append(page)
        page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        page.goto((pages / f"{name}.html").as_uri())
        for figure in page.query_selector_all("figure.chart[data-chart]"):
            figure.scroll_into_view_if_needed()
            figure.wait_for_selector(".readout button")  # there as soon as the chart is live
        return page

    yield show
    for page in opened:
        page.close()
    assert said == []


@every_page
def test_every_chart_is_drawn_and_has_a_text_for_screen_readers(show, name):
    page = show(name)
    charts = page.query_selector_all("figure.chart")
    assert charts
    for chart in charts:
        assert chart.query_selector("svg path, svg line") is not None
        plot = chart.query_selector('.plot[role="img"]')
        assert len(plot.get_attribute("aria-label")) > 20
        assert plot.get_attribute("aria-label") != "Vega visualization"  # vega-embed's own
    assert page.evaluate(CUT_TEXT) == []


@every_page
def test_a_phone_shows_a_page_without_scrolling_sideways_and_with_readable_charts(show, name):
    page = show(name, PHONE)
    page.evaluate("document.querySelector('h1').append('/folder'.repeat(20))")  # the path of a run may be long
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.evaluate(SMALL_TEXT) == []
    if name == "runs":  # its tables are wider than a phone
        assert page.locator(".hint").first.is_visible()


@every_page
def test_dark_mode_is_dark_and_its_charts_have_light_text(show, name):
    page = show(name, scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    fills = page.evaluate(
        """() => [...document.querySelectorAll('.plot svg text')].filter((text) =>
          !(text.closest('.role-mark') && text.ownerSVGElement.querySelector('.mark-rect.role-mark'))
        ).map((text) => getComputedStyle(text).fill.match(/\\d+/g))"""
    )  # the figures of a heat map are dark where their cell is light
    assert fills
    assert all(min(map(int, fill)) > 140 for fill in fills)


@every_page
def test_print_is_light_and_fits_the_paper(show, name):
    page = show(name, {"width": 794, "height": 1123}, "dark")  # A4 at 96 dots per inch
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("document.documentElement.scrollWidth") <= 794
    assert not page.is_visible("nav") or name in ("evaluation", "comparison")
    assert page.pdf(format="A4").startswith(b"%PDF")


@every_page
def test_names_of_columns_stand_above_their_figures(show, name):
    page = show(name)
    apart = page.evaluate(
        """() => [...document.querySelectorAll('table')].flatMap((table) => {
          const head = table.tHead ? [...table.tHead.rows[0].cells] : [];
          const row = [...table.tBodies[0].rows].find((row) => row.cells.length === head.length);
          return row ? head.filter((cell, place) => getComputedStyle(cell).textAlign !==
            getComputedStyle(row.cells[place]).textAlign).map((cell) => cell.textContent) : [];
        })"""
    )
    assert apart == []


def column(page, place: int) -> list[str]:
    return page.evaluate(
        f"[...document.querySelectorAll('#overview tbody')[0].rows].map((r) => r.cells[{place}].innerText)"
    )


def test_a_table_sorts_by_click_and_by_keyboard(show):
    page = show("runs")
    heads = page.query_selector_all("#overview thead")[0].query_selector_all("th")
    loss = [head.inner_text() for head in heads].index("loss")
    before = [float(value) for value in column(page, loss)]
    heads[loss].query_selector("button").click()
    assert [float(value) for value in column(page, loss)] == sorted(before, reverse=True)
    assert heads[loss].get_attribute("aria-sort") == "descending"
    heads[loss].query_selector("button").focus()
    page.keyboard.press("Enter")
    assert [float(value) for value in column(page, loss)] == sorted(before)
    assert heads[loss].get_attribute("aria-sort") == "ascending"
    heads[0].query_selector("button").focus()
    page.keyboard.press("Space")
    assert column(page, 0) == sorted(column(page, 0), reverse=True)
    assert heads[loss].get_attribute("aria-sort") is None


def test_values_of_a_chart_are_read_and_zoomed_with_the_keyboard(show):
    page = show("runs")
    figure = page.query_selector("figure.chart")
    plot = figure.query_selector(".plot")
    plot.focus()
    page.keyboard.press("Home")
    first = figure.query_selector(".readout").inner_text()
    page.keyboard.press("ArrowRight")
    second = figure.query_selector(".readout").inner_text()
    assert first.startswith("updates ")
    assert first != second
    assert all(run in first for run in ("slow", "fast", "auxiliary"))


def test_the_first_screen_of_the_pages_can_be_used_without_a_mouse(show):
    page = show("run")
    page.evaluate("scrollTo(0, 0)")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"


def test_a_difference_is_drawn_with_its_interval_on_an_axis_around_zero(show):
    page = show("comparison")
    texts = page.evaluate("[...document.querySelectorAll('.plot svg')].at(-1).innerHTML")
    assert "no difference" in texts
    assert "points, 95 % interval" in texts
