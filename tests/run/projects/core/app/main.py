from fastapi import FastAPI

from app.core.celery import celery_app

app = FastAPI()


@app.get("/")
def root() -> str:
    return celery_app.send_task("app.tasks.mails.hello").get(timeout=10)
