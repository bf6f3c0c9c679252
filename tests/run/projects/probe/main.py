"""An API that runs any of the tasks, and returns facts about its process."""

import logging
import os
import sys
from typing import Annotated, Any

import tasks
from celery.result import AsyncResult
from celery.worker import state
from fastapi import FastAPI, Query

app = FastAPI()
Args = Annotated[list[str], Query()]


@app.get("/")
def root() -> dict[str, int]:
    return {"2+2": tasks.add.delay(2, 2).get(timeout=10)}


@app.get("/process")
def process() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "root handlers": [str(handler) for handler in logging.getLogger().handlers],
        "stdout": type(sys.stdout).__name__,
        "path": sys.path,
        "switch interval": sys.getswitchinterval(),
    }


@app.get("/run/{task}")
def run(task: str, args: Args = ()) -> Any:
    return getattr(tasks, task).delay(*args).get(timeout=20)


@app.get("/error/{task}")
def error(task: str, args: Args = ()) -> str:
    return str(getattr(tasks, task).delay(*args).get(timeout=20, propagate=False))


@app.get("/send/{task}")
def send(task: str, args: Args = (), count: int = 1) -> list[str]:
    return [getattr(tasks, task).delay(*args).id for _ in range(count)]


@app.get("/state/{task_id}")
async def task_state(task_id: str) -> str:
    return str(AsyncResult(task_id).state)


@app.get("/active")
def active() -> list[str]:
    return [request.name for request in state.active_requests]


@app.get("/shutdown_worker")
def shutdown_worker() -> None:
    tasks.app.control.shutdown()
