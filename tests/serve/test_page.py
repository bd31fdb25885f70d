"""The page in Chromium: a click shows where the evidence is, a tick looks at parts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("starlette", reason="the extra 'serve' is not installed")

from served import running

from miil21k.predict.predictor import Predictor
from miil21k.serve.app import create_app
from miil21k.serve.bodies import Limits
from miil21k.serve.query import Asked
from miil21k.serve.service import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

CAT = Path(__file__).parents[2] / "examples" / "images" / "cat.jpg"
# Where the element lies in the picture, in parts of its width.
LEFT = "e => (e.getBoundingClientRect().left - by('picture').getBoundingClientRect().left) / by('picture').width"
WIDTH = "e => e.getBoundingClientRect().width / by('picture').width"


@pytest.fixture
def page() -> Iterator[Page]:
    """The page of a server on the embedded model, 400 pixels wide, with an answer about a cat."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium is installed")
    predictor = Predictor("embedded", backend="torch", device="cpu")
    with serving(predictor, workers=2, max_wait=0.0, queue=64) as service, sync_api.sync_playwright() as playwright:
        service.warm_up()
        with running(create_app(service, Asked(predictor.options, None), Limits(1 << 20, 4, 60))) as port:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 400, "height": 900})
            page.set_default_timeout(120_000)
            page.goto(f"http://127.0.0.1:{port}/")
            page.wait_for_selector("#clickable:not([hidden])", state="attached")
            page.set_input_files("#file", CAT)
            page.wait_for_selector("#path li")
            yield page
            browser.close()


def test_a_click_shows_where_and_a_tick_looks_at_parts(page: Page) -> None:
    page.click("#path li:last-child button")
    page.wait_for_selector("#heat:not([hidden])")
    assert page.inner_text("#where").startswith("where: domestic cat 0.9")
    width, height = 451, 300
    side = 0.875 * height / width  # the middle 224 of 256 pixels of the shorter side
    assert page.eval_on_selector("#heat", WIDTH) == pytest.approx(side, abs=0.01)
    assert page.eval_on_selector("#heat", LEFT) == pytest.approx((1 - side) / 2, abs=0.01)
    assert page.get_attribute("#path li:last-child button", "aria-pressed") == "true"
    page.click("#path li:last-child button")
    page.wait_for_selector("#heat", state="hidden")
    page.check("#multi")
    page.wait_for_selector(".part")
    assert "domestic cat" in page.inner_text("#parts")
    tile = page.locator(".part", has_text="domestic cat").first.evaluate(WIDTH) * width
    assert min(abs(tile - height / part) for part in (2, 3)) < 6
    assert page.evaluate("document.documentElement.scrollWidth") == 400, "nothing sticks out"
