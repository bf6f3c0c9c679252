"""The page at /jobs, in a real browser: it starts, shows and cancels jobs, and the API answers meanwhile."""

import re
import shutil

import pytest
from command import ROOT, free_port, listens, wait_for
from dap import Editor

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install -r tests/requirements.txt")
BROWSERS = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge"]
expect = sync_api.expect
expect.set_options(timeout=30_000)


@pytest.fixture(scope="module")
def browser():
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not program:
        pytest.skip(f"there is no browser on PATH: none of {', '.join(BROWSERS)}")
    with sync_api.sync_playwright() as playwright:  # which gives root no sandbox, as Chromium wants it
        browser = playwright.chromium.launch(executable_path=program)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Open /jobs on a port of this machine, as a Page on which no script fails and nothing else is loaded."""
    problems = []

    def open_page(port):
        base = f"http://127.0.0.1:{port}/jobs"
        page = browser.new_page()
        page.on("pageerror", lambda error: problems.append(error.stack))
        page.on("request", lambda request: request.url.startswith((base, "data:")) or problems.append(request.url))
        page.goto(base)
        return page

    yield open_page
    assert problems == []


@pytest.fixture
def page(start, open_page):
    server = start("run.py", "main:app")
    server.wait_for_log("Application startup complete.")
    wait_for(lambda: listens(server.port))
    return open_page(server.port)


def start_job(page, samples):
    page.get_by_label("Samples", exact=True).fill(str(samples))
    page.get_by_role("button", name="Start").click()


def share_done(page):
    """Return what the bar shows, from 0 to 1."""
    return page.get_by_role("progressbar", name="π from").first.evaluate("bar => bar.position")


def beats(page):
    """Return how often the API has answered."""
    return int((re.search(r"ms, (\d+) times", page.locator("#heartbeat").inner_text()) or [0, 0])[1])


def wait_on_page(page, condition):
    """As `wait_for`, but the page goes on meanwhile."""
    wait_for(lambda: condition() or page.wait_for_timeout(20))


def test_bar_moves_to_the_result_while_the_api_answers(page):
    before = beats(page)
    start_job(page, 10_000_000)
    shares = {0.0}
    while 1 not in shares and page.get_by_role("status").inner_text() in ("", "waiting", "running"):
        shares.add(share_done(page))
    assert len(shares) > 5
    assert beats(page) > before + 1
    expect(page.get_by_role("status")).to_have_text(re.compile(r"^done: 3\.14\d+$"))
    assert share_done(page) == 1
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()


def test_cancel_ends_the_job(page):
    start_job(page, 1_000_000_000)
    wait_on_page(page, lambda: share_done(page) > 0)
    expect(page.get_by_role("status")).to_have_text("running")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("status")).to_have_text("cancelled")
    assert 0 < share_done(page) < 1


def test_as_many_jobs_at_a_time_as_the_browser_has_connections_for(page):
    for _ in range(4):
        start_job(page, 1_000_000_000)
    expect(page.get_by_role("button", name="Start")).to_be_disabled()
    before = beats(page)
    wait_on_page(page, lambda: beats(page) > before + 1)
    page.get_by_role("button", name="Cancel").first.click()
    expect(page.get_by_role("button", name="Start")).to_be_enabled()


def test_what_the_api_refuses_is_told(start, open_page):
    server = start("-m", "uvicorn", "--app-dir", "app", "main:app")  # and no Redis
    wait_for(lambda: listens(server.port))
    page = open_page(server.port)
    start_job(page, 1)
    expect(page.get_by_role("alert")).to_have_text("Redis can't be used")
    server.end()
    expect(page.get_by_text("No answer from the API")).to_be_visible()


def test_api_answers_while_a_job_stands_at_a_breakpoint_where_it_can_be_cancelled(project, open_page):
    shutil.copytree(ROOT / ".vscode", project / ".vscode")
    port = free_port()
    env = {"UVICORN_PORT": str(port), "REDIS_URL": f"redis://localhost:{free_port()}/0"}
    with Editor(project, **env) as editor:
        editor.set_breakpoint(project / "app" / "jobs.py", "last_report = time.monotonic()")
        editor.press_f5("App and worker")
        wait_for(lambda: listens(port), editor.terminal.read_text)
        page = open_page(port)
        start_job(page, 1_000_000_000)
        task = editor.wait_for_stop()
        assert task.function == "estimate_pi"
        before = beats(page)
        wait_on_page(page, lambda: beats(page) >= before + 3)
        expect(page.get_by_role("status")).to_have_text("running")
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("status")).to_have_text("cancelling")
        task.press_continue()
        expect(page.get_by_role("status")).to_have_text("cancelled")
        editor.press_stop()
        wait_for(lambda: not editor.running(), editor.terminal.read_text)
