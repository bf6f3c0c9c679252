"""Writes each signal that Celery sends in a worker to a file."""

import os

from celery import Celery, signals

app = Celery("signals", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
names = [
    name
    for name in signals.__all__
    if name.startswith(("celeryd_", "worker_", "task_", "after_setup_", "beat_"))
]
if os.environ.get("SETUP_LOGGING"):
    names.append("setup_logging")


def connect(name: str) -> None:
    def write(sender=None, **kwargs):
        with open(os.environ["SIGNALS"], "a") as file:
            file.write(f"{name} {sender if isinstance(sender, str) else type(sender).__name__}\n")

    getattr(signals, name).connect(write, weak=False)


for name in names:
    connect(name)


@app.task
def succeed() -> None:
    pass


@app.task
def fail() -> None:
    raise ValueError("as asked")


@app.task(bind=True, default_retry_delay=0, max_retries=1)
def retry(self) -> None:
    if not self.request.retries:
        self.retry()
