"""Never imports the worker's code, and sends its tasks by their names alone."""

import os

from celery import Celery
from fastapi import FastAPI

app = FastAPI()
client = Celery("client", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])


@app.get("/")
def root() -> list[str]:
    return [client.send_task(f"worker.{name}").get(timeout=10) for name in ("hello", "bye")]
