import os

from celery import Celery
from fastapi import FastAPI


def create_celery() -> Celery:
    celery = Celery("made", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])

    @celery.task(name="hello")
    def hello() -> str:
        return "hello"

    return celery


def create_app() -> FastAPI:
    app = FastAPI()
    app.state.celery = create_celery()

    @app.get("/")
    def root() -> str:
        return app.state.celery.tasks["hello"].delay().get(timeout=10)

    return app
