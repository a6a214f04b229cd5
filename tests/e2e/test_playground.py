"""The page at `/` in a real browser: a person asks, and sees both answers."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from e2e.serving import Server, service, store, url
from scen.snapshot.open import OpenStore
from scen_serve.api.access import AppSettings
from scen_serve.api.app import create_app
from scen_serve.service import Service
from unit.serve.conftest import alone, serve_edits

__all__ = ["service", "store", "url"]  # fixtures

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="needs Debian's packages chromium and chromium-driver",
    ),
]


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    """Chromium without a window."""
    assert CHROMIUM is not None
    assert DRIVER is not None
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1000,900"):
        options.add_argument(flag)
    service = webdriver.ChromeService(executable_path=DRIVER)
    with webdriver.Chrome(options=options, service=service) as found:
        yield found


def text(browser: webdriver.Chrome, name: str) -> str:
    """What a place of the page says."""
    return str(browser.find_element(By.ID, name).text)


def test_a_person_asks_and_sees_both_answers(
    browser: webdriver.Chrome,
    url: str,
    store: OpenStore,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    edit = serve_edits(1, 5)[0]
    browser.get(url)
    browser.find_element(By.ID, "prompt").send_keys(edit.prompt)
    browser.find_element(By.ID, "key").send_keys("sk-reader-1")
    browser.find_element(By.ID, "send").click()
    WebDriverWait(browser, 60).until(lambda _: text(browser, "edited-facts"))
    WebDriverWait(browser, 60).until(lambda _: text(browser, "base-facts"))
    shot = tmp_path / "playground.png"
    assert browser.save_screenshot(str(shot))
    record_property("screenshot", str(shot))
    assert text(browser, "edited").startswith(alone(store, edit.prompt).strip()[:8])
    assert text(browser, "base") != text(browser, "edited")
    assert f"version 2, edit {edit.id}, score" in text(browser, "edited-facts")
    assert text(browser, "base-facts") == "version 2, no edit"
    assert text(browser, "served") == "tiny: version 2 with 32 edits"
    rows = [row.text for row in browser.find_elements(By.CSS_SELECTOR, "#recent li")]
    assert [row.split(",")[0] for row in rows] == ["commit of 12 edits", "commit of 20 edits"]


def test_the_last_waves_are_shown_before_anything_is_asked(
    browser: webdriver.Chrome, url: str
) -> None:
    browser.get(url)
    WebDriverWait(browser, 60).until(lambda _: "missing or wrong" in text(browser, "served"))
    assert browser.find_elements(By.CSS_SELECTOR, "#recent li") == []
    browser.find_element(By.ID, "key").send_keys("sk-reader-1", Keys.TAB)
    WebDriverWait(browser, 60).until(lambda _: text(browser, "served").startswith("tiny:"))
    rows = [row.text for row in browser.find_elements(By.CSS_SELECTOR, "#recent li")]
    assert [row.split(",")[0] for row in rows] == ["commit of 12 edits", "commit of 20 edits"]
    assert text(browser, "edited") == ""


def test_without_keys_they_are_shown_at_once(browser: webdriver.Chrome, service: Service) -> None:
    server = Server(create_app(service, AppSettings("tiny")))
    browser.get(server.start())
    WebDriverWait(browser, 60).until(lambda _: text(browser, "recent"))
    assert text(browser, "served") == "tiny: version 2 with 32 edits"
    server.stop()


def test_a_wrong_key_is_told(browser: webdriver.Chrome, url: str) -> None:
    browser.get(url)
    browser.find_element(By.ID, "prompt").send_keys("Who?")
    browser.find_element(By.ID, "send").click()
    WebDriverWait(browser, 60).until(lambda _: text(browser, "edited"))
    assert "missing or wrong" in text(browser, "edited")
