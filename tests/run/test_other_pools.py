"""`-- -P prefork` runs Celery's worker in a process that starts and ends with the server."""

import re

import pytest
from command import add_to, listens, wait_for

pytestmark = pytest.mark.slow

PREFORK = ["--", "-P", "prefork", "-c", "2"]
SOLO = ["--", "-P", "solo"]

with_and_without_reload = pytest.mark.parametrize(
    "reload", [[], ["--reload"]], ids=["plain", "reload"]
)


@pytest.mark.parametrize("pool", [PREFORK, SOLO], ids=["prefork", "solo"])
@with_and_without_reload
def test_task_runs_in_another_process_with_the_same_log_and_ctrl_c_ends_both(
    start, probe, reload, pool
):
    server = start("run.py", "main:app", *reload, *pool)
    assert server.get("/run/where")["pid"] != server.get("/process")["pid"]
    server.wait_for_log("succeeded")
    assert re.search(
        r"^INFO:     worker - Task tasks\.where\[\S+\] succeeded in \S+s: ",
        server.log,
        re.M,
    )
    server.press_ctrl_c()
    assert server.wait() == 0
    server.wait_until_nothing_is_left()
    assert "Traceback" not in server.log
    assert "DEBUG" not in server.log


@with_and_without_reload
def test_task_that_runs_on_does_not_hold_up_the_end(start, probe, reload):
    server = start("run.py", "main:app", "--timeout-graceful-shutdown", "1", *reload, *PREFORK)
    server.get("/send/sleep", args="600")
    # The other of the two processes runs this one.
    server.get("/run/where")
    server.press_ctrl_c()
    wait_for(server.ended, lambda: server.log, timeout=20)
    server.wait_until_nothing_is_left()


def test_edit_of_a_task_is_live_after_the_reload(start, probe):
    server = start("run.py", "main:app", "--reload", *PREFORK)
    assert server.get() == {"2+2": 4}
    tasks = probe / "tasks.py"
    tasks.write_text(tasks.read_text().replace("return x + y", "return x + y + 100"))
    server.wait_for_log("Application startup complete.", count=2)
    assert server.get() == {"2+2": 104}


@with_and_without_reload
def test_kill_9_of_the_outermost_process_leaves_nothing_of_the_pool_either(start, probe, reload):
    server = start("run.py", "main:app", *reload, *PREFORK)
    pid = server.get("/run/where")["pid"]
    assert pid in {process.pid for process in server.tree()}
    server.process.kill()
    server.process.wait()
    wait_for(
        lambda: not server.leftovers(), lambda: f"{server.leftovers()}\n{server.log}", timeout=10
    )
    assert not listens(server.port)
    assert not listens(server.redis_port)


def test_time_limits_hold(start, probe):
    server = start("run.py", "main:app", *PREFORK, "--time-limit", "1")
    assert "TimeLimitExceeded" in server.get("/error/sleep", args="60")


REVOKE = """

@app.get("/running")
def running() -> list[str]:
    replies = tasks.app.control.inspect(timeout=1).active() or {}
    return [task["id"] for running in replies.values() for task in running]


@app.get("/terminate/{task_id}")
def terminate(task_id: str) -> None:
    tasks.app.control.revoke(task_id, terminate=True)
"""


def test_revoke_ends_a_running_task(start, probe):
    add_to(probe / "main.py", REVOKE)
    server = start("run.py", "main:app", "--", "-P", "prefork", "-c", "1")
    [task_id] = server.get("/send/sleep", args="600")
    wait_for(lambda: task_id in server.get("/running"), lambda: server.log)
    server.get(f"/terminate/{task_id}")
    wait_for(lambda: server.get(f"/state/{task_id}") == "REVOKED", lambda: server.log)
    # The only process of the pool, which was busy, takes this one.
    assert server.get("/run/add", args=["1", "2"]) == "12"
