"""An API that sends any task, and tells its state."""

from typing import Any

import tasks
from celery.result import AsyncResult
from fastapi import FastAPI

app = FastAPI()


@app.get("/")
def root() -> dict[str, int]:
    return {"2+2": tasks.add.delay(2, 2).get(timeout=10)}


@app.get("/result/{task}")
def result(task: str) -> dict[str, Any]:
    """Send a task, and return its state, and its result or error."""
    sent = getattr(tasks, task).delay()
    value = sent.get(timeout=10, propagate=False)
    return {"state": sent.state, "value": repr(value)[:200]}
