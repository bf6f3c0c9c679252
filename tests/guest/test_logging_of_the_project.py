"""The project's own logging works as under the two commands, and silences nothing that it has to know."""

import json

import pytest
from conftest import put_in


@pytest.fixture
def guest(project):
    return put_in(project, "guest")


CONFIG = {  # as in many a project: nothing is said of disable_existing_loggers, whose default is True
    "version": 1,
    "formatters": {"own": {"format": "OWN %(levelname)s %(name)s %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "own"}},
    "root": {"level": "INFO", "handlers": ["console"]},
}
DICT_CONFIG = f"import logging.config\nlogging.config.dictConfig({CONFIG})\nlogger = logging.getLogger('own')\n"


@pytest.mark.parametrize("args", [[], ["--reload"]], ids=["plain", "reload"])
def test_dict_config_at_import_leaves_the_tasks_in_the_log(start, guest, args):
    (guest / "tasks.py").write_text(DICT_CONFIG + (guest / "tasks.py").read_text())
    server = start("run.py", "main:app", *args)
    server.get("/error/fail")
    server.get("/task/log")
    server.wait_for_log("succeeded in")
    for line in ["ValueError: as asked", "Task tasks.fail[", "Task tasks.log[", "info of a module", "info of a task"]:
        assert server.log.count(line) == 1, server.log
    assert "OWN INFO tasks info of a module" in server.log
    assert 'raise ValueError("as asked")' in server.log


def test_dict_config_at_import_leaves_what_ends_the_start_in_the_log(start, guest):
    (guest / "tasks.py").write_text(DICT_CONFIG + (guest / "tasks.py").read_text())
    server = start("run.py", "main:app", "--", "-A", "nothing:app")
    assert server.wait() != 0
    assert "No module named 'nothing'" in server.log


def test_log_config_file_leaves_the_tasks_in_the_log(start, guest):
    (guest / "log.json").write_text(json.dumps(CONFIG))
    server = start("run.py", "main:app", "--log-config", "log.json")
    server.get("/error/fail")
    server.get("/task/log")
    server.wait_for_log("succeeded in")
    for line in ["ValueError: as asked", "Task tasks.fail[", "Task tasks.log[", "info of a module", "info of a task"]:
        assert server.log.count(line) == 1, server.log


def test_info_of_a_module_is_shown_of_a_task_and_its_warnings_of_a_handler_too(start, guest):
    server = start("run.py", "main:app")
    server.get("/task/log")
    server.wait_for_log("succeeded in")
    for line in ["info of a module", "warning of a module", "info of a task", "warning of a task"]:
        assert server.log.count(line) == 1, server.log
    server.get("/handler/log")
    server.wait_for_log("GET /handler/log")
    assert server.log.count("info of a module") == 1
    assert server.log.count("warning of a module") == 2


HANDLER = """
from celery.signals import after_setup_logger

@after_setup_logger.connect
def add_file(logger, **_):
    handler = logging.FileHandler("own.log")
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
    logger.addHandler(handler)
"""


def test_handler_that_after_setup_logger_adds_has_what_modules_and_tasks_tell(start, guest):
    with (guest / "tasks.py").open("a") as file:
        file.write(HANDLER)
    server = start("run.py", "main:app")
    server.get("/task/log")
    server.wait_for_log("succeeded in")
    for line in ["info of a module", "warning of a module", "info of a task", "warning of a task", "succeeded in"]:
        assert server.log.count(line) == 1, server.log
        assert (guest / "own.log").read_text().count(line) == 1
