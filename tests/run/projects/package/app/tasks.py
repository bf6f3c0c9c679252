from app.celery import celery


@celery.task
def hello() -> str:
    return "hello"
