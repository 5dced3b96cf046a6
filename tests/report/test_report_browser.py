"""The report in a real browser: nothing fails, nothing is fetched, tabs work by keyboard."""

import csv
import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest

from realera.report import write_report
from realera.settings.config import load_params
from tests.kit.report_project import CONCEPTS, HOSTILE_TEXT, build, inside

_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_DRIVER = shutil.which("chromedriver")
_KEYS = {"Tab": "\ue004", "ArrowRight": "\ue014", "ArrowLeft": "\ue012", "Home": "\ue011", "End": "\ue010"}

pytestmark = pytest.mark.skipif(not (_CHROMIUM and _DRIVER), reason="chromium and chromedriver are not installed")


class Browser:
    """As much of the WebDriver protocol as the tests need."""

    def __init__(self, address: str, profile: Path) -> None:
        arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--window-size=1100,900",
            f"--user-data-dir={profile}",
        ]
        options = {"args": arguments, "binary": _CHROMIUM}
        logs = {"browser": "ALL", "performance": "ALL"}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": logs}
        self._address = address
        session = self._send("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        self._address = f"{address}/session/{session}"

    def open(self, path: Path) -> None:
        self._send("POST", "/url", {"url": path.as_uri()})

    def run(self, script: str):
        return self._send("POST", "/execute/sync", {"script": script, "args": []})

    def press(self, key: str) -> None:
        value = _KEYS.get(key, key)
        steps = [{"type": "keyDown", "value": value}, {"type": "keyUp", "value": value}]
        self._send("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": steps}]})

    def resize(self, width: int, height: int) -> None:
        self._send("POST", "/window/rect", {"width": width, "height": height})

    def logs(self, kind: str) -> list[dict]:
        return self._send("POST", "/se/log", {"type": kind})

    def quit(self) -> None:
        self._send("DELETE", "")

    def _send(self, method: str, path: str, body: dict | None = None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._address + path, data, headers, method=method)
        local = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy to this machine itself
        with local.open(request, timeout=120) as answer:
            return json.load(answer)["value"]


@pytest.fixture(scope="module")
def page(tmp_path_factory, repository):
    folder = build(tmp_path_factory.getbasetemp() / "report-project", repository)
    with inside(folder):
        write_report(load_params(), Path("artifacts"), Path("browser-reports"))
    return folder / "browser-reports" / "index.html"


@pytest.fixture(scope="module")
def driver():
    process = subprocess.Popen([_DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        yield f"http://127.0.0.1:{_port(process)}"
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@pytest.fixture
def browser(driver, page, tmp_path):
    opened = Browser(driver, tmp_path / "profile")
    try:
        opened.open(page)
        yield opened
    finally:
        opened.quit()


def test_shows_without_errors_and_asks_for_nothing(browser, page):
    assert [entry for entry in browser.logs("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.logs("performance")]
    requests = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
    asked = [request["request"]["url"] for request in requests if request["documentURL"] == page.as_uri()]
    assert page.as_uri() in asked
    assert [url for url in asked if not url.startswith("data:") and url != page.as_uri()] == []


def test_every_picture_decodes_and_says_what_it_is(browser):
    pictures = browser.run("""
        return Promise.all(Array.from(document.images, (i) => i.decode().then(() => i, () => i))).then((all) =>
          all.map((i) => [i.naturalWidth, i.naturalHeight, i.width, i.getAttribute("width"), i.alt]))""")
    assert len(pictures) > 40
    assert all(width == 64 and height == 64 for width, height, *_ in pictures)
    assert all(attribute and alt for *_, attribute, alt in pictures)


def test_numbers_on_the_page_are_those_of_the_metrics(browser, page):
    with (page.parent / "figures.csv").open(encoding="utf-8", newline="") as file:
        names = ("concept", "metric", "reading", "model")
        figures = {tuple(row[name] for name in names): float(row["value"]) for row in csv.DictReader(file)}
    found = browser.run("""
        return Array.from(document.querySelectorAll(".reading [data-model]"), (e) => [
          e.closest("[data-concept]").dataset.concept, e.closest(".reading").dataset.metric,
          e.closest(".reading").dataset.reading, e.dataset.model, e.textContent])""")
    assert len(found) == (len(CONCEPTS) + 1) * 4 * 3 * 2  # cards, readings, models
    for *key, text in found:
        assert abs(figures[tuple(key)] - float(text)) <= 0.0501, key


def test_tabs_work_by_keyboard(browser):
    state = """
        return [document.activeElement.id,
                Array.from(document.querySelectorAll(".panel:not([hidden])"), (p) => p.id)]"""
    assert browser.run(state)[1] == ["all-concepts"]
    browser.press("Tab")  # the link to the results
    browser.press("Tab")
    assert browser.run(state) == ["tab-all-concepts", ["all-concepts"]]
    for key, name in [
        ("ArrowRight", "concept-airplane"),
        ("ArrowRight", "concept-cat"),
        ("ArrowRight", "all-concepts"),
        ("ArrowLeft", "concept-cat"),
        ("Home", "all-concepts"),
        ("End", "concept-cat"),
    ]:
        browser.press(key)
        assert browser.run(state) == [f"tab-{name}", [name]], key
    browser.press("Tab")
    assert browser.run("return document.activeElement.id") == "concept-cat"


def test_hostile_words_stay_text(browser):
    assert browser.run("return document.querySelectorAll('script').length") == 1
    assert browser.run("return document.querySelectorAll('[onerror], img:not([src^=\"data:\"])').length") == 0
    assert HOSTILE_TEXT in browser.run("return document.getElementById('concept-airplane').textContent")
    assert HOSTILE_TEXT in browser.run(
        "return Array.from(document.querySelectorAll('circle title'), (t) => t.textContent).join('|')"
    )


@pytest.mark.parametrize("width", [360, 1100])
def test_fits_the_screen(browser, width):
    browser.resize(width, 800)
    for index in range(len(CONCEPTS) + 1):
        browser.run(f"document.querySelectorAll('.tabs a')[{index}].click()")
        wide, room = browser.run("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide <= room, index


def test_every_tab_points_at_its_panel_and_ids_are_unique(browser):
    assert (
        browser.run("""
        const ids = Array.from(document.querySelectorAll("[id]"), (e) => e.id);
        return ids.length - new Set(ids).size""")
        == 0
    )
    assert browser.run("""
        return Array.from(document.querySelectorAll('[role="tab"]')).every((t) =>
          document.getElementById(t.getAttribute("aria-controls")).getAttribute("aria-labelledby") === t.id)""")


def _port(process: subprocess.Popen) -> str:
    """Read the port from chromedriver's own words."""
    for line in process.stdout:
        if found := re.search(r"successfully on port (\d+)", line):
            return found[1]
    pytest.fail("chromedriver ended before it said its port")
