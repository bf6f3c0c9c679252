"""Tasks that end badly."""

import os
import sys

from celery import Celery

redis_url = os.environ["REDIS_URL"]
app = Celery("faults", broker=redis_url, backend=redis_url)
app.conf.update(task_serializer="json", result_serializer="json", accept_content=["json"])


@app.task
def add(x, y):
    return x + y


@app.task
def raising():
    raise ValueError("as asked")


@app.task
def not_json():
    return object()


@app.task
def too_deep():
    return too_deep.run()


@app.task
def exiting():
    sys.exit(3)


@app.task
def interrupting():
    raise KeyboardInterrupt


@app.task
def huge():
    return "x" * 30_000_000
