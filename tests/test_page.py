"""The page at /jobs, in a real browser: it starts, shows and cancels jobs, and the API answers meanwhile."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

BROWSERS = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge"]
expect.set_options(timeout=30_000)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The page's URL, on a server with a worker and a Redis of its own."""
    port = free_port()
    command = [sys.executable, "run.py", "main:app", "--port", str(port)]
    env = {**os.environ, "REDIS_URL": f"redis://localhost:{free_port()}/0"}
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], env=env) as server:
        try:
            deadline = time.monotonic() + 30
            while not listens(port):
                assert time.monotonic() < deadline and server.poll() is None
                time.sleep(0.02)
            yield f"http://127.0.0.1:{port}/jobs"
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not program:
        pytest.skip(f"there is no browser on PATH: none of {', '.join(BROWSERS)}")
    with sync_playwright() as playwright:  # which gives root no sandbox, as Chromium wants it
        browser = playwright.chromium.launch(executable_path=program)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """The page, opened. No script of it may fail, and nothing but the API be asked for."""
    problems: list[object] = []
    page = browser.new_page()
    page.on("pageerror", lambda error: problems.append(error.stack))
    page.on("request", lambda request: problems.extend([] if request.url.startswith((url, "data:")) else [request.url]))
    page.goto(url)
    yield page
    page.close()
    assert problems == []


def start_job(page: Page, samples: int) -> None:
    page.get_by_label("Samples", exact=True).fill(str(samples))
    page.get_by_role("button", name="Start").click()


def share_done(page: Page) -> float:
    """Return what the bar shows, from 0 to 1."""
    return float(page.get_by_role("progressbar", name="π from").evaluate("bar => bar.position"))


def beats(page: Page) -> int:
    """Return how often the API has answered."""
    return int((re.search(r"ms, (\d+) times", page.locator("#heartbeat").inner_text()) or [0, 0])[1])


def wait_for(page: Page, condition: Callable[[], bool]) -> None:
    """Return once the condition holds; the page goes on meanwhile."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, page.inner_text("body")
        page.wait_for_timeout(20)


def test_bar_moves_to_the_result_while_the_api_answers(page: Page) -> None:
    before = beats(page)
    start_job(page, 5_000_000)
    shares = set()

    def is_done() -> bool:
        shares.add(share_done(page))
        return 1 in shares

    wait_for(page, is_done)
    assert len(shares) > 3
    assert beats(page) > before
    expect(page.get_by_role("status")).to_have_text(re.compile(r"^done: 3\.14\d+$"))
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()


def test_cancel_ends_the_job(page: Page) -> None:
    start_job(page, 1_000_000_000)
    wait_for(page, lambda: share_done(page) > 0)
    expect(page.get_by_role("status")).to_have_text("running")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("status")).to_have_text("cancelled")
    assert 0 < share_done(page) < 1


def test_what_the_api_refuses_and_that_it_is_away_is_told(page: Page) -> None:
    page.route("**/jobs", lambda route: route.fulfill(status=503, json={"detail": "Redis can't be used"}))
    start_job(page, 1)
    expect(page.get_by_role("alert")).to_have_text("Redis can't be used")
    page.unroute("**/jobs")
    page.context.set_offline(True)
    expect(page.get_by_text("No answer from the API")).to_be_visible()


def test_a_job_that_is_watched_is_found_again_when_the_api_is_back(page: Page) -> None:
    start_job(page, 1_000_000_000)
    wait_for(page, lambda: share_done(page) > 0)
    page.context.set_offline(True)
    expect(page.get_by_text("No answer from the API")).to_be_visible()
    before = share_done(page)
    page.context.set_offline(False)
    wait_for(page, lambda: share_done(page) > before)
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("status")).to_have_text("cancelled")
