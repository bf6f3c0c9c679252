"""The project's own logging works as under the two commands.

It silences nothing that the project has to know.
"""

import json

import pytest
from command import LINES_OF_LOG

# As in many a project, disable_existing_loggers is not there. Its default is True.
CONFIG = {
    "version": 1,
    "formatters": {"own": {"format": "OWN %(levelname)s %(name)s %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "own"}},
    "root": {"level": "INFO", "handlers": ["console"]},
}
DICT_CONFIG = f"import logging.config\nlogging.config.dictConfig({CONFIG})\n"


@pytest.mark.parametrize("args", [[], ["--reload"]], ids=["plain", "reload"])
def test_dict_config_at_import_leaves_the_tasks_in_the_log(start, guest, args):
    (guest / "tasks.py").write_text(DICT_CONFIG + (guest / "tasks.py").read_text())
    server = start("run.py", "main:app", *args)
    server.get("/error/fail")
    server.get("/task/log")
    assert_each_once(server)
    for line in ["ValueError: as asked", "Task tasks.fail[", "Task tasks.log["]:
        assert server.log.count(line) == 1, server.log
    assert "OWN INFO service info of a module" in server.log
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
    assert_each_once(server)
    for line in ["ValueError: as asked", "Task tasks.fail[", "Task tasks.log["]:
        assert server.log.count(line) == 1, server.log


def test_info_of_a_module_is_shown_of_a_task_and_its_warnings_of_a_handler_too(start, guest):
    server = start("run.py", "main:app")
    server.get("/task/log")
    assert_each_once(server)
    server.get("/handler/log")
    server.wait_for_log("GET /handler/log")
    assert server.log.count("info of a module") == 1
    assert server.log.count("warning of a module") == 2


def test_module_is_shown_by_the_two_commands_the_same(start, guest, redis_server):
    worker, web = start_two_commands(start, redis_server)
    web.get("/task/log")
    assert_each_once(worker)
    web.get("/handler/log")
    web.wait_for_log("GET /handler/log")
    assert "info of a module" not in web.log
    assert web.log.count("warning of a module") == 1


def start_two_commands(start, url):
    worker = start(
        "-m", "celery", "-A", "tasks", "worker", "-P", "threads", "-l", "info", REDIS_URL=url
    )
    return worker, start("-m", "uvicorn", "main:app", REDIS_URL=url)


def assert_each_once(server):
    server.wait_for_log("succeeded in")
    counts = [server.log.count(line) for line in LINES_OF_LOG]
    assert counts == [1] * len(LINES_OF_LOG), server.log


HANDLER = """
from celery.signals import after_setup_logger

@after_setup_logger.connect
def add_file(logger, **_):
    handler = logging.FileHandler("own.log")
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
    logger.addHandler(handler)
"""


@pytest.mark.parametrize("command", ["run.py", "two commands"])
def test_handler_that_after_setup_logger_adds_has_what_modules_log(
    start, guest, redis_server, command
):
    with (guest / "tasks.py").open("a") as file:
        file.write(HANDLER)
    if command == "run.py":
        worker = web = start("run.py", "main:app", REDIS_URL=redis_server)
    else:
        worker, web = start_two_commands(start, redis_server)
    web.get("/task/log")
    assert_each_once(worker)
    own = (guest / "own.log").read_text()
    for line in [
        "INFO service info of a module",
        "WARNING service warning of a module",
        "succeeded in",
    ]:
        assert own.count(line) == 1, own
