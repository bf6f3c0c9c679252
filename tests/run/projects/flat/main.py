import sys

import tasks
from fastapi import FastAPI

app = FastAPI()


@app.get("/")
def root() -> dict[str, object]:
    modules = sorted(
        name
        for name in sys.modules
        if name in {"main", "tasks", "app.main", "app.tasks", "app.celery"}
    )
    return {
        "task": tasks.hello.name,
        "answer": tasks.hello.delay().get(timeout=10),
        "modules": modules,
    }
