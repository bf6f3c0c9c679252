"""What run.py leans on without its being public. A name that goes away is told here first, with what it was for."""

import atexit
import importlib
import subprocess
import sys

import pytest
from celery import Celery
from command import ROOT


@pytest.mark.parametrize(
    ("owner", "names", "purpose"),
    [
        ("uvicorn._subprocess", "spawn", "run.py binds it to what forks child processes"),
        ("celery._state", "_get_active_apps", "run.py finds the project's Celery app among these"),
        ("celery.app.utils", "find_app", "run.py finds with it the app that -A names"),
        ("celery.bin.base", "CLIContext", "what Celery's worker command wants as context"),
        ("celery.bin.worker", "worker", "Celery's worker command, whose options run.py takes"),
        (
            "celery.concurrency.base.BasePool",
            "task_join_will_block",
            "run.py sets it to what knows the thread",
        ),
        (
            "celery.result",
            "task_join_will_block _set_task_join_will_block",
            "by which `.get()` raises in tasks",
        ),
        (
            "celery.concurrency.thread.TaskPool",
            "on_start on_apply",
            "where a task gets its thread, and what goes with it",
        ),
        (
            "celery.concurrency.thread.TaskPool",
            "on_stop",
            "where Celery waits for running tasks without a bound",
        ),
        (
            "concurrent.futures.thread",
            "_threads_queues",
            "the threads that Python waits for at its end",
        ),
        ("celery.apps.worker.Worker", "on_consumer_ready", "from where on the worker takes tasks"),
        (
            "celery.worker.consumer.Consumer",
            "ensure_connected on_connection_error_after_connected",
            "where Celery waits for its broker to come back",
        ),
        (
            "celery.backends.asynchronous",
            "time",
            "by which `.get()` counts its timeout; in the debugger it stands",
        ),
        (
            "celery.worker.request.Request",
            "_context",
            "what a result backend asks of a task that is cut off",
        ),
        (
            "celery.worker.state",
            "should_stop active_requests",
            "how Celery's signal handlers stop it, and what runs",
        ),
        (
            "atexit",
            "_run_exitfuncs",
            "run.py does with it what Python does at its end, where it doesn't",
        ),
        (
            "threading",
            "_shutdown",
            "run.py waits with it for the app's threads, as Python does at its end",
        ),
        (
            "fakeredis._clients._tcp_server",
            "encode_reply",
            "run.py writes with it what fakeredis replies",
        ),
        ("fakeredis.aioredis.AsyncFakeSocket", "put_response", "run.py serves fakeredis with it"),
    ],
)
def test_names_are_there(owner, names, purpose):
    module, _, cls = owner.rpartition(".")
    found = (
        getattr(importlib.import_module(module), cls)
        if cls[0].isupper()
        else importlib.import_module(owner)
    )
    for name in names.split():
        told = f"{owner}.{name} is gone ({purpose}): see how this version does it, and mend run.py"
        assert hasattr(found, name), told


def test_tasks_that_wait_for_their_app_are_there():
    with Celery(set_as_current=False) as app:
        app.task(test_tasks_that_wait_for_their_app_are_there, shared=False)
        told = "celery's app._pending is gone: run.py lets an app's own tasks come before shared ones by it"
        assert len(getattr(app, "_pending", ())) == 1, told


@pytest.mark.filterwarnings(
    "ignore::celery.exceptions.SecurityWarning"
)  # of root, a container's usual user
def test_what_saves_the_state_of_a_worker_is_there(tmp_path):
    with Celery(broker="memory://", set_as_current=False) as app:
        worker = app.Worker(statedb=str(tmp_path / "state"))
        told = "celery's worker._persistence is gone: run.py saves it in the thread that opened it, as 3.13 asks"
        assert hasattr(worker, "_persistence"), told
        atexit.unregister(worker._persistence.save)


def test_names_of_the_debugger_are_there():
    """They are imported by debugpy as it starts to debug, and so only in a process of their own."""
    code = """
import debugpy, socket, sys
debugpy.listen(("127.0.0.1", 0))
from run import find_debugger
debugger = find_debugger()
debugger.terminate_keyboard_interrupt, debugger.is_attached(), debugger.break_on_user_uncaught_exceptions
sys.modules["_pydevd_bundle.pydevd_api"].PyDevdAPI.request_disconnect
debugpy.trace_this_thread
sys.modules["_pydevd_bundle.pydevd_additional_thread_info"].PyDBAdditionalThreadInfo().pydev_state
"""
    check = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert check.returncode == 0, (
        f"debugpy has changed what run.py leans on, see there: {check.stderr}"
    )
