"""The workbench in a real browser: asking, explaining, handing in edits, choosing versions."""

import shutil
import time
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from e2e.browser import LOW_CONTRAST, Person, browser, chromium, needs_browser
from e2e.serving import Server, service, store, url
from scen.config import load_config
from scen.data import Rejection
from scen.data.inbox import Inbox
from scen.fs import Storage
from scen.ledger.actions import About, Drop, Revoke
from scen.snapshot.open import OpenStore, create_store
from scen_serve.api.access import AppSettings
from scen_serve.api.app import create_app
from scen_serve.service import Service
from scen_serve.settings import EngineLimits
from unit.serve.conftest import alone, commit_wave, serve_edits, unrelated

__all__ = ["browser", "chromium", "service", "store", "url"]  # fixtures

ROLES = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
pytestmark = [pytest.mark.e2e, pytest.mark.slow, needs_browser]


def test_both_answer_and_the_route_is_explained(
    browser: webdriver.Chrome, url: str, store: OpenStore
) -> None:
    edit, other = serve_edits(1, 5)[0], unrelated(1)[0]
    person = Person(browser, url)
    person.unlock("sk-wrong-key")
    person.see("#key-error", "does not know this key")
    assert person.count("#tabs[hidden]") == 1
    person.unlock("sk-root-123")
    person.see("#served", "tiny · version 2 · 32 edits")
    person.click("#settings summary")
    person.write("max-tokens", "24")
    person.click("#settings summary")
    person.see("#settings-summary", "tokens of an answer 24")
    person.ask(edit.prompt)
    edited = person.see(".edited .text")
    base = person.see(".base .text")
    assert edited.get_property("textContent") == alone(store, edit.prompt)
    assert base.get_property("textContent") == alone(store, edit.prompt, edited=False)
    assert edited.get_attribute("aria-busy") == "false"
    assert f"edit {edit.id}\nversion 2" in person.see(".edited .facts").text
    assert "24 tokens in" in person.see(".base .facts").text
    live = browser.find_element(By.ID, "live").get_property("textContent")
    assert str(edited.get_property("textContent")) in str(live)
    person.click(".why summary", f"Why did edit {edit.id} answer?")
    assert (
        "above the threshold 0.950, so the edit answered"
        in person.see(".why-body > p", "near").text
    )
    first = person.see(".near li.answers")
    assert f"{edit.prompt} → {edit.target}" in first.text
    assert person.count(".near li") == 5
    bar = first.find_element(By.CSS_SELECTOR, ".bar")
    fill = bar.find_element(By.CSS_SELECTOR, ".fill").rect
    tick = bar.find_element(By.CSS_SELECTOR, ".tick").rect
    assert bar.rect["x"] < tick["x"] < fill["x"] + fill["width"] < bar.rect["x"] + bar.rect["width"]
    assert "threshold 0.950" in str(bar.get_attribute("aria-label"))
    person.ask(other)  # its explanation begins open, as the last one was
    person.see(".turn:last-child .chip", "no edit answered")
    person.see(".turn:last-child .base .facts", "the same answer")
    person.see(".turn:last-child .why-body > p", "so the base answered")
    person.click(".turn .near .link", edit.id)
    assert edit.id in person.see("#edit-list details[open]").text
    assert person.complaints() == []


