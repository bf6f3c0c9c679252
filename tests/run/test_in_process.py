"""A worker in the test's own process."""

import sys

import pytest
from celery import Celery
from command import free_port
from fastapi import FastAPI
from fastapi.testclient import TestClient

from run import with_worker


def test_worker_that_cannot_start_is_an_error(monkeypatch):
    app = Celery("own", broker=f"redis://localhost:{free_port()}/0", set_as_current=False)

    @app.task
    def nothing():
        pass

    monkeypatch.setitem(sys.modules, "own", type("own", (), {"app": app}))
    client = TestClient(with_worker(FastAPI(), "-A", "own:app"))
    with pytest.raises(RuntimeError, match=r"The Celery worker can't start: the broker redis://.* can't be used"):
        client.__enter__()
