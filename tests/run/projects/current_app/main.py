from celery_config import celery
from fastapi import FastAPI
from tasks import hello

app = FastAPI()


@app.get("/")
def root() -> str:
    return hello.delay().get(timeout=10)
