"""The report of a store in a real browser: on a desk, on a phone, and on paper."""

import base64
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from e2e.browser import browser, chromium, needs_browser
from scen.fs import Storage
from scen.report.render import make_report, publish
from scen.report.store import Wanted, read_store
from unit.report.conftest import SCRIPT, made

__all__ = ["browser", "chromium", "made"]  # fixtures

pytestmark = [pytest.mark.e2e, needs_browser]


@pytest.fixture(scope="module")
def page(made: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a report."""
    storage, wanted = Storage(str(made)), Wanted()
    folder = tmp_path_factory.mktemp("page")
    publish(make_report(storage, read_store(storage, wanted), wanted), folder)
    return f"file://{folder / 'index.html'}"


def resize(browser: webdriver.Chrome, width: int) -> None:
    """Show as much as a screen of so many CSS pixels."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_the_page_is_no_wider_than_the_screen(
    browser: webdriver.Chrome, page: str, width: int
) -> None:
    resize(browser, width)
    browser.get(page)
    root = "return document.documentElement.scrollWidth"
    assert browser.execute_script(root) <= width
    images = browser.find_elements(By.TAG_NAME, "img")
    shown = [image for image in images if image.is_displayed()]
    assert shown
    drawn = "return arguments[0].complete && arguments[0].naturalWidth > 100"
    assert all(browser.execute_script(drawn, image) for image in shown)


def test_it_complains_of_nothing_and_shows_what_people_wrote(
    browser: webdriver.Chrome, page: str
) -> None:
    browser.get(page)
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
    assert SCRIPT in browser.find_element(By.ID, "troubles").text


def test_a_link_leads_to_a_wave(browser: webdriver.Chrome, page: str) -> None:
    browser.get(page)
    waves = browser.find_elements(By.CSS_SELECTOR, "#waves details")
    assert [wave.get_attribute("open") is not None for wave in waves] == [True, False, False, False]
    browser.find_element(By.CSS_SELECTOR, "a[href='#wave-2']").click()
    assert browser.current_url.endswith("#wave-2")
    waves[1].find_element(By.TAG_NAME, "summary").click()
    assert waves[1].find_element(By.TAG_NAME, "img").is_displayed()


def test_paper_has_the_waves_that_are_folded_away(browser: webdriver.Chrome, page: str) -> None:
    def pages() -> int:
        printed = base64.b64decode(browser.print_page())
        return printed.count(b"/Type /Page\n") or printed.count(b"/Type/Page\n")

    browser.get(page)
    whole = pages()
    browser.execute_script(
        "document.querySelectorAll('details:not([open])').forEach(d => d.remove())"
    )
    assert whole > pages() > 1
