import sys

from fastapi import FastAPI

from app.celery import celery

app = FastAPI()


@app.get("/")
def root() -> dict[str, object]:
    modules = sorted(
        name
        for name in sys.modules
        if name in {"main", "tasks", "app.main", "app.tasks", "app.celery"}
    )
    return {
        "task": celery.tasks["app.tasks.hello"].name,
        "answer": celery.tasks["app.tasks.hello"].delay().get(timeout=10),
        "modules": modules,
    }
