"""However run.py ends, it leaves no process and no port behind, and loses no task."""

import os
import signal

import psutil
import pytest
import uvicorn
from command import MODES, listens, wait_for


@pytest.fixture(params=MODES.values(), ids=MODES)
def server(request, start, probe):
    server = start("run.py", "main:app", *request.param)
    server.get()
    server.tree()
    return server


def test_ctrl_c(server):
    server.press_ctrl_c()
    assert server.wait() == 0
    server.wait_until_nothing_is_left()
    # uvicorn 0.23 may see its parent's SIGTERM before Ctrl-C, take that for a second one, and tell a CancelledError.
    excused = server.args[2:] and uvicorn.__version__.startswith("0.23.")
    assert server.log.count("Traceback") == (
        server.log.count("asyncio.exceptions.CancelledError\n") if excused else 0
    )


@pytest.mark.parametrize("mode", MODES)
def test_no_file_is_left(start, probe, tmp_path, mode):
    (tmp_path / "tmp").mkdir()
    server = start("run.py", "main:app", *MODES[mode], TMPDIR=str(tmp_path / "tmp"))
    server.get()
    server.press_ctrl_c()
    server.wait()
    assert [*(tmp_path / "tmp").iterdir()] == []


def test_sigterm_has_uvicorns_exit_code(server, start, project):
    stock = start(
        "-m", "uvicorn", "--app-dir", "app" if (project / "app").exists() else ".", *server.args[1:]
    )
    wait_for(lambda: listens(stock.port))
    for command in (stock, server):
        command.process.terminate()
    assert server.wait() == stock.wait()
    server.wait_until_nothing_is_left()


def test_sigterm_to_each_process_lets_tasks_finish(server):
    """As systemd and `timeout` send it."""
    server.get(
        "/send/sleep", args="1", count=8
    )  # so that each of --workers runs some, whichever answers
    wait_for(lambda: "tasks.sleep" in server.get("/active"))
    os.killpg(server.process.pid, signal.SIGTERM)
    server.wait()
    assert "succeeded in 1." in server.log
    assert "lost" not in server.log
    server.wait_until_nothing_is_left()


def test_kill_9(server):
    server.process.kill()
    server.wait()
    server.wait_until_nothing_is_left()


def test_requests_and_running_tasks_finish(start, probe):
    server = start("run.py", "main:app")
    server.get("/send/sleep", args="1")
    wait_for(lambda: "tasks.sleep" in server.get("/active"))
    server.press_ctrl_c()
    assert server.wait() == 0
    assert "Task tasks.sleep" in server.log
    assert "succeeded in 1." in server.log


def test_running_task_may_use_the_event_loop(start, probe):
    with (probe / "main.py").open("a") as main, (probe / "tasks.py").open("a") as of_tasks:
        main.write(
            "import asyncio\n\n@app.get('/loop')\nasync def loop():\n    tasks.loop = asyncio.get_running_loop()\n"
        )
        of_tasks.write("import asyncio\n\n@app.task\ndef wait_in_loop():\n    time.sleep(1)\n")
        of_tasks.write("    asyncio.run_coroutine_threadsafe(asyncio.sleep(0.1), loop).result()\n")
    server = start("run.py", "main:app")
    server.get("/loop")
    server.get("/send/wait_in_loop")
    wait_for(lambda: "tasks.wait_in_loop" in server.get("/active"))
    server.press_ctrl_c()
    server.wait()
    assert "succeeded in 1." in server.log


def test_task_that_runs_longer_than_the_bound_is_cut_off_and_its_result_says_so(
    start, probe, redis_server
):
    args = ["run.py", "main:app", "--timeout-graceful-shutdown", "1"]
    server = start(*args, REDIS_URL=redis_server)
    [task_id] = server.get("/send/sleep", args="600")
    wait_for(lambda: "tasks.sleep" in server.get("/active"))
    server.press_ctrl_c()
    assert server.wait() == 0
    assert (
        f"Task tasks.sleep[{task_id}] was still running and is cut off: its result is a failure"
        in server.log
    )
    wait_for(lambda: not server.leftovers())
    server = start(*args, REDIS_URL=redis_server)
    assert server.get(f"/state/{task_id}") == "FAILURE"


def test_task_with_acks_late_is_delivered_again_at_once(start, probe, redis_server):
    args = ["run.py", "main:app", "--timeout-graceful-shutdown", "1"]
    server = start(*args, REDIS_URL=redis_server)
    server.get("/send/sleep_late", args="3")
    wait_for(lambda: "tasks.sleep_late" in server.get("/active"))
    server.press_ctrl_c()
    server.wait()
    server = start(*args, REDIS_URL=redis_server)
    server.wait_for_log("succeeded in 3.")


def test_tasks_that_wait_go_back_to_the_queue(start, probe, redis_server):
    args = ["run.py", "main:app", "--timeout-graceful-shutdown", "1", "--", "-c", "1"]
    server = start(*args, REDIS_URL=redis_server)
    server.get("/send/sleep", args="600")
    wait_for(lambda: "tasks.sleep" in server.get("/active"))
    ids = server.get("/send/add", args=["1", "2"], count=20)
    server.press_ctrl_c()
    server.wait()
    server = start(*args, REDIS_URL=redis_server)
    server.wait_for_log("succeeded", count=20)
    assert {server.get(f"/state/{task_id}") for task_id in ids} == {"SUCCESS"}


def test_second_ctrl_c_ends_it_at_once(start, probe):
    server = start("run.py", "main:app", "--timeout-graceful-shutdown", "60", "--", "-l", "debug")
    server.get("/send/sleep", args="600")
    wait_for(lambda: "tasks.sleep" in server.get("/active"))
    server.press_ctrl_c()
    server.wait_for_log("Worker: Stopping Pool")  # which waits for the task
    server.press_ctrl_c()
    wait_for(server.ended, lambda: server.log, timeout=5)
    server.wait_until_nothing_is_left()


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_redis_that_hangs_does_not_hold_it_up(start, probe, redis_server, pool):
    args = ["--timeout-graceful-shutdown", "1", "--", "-P", pool]
    server = start("run.py", "main:app", *args, REDIS_URL=redis_server)
    server.get()
    port = int(redis_server.split(":")[2].split("/")[0])
    [redis] = [p for p in psutil.Process().children() if str(port) in " ".join(p.cmdline())]
    redis.suspend()
    server.press_ctrl_c()
    assert server.wait() == 0
    redis.resume()


@pytest.mark.parametrize("mode", ["plain", "reload"])
def test_all_ends_when_the_worker_dies(start, probe, mode):
    server = start("run.py", "main:app", *MODES[mode])
    server.get("/shutdown_worker")
    server.tree()
    assert server.wait() == (1 if mode == "plain" else 0)
    assert "ERROR:    The Celery worker ended" in server.log
    server.wait_until_nothing_is_left()


def test_ctrl_c_while_it_imports_its_libraries_shows_no_traceback(start, project):
    (project / "uvicorn.py").write_text("raise KeyboardInterrupt\n")
    server = start("run.py", "main:app")
    assert (server.wait(), server.log) == (1, "")
