import os

from celery import Celery

second = Celery("two", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])


@second.task
def two() -> str:
    return "two"
