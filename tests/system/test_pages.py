"""The pages for people, driven in a real headless Chromium (Debian's `chromium`) that reaches no other machine."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.error import URLError
from urllib.request import urlopen

import forked
import pytest
import uvicorn
from conftest import REPO, StandIn, free_port
from playwright.sync_api import Browser, Error, Locator, Page, expect, sync_playwright

from genai_server.answer import Answer
from genai_server.answering.predictor import LoadedModel
from genai_server.errors import BadQuestion, EngineDown
from genai_server.http.app import create_app
from genai_server.model_info import ModelInfo
from genai_server.settings import ServerSettings

pytestmark = pytest.mark.slow


KEY = "a-key-for-people"
WAIT_MS = 60_000  # two cores may be busy with other tests
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
MARKUP = '<b>bold</b><img src=x onerror="window.harmed = true">'
INFO = ModelInfo(
    "scripted", "models:/scripted/7", "7", prompt="qa-simple/3", turn_format="turns", engine={"name": "stand-in"}
)


class Scripted(StandIn):
    """Says the conversation back, or does what no small model does when it is asked to."""

    def __init__(self) -> None:
        super().__init__({"answer": "A scripted answer.", "finish_reason": "stop"})
        self.released = threading.Event()

    async def stream(self, question: dict, params: dict):
        text = question["question"]
        if text == "refuse":
            raise BadQuestion("The question is refused.", "Ask another one.")
        if text == "go on":
            try:
                for number in itertools.count():
                    yield f"{number} "
                    await asyncio.sleep(0.02)
            finally:
                self.released.set()
        said = " / ".join((*question["history"], text))
        yield said
        if text == "break":
            raise EngineDown("The engine ended.", "Ask again in a few seconds.")
        yield Answer(said, "timeout", warnings=("History was shortened.",))


# --- a browser, and two servers to visit ----------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        reason = "there is no chromium; on Debian: apt-get install --no-install-recommends chromium"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[OFFLINE])
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page, and what the browser had to complain of since it was opened."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def ask(self, question: str) -> Locator:
        """Type the question, press Enter; its article."""
        box = self.page.get_by_label("Your question")
        box.fill(question)
        box.press("Enter")
        return self.page.locator("article").last

    def slow_down(self, bytes_per_second: int) -> None:
        """As over a slow line: else a short answer is there before the page can be seen to grow."""
        line = {"offline": False, "latency": 0, "downloadThroughput": bytes_per_second, "uploadThroughput": -1}
        self.page.context.new_cdp_session(self.page).send("Network.emulateNetworkConditions", line)


@pytest.fixture
def visit(browser) -> Iterator[Callable[..., Visit]]:
    contexts = []

    def open_page(url: str, **options) -> Visit:
        contexts.append(browser.new_context(**options))
        visit = Visit(contexts[-1].new_page())
        visit.page.set_default_timeout(WAIT_MS)
        host = re.match(r"https?://[^/]+/", url)[0]
        own = (host, "data:", "blob:")
        visit.page.on("request", lambda r: r.url.startswith(own) or visit.complaints.append(f"asked {r.url}"))
        visit.page.on("console", lambda m: m.type == "error" and visit.complaints.append(m.text))
        visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        visit.page.goto(url)
        return visit

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def server(browser, tmp_path_factory, saved_tiny) -> Iterator[str]:
    """fastapi_server.py as people start it, on a real tiny model."""
    base, port = tmp_path_factory.mktemp("pages"), free_port()
    environment = os.environ | {
        "MLFLOW_MODEL_URI": str(saved_tiny), "PORT": str(port), "HOME": str(base), "THREADS": "1",
        "MLFLOW_TRACKING_URI": f"sqlite:///{base / 'mlflow.db'}", "FEEDBACK_FILE": str(base / "feedback.jsonl"),
    }  # fmt: skip
    url, log = f"http://127.0.0.1:{port}/", base / "server.log"
    with log.open("w") as output:
        process = forked.Popen(
            [sys.executable, "fastapi_server.py"], cwd=REPO, env=environment, stdout=output, stderr=output
        )
    try:
        wait_until_ready(url, lambda: process.poll() is None, log.read_text)
        yield url
    finally:
        process.terminate()
        process.wait(40)


@pytest.fixture(scope="module")
def scripted() -> Scripted:
    return Scripted()


@pytest.fixture(scope="module")
def keyed(browser, scripted) -> Iterator[str]:
    """The same app with a key, on a model that can be told to be slow or to fail."""
    port = free_port()
    settings = ServerSettings(port=port, api_keys=(KEY,))
    app = create_app(settings, lambda *_: LoadedModel(scripted, INFO))
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    url = f"http://127.0.0.1:{port}/"
    wait_until_ready(url, thread.is_alive, lambda: "the app ended")
    yield url
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def known(visit, keyed) -> Callable[..., Visit]:
    """A visit by somebody who gives the browser the key when it asks for it, as HTTP Basic."""
    return lambda path="", **options: visit(
        keyed + path, http_credentials={"username": "me", "password": KEY}, **options
    )


def wait_until_ready(url: str, is_alive: Callable[[], bool], why: Callable[[], str]) -> None:
    deadline = time.monotonic() + 180
    while True:
        try:
            with urlopen(url + "health/ready", timeout=5) as response:
                assert response.status == 200
                return
        except (URLError, ConnectionError, TimeoutError):
            assert is_alive() and time.monotonic() < deadline, why()
            time.sleep(0.1)


# --- the question page ----------------------------------------------------------------------------


def test_an_answer_streams_in_and_its_figures_follow(visit, server):
    here = visit(server)
    here.slow_down(20_000)
    here.page.evaluate(
        """() => {
            window.lengths = new Set();
            const look = () => window.lengths.add(document.querySelector(".answer")?.textContent.length ?? 0);
            new MutationObserver(look).observe(document.getElementById("turns"), {childList: true, subtree: true});
        }"""
    )
    article = here.ask("What is MLflow?")
    expect(article.locator("dl")).to_contain_text("qa-simple/3")
    assert len(here.page.evaluate("[...window.lengths]")) > 5
    figures = dict(zip(article.locator("dt").all_inner_texts(), article.locator("dd").all_inner_texts(), strict=True))
    assert list(figures) == ["Prompt", "Model", "Ended", "Tokens", "First token", "Total"]
    assert figures["Model"] == "saved" and figures["Ended"] == "length"
    assert re.fullmatch(r"\d+ in, 96 out", figures["Tokens"])
    assert re.fullmatch(r"[\d.]+ m?s", figures["First token"]) and re.fullmatch(r"[\d.]+ m?s", figures["Total"])
    expect(here.page.get_by_role("status")).to_have_text("Model saved, prompt qa-simple/3")
    assert here.complaints == []


def test_texts_are_shown_as_they_stand(known):
    here = known()
    article = here.ask(MARKUP)
    expect(article.get_by_text("Total")).to_have_count(0)  # this model gives no times
    expect(article.locator("h2")).to_have_text(MARKUP)
    expect(article.locator(".answer")).to_have_text(MARKUP)
    assert here.page.locator("article b, article img").count() == 0
    assert here.page.evaluate("window.harmed") is None and here.complaints == []


def test_what_the_server_remarks_is_shown(known):
    article = known().ask("anything")
    expect(article.locator(".note")).to_have_text(
        ["The answer was cut off at the time limit.", "History was shortened."]
    )
    expect(article.locator("dl")).to_contain_text("scripted version 7")


def test_the_conversation_goes_along_only_when_it_is_kept(known):
    here = known()
    expect(here.ask("one").locator(".answer")).to_have_text("one")
    expect(here.ask("two").locator(".answer")).to_have_text("two")
    here.page.get_by_label("Keep the conversation").check()
    expect(here.ask("three").locator(".answer")).to_have_text("one / one / two / two / three")
    expect(here.page.locator("article")).to_have_count(3)


def test_stop_ends_the_answer_and_the_models_work(known, scripted):
    here = known()
    stop = here.page.get_by_role("button", name="Stop")
    for end in (stop.click, lambda: here.page.keyboard.press("Escape")):
        scripted.released.clear()
        article = here.ask("go on")
        expect(article.locator(".answer")).to_contain_text("0 1 2")
        expect(article).to_have_attribute("aria-busy", "true")
        end()
        expect(article.locator(".note")).to_contain_text("You stopped the answer after")
        assert scripted.released.wait(5)
        expect(stop).to_be_hidden()
    expect(here.ask("again").locator(".answer")).to_have_text("again")
    assert here.complaints == []


def test_errors_are_one_sentence_and_the_question_comes_back(known):
    here = known()
    expect(here.ask("refuse").get_by_role("alert")).to_have_text("The question is refused. Ask another one.")
    article = here.ask("break")
    expect(article.get_by_role("alert")).to_have_text("The engine ended. Ask again in a few seconds.")
    expect(article.locator(".answer")).to_have_text("break")
    expect(here.ask("x" * 20_000).locator(".answer")).to_contain_text("xxx")
    here.page.get_by_label("Keep the conversation").check()
    here.page.context.set_offline(True)
    expect(here.ask("lost").get_by_role("alert")).to_contain_text("cannot be reached")
    expect(here.page.get_by_label("Your question")).to_have_value("lost")
    here.page.context.set_offline(False)
    expect(here.ask("found").locator(".answer")).to_have_text("x" * 20_000 + " / " + "x" * 20_000 + " / found")


def test_an_answer_of_a_proxy_is_one_sentence_too(known):
    here = known()
    here.page.route("**/ask/stream", lambda route: route.fulfill(status=502, body="<h1>Bad Gateway</h1>"))
    expect(here.ask("hello").get_by_role("alert")).to_have_text("The server answered 502 Bad Gateway.")
    cut = 'data: {"delta": "half an ans"}\n\ndata: {"del'
    here.page.route("**/ask/stream", lambda route: route.fulfill(content_type="text/event-stream", body=cut))
    article = here.ask("hello")
    expect(article.get_by_role("alert")).to_have_text("The connection ended before the answer did.")
    expect(article.locator(".answer")).to_have_text("half an ans")


def test_the_keyboard_is_enough(known):
    here = known()
    box, keys = here.page.get_by_label("Your question"), here.page.keyboard
    expect(box).to_be_focused()
    keys.type("one")
    keys.press("Shift+Enter")
    keys.type("two")
    keys.press("Enter")
    expect(here.page.locator("article .answer")).to_have_text("one\ntwo", use_inner_text=True)
    expect(box).to_be_focused()
    expect(box).to_have_value("")
    keys.press("Enter")  # nothing to send
    keys.type("go on")
    keys.press("Tab")
    expect(here.page.get_by_label("Keep the conversation")).to_be_focused()
    keys.press("Tab")
    keys.press("Enter")
    expect(here.page.get_by_role("button", name="Stop")).to_be_focused()
    keys.press("Enter")
    expect(here.page.locator("article")).to_have_count(2)
    expect(box).to_be_focused()


def test_light_dark_and_narrow(known):
    papers = []
    for scheme in ("light", "dark"):
        here = known(color_scheme=scheme, viewport={"width": 320, "height": 560})
        expect(here.ask("w" * 500).locator("dl")).to_be_visible()
        papers.append(here.page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert here.page.evaluate("document.documentElement.scrollWidth") == 320
    assert papers[0] != papers[1]


def test_the_links_lead_somewhere(known):
    here = known()
    for name in ("API", "Model"):
        with here.page.expect_response(lambda response: response.request.is_navigation_request()) as answered:
            here.page.get_by_role("link", name=name).click()
        assert answered.value.status == 200
        here.page.go_back()


# --- Swagger --------------------------------------------------------------------------------------


def execute_the_example_of_ask(page: Page) -> Locator:
    """Open POST /ask, send its example as it stands; what came back."""
    block = page.locator("#operations-ask-ask_ask_post")
    block.locator(".opblock-summary-control").click()
    block.get_by_role("button", name="Try it out").click()
    block.get_by_role("button", name="Execute").click()
    came = block.locator(".live-responses-table")
    came.wait_for()
    return came


def test_swagger_executes_the_example_of_ask_as_it_stands(visit, server):
    here = visit(server + "docs")
    came = execute_the_example_of_ask(here.page)
    expect(came.locator(".response-col_status").last).to_have_text("200")
    expect(came).to_contain_text('"prompt": "qa-simple/3"')
    expect(here.page).to_have_title("Causal language model server")
    assert here.complaints == []


def test_swagger_asks_with_the_key_that_the_browser_was_given(known):
    here = known("docs")
    came = execute_the_example_of_ask(here.page)
    expect(came.locator(".response-col_status").last).to_have_text("200")
    expect(came).to_contain_text("A scripted answer.")
    assert here.complaints == []


def test_without_the_key_there_is_no_page(visit, keyed):
    page = visit(f"{keyed}health/live").page
    with pytest.raises(Error, match="ERR_INVALID_AUTH_CREDENTIALS"):  # Chromium asked for a key, and nobody gave one
        page.goto(keyed)


# --- both -----------------------------------------------------------------------------------------


def test_behind_a_path_prefix_both_pages_work(known, keyed):
    here = known()
    expect(here.page.get_by_role("status")).to_contain_text("scripted")  # and asks nothing more by itself

    def proxy(route):
        url, headers = route.request.url.replace("/behind/a/", "/"), route.request.headers | {"x-api-key": KEY}
        route.fulfill(response=route.fetch(url=url, headers=headers))

    asked = []
    here.page.on("request", lambda request: asked.append(request.url))
    here.page.route(f"{keyed}behind/a/**", proxy)
    here.page.goto(f"{keyed}behind/a/")
    expect(here.ask("hello").locator(".answer")).to_have_text("hello")
    expect(here.page.get_by_role("status")).to_contain_text("scripted")
    here.page.get_by_role("link", name="API").click()
    came = execute_the_example_of_ask(here.page)
    expect(came.locator(".response-col_status").last).to_have_text("200")
    assert f"{keyed}behind/a/ask" in asked and here.complaints == []
    assert [url for url in asked if not url.startswith((f"{keyed}behind/a/", "data:"))] == []


@pytest.mark.parametrize("path", ["", "docs"])
def test_the_policy_lets_nothing_else_run_and_asks_nobody_else(known, path):
    page = known(path).page
    page.evaluate(
        """() => {
            window.refused = [];
            document.addEventListener("securitypolicyviolation", (it) => refused.push(it.effectiveDirective));
            try { document.body.setAttribute("onclick", "window.ran = true"); } catch {}
            document.body.click();
            fetch("http://localhost:9/").catch(() => {});
        }"""
    )
    page.wait_for_function("refused.includes('connect-src')")
    assert page.evaluate("window.ran") is None


def test_the_question_page_takes_no_string_as_html(known):
    with pytest.raises(Error, match="TrustedHTML"):
        known().page.evaluate("document.body.innerHTML = '<b>bold</b>'")
