"""The Celery app and its tasks."""

import os

from celery import Celery

redis_url = os.environ.get("REDIS_URL", "redis://localhost:6379/0")

app = Celery("tasks", broker=redis_url, backend=redis_url, include=["jobs"])
app.conf.update(task_serializer="json", result_serializer="json", accept_content=["json"])


@app.task
def add(x: int, y: int) -> int:
    """Add two numbers, where the long work of a real project would be."""
    return x + y
