import os

from celery import Celery

app = Celery("hello", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])


@app.task
def hello() -> str:
    return "hello"
