"""Under --reload, an edit of a task is live after the reload, and no task is lost on the way."""

import contextlib
import signal

import httpx2 as httpx
import pytest
from command import add_to, wait_for


@pytest.fixture
def server(start, probe):
    return start("run.py", "main:app", "--reload")


def test_edited_task_answers_after_each_of_ten_edits(server, probe):
    assert server.get() == {"2+2": 4}
    tasks = probe / "tasks.py"
    for edit in range(1, 11):
        tasks.write_text(tasks.read_text().replace("x + y", "1 + x + y"))
        wait_for(lambda answer={"2+2": 4 + edit}: answers(server, answer))
    assert "ERROR" not in server.log


def answers(server, answer):
    """A request may meet uvicorn as it closes its connections."""
    with contextlib.suppress(httpx.TransportError):
        return server.get() == answer


def test_edit_in_the_moment_of_the_start_is_seen(server, probe):
    """By default, uvicorn begins to look for edits a quarter of a second after the start."""
    server.wait_for_log("Application startup complete.")
    (probe / "tasks.py").touch()
    server.wait_for_log("Application startup complete.", count=2)


def test_tasks_sent_before_a_reload_are_done_after_it(start, probe):
    server = start("run.py", "main:app", "--reload", "--", "-c", "4")
    ids = server.get("/send/sleep", args="0.1", count=50)
    (probe / "tasks.py").touch()
    server.wait_for_log("Application startup complete.", count=2)
    server.wait_for_log("succeeded", count=50)
    assert {server.get(f"/state/{task_id}") for task_id in ids} == {"SUCCESS"}
    assert server.log.count("succeeded") == 50


def test_settings_of_an_env_file_reach_the_child_process(start, probe):
    (probe / "dev.env").write_text("PROBE_CONCURRENCY=3\n")
    server = start("run.py", "main:app", "--reload", "--env-file", "dev.env")
    assert server.inspect("stats")["pool"]["max-concurrency"] == 3


def test_temporary_folder_may_have_a_long_path(start, probe):
    folder = probe / ("long" * 25)
    folder.mkdir()
    server = start("run.py", "main:app", "--reload", TMPDIR=str(folder))
    assert server.get() == {"2+2": 4}


SLOW_SHUTDOWN = """
import asyncio
import contextlib


@contextlib.asynccontextmanager
async def lifespan(app):
    yield
    await asyncio.sleep(0.5)


app.router.lifespan_context = lifespan
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_signal_during_a_reload_ends_it_all(start, probe, number):
    """It reaches the new server process as that is forked."""
    add_to(probe / "main.py", SLOW_SHUTDOWN)
    server = start("run.py", "main:app", "--reload")
    server.get()
    server.tree()
    (probe / "tasks.py").touch()
    server.wait_for_log("Waiting for application shutdown.")
    server.process.send_signal(number)
    server.wait()
    server.wait_until_nothing_is_left()
