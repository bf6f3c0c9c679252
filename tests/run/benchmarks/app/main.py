"""The API of the benchmark: one route for each thing that is measured."""

import os
import sys

from celery.result import ResultSet
from fastapi import FastAPI
from tasks import add, sleep, spin

if os.environ.get("BENCHMARK_SWITCH_INTERVAL") == "default":
    # run.py can't shorten the interval now.
    sys.setswitchinterval = lambda seconds: None

app = FastAPI()


@app.get("/direct")
def direct() -> int:
    """Answer by the code of tasks.py, without a worker."""
    return add(2, 2)


@app.get("/task")
def task() -> int:
    """Answer by the same code in a task."""
    return add.delay(2, 2).get(timeout=20)


@app.get("/burst")
def burst(count: int) -> int:
    return len(ResultSet([add.delay(1, i) for i in range(count)]).join(timeout=60))


@app.get("/sleep")
def sleeps(count: int, seconds: float) -> int:
    return len(ResultSet([sleep.delay(seconds) for _ in range(count)]).join(timeout=120))


@app.get("/spin")
def spins(count: int) -> int:
    return len(ResultSet([spin.delay() for _ in range(count)]).join(timeout=60))


@app.get("/ping")
async def ping() -> str:
    return "pong"