def test_a_conversation_has_turns_that_each_model_remembers_as_its_own(
    browser: webdriver.Chrome, tiny_folder: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(tiny_folder, tmp_path / "chat")
    (base / "chat_template.jinja").write_text(ROLES)
    named = {"name": str(base), "template": "chat", "dtype": "float32", "device": "cpu"}
    fixed = {"method": "scen-lr", "base": named, "router": {"threshold": 0.1}}
    neutral = [f"What is a {word}?" for word in ("river", "king", "song")]
    store = create_store(Storage(str(tmp_path / "s")), load_config(fixed=fixed), neutral)
    [edit] = serve_edits(1, 5)
    commit_wave(store, [edit], 0)
    service = Service(store, EngineLimits(max_rows=4, max_context=512), poll_s=0.05)
    server = Server(create_app(service, AppSettings("tiny")))
    person = Person(browser, server.start())
    person.click("#settings summary")
    person.write("max-tokens", "8")
    person.write("system", "Be brief.")
    person.click("#settings summary")
    person.ask(edit.prompt)
    person.ask("And now?")
    person.see("#send")
    asked: list[list[str]] = []
    for name, route in (("edited", "auto"), ("base", "off")):
        first, second = browser.find_elements(By.CSS_SELECTOR, f".{name} .text")
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": edit.prompt},
            {"role": "assistant", "content": first.get_property("textContent")},
            {"role": "user", "content": "And now?"},
        ]
        body = {"model": "tiny", "messages": messages, "max_tokens": 8, "scen": {"route": route}}
        script = """const [body, done] = arguments;
            fetch("/v1/chat/completions", {method: "POST", body: JSON.stringify(body),
                headers: {"Content-Type": "application/json"}}).then((r) => r.json()).then(done);"""
        told = browser.execute_async_script(script, body)
        said = told["choices"][0]["message"]["content"]
        assert said == second.get_property("textContent")
        asked.append([str(first.get_property("textContent")), said])
    assert asked[0] != asked[1]
    person.click("#restart")
    assert (person.count(".turn"), person.focus) == (0, "prompt")
    server.stop()


def test_an_answer_is_stopped_by_a_key(
    browser: webdriver.Chrome, url: str, service: Service
) -> None:
    person = Person(browser, url)
    person.unlock("sk-reader-1")
    person.click("#settings summary")
    person.write("max-tokens", "200")
    person.click("#settings summary")
    person.see("#prompt").send_keys(serve_edits(1)[0].prompt, Keys.ENTER)
    person.until(lambda: browser.find_element(By.CSS_SELECTOR, ".text").get_property("textContent"))
    assert person.see("#stop").is_displayed()
    person.press(Keys.ESCAPE)
    person.see("#send")
    person.see(".base .facts", "stopped")
    person.until(lambda: service.engine.num_running == 0)
    assert person.focus == "prompt"


def test_an_edit_is_handed_in_watched_asked_and_revoked(
    browser: webdriver.Chrome, url: str, service: Service, store: OpenStore
) -> None:
    script = "<img src=x onerror=alert(1)>"
    prompt = f"Who paints {script} now?"
    person = Person(browser, f"{url}/#edits")
    person.unlock("sk-root-123")
    person.see("#edit-count", "32 edits")
    person.click("#edit-more summary")
    person.write("edit-stream", "stream")  # the one that `commit_wave` commits to
    person.write("edit-prompt", prompt)
    person.write("edit-rephrases", f"Who draws?\n\nWho {chr(0xFFFD)}?")
    person.press(Keys.CONTROL, Keys.ENTER)
    person.see("#edit-target + .field-error", "is missing")
    assert person.focus == "edit-target"
    person.press("Ann", Keys.CONTROL, Keys.ENTER)
    person.see("#edit-rephrases + .field-error", "line 2: ")
    person.write("edit-rephrases", "Who draws?")
    person.press(Keys.CONTROL, Keys.ENTER)
    person.see("#handed-in .edit-line", f"{prompt} → Ann")
    assert person.see("#handed-in [aria-current=step]").text == "pending"
    person.see("#edit-list .chip.wait", "pending")
    browser.refresh()  # what was handed in is remembered
    serve_the_pending(person, store, prompt)
    revoke_with_a_reason(person, store)
    assert person.count("#edits img") == 0
    assert person.complaints() == []


