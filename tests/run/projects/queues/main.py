from fastapi import FastAPI
from tasks import app as celery
from tasks import queue

app = FastAPI()


@app.get("/")
def root() -> dict[str, str]:
    """Where each task found a worker: its queue."""
    tasks = [name for name in celery.tasks if name.startswith("tasks.")]
    return {name: celery.tasks[name].delay().get(timeout=10) for name in tasks}


@app.get("/to")
def to(name: str) -> str:
    return queue.apply_async(queue=name).get(timeout=10)
