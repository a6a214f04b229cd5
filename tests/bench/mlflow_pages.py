"""Screenshots of what MLflow shows of a store, each checked for what must stand on it.

    PYTHONPATH=tests python tests/bench/mlflow_pages.py --out DIR [--store STORE]

Without --store one is made in DIR first (2 to 6 minutes): three waves of real edits on the embedded
base, then one that the gate holds, then a revoked edit. A given store is only read: its history is
the sqlite file in it. A real MLflow server shows it to Chromium (Debian's packages chromium and
chromium-driver). Exit code 1 where a text is missing.
"""

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from mlflow import MlflowClient
from selenium import webdriver
from selenium.common.exceptions import TimeoutException, WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from e2e.mlflow_server import mlflow_server
from scen.cli.main import main as scen
from scen.fs import Storage
from scen.ledger.ledger import open_ledger
from scen.samples import sample_path
from scen.tracking.models import STORE_TAG

WAIT_S, SETTLE_S = 90, 1.5  # for a page's content; for its charts to be drawn whole
WIDTH, HEIGHT = 1500, 1700


@dataclass(frozen=True)
class Page:
    """Where something is shown, and what must stand there; `charts` are lines that are drawn."""

    name: str
    path: str
    texts: Sequence[str]
    charts: int = 0


def make_store(folder: Path, tracking_uri: str) -> None:
    """A small store with all that can be seen."""
    os.environ["MLFLOW_TRACKING_URI"] = tracking_uri
    store = ("--store", str(folder))
    waves = ("--stream", "zsre", "--limit", "18", "--wave-size", "6", "--why", "first facts")
    _run("edit", str(sample_path("zsre_edits.jsonl")), *store, *waves)
    weak = ("--set", "expert.steps=1", "--set", "waves.min_reliability=0.9")
    _run("edit", str(sample_path("counterfact_edits.jsonl")), *store, "--limit", "4", *weak)
    first = open_ledger(Storage(str(folder))).snapshot().ids[0]
    _run("revoke", first, *store, "--why", "the source was wrong")
    _run("register", *store)


def _run(*words: str) -> None:
    if code := scen(words):
        raise SystemExit(code)


def find_pages(client: MlflowClient, store: str) -> Iterator[Page]:
    """The pages about a store: its first stream's, and those of its registered model."""
    streams = client.search_experiments(filter_string="name LIKE 'stream/%'")
    stream = min(streams, key=lambda one: int(one.experiment_id))
    runs = {run.info.run_name: run for run in client.search_runs([stream.experiment_id])}
    wave = max(name for name in runs if name.startswith("wave-"))
    models = client.search_registered_models(f"tags.`{STORE_TAG}` = '{store}'")
    if not models:
        raise SystemExit(f"{store} has no registered model; `scen register` makes one")
    model = models[0]
    metrics = ("eval/reliability_after", "Logged models (1)", model.name)
    root = f"/#/experiments/{stream.experiment_id}/runs"
    texts = (wave, "Finished", "edit.wave_key", *metrics)
    yield Page("wave-run", f"{root}/{runs[wave].info.run_id}", texts)
    curves = ("stream", "eval", "Step")
    yield Page("stream-curves", f"{root}/{runs['stream'].info.run_id}/model-metrics", curves, 4)
    aliases = [f"@ {alias}" for alias in model.aliases]
    yield Page("registered-models", "/#/models", (model.name, "@ champion"))
    where = f"/#/models/{quote(model.name)}"
    yield Page("registered-model", where, (model.name, "scen.fingerprint", *aliases))
    champion = client.get_model_version_by_alias(model.name, "champion")
    told = ("@ champion", "scen.version", champion.description or "scen.edits")
    shown = (f"Version {champion.version}", *told)
    yield Page("champion", f"{where}/versions/{champion.version}", shown)


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """A browser without a window."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        raise SystemExit("needs Debian's packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    # As with a mouse: where there is none, charts show their tools all the time.
    mouse = "primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4"
    more = (f"--blink-settings={mouse}", f"--window-size={WIDTH},{HEIGHT}")
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", *more):
        options.add_argument(flag)
    service = webdriver.ChromeService(executable_path=driver)
    with webdriver.Chrome(options=options, service=service) as found:
        yield found


def missing(browser: webdriver.Chrome, page: Page) -> list[str]:
    """What does not stand on the page that is open."""
    text = browser.find_element(By.TAG_NAME, "body").text.replace("\xa0", " ")
    lines = browser.find_elements(By.CSS_SELECTOR, ".js-plotly-plot path.js-line")
    absent = [one for one in page.texts if one not in text]
    return absent + [f"{page.charts} charts"] * (len(lines) < page.charts)


def shoot(browser: webdriver.Chrome, url: str, page: Page, folder: Path) -> list[str]:
    """Save a page once it is whole, or after a long wait as it is; what is missing then."""
    browser.get(url + page.path)
    with suppress(TimeoutException):
        WebDriverWait(browser, WAIT_S).until(lambda _: not missing(browser, page))
    _close_extras(browser)
    time.sleep(SETTLE_S)
    browser.save_screenshot(str(folder / f"{page.name}.png"))
    return missing(browser, page)


def _close_extras(browser: webdriver.Chrome) -> None:
    """MLflow greets with an assistant and an advertisement, and hides runs of training."""
    for button in browser.find_elements(By.CSS_SELECTOR, "button[aria-label='Close']")[::-1]:
        with suppress(WebDriverException):  # it went with another
            button.click()
            time.sleep(SETTLE_S / 3)


def run(out: Path, store: Path | None) -> int:
    """Make, show and save; the number of pages that lack something."""
    out.mkdir(parents=True, exist_ok=True)
    place = store or out / "store"
    faulty = 0
    with mlflow_server(place / "mlflow", out / "server.log") as url:
        if store is None:
            make_store(place, url)
        pages = list(find_pages(MlflowClient(url), Storage(str(place)).uri))
        with chromium() as browser:
            for page in pages:
                absent = shoot(browser, url, page, out)
                faulty += bool(absent)
                told = f"lacks {', '.join(map(repr, absent))}" if absent else "is whole"
                sys.stdout.write(f"{out / page.name}.png {told}\n")
    return faulty


def main() -> int:
    """Read the arguments; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--store", type=Path, metavar="STORE")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is ended too
    return 1 if run(args.out, args.store) else 0


if __name__ == "__main__":
    sys.exit(main())
