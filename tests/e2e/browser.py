"""A real browser for tests of pages, and a person who uses it."""

import shutil
from collections.abc import Callable, Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
WAIT_S = 60
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="needs Debian's packages chromium and chromium-driver",
)


@pytest.fixture(scope="session")
def chromium() -> Iterator[webdriver.Chrome]:
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


@pytest.fixture
def browser(chromium: webdriver.Chrome) -> Iterator[webdriver.Chrome]:
    """A new tab; servers have ports of their own, so nothing is stored for its pages."""
    first = chromium.current_window_handle
    chromium.switch_to.new_window("tab")
    chromium.get_log("browser")  # type: ignore[no-untyped-call]  # of other tests
    yield chromium
    chromium.close()
    chromium.switch_to.window(first)


class Person:
    """Uses the page as people do: sees text, clicks, types."""

    def __init__(self, browser: webdriver.Chrome, url: str) -> None:
        self.browser = browser
        browser.get(url)

    def see(self, selector: str, text: str = "") -> WebElement:
        """The first element that is visible and has this text, once there is one."""

        def look(_: object) -> WebElement | None:
            for element in self.browser.find_elements(By.CSS_SELECTOR, selector):
                if element.is_displayed() and text in element.text:
                    return element
            return None

        waiting = WebDriverWait(self.browser, WAIT_S, ignored_exceptions=[Exception])
        return waiting.until(look, f"{text!r} is not seen in {selector}")  # type: ignore[return-value]

    def count(self, selector: str) -> int:
        """How many there are, visible or not."""
        return len(self.browser.find_elements(By.CSS_SELECTOR, selector))

    def until(self, done: Callable[[], object], message: str = "") -> None:
        """Wait."""
        WebDriverWait(self.browser, WAIT_S).until(lambda _: done(), message)

    def write(self, name: str, text: str) -> None:
        """Replace the text of a field."""
        field = self.see(f"#{name}")
        field.clear()
        field.send_keys(text)

    def click(self, selector: str, text: str = "") -> None:
        """Scroll to the first such element and click it."""
        element = self.see(selector, text)
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def press(self, *keys: str) -> None:
        """Keys for whatever has the focus."""
        self.browser.switch_to.active_element.send_keys(*keys)

    @property
    def focus(self) -> str:
        """The id, else the text, of what has the focus."""
        element = self.browser.switch_to.active_element
        return element.get_attribute("id") or element.text

    def unlock(self, key: str) -> None:
        """Give an API key."""
        self.see("#key").send_keys(key, Keys.ENTER)

    def ask(self, text: str) -> None:
        """Ask both, and wait for both answers."""
        self.see("#prompt").send_keys(text, Keys.ENTER)
        self.see("#send")

    def complaints(self) -> list[str]:
        """What the browser's console has, less answers of the server that were errors."""
        lines = self.browser.get_log("browser")  # type: ignore[no-untyped-call]
        return [line["message"] for line in lines if line["source"] != "network"]


# Texts of the page with a contrast under 4.5 (WCAG AA), as pairs of contrast and text.
LOW_CONTRAST = """
const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
  .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (element) => {
  for (let one = element; one; one = one.parentElement) {
    const colour = parse(getComputedStyle(one).backgroundColor);
    if (colour.length === 3 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
};
const seen = [...document.querySelectorAll("body *")].filter((element) =>
  element.checkVisibility() && !element.closest(".unseen, .skip, noscript") &&
  [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
return seen.map((element) => {
  const [front, back] = [parse(getComputedStyle(element).color), behind(element)].map(light);
  const ratio = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
  return [ratio, element.textContent.slice(0, 40)];
}).filter(([ratio]) => ratio < 4.5);
"""
