"""Two Celery apps, each with the shared tasks, of which -A names one."""

import os

from celery import Celery, current_app, shared_task
from celery.result import AsyncResult
from fastapi import FastAPI

app = FastAPI()
real = Celery("real", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])


@shared_task
def names() -> list[str]:
    return [current_app.main, inner.delay().app.main]


@shared_task
def inner() -> None:
    pass


@real.task
def own() -> None:
    pass


# The last one is the current app of this thread, and has neither broker nor backend.
client = Celery("client")


@app.get("/handler")
def handler() -> dict[str, object]:
    task_id = names.delay().id
    return {"current_app": current_app.main, "of a task": AsyncResult(task_id).get(timeout=10)}


@app.get("/async")
async def async_handler() -> dict[str, object]:
    task_id = names.delay().id
    return {"current_app": current_app.main, "of a task": AsyncResult(task_id).get(timeout=10)}
