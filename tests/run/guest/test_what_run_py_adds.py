"""What run.py adds to a process doesn't break the user's code."""

import re

import pytest

FACTORY = """
class Record(logging.LogRecord):
    def __init__(self, *args, request_id, **kwargs):
        super().__init__(*args, **kwargs)

logging.setLogRecordFactory(lambda *args, **kwargs: Record(*args, request_id="1", **kwargs))
"""

FORMAT = """
from celery.app import trace

trace.LOG_SUCCESS = "Task %(name)s[%(id)s] took %(runtime).2f s"
"""

NO_FOLDER = """
import tempfile

@app.task
def moves():
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
"""

OLD_PROTOCOL = "app.conf.task_protocol = 1\n"


@pytest.mark.parametrize("args", [[], ["--reload"]], ids=["plain", "reload"])
@pytest.mark.parametrize(
    ("code", "line"),
    [
        (FACTORY, r"Task tasks.add\[\S+\] from main.py:\d+ succeeded in"),
        (FORMAT, r"Task tasks.add\[\S+\] from main.py:\d+ took \d.\d\d s"),
        (OLD_PROTOCOL, r"Task tasks.add\[\S+\] .*succeeded in"),
    ],
    ids=["a factory of records", "a format of success", "the older protocol"],
)
def test_line_of_a_task_is_right(start, add, code, line, args):
    add(tasks=code)
    server = start("run.py", "main:app", *args)
    assert server.get("/task/add", args=["2", "2"]) == 4
    server.wait_for_log("Task tasks.add[")
    assert re.search(line, server.log), server.log
    assert "Traceback" not in server.log
    assert "raised" not in server.log


def test_working_directory_may_be_deleted(start, add):
    add(tasks=NO_FOLDER)
    server = start("run.py", "main:app")
    server.get("/task/moves")
    for _ in range(2):
        assert server.get("/task/add", args=["2", "2"]) == 4
    assert "raised" not in server.log


LIBRARY_TASK = """
import json

parse = app.task(json.loads, name="tasks.parse")
"""


def test_failing_function_of_a_library_shows_its_frames(start, add):
    add(tasks=LIBRARY_TASK)
    server = start("run.py", "main:app")
    server.get("/error/parse", args="{")
    server.wait_for_log("JSONDecodeError")
    assert "json/__init__.py" in server.log.partition("Traceback")[2]


ONCE = """
from celery import signals

class Base(app.Task):
    def __init__(self):
        print("Task.__init__", self.name, flush=True)

@app.task(base=Base)
def based():
    return "based"

@signals.import_modules.connect
def note(**_):
    print("import_modules", flush=True)
"""


@pytest.mark.parametrize("args", [[], ["--reload"]], ids=["plain", "reload"])
def test_each_task_is_made_once_and_modules_are_imported_once(start, add, args):
    add(tasks=ONCE)
    server = start("run.py", "main:app", *args)
    assert server.get("/task/based") == "based"
    assert server.log.count("Task.__init__ tasks.based") == 1
    assert server.log.count("import_modules") == 1


RECEIVERS = """
import asyncio
from celery import signals

@signals.worker_init.connect
@signals.worker_process_init.connect
@signals.worker_ready.connect
def use_loop(signal, **_):
    loop = asyncio.new_event_loop() if sys.version_info >= (3, 14) else asyncio.get_event_loop()
    print("used by", signal.name, loop.run_until_complete(asyncio.sleep(0, "loop")), flush=True)
"""


def test_receivers_of_worker_signals_have_an_event_loop(start, add):
    add(tasks=f"import sys\n{RECEIVERS}")
    server = start("run.py", "main:app")
    server.get("/task/add", args=["2", "2"])
    names = ("worker_init", "worker_process_init", "worker_ready")
    assert [name for name in names if f"used by {name} loop" not in server.log] == []


FAILING_RECEIVER = """
from celery import signals

@signals.worker_init.connect
def handle_signal(**_):
    signal.signal(signal.SIGUSR2, print)
"""


def test_error_of_a_receiver_of_a_worker_signal_is_logged(start, add):
    add(tasks=FAILING_RECEIVER)
    server = start("run.py", "main:app")
    assert server.get("/task/add", args=["2", "2"]) == 4
    assert "signal only works in main thread" in server.log


ONE_CLIENT = """
import asyncio
import redis.asyncio

client = redis.asyncio.from_url(redis_url)

@app.task
def count():
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop.run_until_complete(client.incr("n"))
"""

ITS_HANDLER = """
@app.get("/count")
async def count():
    return await tasks.client.incr("n")
"""


@pytest.mark.slow
def test_asyncio_client_of_handlers_and_tasks_works_with_prefork(start, add):
    add(tasks=ONE_CLIENT, main=ITS_HANDLER)
    server = start("run.py", "main:app", "--", "-P", "prefork", "-c", "1")
    seen = [server.get("/task/count"), server.get("/count"), server.get("/count")]
    assert seen == [1, 2, 3]


def test_edit_is_seen_without_watchfiles_as_soon_as_the_server_answers(start, guest):
    (guest / "lib").mkdir()
    (guest / "lib" / "watchfiles.py").write_text("raise ImportError\n")
    server = start("run.py", "main:app", "--reload", PYTHONPATH=str(guest / "lib"))
    assert server.get("/task/add", args=["2", "2"]) == 4
    assert "using StatReload" in server.log
    tasks = guest / "tasks.py"
    tasks.write_text(tasks.read_text().replace("return int(x) + int(y)", "return 'edited'"))
    server.wait_for_log("Application startup complete.", count=2)
    assert server.get("/task/add", args=["2", "2"]) == "edited"
