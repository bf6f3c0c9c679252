"""The page at /jobs starts, shows and cancels jobs in a real browser."""

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

BROWSERS = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "msedge",
]
expect.set_options(timeout=30_000)


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def listens(port: int) -> bool:
    """Return whether something listens on the port."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Start a server with a worker and a new Redis, and return the page's URL."""
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
    """Start the first of BROWSERS that is installed."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not program:
        pytest.skip(f"no browser found on PATH: {', '.join(BROWSERS)}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """Open the page. Fail the test if a script raises an error, or requests another server."""
    errors: list[str | None] = []
    requested: list[str] = []
    page = browser.new_page()
    page.on("pageerror", lambda error: errors.append(error.stack))
    page.on("request", lambda request: requested.append(request.url))
    page.goto(url)
    yield page
    page.close()
    assert errors == []
    assert [other for other in requested if not other.startswith((url, "data:"))] == []


def start_job(page: Page, samples: int) -> None:
    """Fill in the form, and press Start."""
    page.get_by_label("Samples", exact=True).fill(str(samples))
    page.get_by_role("button", name="Start").click()


def share_done(page: Page) -> float:
    """Return the position of the progress bar, from 0 to 1."""
    return float(page.get_by_role("progressbar", name="π from").evaluate("bar => bar.position"))


def beats(page: Page) -> int:
    """Return how often the API has answered."""
    match = re.search(r"ms, (\d+) times", page.locator("#heartbeat").inner_text())
    return int(match[1]) if match else 0


def wait_for(page: Page, condition: Callable[[], bool]) -> None:
    """Wait until the condition holds, while the page keeps running."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, page.inner_text("body")
        page.wait_for_timeout(20)


def test_progress_bar_moves_while_the_api_answers(page: Page) -> None:
    before = beats(page)
    start_job(page, 10_000_000)
    shares = set()

    def is_done() -> bool:
        shares.add(share_done(page))
        return 1 in shares

    wait_for(page, is_done)
    assert len(shares) > 3
    assert beats(page) > before
    expect(page.get_by_role("status")).to_have_text(re.compile(r"^done: 3\.14\d+$"))
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()


def test_cancel_button_ends_the_job(page: Page) -> None:
    start_job(page, 1_000_000_000)
    wait_for(page, lambda: share_done(page) > 0)
    expect(page.get_by_role("status")).to_have_text("running")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("status")).to_have_text("cancelled")
    assert 0 < share_done(page) < 1


def test_page_shows_an_error_of_the_api(page: Page) -> None:
    error = {"detail": "Redis is unavailable"}
    page.route("**/jobs", lambda route: route.fulfill(status=503, json=error))
    start_job(page, 1)
    expect(page.get_by_role("alert")).to_have_text("Redis is unavailable")


def test_page_shows_that_the_api_is_unavailable(page: Page) -> None:
    page.context.set_offline(True)
    expect(page.get_by_text("No answer from the API")).to_be_visible()


def test_page_follows_a_job_after_the_api_was_unavailable(page: Page) -> None:
    start_job(page, 1_000_000_000)
    wait_for(page, lambda: share_done(page) > 0)
    page.context.set_offline(True)
    expect(page.get_by_text("No answer from the API")).to_be_visible()
    before = share_done(page)
    page.context.set_offline(False)
    wait_for(page, lambda: share_done(page) > before)
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("status")).to_have_text("cancelled")
