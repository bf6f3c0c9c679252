"""A worker in the test's own process sets back what it sets for the process."""

import subprocess
import sys

import pytest
from celery import Celery
from command import ROOT, free_port
from fastapi import FastAPI
from fastapi.testclient import TestClient

from run import with_worker

# In a process without the worker of other tests.
CODE = """
import logging, sys
from celery import Celery, _state
from fastapi import FastAPI
from fastapi.testclient import TestClient
from run import ensure_redis, with_worker

def state():
    levels = [logging.getLogger(name).level for name in ("", "celery", "celery.worker.strategy")]
    handlers, buffering = logging.getLogger().handlers[:], sys.stdout.line_buffering
    return sys.getswitchinterval(), handlers, levels, buffering, _state.default_app

app = Celery("own", broker=sys.argv[1], backend=sys.argv[1], set_as_current=False)


@app.task
def nothing():
    pass


ensure_redis(sys.argv[1])
_state.get_current_app()  # which makes Celery's fallback app
before = state()
with TestClient(with_worker(FastAPI())):
    assert sys.getswitchinterval() < before[0]
    assert _state.default_app is app
assert state() == before, (before, state())
"""


def test_what_is_set_for_the_process_is_set_back():
    command = [sys.executable, "-c", CODE, f"redis://localhost:{free_port()}/0"]
    check = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert check.returncode == 0, check.stderr


def test_worker_that_cannot_start_is_an_error(monkeypatch):
    app = Celery("own", broker=f"redis://localhost:{free_port()}/0", set_as_current=False)

    @app.task
    def nothing():
        pass

    monkeypatch.setitem(sys.modules, "own", type("own", (), {"app": app}))
    client = TestClient(with_worker(FastAPI(), "-A", "own:app"))
    with pytest.raises(RuntimeError, match=r"The Celery worker can't start: the broker redis://.* can't be used"):
        client.__enter__()
