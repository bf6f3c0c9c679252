"""The API."""

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from jobs import router
from tasks import add

app = FastAPI()
app.include_router(router)


@app.get("/")
def read_root() -> dict[str, int]:
    """Compute 2 + 2 in a task, and wait for the result.

    FastAPI runs a plain `def` in a thread, so waiting doesn't block the event loop.
    """
    return {"2+2": add.delay(2, 2).get(timeout=10)}


@app.get("/async")
async def read_async() -> dict[str, int]:
    """Do the same in an `async def`, and wait for the result in a thread.

    Calling `result.get()` here would block the event loop.
    """
    result = add.delay(2, 2)
    return {"2+2": await run_in_threadpool(result.get, timeout=10)}
