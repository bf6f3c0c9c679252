"""Streams and background tasks end as under uvicorn."""

import threading

import httpx2 as httpx
import pytest
from command import wait_for

# As sse-starlette ends its streams: by uvicorn's server, which the handler of signals belongs to.
STREAM = """
import asyncio
import signal
from fastapi.responses import StreamingResponse

@app.get("/events")
def events():
    async def ticks():
        server = signal.getsignal(signal.SIGTERM).__self__
        while not server.should_exit:
            yield "tick"
            await asyncio.sleep(0.05)

    return StreamingResponse(ticks())
"""

BACKGROUND = """
import time
from fastapi import BackgroundTasks

def work():
    print("begins", flush=True)
    time.sleep(7)
    print("is done", flush=True)

@app.get("/background")
def send_background(background: BackgroundTasks) -> str:
    background.add_task(work)
    return "sent"
"""


@pytest.mark.parametrize("args", [[], ["--reload"]], ids=["plain", "reload"])
def test_stream_that_asks_the_server_ends_at_once(start, add, args):
    add(main=STREAM)
    server = start("run.py", "main:app", *args)
    server.get("/task/add", args=["2", "2"])
    url = f"http://127.0.0.1:{server.port}/events"
    with httpx.stream("GET", url, timeout=60) as response:
        chunks = response.iter_text()
        assert next(chunks).startswith("tick")
        reader = threading.Thread(target=list, args=(chunks,))
        reader.start()
        server.press_ctrl_c()
        assert server.wait() == 0
        reader.join()
    assert "Cancel" not in server.log


@pytest.mark.slow
@pytest.mark.parametrize("args", [[], ["--reload"]], ids=["plain", "reload"])
def test_background_task_runs_to_its_end(start, add, args):
    add(main=BACKGROUND)
    server = start("run.py", "main:app", *args)
    server.get("/background")
    wait_for(lambda: "begins" in server.log)
    server.press_ctrl_c()
    assert server.wait() == 0
    assert "is done" in server.log
