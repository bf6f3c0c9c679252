"""Hooks on Celery's signals fire as in `celery worker -P threads`, once, in the same order, with the same sender.

And two more, which a pool of threads never sends, but one of processes does: projects connect to databases there.
"""

import pytest
from celery import Celery
from command import put_in, wait_for


@pytest.fixture
def project(project):
    return put_in(project, "signals")


@pytest.fixture
def fired(start, project, redis_server):
    """Run a command, tasks and SIGTERM, and return the signals that were sent meanwhile, each with its sender."""

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
    celery = fired(
        "-m",
        "celery",
        "-A",
        "tasks",
        "worker",
        "-P",
        "threads",
        "-c",
        "1",
        "-n",
        "celery@test",
        **env,
    )
    ours = fired("run.py", "main:app", "--", "-c", "1", "-n", "celery@test", **env)
    assert {line.split()[0] for line in celery} == {
        *("celeryd_init", "celeryd_after_setup", "worker_init", "worker_ready"),
        *(("setup_logging",) if env else ("after_setup_logger", "after_setup_task_logger")),
        *(
            "task_received",
            "task_prerun",
            "task_success",
            "task_failure",
            "task_retry",
            "task_postrun",
        ),
        *("worker_shutting_down", "worker_shutdown"),
    }
    assert next_to(ours, "worker_process_init NoneType") == "worker_ready Consumer"
    assert next_to(ours, "worker_process_shutdown NoneType") == "worker_shutdown Worker"
    ours = [line for line in ours if not line.startswith("worker_process_")]
    # When a message arrives while another task runs, depends on the moment.
    assert [line for line in ours if "received" not in line] == [
        line for line in celery if "received" not in line
    ]
    assert sorted(ours) == sorted(celery)


def next_to(lines, line):
    assert lines.count(line) == 1
    return lines[lines.index(line) + 1]
