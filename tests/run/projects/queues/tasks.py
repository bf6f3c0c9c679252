import os

from celery import Celery
from kombu import Queue

app = Celery("queues", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.task_default_queue = "main"
app.conf.task_queues = [Queue("listed")]
app.conf.task_routes = (
    [("tasks.exact", {"queue": "exact"}), ("tasks.glob_*", "glob")],
    lambda name, *args, **kwargs: {"queue": "routed"} if name == "tasks.function" else None,
)
app.conf.beat_schedule = {
    "daily": {"task": "tasks.own", "schedule": 86400, "options": {"queue": "scheduled"}}
}


def where(self) -> str:
    """Return the queue that the message came from."""
    return self.request.delivery_info["routing_key"]


for name in ("exact", "glob_1", "function", "default"):
    app.task(bind=True, name=f"tasks.{name}")(where)
queue = app.task(bind=True, name="tasks.own", queue="own")(where)
