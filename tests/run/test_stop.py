"""However run.py ends, it leaves no process and no port behind, and loses no task."""

import os
import signal
import socket

import psutil
import pytest
import uvicorn
from command import MODES, add_to, free_port, listens, port_of, wait_for

EXIT_FUNCTION = """
import atexit

atexit.register(print, "exit function", flush=True)
"""
GIVES_THE_LOOP = """
import asyncio

@app.get("/loop")
async def loop() -> None:
    tasks.loop = asyncio.get_running_loop()
"""
WAITS_IN_THE_LOOP = """
import asyncio

@app.task
def wait_in_loop():
    time.sleep(1)
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0.1), loop).result()
"""
SLOW_START = """
from celery.signals import worker_init

@worker_init.connect
def start_slowly(**kwargs):
    print("the worker starts", flush=True)
    time.sleep(600)
"""


has_option = "timeout_graceful_shutdown" in [param.name for param in uvicorn.main.params]


def graceful(seconds):
    """Return the option for so many seconds. uvicorn 0.18 has none, and tasks get 5 s."""
    return ["--timeout-graceful-shutdown", str(seconds)] if has_option else []


@pytest.fixture(params=MODES.values(), ids=MODES)
def server(request, start, probe):
    server = start("run.py", "main:app", *request.param)
    server.get()
    server.tree()
    return server


def test_ctrl_c_ends_all(server):
    server.press_ctrl_c()
    assert server.wait() == 0
    server.wait_until_nothing_is_left()
    tracebacks = server.log.count("Traceback")
    if server.args[2:] and uvicorn.__version__.startswith(("0.18.", "0.23.")):
        # This uvicorn may see its parent's SIGTERM before Ctrl-C, and so take Ctrl-C for a second
        # one, which cancels the lifespan.
        tracebacks -= server.log.count("asyncio.exceptions.CancelledError\n")
    assert tracebacks == 0


@pytest.mark.parametrize("mode", MODES)
def test_no_file_is_left(start, probe, tmp_path, mode):
    (tmp_path / "tmp").mkdir()
    server = start("run.py", "main:app", *MODES[mode], TMPDIR=str(tmp_path / "tmp"))
    server.get()
    server.press_ctrl_c()
    server.wait()
    assert [*(tmp_path / "tmp").iterdir()] == []


def test_sigterm_has_uvicorns_exit_code_as_a_shell_shows_it(server, start):
    stock = start("-m", "uvicorn", *server.args[1:])
    wait_for(lambda: listens(stock.port))
    for command in (stock, server):
        command.process.terminate()
    code = stock.wait()
    assert server.wait() == (128 - code if code < 0 else code)
    server.wait_until_nothing_is_left()


def test_sigterm_runs_exit_functions(start, probe):
    add_to(probe / "tasks.py", EXIT_FUNCTION)
    server = start("run.py", "main:app")
    server.get()
    server.process.terminate()
    server.wait()
    assert server.log.endswith("exit function\n")


def test_sigterm_to_each_process_lets_tasks_finish(server):
    """systemd and `timeout` send it like this."""
    server.get("/send/sleep", args="1", count=8)
    wait_for(lambda: "tasks.sleep" in server.get("/active"))
    os.killpg(server.process.pid, signal.SIGTERM)
    server.wait()
    assert "succeeded in 1." in server.log
    assert "lost" not in server.log
    server.wait_until_nothing_is_left()


def test_kill_9_leaves_nothing(server):
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
    add_to(probe / "main.py", GIVES_THE_LOOP)
    add_to(probe / "tasks.py", WAITS_IN_THE_LOOP)
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
    args = ["run.py", "main:app", *graceful(1)]
    server = start(*args, REDIS_URL=redis_server)
    [task_id] = server.get("/send/sleep", args="600")
    wait_for(lambda: "tasks.sleep" in server.get("/active"))
    server.press_ctrl_c()
    assert server.wait() == 0
    message = f"Task tasks.sleep[{task_id}] was cut off by the stop."
    assert message in server.log
    wait_for(lambda: not server.leftovers())
    server = start(*args, REDIS_URL=redis_server)
    assert server.get(f"/state/{task_id}") == "FAILURE"


