"""One log, in uvicorn's format, with a line for each task."""

import re

import pytest
from command import add_to


@pytest.fixture
def server(start, probe):
    return start("run.py", "main:app", "--reload")


def test_line_of_a_task_has_its_name_id_sender_runtime_and_outcome(server):
    server.get("/run/add", args=["1", "2"])
    server.wait_for_log("succeeded")
    line = r"^INFO:     worker - Task tasks\.add\[\S+\] from \S+ succeeded in \S+s: '12'$"
    assert re.search(line, server.log, re.M)


def test_line_of_a_failed_task_is_followed_by_its_traceback(server):
    server.get("/send/fail")
    server.wait_for_log("ValueError: as asked")
    line = r"^ERROR:    worker - Task tasks\.fail\[\S+\] from \S+ raised unexpected: .*\nTraceback"
    assert re.search(line, server.log, re.M)
    traceback = server.log[server.log.index("Traceback") :]
    assert re.match(r'Traceback .*\n  File ".*/tasks\.py", line \d+, in fail\n', traceback)
    assert 'raise ValueError("as asked")' in traceback


def test_every_line_has_uvicorns_form_and_none_comes_twice(server, probe):
    server.get("/run/add", args=["1", "2"])
    (probe / "tasks.py").touch()
    server.wait_for_log("Application startup complete.", count=2)
    server.get("/run/add", args=["3", "4"])
    server.wait_for_log("succeeded", count=2)
    lines = server.log.splitlines()
    assert [line for line in lines if not re.match(r"(INFO|WARNING): +\S", line)] == []
    assert not [line for line in lines if "change detected" in line]
    of_tasks = [line for line in lines if "succeeded" in line]
    assert len(of_tasks) == len(set(of_tasks)) == 2


@pytest.mark.parametrize(
    ("args", "received", "succeeded"),
    [
        ([], False, True),
        (["--", "-l", "debug"], True, True),
        (["--", "--loglevel", "error"], False, False),
        (["--log-level", "warning"], False, False),
        (["--log-level", "trace"], True, True),
        (["--log-level", "warning", "--", "-l", "info"], False, True),
    ],
    ids=["as it is", "-l debug", "-l error", "--log-level warning", "--log-level trace", "both"],
)
def test_log_level_is_uvicorns_unless_the_workers_is_given(start, probe, args, received, succeeded):
    server = start("run.py", "main:app", *args)
    server.get("/run/add", args=["1", "2"])
    server.get("/error/fail")
    assert ("received" in server.log) is received
    assert ("succeeded" in server.log) is succeeded


LOGS = """
import logging

if os.environ.get("SET_UP"):
    logging.basicConfig(format="own form: %(message)s", level="INFO")
logger = logging.getLogger("shop")

@app.task
def write():
    logger.info("info of a task")
    logger.warning("warning of a task")

@app.task
def write_badly():
    logger.warning("%d items", "three")
"""
HANDLER_LOGS = """

@app.get("/write")
def write() -> None:
    tasks.logger.info("info of a handler")
    tasks.logger.warning("warning of a handler")
"""


@pytest.fixture
def server_that_logs(start, probe):
    """A server whose task and handler log. With SET_UP, the root logger has its own handler."""
    add_to(probe / "tasks.py", LOGS)
    add_to(probe / "main.py", HANDLER_LOGS)

    def server_that_logs(**env):
        server = start("run.py", "main:app", **env)
        server.get("/write")
        server.get("/run/write")
        server.wait_for_log("succeeded")
        return server

    return server_that_logs


def test_projects_own_loggers_are_shown_from_info_on_in_tasks_and_from_warning_on_in_handlers(
    server_that_logs,
):
    lines = server_that_logs().log.splitlines()
    assert [line for line in lines if " of a " in line] == [
        "WARNING:  warning of a handler",
        "INFO:     worker - info of a task",
        "WARNING:  worker - warning of a task",
    ]


def test_project_that_set_up_the_root_logger_has_all_lines_in_its_own_form(server_that_logs):
    log = server_that_logs(SET_UP="1").log
    expected = [
        f"own form: {what} of a {where}"
        for where in ("handler", "task")
        for what in ("info", "warning")
    ]
    assert [line for line in log.splitlines() if " of a " in line] == expected
    assert re.search(r"^own form: Task tasks\.write\[[\w-]{36}\] succeeded", log, re.M)
    assert "worker - " not in log


SETS_UP_CELERYS_LOG = """
import logging
from celery.signals import setup_logging

@setup_logging.connect
def set_up(loglevel, **kwargs):
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("project's own: %(message)s"))
    logging.getLogger("celery").addHandler(handler)
    logging.getLogger("celery").setLevel(loglevel)
"""


def test_project_that_sets_up_celerys_log_keeps_it(start, probe):
    add_to(probe / "tasks.py", SETS_UP_CELERYS_LOG)
    server = start("run.py", "main:app")
    server.get("/run/add", args=["1", "2"])
    server.wait_for_log("succeeded")
    assert re.search(r"^project's own: Task tasks\.add\[[\w-]{36}\] succeeded", server.log, re.M)
    assert "worker - Task" not in server.log


def test_record_that_cannot_be_formatted_is_reported_as_by_logging(server_that_logs):
    server = server_that_logs()
    server.get("/run/write_badly")
    server.wait_for_log("--- Logging error ---")
    server.wait_for_log("TypeError: %d format")
    server.wait_for_log("Arguments: ('three',)")
