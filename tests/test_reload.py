"""Under --reload, an edit of a task is live after the reload, and no task is lost on the way."""

import contextlib
import os
import sys
import sysconfig

import httpx2 as httpx
import pytest
from conftest import wait_for


@pytest.fixture
def server(start, project):
    return start("run.py", "main:app", "--reload")


def test_edited_task_answers_after_each_of_ten_edits(server, project):
    assert server.get() == {"2+2": 4}
    tasks = project / "app" / "tasks.py"
    for edit in range(1, 11):
        tasks.write_text(tasks.read_text().replace("return ", "return 1 + "))
        wait_for(lambda answer={"2+2": 4 + edit}: answers(server, answer))
    assert "ERROR" not in server.log


def answers(server, answer):
    """A request may meet uvicorn as it closes its connections."""
    with contextlib.suppress(httpx.TransportError):
        return server.get() == answer


def test_edit_in_the_moment_of_the_start_is_seen(server, project):
    """uvicorn begins to look for edits a quarter of a second after the start of the child process."""
    server.wait_for_log("Application startup complete.")
    (project / "app" / "tasks.py").touch()
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
    server.wait_for_log("tasks:app has 3 threads")


def test_project_file_that_has_a_librarys_name_is_not_taken_for_it(start, project):
    """Nor is it imported ahead of time."""
    for name in ("redis.py", "celery.py", "fastapi.py", "kombu.py"):
        (project / name).write_text("raise SystemExit('imported ' + __name__)\n")
    server = start("run.py", "main:app", "--reload")
    assert server.get() == {"2+2": 4}
    assert "imported" not in server.log


def test_library_that_changed_is_imported_anew(start, project):
    """By a fresh interpreter, as by uvicorn's reload."""
    server = start("run.py", "main:app", "--reload")
    assert server.get() == {"2+2": 4}
    assert not fresh_interpreters(server) or sys.platform != "linux"
    os.utime(sysconfig.get_path("purelib"))
    (project / "app" / "main.py").touch()
    server.wait_for_log("Application startup complete.", count=2)
    assert server.get() == {"2+2": 4}
    assert fresh_interpreters(server)


def fresh_interpreters(server):
    """Return the processes that had to import the libraries once more. Linux has forks instead."""
    commands = [" ".join(process.cmdline()) for process in server.tree()]
    return [command for command in commands if "spawn_main" in command or "forkserver" in command]
