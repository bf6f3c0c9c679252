"""A worker in the test's own process sets back what it sets for the process."""

import io
import logging
import sys

import pytest
from celery import Celery, _state
from conftest import free_port

from run import WorkerThread


def state_of_the_process():
    loggers = ("", "celery", "celery.worker.strategy")
    return {
        "switch interval": sys.getswitchinterval(),
        "root handlers": list(logging.getLogger().handlers),
        "levels": [logging.getLogger(name).level for name in loggers],
        "line buffering": getattr(sys.stdout, "line_buffering", None),
        "default app": _state.default_app,
    }


def test_what_is_set_for_the_process_is_set_back(redis_url, monkeypatch):
    app = Celery("own", broker=redis_url, backend=redis_url, set_as_current=False)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own would keep the worker from adding one
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))
    before = state_of_the_process()
    with WorkerThread(app):
        within = state_of_the_process()
        assert [name for name in before if within[name] == before[name]] == []
        assert _state.default_app is app
    assert state_of_the_process() == before


def test_handlers_of_the_project_are_left_alone(redis_url, monkeypatch):
    own = logging.NullHandler()
    monkeypatch.setattr(logging.getLogger(), "handlers", [own])
    with WorkerThread(Celery("own", broker=redis_url, backend=redis_url, set_as_current=False)):
        assert logging.getLogger().handlers == [own]
    assert logging.getLogger().handlers == [own]


def test_worker_that_cannot_start_is_an_error():
    app = Celery("own", broker=f"redis://localhost:{free_port()}/0", set_as_current=False)
    with pytest.raises(RuntimeError, match=r"The Celery worker can't start: the broker redis://.* can't be used"):
        WorkerThread(app).__enter__()
