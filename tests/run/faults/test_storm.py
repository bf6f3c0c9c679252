"""Under many edits and tasks, each task runs once and has a result, and the last code answers."""

import random
from collections import Counter

import pytest
import redis
from celery import Celery
from command import wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def client(redis_server):
    """A Celery app that sends tasks from the test's process."""
    with Celery(broker=redis_server, backend=redis_server, set_as_current=False) as app:
        yield app


@pytest.fixture
def runs(faults):
    """How often each of the tasks has run."""

    def runs(tasks):
        counter = Counter((faults / "runs").read_text().splitlines())
        return [counter[task.id] for task in tasks]

    return runs


def edit(server, tasks, version):
    tasks.write_text(
        tasks.read_text().replace(f"VERSION = {version - 1}\n", f"VERSION = {version}\n")
    )
    server.wait_for_log("Application startup complete.", count=version + 1)


def test_thousand_tasks_over_twenty_reloads(start, faults, redis_server, client, runs):
    server = start("run.py", "main:app", "--reload", "--", "-c", "8", REDIS_URL=redis_server)
    server.get()
    sent = []
    for version in range(1, 21):
        sent += [client.send_task("tasks.count", (random.uniform(0.02, 0.2),)) for _ in range(50)]
        edit(server, faults / "tasks.py", version)
    versions = [task.get(timeout=60) for task in sent]
    assert len(versions) == 1000
    assert set(versions) <= set(range(21))
    assert runs(sent) == [1] * 1000
    assert client.send_task("tasks.count").get(timeout=10) == 20
    assert "ERROR" not in server.log


def test_tasks_for_later_come_once_and_not_early_over_a_reload(
    start, faults, redis_server, client, runs
):
    server = start("run.py", "main:app", "--reload", REDIS_URL=redis_server)
    server.get()
    sent = [client.send_task("tasks.on_time", countdown=4 + number / 10) for number in range(20)]
    # The worker holds them.
    wait_for(lambda: not redis.Redis.from_url(redis_server).llen("celery"))
    edit(server, faults / "tasks.py", 1)
    delays = [task.get(timeout=30) for task in sent]
    assert min(delays) >= -0.001
    assert runs(sent) == [1] * 20
