"""Tasks and handlers start processes as in a Python of their own.

None of these processes holds up the end or a reload.
"""

import multiprocessing

import pytest
from command import MODES, listens, wait_for

# The first is Python's default.
METHODS = ["", *multiprocessing.get_all_start_methods()]


@pytest.mark.parametrize("args", MODES.values(), ids=MODES)
def test_any_start_method_works_in_tasks_and_handlers(start, guest, args):
    server = start("run.py", "main:app", *args)
    child = {"gc": True, "blocked signals": 0}
    # The exit code is that of terminate().
    right = {"squares": [0, 1, 4, 9], "pool": child, "process": child, "exit code": -15}
    for where in ("task", "handler"):
        for method in METHODS:
            got = server.get(f"/{where}/start_processes", args=method)
            assert got == right, f"{method or 'default'} in a {where}\n{server.log}"


@pytest.mark.parametrize("args", [[], ["--reload"]], ids=["plain", "reload"])
def test_app_may_set_the_start_method(start, guest, args):
    with (guest / "tasks.py").open("a") as file:
        file.write("multiprocessing.set_start_method('spawn', force=True)\n")
    server = start("run.py", "main:app", *args)
    assert server.get("/task/start_processes", args="")["squares"] == [0, 1, 4, 9]
    assert server.get("/process")["start method"] == "spawn"


RUN_ON = pytest.mark.parametrize("task", ["wait_for_process", "wait_for_pool", "keep_pools"])


@RUN_ON
@pytest.mark.parametrize("args", [[], ["--reload"]], ids=["plain", "reload"])
def test_process_that_runs_on_holds_up_neither_the_end_nor_the_port(start, guest, args, task):
    server = start_task_with_process(start, guest, task, *args)
    # The signal reaches this process alone, where Ctrl-C would reach the task's too.
    server.process.terminate()
    wait_for(server.ended, lambda: server.log, timeout=10)
    wait_for(lambda: not server.leftovers(), lambda: str(server.leftovers()), timeout=5)
    assert not listens(server.port)


@RUN_ON
def test_process_that_runs_on_holds_up_no_reload(start, guest, task):
    server = start_task_with_process(start, guest, task, "--reload")
    (guest / "tasks.py").touch()
    server.wait_for_log("Application startup complete.", count=2)
    assert server.get("/task/add", args=["2", "2"]) == 4
    server.press_ctrl_c()
    server.wait()
    assert not listens(server.port)


def start_task_with_process(start, guest, task, *args):
    server = start("run.py", "main:app", "--timeout-graceful-shutdown", "1", *args)
    server.get(f"/send/{task}")
    wait_for((guest / "started").exists, lambda: server.log)
    server.tree()
    return server
