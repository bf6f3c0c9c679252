"""The tasks of the benchmark, configured as those of app/."""

import os
import time

from celery import Celery

redis_url = os.environ.get("REDIS_URL", "redis://localhost:6379/0")

app = Celery("tasks", broker=redis_url, backend=redis_url)
app.conf.update(task_serializer="json", result_serializer="json", accept_content=["json"])


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def sleep(seconds: float) -> None:
    time.sleep(seconds)


@app.task
def spin() -> int:
    """Keep a core busy with pure Python, for about a second."""
    total = 0
    for i in range(15_000_000):
        total += i & 7
    return total
