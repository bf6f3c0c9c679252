"""The API."""

from fastapi import FastAPI
from jobs import router
from tasks import add

app = FastAPI()
app.include_router(router)


@app.get("/")
def read_root() -> dict[str, int]:
    """Compute 2 + 2 in a task, and wait for it.

    A plain `def`, which FastAPI runs in a thread: waiting in an `async def` would block the event loop.
    """
    return {"2+2": add.delay(2, 2).get(timeout=10)}
