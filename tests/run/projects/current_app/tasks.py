from celery import shared_task


@shared_task
def hello() -> str:
    return "hello"
