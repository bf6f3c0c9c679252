"""Tasks that end badly, and tasks that count how often they run."""

import os
import sys
import time
from datetime import datetime

from celery import Celery

VERSION = 0
redis_url = os.environ["REDIS_URL"]
app = Celery("faults", broker=redis_url, backend=redis_url)
app.conf.update(
    accept_content=["json"],
    broker_transport_options={"socket_timeout": 3},
    redis_socket_timeout=3,
    result_backend_transport_options={"retry_policy": {"max_retries": 2}},
    result_backend_always_retry=True,
    result_backend_max_retries=9,
)


def note(task):
    with open("runs", "a") as file:
        file.write(f"{task.request.id}\n")


@app.task
def add(x, y):
    return x + y


@app.task
def raising():
    raise ValueError("as asked")


@app.task
def ending_the_process():
    os._exit(5)


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


@app.task(bind=True)
def count(self, seconds=0.0):
    """Note each run in a file, and return the version of this code."""
    note(self)
    time.sleep(seconds)
    return VERSION


@app.task(bind=True)
def on_time(self):
    """Return how many seconds after its ETA the task runs."""
    note(self)
    return time.time() - datetime.fromisoformat(self.request.eta).timestamp()
