"""`-B` sends scheduled tasks from a thread of the same process, and its file is neither watched nor left behind."""

import pytest
from conftest import wait_for
from uvicorn.config import STARTUP_FAILURE

SCHEDULE = """
from celery.signals import beat_init

app.conf.beat_schedule = {"often": {"task": "tasks.where", "schedule": 0.5}}

@beat_init.connect
def tell(**kwargs):
    print(f"beat is in process {os.getpid()}", flush=True)
"""


@pytest.fixture
def temporary(tmp_path_factory, monkeypatch):
    """An empty folder for temporary files."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def scheduled(probe, temporary):
    """The probe with a schedule."""
    tasks = probe / "tasks.py"
    tasks.write_text(tasks.read_text() + SCHEDULE)
    return probe


@pytest.mark.parametrize("reload", [[], ["--reload", "--reload-include", "celerybeat*"]], ids=["plain", "reload"])
def test_scheduled_tasks_run_in_the_same_process(start, scheduled, temporary, reload):
    server = start("run.py", "main:app", *reload, "--", "-B")
    server.wait_for_log("Task tasks.where", count=3)
    assert f"beat is in process {server.get('/process')['pid']}\n" in server.log
    assert list(temporary.glob("celerybeat-*/celerybeat-schedule*"))
    server.press_ctrl_c()
    assert server.wait() == 0
    assert "Traceback" not in server.log
    assert [*temporary.iterdir(), *scheduled.rglob("celerybeat*")] == []


def test_schedule_goes_on_after_a_reload(start, scheduled):
    server = start("run.py", "main:app", "--reload", "--", "-B")
    server.wait_for_log("Task tasks.where")
    (scheduled / "tasks.py").touch()
    server.wait_for_log("beat is in process", count=2)
    server.wait_for_log("Task tasks.where", count=server.log.count("Task tasks.where") + 2)


@pytest.mark.parametrize("named_by", ["-s", "setting"])
def test_file_that_is_named_is_used_and_kept(start, scheduled, named_by):
    tasks = scheduled / "tasks.py"
    if named_by == "setting":
        tasks.write_text(tasks.read_text() + '\napp.conf.beat_schedule_filename = "own"\n')
    server = start("run.py", "main:app", "--", "-B", *(["-s", "own"] if named_by == "-s" else []))
    server.wait_for_log("Task tasks.where")
    server.press_ctrl_c()
    assert server.wait() == 0
    wait_for(lambda: list(scheduled.glob("own*")))


def test_file_that_cannot_be_written_is_told_in_one_line(start, scheduled):
    server = start("run.py", "main:app", "--", "-B", "-s", "nowhere/schedule")
    assert server.wait() == STARTUP_FAILURE
    assert "ERROR:    The Celery worker can't start: beat can't write its schedule in" in server.log
    assert "Traceback" not in server.log
