"""The same files run under uvicorn and celery worker, which know nothing of run.py."""

import pytest
from celery import Celery


@pytest.fixture
def app(project):
    (project / "run.py").unlink()


def test_uvicorn_and_a_prefork_worker_as_two_processes(app, start, redis_server):
    worker = start("-m", "celery", "--workdir", "app", "-A", "tasks", "worker", REDIS_URL=redis_server)
    api = start("-m", "uvicorn", "--app-dir", "app", "main:app", REDIS_URL=redis_server)
    assert api.get() == {"2+2": 4}
    worker.wait_for_log("concurrency")
    assert "(prefork)" in worker.log
    [stats] = Celery(broker=redis_server).control.inspect().stats().values()
    assert stats["total"] == {"tasks.add": 1}
    assert stats["pid"] in [process.pid for process in worker.tree()]
