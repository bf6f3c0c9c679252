"""The project's logging is the project's, wherever it is set up.

Each record comes once, in the project's form.
"""

import pytest

SAY = """
@app.task
def note():
    logger.info("info of a task")
    task_logger.info("info of a task logger")

@app.task
def note_in_thread():
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        pool.submit(logger.info, "info of a thread").result()
"""

IN_LIFESPAN = """
import contextlib
import logging
import logging.config

@contextlib.asynccontextmanager
async def lifespan(app):
    {}
    logging.getLogger("shop").warning("warning of the lifespan")
    yield

app.router.lifespan_context = lifespan
"""
DICT_CONFIG = """logging.config.dictConfig({
        "version": 1,
        "formatters": {"own": {"format": "OWN %(levelname)s %(message)s"}},
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "own"}},
        "root": {"level": "INFO", "handlers": ["console"]},
    })"""
BASIC_CONFIG = 'logging.basicConfig(level="INFO", format="OWN %(levelname)s %(message)s")'

SETUP_LOGGING = f"""
import logging.config
from celery.signals import setup_logging

@setup_logging.connect
def set_up(**_):
    {DICT_CONFIG}
"""

FORMATTERS = """
from celery.app.log import TaskFormatter
from celery.signals import after_setup_logger, after_setup_task_logger

@after_setup_logger.connect
@after_setup_task_logger.connect
def set_form(logger, **_):
    for handler in logger.handlers:
        handler.setFormatter(TaskFormatter("OWN %(levelname)s %(message)s"))
"""

SETTINGS = """
app.conf.worker_log_format = "OWN %(levelname)s %(message)s"
app.conf.worker_task_log_format = "OWN %(levelname)s %(message)s"
"""


@pytest.mark.parametrize("args", [[], ["--reload"]], ids=["plain", "reload"])
@pytest.mark.parametrize(
    ("tasks", "main"),
    [
        (f"import logging\n{BASIC_CONFIG}", ""),
        ("", IN_LIFESPAN.format(BASIC_CONFIG)),
        ("", IN_LIFESPAN.format(DICT_CONFIG)),
        (SETUP_LOGGING, ""),
        (FORMATTERS, ""),
        (SETTINGS, ""),
    ],
    ids=[
        "basicConfig at import",
        "basicConfig in the lifespan",
        "dictConfig in the lifespan",
        "setup_logging",
        "formatters by signals",
        "settings of Celery",
    ],
)
def test_records_of_tasks_come_once_in_the_form_of_the_project(start, add, tasks, main, args):
    add(tasks=SAY + tasks, main=main)
    server = start("run.py", "main:app", *args, "--", "-l", "info")
    server.get("/task/note")
    server.get("/error/fail")
    server.wait_for_log("\nValueError: as asked")
    server.wait_for_log("GET /error/fail")
    once = ["OWN INFO info of a task\n", "OWN INFO info of a task logger\n"]
    once += ["OWN ERROR Task tasks.fail[", "\nValueError: as asked"]
    once += ["succeeded in", "GET /task/note"]
    assert {text: server.log.count(text) for text in once} == dict.fromkeys(once, 1), server.log
    if main:
        assert server.log.count("OWN WARNING warning of the lifespan") == 1


def test_info_shows_of_tasks_and_their_threads_though_root_has_a_handler_since_import(start, add):
    add(tasks='import logging\nlogging.warning("no key is set")\n' + SAY)
    server = start("run.py", "main:app", "--", "-l", "info")
    server.get("/task/note")
    server.get("/task/note_in_thread")
    for text in ("info of a task\n", "info of a thread\n"):
        server.wait_for_log(text)
        assert server.log.count(text) == 1


def test_info_shows_of_receivers_of_worker_signals(start, add):
    names = ("worker_process_init", "worker_ready", "task_received", "task_prerun")
    code = "".join(
        f'\n@signals.{name}.connect\ndef on_{name}(**_):\n    logger.info("in {name}")\n'
        for name in names
    )
    add(tasks=f"from celery import signals\n{code}")
    server = start("run.py", "main:app", "--", "-l", "info")
    server.get("/task/add", args=["2", "2"])
    server.wait_for_log("succeeded")
    assert {name: server.log.count(f"in {name}\n") for name in names} == dict.fromkeys(names, 1)


def test_level_that_the_project_gives_to_celery_stays(start, add):
    add(tasks='logging.getLogger("celery").setLevel(logging.WARNING)\n' + SAY)
    server = start("run.py", "main:app", "--", "-l", "info")
    server.get("/task/note")
    server.wait_for_log("info of a task")
    assert "succeeded" not in server.log


def test_file_of_the_worker_has_its_log(start, guest):
    server = start("run.py", "main:app", "--", "-f", "own.log")
    server.get("/task/add", args=["2", "2"])
    server.wait_for_log("GET /task/add")
    assert "Task tasks.add[" in (guest / "own.log").read_text()


OWN_HANDLER = """
import logging

shop = logging.getLogger("shop")
handler = logging.StreamHandler()
handler.setFormatter(logging.Formatter("OWN %(levelname)s %(message)s"))
shop.addHandler(handler)

@app.get("/shop")
def warn() -> None:
    shop.warning("warning of the shop")
"""


def test_logger_with_its_own_handler_writes_once(start, add):
    add(main=OWN_HANDLER)
    server = start("run.py", "main:app")
    server.get("/shop")
    server.wait_for_log("GET /shop")
    assert server.log.count("warning of the shop") == 1


def test_file_at_the_root_logger_leaves_the_terminal_its_lines(start, add, guest):
    add(tasks='logging.getLogger().addHandler(logging.FileHandler("app.log"))\n' + SAY)
    server = start("run.py", "main:app", "--", "-l", "info")
    server.get("/error/fail")
    server.get("/task/note")
    server.wait_for_log("Task tasks.note[")
    for log in (server.log, (guest / "app.log").read_text()):
        for text in ("ValueError: as asked\n", "info of a task\n", "Task tasks.fail["):
            assert log.count(text) == 1, (text, log)
