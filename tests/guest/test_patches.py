"""What a package patches in Celery or logging as APP is imported holds for the worker, as Sentry's SDK expects."""

import pytest
from conftest import put_in

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
    seen["logged"].append(f"{record.name}: {record.getMessage()}"[:40])
    call_handlers(self, record)


celery.app.trace.build_tracer = build_noting_tracer
logging.Logger.callHandlers = note_and_call_handlers


@app.task
def tell():
    return seen
"""


@pytest.fixture(params=[[], ["--reload"]], ids=["plain", "reload"])
def server(request, start, project):
    guest = put_in(project, "guest")
    with (guest / "tasks.py").open("a") as file:
        file.write(PATCHES)
    return start("run.py", "main:app", *request.param, "--", "-c", "2")


def test_worker_is_imported_after_the_app_and_by_its_patches(server):
    assert server.get("/process")["modules of the worker"] == []
    server.get("/error/fail")
    assert server.get("/task/log") is None
    server.wait_for_log("Task tasks.log[")
    seen = server.get("/handler/tell")
    assert seen["traced"] == ["tasks.fail", "tasks.log"]
    for line in [
        "tasks: info of a module",
        "tasks: warning of a module",
        "tasks: info of a task",
        "tasks: warning of a task",
        "celery.app.trace: Task tasks.log[",
        "celery.app.trace: Task tasks.fail[",
    ]:
        assert len([record for record in seen["logged"] if record.startswith(line[:40])]) == 1, line
