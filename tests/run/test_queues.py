"""Without -Q, the worker consumes every queue to which the project can route."""

import pytest
from command import put_in

ALL = ["exact", "glob", "listed", "main", "own", "routed", "scheduled"]


@pytest.fixture
def project(project):
    return put_in(project, "queues")


def queues_of(server):
    return sorted(queue["name"] for queue in server.inspect("active_queues"))


def test_each_task_is_run_whatever_sends_it_to_its_queue(start, project):
    server = start("run.py", "main:app")
    assert server.get() == {
        # By a route, a pattern, a function, task_default_queue, and the task's own `queue`.
        "tasks.exact": "exact",
        "tasks.glob_1": "glob",
        "tasks.function": "routed",
        "tasks.default": "main",
        "tasks.own": "own",
    }
    # By the call alone, to queues of task_queues and of the schedule.
    assert [server.get("/to", name=name) for name in ("listed", "scheduled")]
    assert queues_of(server) == ALL


@pytest.mark.parametrize(
    ("args", "queues"),
    [
        (["-Q", "main,new"], ["main", "new"]),
        (["-X", "glob,routed"], [name for name in ALL if name not in ("glob", "routed")]),
        (["-Q", "main,own", "-X", "own"], ["main"]),
    ],
    ids=" ".join,
)
def test_options_of_celery_have_the_last_word(start, project, args, queues):
    server = start("run.py", "main:app", "--", *args)
    assert queues_of(server) == queues


def test_queues_that_the_app_forbids_to_create_are_left_out(start, project):
    tasks = project / "tasks.py"
    tasks.write_text(tasks.read_text() + "\napp.conf.task_create_missing_queues = False\n")
    server = start("run.py", "main:app")
    assert queues_of(server) == ["listed"]
