"""The end is that of two commands: in the order of Python's, and complete."""

AT_EXIT = """
import asyncio
import atexit

async def close():
    await asyncio.sleep(0)
    print("client closed", flush=True)

atexit.register(print, "exit function", flush=True)
atexit.register(lambda: asyncio.run(close()))

def work():
    while not os.path.exists("heard"):
        time.sleep(0.01)
    print("thread ended", flush=True)
"""
START_THREAD = """
import threading

@app.get("/start_thread")
def start_thread():
    threading.Thread(target=tasks.work).start()
"""


def test_exit_functions_run_after_threads_and_may_run_an_event_loop(start, guest, add):
    add(tasks=AT_EXIT, main=START_THREAD)
    server = start("run.py", "main:app")
    server.get("/start_thread")
    server.press_ctrl_c()
    server.wait_for_log("Finished server process")
    (guest / "heard").touch()
    server.wait()
    lines = [line for line in server.log.splitlines() if not line.startswith("INFO:")]
    assert lines == ["thread ended", "client closed", "exit function"], server.log


EXITS = """
import asyncio

class Own(BaseException):
    pass

@app.task
def own():
    raise Own

@app.task
def generator():
    raise GeneratorExit

@app.task
def in_a_loop():
    async def leave():
        raise SystemExit(3)

    asyncio.run(leave())
"""


def test_tasks_that_raise_no_exception_have_a_result_and_hold_up_no_reload(start, guest, add):
    add(tasks=EXITS)
    server = start("run.py", "main:app", "--reload")
    for name in ("own", "generator", "in_a_loop"):
        assert "WorkerLostError" in server.get(f"/error/{name}")
        server.wait_for_log(f"Task tasks.{name} raised")
    (guest / "state.py").touch()
    server.wait_for_log("Application startup complete.", count=2)
    assert "cut off" not in server.log