@pytest.mark.skipif(not has_option, reason="this uvicorn has no timeout, and the task ends in time")
def test_task_with_acks_late_is_delivered_again_at_once(start, probe, redis_server):
    args = ["run.py", "main:app", *graceful(1)]
    server = start(*args, REDIS_URL=redis_server)
    [task_id] = server.get("/send/sleep_late", args="3")
    wait_for(lambda: "tasks.sleep_late" in server.get("/active"))
    server.press_ctrl_c()
    server.wait()
    message = f"Task tasks.sleep_late[{task_id}] was cut off by the stop."
    assert message in server.log
    server = start(*args, REDIS_URL=redis_server)
    server.wait_for_log("succeeded in 3.")


def test_tasks_that_wait_go_back_to_the_queue(start, probe, redis_server):
    args = ["run.py", "main:app", *graceful(1), "--", "-c", "1"]
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
    server = start("run.py", "main:app", *graceful(60), "--", "-l", "debug")
    server.get("/send/sleep", args="600")
    wait_for(lambda: "tasks.sleep" in server.get("/active"))
    server.press_ctrl_c()
    # The pool waits for the task.
    server.wait_for_log("Worker: Stopping Pool")
    server.press_ctrl_c()
    wait_for(server.ended, lambda: server.log, timeout=5)
    server.wait_until_nothing_is_left()


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_redis_that_hangs_does_not_hold_up_the_end(start, probe, redis_server, pool):
    args = [*graceful(1), "--", "-P", pool]
    server = start("run.py", "main:app", *args, REDIS_URL=redis_server)
    server.get()
    port = str(port_of(redis_server))
    [redis] = [p for p in psutil.Process().children() if port in " ".join(p.cmdline())]
    redis.suspend()
    server.press_ctrl_c()
    assert server.wait() == 0
    redis.resume()


WORKER_ENDED = "ERROR:    The Celery worker ended, and so does its process: its log says why.\n"


def test_all_ends_when_the_worker_does(start, probe):
    server = start("run.py", "main:app")
    server.get("/shutdown_worker")
    server.tree()
    server.wait()
    assert WORKER_ENDED in server.log
    server.wait_until_nothing_is_left()


def test_reloader_waits_for_the_next_edit_when_the_worker_ends(start, probe):
    server = start("run.py", "main:app", "--reload")
    server.get("/shutdown_worker")
    server.wait_for_log(WORKER_ENDED)
    server.wait_for_log("Finished server process")
    (probe / "tasks.py").touch()
    server.wait_for_log("Application startup complete.", count=2)
    assert server.get() == {"2+2": 4}


def test_ctrl_c_while_it_imports_its_libraries_shows_no_traceback(start, project):
    (project / "uvicorn.py").write_text("raise KeyboardInterrupt\n")
    server = start("run.py", "main:app")
    assert server.wait() == 1
    assert server.log == ""


each_pool = pytest.mark.parametrize("pool", ["threads", "prefork", "solo"])


@each_pool
@pytest.mark.parametrize("broker", ["a closed port", "a silent server"])
def test_ctrl_c_ends_a_worker_that_waits_for_its_broker(start, probe, broker, pool):
    """run.py starts no RabbitMQ, so that its port stays closed."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = free_port() if broker == "a closed port" else silent.getsockname()[1]
        url = f"amqp://127.0.0.1:{port}//"
        server = start("run.py", "main:app", "--", "-P", pool, CELERY_BROKER_URL=url)
        server.wait_for_log("Started server process")
        assert_ctrl_c_ends(server)


@each_pool
def test_ctrl_c_ends_a_worker_that_starts(start, probe, pool):
    add_to(probe / "tasks.py", SLOW_START)
    server = start("run.py", "main:app", "--", "-P", pool)
    server.wait_for_log("the worker starts")
    assert_ctrl_c_ends(server)


def assert_ctrl_c_ends(server):
    server.press_ctrl_c()
    wait_for(server.ended, lambda: server.log, timeout=15)
    assert "could not start" not in server.log
    assert "Traceback" not in server.log
    server.wait_until_nothing_is_left()
