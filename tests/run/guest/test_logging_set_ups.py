"""Each record of a task comes once, whatever sets up the project's logging, and whenever."""

import pytest
from command import LINES_OF_LOG

CONFIG = """{
    "version": 1,
    "formatters": {"own": {"format": "OWN %(levelname)s %(name)s %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "own"}},
    OTHERS
}"""
ROOT = '"root": {"level": "INFO", "handlers": ["console"]}'
CELERY = '"loggers": {"celery": {"level": "INFO", "handlers": ["console"]}}'
ROOT_CONFIG = CONFIG.replace("OTHERS", ROOT)
CELERY_CONFIG = CONFIG.replace("OTHERS", CELERY)
INI = """
[loggers]
keys = root
[handlers]
keys = console
[formatters]
keys = own
[logger_root]
level = INFO
handlers = console
[handler_console]
class = StreamHandler
args = (sys.stderr,)
formatter = own
[formatter_own]
format = OWN %(levelname)s %(name)s %(message)s
"""
SET_UPS = {
    "basicConfig": "logging.basicConfig(level='INFO')",
    "basicConfig by force": "logging.basicConfig(level='INFO', force=True)",
    "dictConfig": f"logging.config.dictConfig({ROOT_CONFIG})",
    "dictConfig of Celery's logger": f"logging.config.dictConfig({CELERY_CONFIG})",
    "fileConfig, as Alembic has it": "logging.config.fileConfig('log.ini')",
    "a handler of root that writes a file": (
        "logging.getLogger().addHandler(logging.FileHandler('own.txt'))"
    ),
    "a warning before": "logging.warning('logged before')",
}
LIFESPAN = """
import contextlib
import logging.config

def set_up():
    SET_UP

@contextlib.asynccontextmanager
async def lifespan(app):
    set_up()
    yield

app.router.lifespan_context = lifespan
"""
LINES = [
    *LINES_OF_LOG,
    "Task tasks.fail[",
    "Traceback (most recent call last)",
    "\nValueError: as asked",
]


@pytest.mark.parametrize("where", ["at import", "in the lifespan"])
@pytest.mark.parametrize("code", SET_UPS.values(), ids=SET_UPS)
def test_each_record_of_a_task_comes_once(start, guest, add, code, where):
    (guest / "log.ini").write_text(INI)
    tasks = guest / "tasks.py"
    if where == "at import":
        tasks.write_text(f"import logging.config\n{code}\n{tasks.read_text()}")
    else:
        add(main=LIFESPAN.replace("SET_UP", code))
    server = start("run.py", "main:app", "--", "-l", "info")
    server.get("/error/fail")
    server.get("/task/log")
    server.wait_for_log("succeeded in")
    server.wait_for_log("\nValueError: as asked")
    assert {line: server.log.count(line) for line in LINES} == dict.fromkeys(LINES, 1), server.log


SETUP_LOGGING = f"""
import logging.config
from celery import signals

@signals.setup_logging.connect
def set_up(**_):
    logging.config.dictConfig({ROOT_CONFIG})
"""
WARN = """
import logging

api_logger = logging.getLogger("api")

@app.get("/warn")
def warn():
    api_logger.warning("warning of a handler")
    raise ValueError("as asked")
"""


def test_set_up_of_the_worker_silences_no_logger_of_the_api(start, add):
    add(tasks=SETUP_LOGGING, main=WARN)
    server = start("run.py", "main:app")
    server.get("/task/log")
    with pytest.raises(AssertionError):
        server.get("/warn")
    lines = ["Application startup complete.", "Uvicorn running on", "GET /task/log"]
    for line in [*lines, "warning of a handler", "\nValueError: as asked"]:
        server.wait_for_log(line)


IN_THREADS = """
import asyncio
import threading

@app.task
def log_in_threads():
    thread = threading.Thread(target=logger.info, args=["info of a thread"])
    thread.start()
    thread.join()
    asyncio.run(log_by_asyncio())

async def log_by_asyncio():
    await asyncio.to_thread(logger.info, "info of a thread of asyncio")
"""


def test_info_of_threads_that_asyncio_starts_in_a_task_is_shown(start, add):
    add(tasks=IN_THREADS)
    server = start("run.py", "main:app", "--", "-l", "info")
    server.get("/task/log_in_threads")
    server.wait_for_log("worker - info of a thread\n")
    server.wait_for_log("worker - info of a thread of asyncio\n")
