"""The Celery app and its tasks."""

import os

from celery import Celery

redis_url = os.environ.get("REDIS_URL", "redis://localhost:6379/0")

# A worker imports `main`, and so knows the tasks of each module that the API imports.
app = Celery("tasks", broker=redis_url, backend=redis_url, include=["main"])

# For production, where workers are killed and Redis goes away.
app.conf.update(
    task_acks_late=True,  # a killed worker's tasks run again, in an hour (`visibility_timeout`). So any may run twice,
    worker_deduplicate_successful_tasks=True,  # though not once it has succeeded
    worker_prefetch_multiplier=1,  # a worker takes no messages but those that its processes work on
    broker_transport_options={"socket_timeout": 3},  # without Redis, a request gets an error in seconds,
    redis_socket_timeout=3,
    result_backend_transport_options={"retry_policy": {"max_retries": 2}},
    result_backend_always_retry=True,  # and a task's result is tried for longer
    result_backend_max_retries=9,
)


@app.task
def add(x: int, y: int) -> int:
    """Add two numbers, where the long work of a real project would be."""
    return x + y
