import os

from celery import Celery

first = Celery("one", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])


@first.task
def one() -> str:
    return "one"
