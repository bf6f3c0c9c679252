"""Never imports the worker's code. It has a stub of a task, and sends another by its name alone."""

import os

from celery import Celery
from fastapi import FastAPI

app = FastAPI()
client = Celery("client", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])


@client.task(name="worker.hello")
def hello() -> str:
    raise NotImplementedError("this is the stub")


@app.get("/")
def root() -> list[str]:
    return [hello.delay().get(timeout=10), client.send_task("worker.bye").get(timeout=10)]
