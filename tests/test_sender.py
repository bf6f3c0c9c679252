"""A task's line in the log names the user's line that sent it; after a failure, the command that sends it again."""

import re
import shlex
import subprocess

import httpx2 as httpx
import pytest


def sender_of(server, task):
    server.wait_for_log(f"Task tasks.{task}[")
    return re.search(rf"Task tasks\.{task}\[\w{{8}}\] from (\S+) ", server.log)[1]


def line_of(path, text):
    lines = path.read_text().splitlines()
    return 1 + next(number for number, line in enumerate(lines) if text in line)


def test_sender_is_a_line_of_the_app(start, project):
    server = start("run.py", "main:app", "--reload")
    server.get()
    assert sender_of(server, "add") == f"app/main.py:{line_of(project / 'app' / 'main.py', 'add.delay')}"


def test_sender_may_be_a_task(start, probe):
    server = start("run.py", "main:app")
    server.get("/run/wait_for_add_anyway")
    assert sender_of(server, "add") == f"tasks.py:{1 + line_of(probe / 'tasks.py', 'with allow_join_result')}"


def test_task_of_another_process_has_no_sender(start, probe, redis_server):
    server = start("run.py", "main:app", REDIS_URL=redis_server)
    server.get()
    start("-m", "celery", "-A", "tasks", "call", "tasks.fail", REDIS_URL=redis_server)
    server.wait_for_log("Task tasks.fail[")
    assert re.search(r"Task tasks\.fail\[\w{8}\] raised", server.log)


@pytest.fixture
def server(start, project):
    """The app with a task that fails, in a queue of its own."""
    for name, code in FAILING.items():
        path = project / "app" / name
        path.write_text(path.read_text() + code)
    return start("run.py", "main:app")


FAILING = {
    "tasks.py": """
@app.task(queue="special")
def fail(*args, **kwargs):
    raise ValueError("as asked")
""",
    "main.py": """
from fastapi import Body
from tasks import fail

@app.post("/fail")
def send(options: dict = Body()) -> None:
    fail.apply_async(**options)
""",
}


def fail(server, **options):
    """Send the task that fails, and return the commands that its end is followed by."""
    server.get()
    httpx.post(f"http://127.0.0.1:{server.port}/fail", json=options).raise_for_status()
    server.wait_for_log("ValueError: as asked")
    server.get()  # so that the log is further on
    return COMMAND.findall(server.log)


COMMAND = re.compile(r"To send it again: (.+)$", re.M)


@pytest.mark.parametrize(
    "options",
    [{}, {"args": [1, ["it's", "$HOME"]], "kwargs": {"name": '"quoted"'}}, {"queue": "celery"}],
    ids=["no arguments", "arguments to quote", "queue of the call"],
)
def test_command_of_a_failed_task_sends_it_again(server, project, options):
    [command] = fail(server, **options)
    env = {"REDIS_URL": f"redis://localhost:{server.redis_port}/0"}
    subprocess.run(shlex.split(command), cwd=project, env=env, check=True, capture_output=True, timeout=30)
    server.wait_for_log("To send it again: ", count=2)
    assert COMMAND.findall(server.log) == [command, command]


@pytest.mark.parametrize(
    "options",
    [{"args": ["secret"], "argsrepr": "('***',)"}, {"args": ["x" * 1000]}],
    ids=["hidden arguments", "long arguments"],
)
def test_arguments_that_are_hidden_or_long_stay_out_of_the_log(server, options):
    assert fail(server, **options) == []
    assert options["args"][0] not in server.log
