"""Tasks that return facts about their process, wait, and fail."""

import os
import threading
import time

from celery import Celery, current_app
from celery.result import allow_join_result

redis_url = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
app = Celery("probe", broker=redis_url, backend=redis_url)
if concurrency := os.environ.get("PROBE_CONCURRENCY"):
    app.conf.worker_concurrency = int(concurrency)

meeting = threading.Barrier(4, timeout=20)


@app.task
def add(x, y):
    return x + y


@app.task
def where():
    return {"pid": os.getpid(), "app": current_app.main}


@app.task
def sleep(seconds):
    time.sleep(float(seconds))


@app.task(acks_late=True)
def sleep_late(seconds):
    time.sleep(float(seconds))


@app.task
def meet():
    meeting.wait()


@app.task
def fail():
    raise ValueError("as asked")


@app.task
def wait_for_add():
    return add.delay(1, 2).get(timeout=10)


@app.task
def wait_for_add_anyway():
    with allow_join_result():
        return add.delay(1, 2).get(timeout=10)
