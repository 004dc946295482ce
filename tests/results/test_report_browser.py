"""The page in a real browser: by eye it was looked at in light, dark, on a phone and on paper; this holds what was
found. Skipped where there is no Chromium."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import pytest
from browser import Browser, find
from made_run import make_run
from PIL import Image

from simpletune.results.report.write import Page

pytestmark = pytest.mark.skipif(find() is None, reason="no Chromium on this machine")

_WIDTH = "[document.documentElement.scrollWidth, innerWidth]"
_SMALL_TEXT = """[...document.querySelectorAll('main *, header *')].filter(one => one.checkVisibility() &&
    [...one.childNodes].some(child => child.nodeType === 3 && child.data.trim()) &&
    parseFloat(getComputedStyle(one).fontSize) < 11.5).map(one => one.outerHTML.slice(0, 80))"""
_OVERLAPS = """[...document.querySelectorAll('.xs')].flatMap(axis => {
    const boxes = [...axis.children].map(one => one.getBoundingClientRect());
    return boxes.slice(1).filter((box, i) => box.left < boxes[i].right + 2);
}).length"""
_TALLER = "[...document.querySelectorAll('.chart')].filter(one => one.scrollWidth > one.clientWidth).length"


@pytest.fixture(scope="module")
def browser():
    with Browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page about one run with long names, and one that compares two."""
    folder = tmp_path_factory.mktemp("pages")
    one = make_run(folder / "one", steps=1200, validations=12)
    described = json.loads((one / "run.json").read_text())
    described["config"]["lora_target"] = {"value": ["transformer_blocks." + "x" * 200], "origin": "config.json:7"}
    (one / "run.json").write_text(json.dumps(described))
    two = make_run(folder / "two", steps=900)
    alone = Page([one], folder / "one.html", lambda run: None).write()
    return alone, Page([one, two], folder / "two.html", lambda run: None).write()


@pytest.mark.parametrize("width", [1200, 768, 390, 320])
@pytest.mark.parametrize("index", [0, 1], ids=["one", "compared"])
def test_nothing_is_wider_than_the_window(browser, pages, index, width):
    browser.errors.clear()
    browser.open(pages[index], width=width)
    scroll, inner = browser.evaluate(_WIDTH)
    assert scroll <= inner == width
    assert browser.evaluate(_SMALL_TEXT) == []
    assert browser.evaluate(_OVERLAPS) == 0
    assert browser.evaluate(_TALLER) == 0
    assert browser.errors == []


def test_it_follows_the_system_and_its_own_button(browser, pages):
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    browser.open(pages[0])
    browser.evaluate("localStorage.clear()")
    assert browser.evaluate(ground) == "rgb(251, 250, 248)"
    browser.open(pages[0], dark=True)
    assert browser.evaluate(ground) == "rgb(22, 21, 15)"
    assert browser.evaluate("document.querySelector('.theme').textContent") == "Light colours"
    browser.evaluate("document.querySelector('.theme').click()")
    assert browser.evaluate(ground) == "rgb(251, 250, 248)"
    for _ in range(20):  # Chromium hands what a page keeps to the next page's process a moment later
        browser.open(pages[1], dark=True)
        if browser.evaluate(ground) == "rgb(251, 250, 248)":
            break
        time.sleep(0.1)
    assert browser.evaluate(ground) == "rgb(251, 250, 248)"
    browser.evaluate("localStorage.clear()")


def test_the_slider_works_by_keyboard(browser, pages):
    browser.open(pages[0])
    for _ in range(20):
        browser.key("Tab", 9)
        if browser.evaluate("document.activeElement.type") == "range":
            break
    assert browser.evaluate("document.activeElement.value") == "50"
    for _ in range(10):
        browser.key("ArrowRight", 39)
    assert browser.evaluate("document.activeElement.getAttribute('aria-valuetext')") == "60% base, 40% fine-tuned"
    clip = "getComputedStyle(document.activeElement.closest('.pair').querySelector('.tuned')).clipPath"
    assert browser.evaluate(clip) == "inset(0px 0px 0px 60%)"
    assert browser.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_it_asks_for_nothing_and_runs_nothing_but_its_own(browser, pages):
    browser.asked.clear()
    browser.open(pages[0])
    assert browser.asked == [pages[0].resolve().as_uri()]
    browser.errors.clear()
    loaded = """new Promise(done => {
        const one = new Image();
        one.onload = () => done('loaded');
        one.onerror = () => done('refused');
        one.src = 'http://127.0.0.1:9/x.png';
    })"""
    assert browser.evaluate(loaded) == "refused"
    assert any("Content Security Policy" in error for error in browser.errors)
    browser.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = 1\">')")
    time.sleep(0.2)
    assert browser.evaluate("window.ran") is None


def test_on_paper_pictures_stand_side_by_side(browser, pages, tmp_path):
    browser.open(pages[0], width=700, dark=True, media="print")
    pair = "[...document.querySelector('.pair[data-both] .views').querySelectorAll('img')]"
    across = f"{pair}.map(one => Math.round(one.getBoundingClientRect().left))"
    left, right = browser.evaluate(across)
    assert right > left
    assert browser.evaluate("getComputedStyle(document.querySelector('.slide')).display") == "none"
    assert browser.evaluate("getComputedStyle(document.body).color") == "rgb(29, 28, 26)"
    browser.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").stat().st_size > 10_000


def test_a_page_of_a_run_that_goes_on_loads_itself_again(browser, tmp_path):
    run = make_run(tmp_path, steps=20)
    (run / "finished.json").unlink()
    (run / ".run.lock").write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    page = Page([run], None, lambda run: None)
    browser.open(page.write(refresh=1))
    browser.evaluate("window.before = true")
    (run / ".run.lock").unlink()
    page.write()
    for _ in range(50):
        time.sleep(0.1)
        if browser.evaluate("window.before") is None:
            break
    assert "Stopped at step 20" in browser.evaluate("document.querySelector('.state').textContent")
    assert browser.evaluate("document.getElementById('refresh')") is None


def test_the_curves_are_drawn(browser, pages, tmp_path):
    browser.open(pages[0])
    browser.evaluate("document.querySelector('.chart').scrollIntoView()")
    browser.screenshot(tmp_path / "chart.png", whole=False)
    with Image.open(Path(tmp_path / "chart.png")) as picture:
        found = picture.convert("RGB").getcolors(1 << 24)
    blue = sum(count for count, (r, g, b) in found if (r, g, b) == (0x1F, 0x5F, 0xAE))
    assert blue > 500
