import os

from celery import Celery

url = os.environ["REDIS_URL"]
second = Celery("two", broker=url, backend=url)
second.conf.task_default_queue = "queue_of_two"


@second.task(name="two.second")
def second_task() -> str:
    return "two"
