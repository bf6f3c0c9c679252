from worker import celery


@celery.task
def hello() -> str:
    return "hello"
