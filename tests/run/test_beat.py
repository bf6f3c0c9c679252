"""`-B` sends scheduled tasks from a thread of the same process, and keeps Celery's own file."""

import pytest
from command import wait_for

SCHEDULE = """
from celery.signals import beat_init

app.conf.beat_schedule = {"often": {"task": "tasks.where", "schedule": 0.5}}

@beat_init.connect
def print_process(**kwargs):
    print(f"beat is in process {os.getpid()}", flush=True)
"""


@pytest.fixture
def scheduled(probe):
    """The probe with a schedule."""
    tasks = probe / "tasks.py"
    tasks.write_text(tasks.read_text() + SCHEDULE)
    return probe


@pytest.mark.parametrize("reload", [[], ["--reload"]], ids=["plain", "reload"])
def test_scheduled_tasks_run_in_the_same_process(start, scheduled, reload):
    server = start("run.py", "main:app", *reload, "--", "-B")
    server.wait_for_log("Task tasks.where", count=3)
    assert f"beat is in process {server.get('/process')['pid']}\n" in server.log
    assert server.log.count("Started server process") == 1
    server.press_ctrl_c()
    assert server.wait() == 0
    assert "Traceback" not in server.log


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


@pytest.mark.parametrize(
    ("args", "env"), [(["--workers", "2"], {}), ([], {"WEB_CONCURRENCY": "2"})]
)
def test_one_process_serves_with_beat_though_several_are_asked_for(start, scheduled, args, env):
    server = start("run.py", "main:app", *args, "--", "-B", **env)
    server.wait_for_log("Task tasks.where")
    assert server.log.count("Started server process") == 1


def test_beat_that_failed_does_not_hold_up_the_end(start, probe):
    beat = ["-B", "--schedule", str(probe / "nowhere" / "schedule")]
    server = start("run.py", "main:app", "--timeout-graceful-shutdown", "1", "--", *beat)
    server.get("/send/sleep", args="60", count=1)
    wait_for(lambda: "tasks.sleep" in server.get("/active"))
    server.press_ctrl_c()
    assert server.wait() == 0
