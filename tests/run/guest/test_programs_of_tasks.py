"""No program that a task started is left behind when the task is cut off."""

import os
import signal

import psutil
import pytest
from command import wait_for

PROGRAMS = """
import asyncio
import subprocess
import sys

PROGRAM = [sys.executable, "-c", "import time; time.sleep(60)", "of the task"]

@app.task
def run():
    subprocess.run(PROGRAM)

@app.task
def run_in_a_shell():
    subprocess.run("sleep 59.5; true", shell=True)

@app.task
def run_in_a_loop():
    while True:
        subprocess.run(PROGRAM)

@app.task
def run_again_when_it_fails():
    while True:
        try:
            subprocess.run(PROGRAM, check=True)
        except subprocess.CalledProcessError:
            pass

@app.task
def run_in_a_session_of_its_own():
    subprocess.run(PROGRAM, start_new_session=True)

@app.task
def run_by_asyncio():
    async def wait():
        await (await asyncio.create_subprocess_exec(*PROGRAM)).wait()

    asyncio.run(wait())
"""

TASKS = [
    "run",
    "run_in_a_shell",
    "run_in_a_loop",
    "run_again_when_it_fails",
    "run_in_a_session_of_its_own",
    "run_by_asyncio",
]
ENDS = {
    "Ctrl-C": lambda server: server.press_ctrl_c(),
    "SIGINT of the process alone": lambda server: os.kill(server.process.pid, signal.SIGINT),
    "SIGTERM": lambda server: server.process.terminate(),
}


def programs_of(server):
    lines = {process: " ".join(process.cmdline()) for process in server.tree()}
    return [process for process, line in lines.items() if "of the task" in line or "59.5" in line]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("end", ENDS)
def test_program_ends_with_the_command(start, add, task, end):
    add(tasks=PROGRAMS)
    server = start("run.py", "main:app", "--timeout-graceful-shutdown", "1")
    server.get(f"/send/{task}")
    wait_for(lambda: programs_of(server), lambda: server.log)
    ENDS[end](server)
    wait_for(server.ended, lambda: server.log, timeout=15)
    wait_for(lambda: not server.leftovers(), lambda: str(server.leftovers()), timeout=5)
    assert not left_of(server)


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_program_ends_at_a_reload(start, add, guest, pool):
    add(tasks=PROGRAMS)
    args = ["--reload", "--timeout-graceful-shutdown", "1", "--", "-P", pool]
    server = start("run.py", "main:app", *args)
    server.get("/send/run")
    wait_for(lambda: programs_of(server), lambda: server.log)
    old = programs_of(server)
    (guest / "state.py").touch()
    server.wait_for_log("Application startup complete.", count=2)
    wait_for(lambda: not any(map(psutil.Process.is_running, old)), lambda: str(old), timeout=5)


def left_of(server):
    """Return programs that were started so late that no look at the tree has seen them."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        is_here = process.info["cwd"] == str(server.output.parent)
        if is_here and "of the task" in " ".join(process.info["cmdline"] or []):
            found.append(process)
    return found
