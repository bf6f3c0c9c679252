"""What a package patches in Celery or logging as APP is imported holds for the worker.

Sentry's SDK expects this.
"""

import pytest
from command import put_in, wait_for

PATCHES = """
import celery.app.trace

seen = {"traced": [], "logged": []}
build_tracer, call_handlers = celery.app.trace.build_tracer, logging.Logger.callHandlers


def build_noting_tracer(name, task, *args, **kwargs):
    trace = build_tracer(name, task, *args, **kwargs)

    def note_and_trace(*args, **kwargs):
        seen["traced"].append(name)
        return trace(*args, **kwargs)

    return note_and_trace


def note_and_call_handlers(self, record):
    seen["logged"].append(f"{record.name}: {record.getMessage()}"[:60])
    call_handlers(self, record)


celery.app.trace.build_tracer = build_noting_tracer
logging.Logger.callHandlers = note_and_call_handlers


@app.task
def get_seen():
    return seen
"""


@pytest.fixture(
    params=[["run.py"], ["run.py", "--reload"], ["-m", "uvicorn"]],
    ids=["plain", "reload", "two commands"],
)
def server(request, start, project, redis_server):
    command, *args = request.param
    guest = put_in(project, "guest")
    with (guest / "tasks.py").open("a") as file:
        file.write(PATCHES)
    if command == "run.py":
        return start(command, "main:app", *args, "--", "-c", "2", REDIS_URL=redis_server)
    start(
        "-m",
        "celery",
        "-A",
        "tasks",
        "worker",
        "-P",
        "threads",
        "-l",
        "info",
        REDIS_URL=redis_server,
    )
    return start(command, *args, "main:app", REDIS_URL=redis_server)


def test_worker_is_imported_after_the_app_and_by_its_patches(server):
    assert server.get("/process")["modules of the worker"] == []
    server.get("/error/fail")
    assert server.get("/task/log") is None
    wait_for(lambda: "celery.app.trace: Task tasks.log" in str(server.get("/task/get_seen")))
    seen = server.get("/task/get_seen")
    assert seen["traced"][:3] == ["tasks.fail", "tasks.log", "tasks.get_seen"]
    for name, message in [
        ("service", "info of a module"),
        ("service", "warning of a module"),
        ("tasks", "info of a task"),
        ("tasks", "warning of a task"),
        ("celery.app.trace", "Task tasks.log"),
        ("celery.app.trace", "Task tasks.fail"),
    ]:
        records = [
            record
            for record in seen["logged"]
            if record.startswith(f"{name}: ") and message in record
        ]
        assert len(records) == 1, records
