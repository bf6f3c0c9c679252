from fastapi import FastAPI
from worker import celery

app = FastAPI()


@app.get("/")
def root() -> str:
    return celery.signature("jobs.hello").delay().get(timeout=10)
