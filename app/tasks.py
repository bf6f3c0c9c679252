"""The Celery app, with settings in celeryconfig.py, and its tasks."""

from celery import Celery

app = Celery("tasks")
app.config_from_object("celeryconfig")


@app.task
def add(x: int, y: int) -> int:
    """Add two numbers. In a real project, the long work is here."""
    return x + y