def serve_the_pending(person: Person, store: OpenStore, prompt: str) -> None:
    """Commit the edit that waits, as `scen drain` does, and see it arrive."""
    person.see("#handed-in .edit-line", prompt)
    inbox = Inbox(store.storage, "stream")
    inbox.cut(0, inbox.waiting())
    [edit] = inbox.edits(0)
    assert [rephrase.text for rephrase in edit.rephrases] == ["Who draws?"]
    commit_wave(store, [edit], 2)
    inbox.end(0, [])
    person.see("#served", "version 3 · 33 edits")
    person.see("#handed-in [aria-current=step]", "served")
    person.write("edit-query", "who PAINTS")
    person.see("#edit-count", "1 edit")
    person.click("#edit-list summary", prompt)
    person.see("#edit-list .history", "committed in version 3")
    person.see("#edit-list dd", "Who draws?")


def revoke_with_a_reason(person: Person, store: OpenStore) -> None:
    """Without a reason it is not done."""
    person.click("#edit-list button", "Revoke")
    person.click("dialog button.danger")
    person.see("dialog .field-error", "Give a reason")
    person.press(Keys.ESCAPE)
    person.until(lambda: person.count("dialog") == 0)
    person.click("#edit-list button", "Revoke")
    assert person.focus == "why"
    person.press("wrong painter", Keys.CONTROL, Keys.ENTER)
    person.see("#edit-list .chip.off", "revoked")
    assert (store.ledger.log()[-1].who, store.ledger.log()[-1].why) == ("root", "wrong painter")


def test_a_rejected_edit_says_why_and_is_corrected(
    browser: webdriver.Chrome, url: str, store: OpenStore
) -> None:
    person = Person(browser, f"{url}/#edits")
    person.unlock("sk-news-123")  # may edit, in the stream news
    person.see("#edit-count", "No edits.")
    for field, text in (("prompt", "Who leads Rome?"), ("target", "Ann"), ("subject", "Rome")):
        person.write(f"edit-{field}", text)
    person.press(Keys.ENTER)
    person.see("#handed-in [aria-current=step]", "pending")
    inbox = Inbox(store.storage, "news")
    inbox.cut(0, inbox.waiting())
    [edit] = inbox.edits(0)
    inbox.end(0, [Rejection(1, edit.id, "target", "another edit says otherwise", "")])
    person.see("#handed-in .note.bad", "target: another edit says otherwise")
    person.click("#handed-in button", "Correct it")
    assert person.see("#edit-subject").get_property("value") == "Rome"
    assert person.count("#conversation .scope-notice:not([hidden])") == 1
    person.click("#tab-conversation")
    person.see("#conversation .scope-notice", "needs the scope read")


def test_versions_are_tried_and_activated(
    browser: webdriver.Chrome, url: str, service: Service
) -> None:
    person = Person(browser, f"{url}/#versions")
    person.unlock("sk-root-123")
    person.see("#serving", "Version 2 is served")
    names = [one.text for one in browser.find_elements(By.CSS_SELECTOR, ".version-name")]
    assert names == ["2", "1", "0"]
    person.click("[data-version='1'] button", "Canary")
    person.write("share", "100")
    person.press(Keys.ENTER)
    person.see("dialog .field-error", "between 0 and 100")
    person.write("share", "25")
    person.press(Keys.ENTER)
    person.see("#serving", "Version 1 answers 25 % of the requests, version 2 the others")
    assert service.follower.policy.share == 0.25
    person.click("#serving button", "Promote version 1")
    person.click("dialog button", "Serve version 1")
    person.see("#serving", "Version 1 is served")
    person.see("#served", "version 1 · 20 edits")
    assert service.follower.held == 1
    person.click("#serving button", "Follow the newest")
    person.click("dialog button", "Follow the newest")
    person.see("#serving", "Version 2 is served")
    assert person.complaints() == []


