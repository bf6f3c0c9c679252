"""An API that sends any task and returns its result, and that streams without end."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import tasks
from fastapi import FastAPI, WebSocket
from fastapi.responses import StreamingResponse

app = FastAPI()


@app.get("/")
def root() -> dict[str, int]:
    return {"2+2": tasks.add.delay(2, 2).get(timeout=10)}


@app.get("/result/{task}")
def result(task: str) -> dict[str, Any]:
    """Send a task, and return its state, and its result or error."""
    sent = getattr(tasks, task).delay()
    value = sent.get(timeout=10, propagate=False)
    return {"state": sent.state, "value": repr(value)[:200]}


async def count(form: str) -> AsyncIterator[str]:
    for number in itertools.count():
        yield form.format(number)
        await asyncio.sleep(0.1)


@app.get("/stream")
def stream() -> StreamingResponse:
    return StreamingResponse(count("{}\n"), media_type="text/plain")


@app.get("/events")
def events() -> StreamingResponse:
    return StreamingResponse(count("data: {}\n\n"), media_type="text/event-stream")


@app.websocket("/websocket")
async def websocket(socket: WebSocket) -> None:
    await socket.accept()
    async for number in count("{}"):
        await socket.send_text(number)
