"""What run.py leans on without its being public. A name that goes away is told here first, with what it was for."""

import importlib
import subprocess
import sys

import pytest
from celery import Celery
from conftest import ROOT


@pytest.mark.parametrize(
    ("module", "name", "purpose"),
    [
        ("uvicorn.main", "Config", "run.py binds it to its own class, to start Redis once logging is set up"),
        ("uvicorn.main", "Server", "run.py binds it to its own class, to start the worker with the server"),
        ("uvicorn.supervisors.multiprocess", "Server", "the same, with --workers"),
        ("uvicorn.main", "ChangeReload", "run.py binds it to its own class, to end with a child that is killed"),
        ("uvicorn.supervisors.basereload.BaseReload", "restart", "run.py forks no more in it once a library changed"),
        ("uvicorn._subprocess", "spawn", "the context of child processes, which run.py binds to that of forks"),
        ("uvicorn.supervisors.basereload.BaseReload", "startup", "run.py watches from there the child that it starts"),
        ("uvicorn.supervisors.basereload.BaseReload", "pause", "run.py waits not in it before the first look"),
        ("uvicorn.supervisors.basereload.BaseReload", "shutdown", "from there its end is nothing to tell"),
        ("multiprocessing.forkserver", "ensure_running", "run.py starts with it what forks child processes"),
        ("multiprocessing.util", "spawnv_passfds", "by which it starts a Python, and under run.py a fork"),
        ("uvicorn.server.Server", "startup", "run.py starts the worker in it"),
        ("uvicorn.server.Server", "shutdown", "run.py stops the worker in it"),
        ("uvicorn.server.Server", "on_tick", "run.py sees in it that the worker ended"),
        ("uvicorn.server.Server", "handle_exit", "run.py lets go in it what stands at a breakpoint"),
        ("uvicorn.config", "STARTUP_FAILURE", "with this exit code, uvicorn doesn't start a child process again"),
        ("celery._state", "_get_active_apps", "run.py finds the project's Celery app among these"),
        ("celery.concurrency.base.BasePool", "task_join_will_block", "tells Celery whether .get() is allowed"),
        ("celery.app.utils", "find_app", "run.py finds with it the app that -A names"),
        ("celery.bin.base", "CLIContext", "what Celery's worker command wants as context"),
        ("celery.bin.worker", "worker", "Celery's worker command"),
        ("celery.app.defaults", "DEFAULTS", "the name of beat's file, if nothing else is set"),
        ("celery.app.routes", "MapRoute", "run.py finds the queues of task_routes in it"),
        ("celery.beat", "EmbeddedService", "Celery starts -B by this name, which run.py binds to its own function"),
        ("celery.local", "maybe_evaluate", "makes a task of what stands in `_pending`"),
        ("celery.app.base.Celery", "Worker", "run.py puts its own class there"),
        ("celery.apps.worker.Worker", "setup_queues", "where Celery selects the queues to consume"),
        ("celery.apps.worker.Worker", "install_platform_tweaks", "where Celery installs signal handlers"),
        ("celery.apps.worker.Worker", "set_process_status", "where Celery sets the process title"),
        ("celery.apps.worker.Worker", "emit_banner", "where Celery prints its banner"),
        ("celery.apps.worker.Worker", "setup_logging", "where Celery replaces the root logger's handlers"),
        ("celery.concurrency.thread.TaskPool", "on_stop", "where Celery waits for running tasks without a bound"),
        ("celery.concurrency.thread.TaskPool", "on_start", "where run.py sends worker_process_init"),
        ("celery.concurrency.thread.TaskPool", "on_apply", "where a task gets its thread"),
        ("celery.worker.consumer.Consumer", "on_send_event_buffered", "where Celery sends a task's event at once"),
        ("celery.worker.consumer.Consumer", "_flush_events", "run.py sends with it the events of a second"),
        ("celery.worker.state", "should_stop", "run.py stops the worker by it, as Celery's signal handlers do"),
        ("celery.worker.state", "active_requests", "the tasks that run"),
        ("celery.worker.state", "requests", "run.py finds a task's start in it, for the log"),
        ("celery.worker.request.Request", "request_dict", "run.py finds a task's sender in it, for the log"),
        ("celery.worker.request.Request", "on_failure", "run.py stores with it the result of a task that is cut off"),
        ("fakeredis._clients._tcp_server", "encode_reply", "run.py writes with it what fakeredis replies"),
        ("fakeredis.aioredis", "AsyncFakeSocket", "run.py serves fakeredis with it"),
        ("kombu.transport.redis.Channel", "_in_poll", "the connection of an idle worker's BRPOP, which run.py ends"),
    ],
)
def test_name_is_there(module, name, purpose):
    path, _, cls = module.rpartition(".")
    owner = getattr(importlib.import_module(path), cls) if cls[0].isupper() else importlib.import_module(module)
    assert hasattr(owner, name), f"{module}.{name} is gone ({purpose}): see how this version does it, and mend run.py"


def test_tasks_that_wait_for_their_app_are_there():
    with Celery(set_as_current=False) as app:
        app.task(test_tasks_that_wait_for_their_app_are_there, shared=False)
        told = "celery's app._pending is gone: run.py lets an app's own tasks come before shared ones by it"
        assert len(getattr(app, "_pending", ())) == 1, told


def test_names_of_the_debugger_are_there():
    """They are imported by debugpy as it starts to debug, and so only in a process of their own."""
    code = """
import debugpy, socket, sys
debugpy.listen(("127.0.0.1", 0))
from run import find_debugger
debugger = find_debugger()
debugger.terminate_keyboard_interrupt, debugger.is_attached()
sys.modules["_pydevd_bundle.pydevd_api"].PyDevdAPI.request_disconnect
sys.modules["_pydev_bundle.pydev_monkey"].skip_subprocess_arg_patch
"""
    check = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert check.returncode == 0, f"debugpy has changed what run.py leans on, see there: {check.stderr}"


def test_idle_worker_is_woken_by_client_unblock(start, redis_server, project):
    """What `_in_poll` is for: without it the worker ends only after its BRPOP, up to a second later."""
    import redis

    server = start("run.py", "main:app", REDIS_URL=redis_server)
    server.get()
    server.press_ctrl_c()
    server.wait()
    commands = redis.Redis.from_url(redis_server).info("commandstats")
    assert commands["cmdstat_client|unblock"]["calls"] == 1
