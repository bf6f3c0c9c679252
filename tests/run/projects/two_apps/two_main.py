import sys

import one
import two
from fastapi import FastAPI

app = FastAPI()


@app.get("/")
def root() -> dict[str, object]:
    modules = sorted(
        name
        for name in sys.modules
        if name in {"main", "tasks", "app.main", "app.tasks", "app.celery"}
    )
    return {"task": two.two.name, "answer": two.two.delay().get(timeout=10), "modules": modules}
