import os

from celery import Celery

celery_app = Celery("shop", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])


@celery_app.task
def hello() -> str:
    return os.environ["GREETING"]