def test_a_rollback_shows_first_what_it_does_and_what_is_against_it(
    browser: webdriver.Chrome, url: str, store: OpenStore
) -> None:
    person = Person(browser, f"{url}/#versions")
    person.unlock("sk-root-123")
    person.see("#serving", "Version 2 is served")
    person.click("[data-version='1'] button", "Roll back")
    person.see("dialog .plan", "12 edits deactivated")
    person.write("why", "bad wave")
    store.ledger.settle(Revoke(["edit-3"], About("wrong", "ann")))  # somebody else, meanwhile
    person.click("dialog button", "Roll back")
    person.see("dialog .field-error", "the ledger is at version 3 now")
    person.press(Keys.ESCAPE)
    person.see("#serving", "Version 3 is served")
    person.click("[data-version='2'] button", "Roll back")
    person.see("dialog .plan", "1 edit restored: edit-3")
    person.write("why", "he was right")
    person.click("dialog button", "Roll back")
    person.see("dialog .field-error", "would bring back edits that were revoked")
    person.click("#bring-back")
    person.click("dialog button", "Roll back")
    person.see("#version-list", "rolled back to 2, 1 edit restored")
    assert store.ledger.log()[-1].why == "he was right"
    store.ledger.settle(Revoke(["edit-3"], About()))
    store.ledger.settle(Drop(["edit-3"], About()))
    person.see("#serving", "Version 6 is served")
    person.click("[data-version='4'] button", "Roll back")
    person.see("dialog .plan .bad", "deleted by `scen gc`")
    assert person.complaints() == []


def test_who_may_only_read_sees_versions_and_no_buttons(
    browser: webdriver.Chrome, url: str
) -> None:
    person = Person(browser, f"{url}/#versions")
    person.unlock("sk-reader-1")
    person.see("#version-list", "20 edits committed")
    person.see("#versions-note", "needs a key with the scope admin")
    assert person.count("#versions .tools button") == 0
    person.click("#tab-edits")
    person.see("#edits .scope-notice", "needs the scope edit, and it has read")
    assert browser.execute_script("return sessionStorage.length + localStorage.length") == 1
    person.click("#forget")
    person.see("#locked", "needs an API key")
    assert browser.execute_script("return sessionStorage.length + localStorage.length") == 0


def test_keys_alone_are_enough(browser: webdriver.Chrome, service: Service) -> None:
    server = Server(create_app(service, AppSettings("tiny")))
    person = Person(browser, server.start())
    person.see("#served", "tiny · version 2")  # no key is asked for where there are none
    assert person.count("#who[hidden]") == 1
    browser.execute_script("document.activeElement.blur()")
    person.press(Keys.TAB)
    assert person.focus == "Skip to the content"
    person.press(Keys.TAB)
    assert person.focus == "tab-conversation"
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert browser.execute_script(outline) == "solid"
    person.press(Keys.ARROW_RIGHT)
    assert person.focus == "tab-edits"
    person.see("#edit-form")
    person.press(Keys.END)
    person.see("#version-list")
    person.press(Keys.HOME)
    for _ in range(2):  # the settings, and what is in them while they are folded away: nothing
        person.press(Keys.TAB)
    assert person.focus == "prompt"
    person.press("Who?", Keys.SHIFT, Keys.ENTER, Keys.NULL, "And why?")
    assert person.see("#prompt").get_property("value") == "Who?\nAnd why?"
    person.press(Keys.CONTROL, Keys.ENTER)
    person.see(".question", "Who?\nAnd why?")
    person.see("#send")
    server.stop()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_a_phone_in_both_themes_with_enough_contrast(
    browser: webdriver.Chrome, url: str, theme: str
) -> None:
    size = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    person = Person(browser, url)
    person.unlock("sk-root-123")
    person.see("#served", "tiny")
    person.click("#settings summary")
    person.write("max-tokens", "24")
    person.ask(serve_edits(1, 5)[0].prompt + " x" * 40)
    person.click(".why summary")
    person.see(".near li")
    edited, base = (
        browser.find_element(By.CSS_SELECTOR, f".{n}.answer").rect for n in ("edited", "base")
    )
    assert base["y"] >= edited["y"] + edited["height"]  # one column
    for part in ("conversation", "edits", "versions"):
        person.click(f"#tab-{part}")
        person.see(f"#{part}")
        time.sleep(0.5)
        assert browser.execute_script("return document.documentElement.scrollWidth") == 360, part
        assert browser.execute_script(LOW_CONTRAST) == [], part
