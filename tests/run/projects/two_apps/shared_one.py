import os

from celery import Celery

url = os.environ["REDIS_URL"]
first = Celery("one", broker=url, backend=url)
first.conf.task_default_queue = "queue_of_one"


@first.task(name="one.first")
def first_task() -> str:
    return "one"
