"""One function for each figure.

It takes a loop that runs and has answered, and returns what the table shows.
"""

import contextlib
import statistics
import threading
import time
from collections.abc import Callable

from tests.run.benchmarks.loops import Running, get

NEVER = float("inf")


def start(running: Running) -> float:
    """Return the seconds from the command to its first answer."""
    running.wait_for_answer(4)
    return time.perf_counter() - running.started


def memory(running: Running) -> float:
    """Return the MiB of memory of all its processes.

    On Linux this is PSS, which counts once what processes share.
    """
    running.settle()
    total = 0
    for process in running.tree():
        info = process.memory_full_info()
        total += getattr(info, "pss", info.uss)
    return total / 2**20


def round_trip(running: Running) -> float:
    """Return the median of the seconds that a request takes.

    The request sends a task and waits for its result.
    """
    with contextlib.closing(running.connect()) as connection:
        return statistics.median(timed(lambda: get(connection, "/task")) for _ in range(200))


def burst(running: Running) -> float:
    """Return the tasks per second of 300 tiny ones that one request sends and waits for."""
    return 300 / timed(lambda: running.get("/burst?count=300"))


def edit(running: Running) -> float:
    """Return the seconds from the save of a changed task to its answer.

    It is NEVER if the answer doesn't come in 5 s.
    """
    running.settle()
    answer = int(running.get(running.loop.answer))
    code = running.tasks.read_text()
    saved = time.perf_counter()
    running.tasks.write_text(code.replace("return ", "return 1 + ", 1))
    try:
        running.wait_for_answer(answer + 1, timeout=5)
    except TimeoutError:
        return NEVER
    return time.perf_counter() - saved


def stop(running: Running) -> float:
    """Return the seconds from Ctrl-C to the end of all commands, when they had nothing to do."""
    running.settle()
    running.press_ctrl_c()
    pressed = time.perf_counter()
    for terminal in running.terminals:
        terminal.wait()
    return time.perf_counter() - pressed


def idle(running: list[Running]) -> list[float]:
    """Return the share of a core, in percent, that each uses in 10 s when it has nothing to do."""
    for each in running:
        each.wait_for_answer(4)
    for each in running:
        each.settle()
    used, began = [sum(each.cpu_seconds().values()) for each in running], time.perf_counter()
    time.sleep(10)
    seconds = time.perf_counter() - began
    return [
        100 * (sum(each.cpu_seconds().values()) - was) / seconds
        for each, was in zip(running, used, strict=True)
    ]


def ping(running: Running) -> tuple[float, float, float]:
    """Measure GET /ping while 4 CPU-bound tasks run.

    One request follows the other after 10 ms, so that the load is no greater where the answers are
    faster.

    Returns:
        p50 and p99 of the requests, and how long the tasks took, all in seconds.
    """
    running.wait_for_answer(4)
    running.settle()
    taken: list[float] = []
    tasks = threading.Thread(
        target=lambda: taken.append(timed(lambda: running.get("/spin?count=4")))
    )
    times = []
    with contextlib.closing(running.connect()) as connection:
        get(connection, "/ping")
        tasks.start()
        while tasks.is_alive():
            times.append(timed(lambda: get(connection, "/ping")))
            time.sleep(0.01)
    percentiles = statistics.quantiles(times, n=100, method="inclusive")
    return percentiles[49], percentiles[98], taken[0]


def sleep(running: Running) -> float:
    """Return the seconds that 1,000 tasks take which sleep for 1 s."""
    running.wait_for_answer(4)
    running.settle()
    return timed(lambda: running.get("/sleep?count=1000&seconds=1"))


def timed(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began
