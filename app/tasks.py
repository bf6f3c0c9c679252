"""The Celery app and its tasks."""

import os

from celery import Celery

redis_url = os.environ.get("REDIS_URL", "redis://localhost:6379/0")

app = Celery("tasks", broker=redis_url, backend=redis_url, include=["jobs"])
app.conf.update(
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    # The tasks of a killed worker run again: a message is deleted once its task has ended, not before it begins, and
    # Redis has it delivered again after this many seconds. They must outlast the longest task and countdown. So a task
    # may run twice, though not once it has succeeded. A worker takes no messages but those that its processes work on.
    task_acks_late=True,
    broker_transport_options={"visibility_timeout": 3600, "socket_timeout": 3},
    worker_deduplicate_successful_tasks=True,
    worker_prefetch_multiplier=1,
    # While Redis is gone or silent, a request gets an error in seconds (by default after 19 s, or never), and a task's
    # result is tried for some seconds, not lost at once.
    redis_socket_timeout=3,
    result_backend_transport_options={"retry_policy": {"max_retries": 2}},
    result_backend_always_retry=True,
    result_backend_max_retries=9,
)


@app.task
def add(x: int, y: int) -> int:
    """Add two numbers, where the long work of a real project would be."""
    return x + y
