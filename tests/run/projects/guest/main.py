"""An API that runs any task, or calls its function in the handler itself.

It also returns how its process is set up.
"""

from typing import Annotated, Any

# state is imported before Celery is.
import state
import tasks
from fastapi import FastAPI, Query

app = FastAPI()
Args = Annotated[list[str], Query(default_factory=list)]


@app.get("/process")
def about() -> dict[str, Any]:
    return {**state.at_import, **state.process()}


@app.get("/task/{name}")
def task(name: str, args: Args) -> Any:
    return getattr(tasks, name).delay(*args).get(timeout=25)


@app.get("/handler/{name}")
def handler(name: str, args: Args) -> Any:
    return getattr(tasks, name).run(*args)


@app.get("/error/{name}")
def error(name: str, args: Args) -> str:
    return repr(getattr(tasks, name).delay(*args).get(timeout=25, propagate=False))


@app.get("/send/{name}")
def send(name: str, args: Args) -> str:
    return str(getattr(tasks, name).delay(*args).id)
