import os

from celery import Celery

client = Celery("client", broker=os.environ["REDIS_URL"])
