"""Not the library, which is imported here."""

import os

from celery import Celery

celery = Celery(
    "package",
    broker=os.environ["REDIS_URL"],
    backend=os.environ["REDIS_URL"],
    include=["app.tasks"],
)
