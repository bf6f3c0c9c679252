"""Both apps on the broker of the environment, each with a queue of its own."""

from fastapi import FastAPI
from shared_one import first_task
from shared_two import second_task

app = FastAPI()


@app.get("/")
def send() -> dict[str, str]:
    return {"one": first_task.delay().get(timeout=10), "two": second_task.delay().get(timeout=10)}
