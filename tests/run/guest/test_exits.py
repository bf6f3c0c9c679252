"""A task that raises what ends a process has a result and a line in the log.

It holds up no end.
"""

import pytest

EXITS = """
import asyncio
import sys

@app.task
def exits():
    sys.exit("I cannot go on")

@app.task
def interrupts():
    raise KeyboardInterrupt

@app.task
def cancelled():
    raise asyncio.CancelledError
"""


@pytest.mark.parametrize(
    ("task", "shown"),
    [
        ("exits", "SystemExit('I cannot go on')"),
        ("interrupts", "KeyboardInterrupt()"),
        ("cancelled", "CancelledError()"),
    ],
)
def test_task_that_exits_fails_with_a_reason(start, add, task, shown):
    add(tasks=EXITS)
    server = start("run.py", "main:app")
    result = server.get(f"/error/{task}")
    assert "WorkerLostError" in result
    assert shown in result
    server.wait_for_log(f"Task tasks.{task} raised {shown}")
    assert server.get("/task/add", args=["2", "2"]) == 4
    server.press_ctrl_c()
    assert server.wait() == 0
    assert "cut off" not in server.log
