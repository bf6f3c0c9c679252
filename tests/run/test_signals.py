"""Celery's signals are sent as by `celery worker -P threads`: once, in its order, by its senders.

Two more are sent, `worker_process_init` and `worker_process_shutdown`, as by a pool of processes:
projects connect to databases there.
"""

import pytest
from celery import Celery
from command import put_in, wait_for

WORKER = ["celeryd_init", "celeryd_after_setup", "worker_init", "worker_ready"]
WORKER += ["worker_shutting_down", "worker_shutdown"]
TASK = ["task_received", "task_prerun", "task_success", "task_failure", "task_retry"]
TASK += ["task_postrun"]


@pytest.fixture
def project(project):
    return put_in(project, "signals")


@pytest.fixture
def fired(start, project, redis_server):
    """Run a command, tasks and SIGTERM, and return the signals that were sent, with senders."""

    def fired(*command, **env):
        file = project / f"signals-{command[0].strip('-')}"
        process = start(*command, REDIS_URL=redis_server, SIGNALS=str(file), **env)
        wait_for(lambda: file.exists() and "worker_ready" in file.read_text(), lambda: process.log)
        with Celery(broker=redis_server, set_as_current=False) as client:
            for task in ("tasks.succeed", "tasks.fail", "tasks.retry"):
                client.send_task(task)
        wait_for(lambda: file.read_text().count("task_postrun") == 4, file.read_text)
        process.process.terminate()
        process.wait()
        return file.read_text().splitlines()

    return fired


@pytest.mark.parametrize(
    "env", [{}, {"SETUP_LOGGING": "1"}], ids=["Celery's logging", "the project's own logging"]
)
def test_signals_are_those_of_celery_worker(fired, env):
    options = ["-c", "1", "-n", "celery@test"]
    command = ["-m", "celery", "-A", "tasks", "worker", "-P", "threads", *options]
    of_celery = fired(*command, **env)
    of_run_py = fired("run.py", "main:app", "--", *options, **env)
    logging = ["setup_logging"] if env else ["after_setup_logger", "after_setup_task_logger"]
    assert {line.split()[0] for line in of_celery} == {*WORKER, *TASK, *logging}
    assert next_to(of_run_py, "worker_process_init NoneType") == "worker_ready Consumer"
    assert next_to(of_run_py, "worker_process_shutdown NoneType") == "worker_shutdown Worker"
    shared = [line for line in of_run_py if not line.startswith("worker_process_")]
    # It depends on the moment whether a message arrives while another task runs.
    assert without_received(shared) == without_received(of_celery)
    assert sorted(shared) == sorted(of_celery)


def without_received(lines):
    return [line for line in lines if "received" not in line]


def next_to(lines, line):
    assert lines.count(line) == 1
    return lines[lines.index(line) + 1]
