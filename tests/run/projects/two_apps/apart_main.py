"""Two apps, each with a broker of its own."""

import one
from celery import Celery
from fastapi import FastAPI

app = FastAPI()
away = Celery("away", broker="memory://")


@away.task
def task_of_away() -> None:
    pass
