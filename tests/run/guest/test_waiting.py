"""`.get()` waits where Celery lets it, and is refused where Celery refuses it."""

import pytest
from command import put_in

CODE = """
import threading
from celery.result import allow_join_result

first_is_in, first_is_out, second_is_in = threading.Event(), threading.Event(), threading.Event()

@app.task
def first():
    with allow_join_result():
        first_is_in.set()
        second_is_in.wait(10)
        value = add.delay(1, 1).get(timeout=10)
    first_is_out.set()
    return value

@app.task
def second():
    first_is_in.wait(10)
    with allow_join_result():
        second_is_in.set()
        first_is_out.wait(10)
        return add.delay(2, 2).get(timeout=10)

@app.task
def refused():
    first_is_in.wait(10)
    try:
        return add.delay(3, 3).get(timeout=10)
    finally:
        second_is_in.wait(10)
"""

HANDLERS = """
@app.get("/overlap")
def overlap():
    sent = [task.delay() for task in (tasks.second, tasks.first, tasks.refused)]
    return [repr(result.get(timeout=25, propagate=False))[:50] for result in sent]
"""


@pytest.fixture
def guest(project):
    guest = put_in(project, "guest")
    for name, code in {"tasks.py": CODE, "main.py": HANDLERS}.items():
        with (guest / name).open("a") as file:
            file.write(code)
    return guest


@pytest.mark.parametrize("args", [[], ["--reload"]], ids=["plain", "reload"])
def test_allow_join_result_is_for_its_own_task_alone(start, guest, args):
    server = start("run.py", "main:app", *args, "--", "-c", "8")
    refused = "RuntimeError('Never call result.get() within a tas"
    assert server.get("/overlap") == ["4", "2", refused], server.log
