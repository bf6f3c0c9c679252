import os

from celery import Celery

app = Celery("worker", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])


@app.task
def hello() -> str:
    return "hello"


@app.task
def bye() -> str:
    return "bye"
