"""An app has the lifespan that uvicorn allows it to have, and the worker runs beside it."""

import pytest

RAISES = """
api = app

async def app(scope, receive, send):
    assert scope["type"] in ("http", "websocket")
    await api(scope, receive, send)
"""

RETURNS = """
api = app

async def app(scope, receive, send):
    if scope["type"] == "http":
        await api(scope, receive, send)
"""

CLOSES_THE_EXECUTOR = """
import asyncio
import contextlib

@contextlib.asynccontextmanager
async def lifespan(app):
    yield
    await asyncio.get_running_loop().shutdown_default_executor()

app.router.lifespan_context = lifespan
"""


@pytest.mark.parametrize("args", [[], ["--reload"]], ids=["plain", "reload"])
@pytest.mark.parametrize(
    "code",
    [RAISES, RETURNS, CLOSES_THE_EXECUTOR],
    ids=["raises", "returns at once", "closes the executor"],
)
def test_app_is_served_with_its_worker_and_ends_cleanly(start, add, code, args):
    add(main=code)
    server = start("run.py", "main:app", *args)
    assert server.get("/task/add", args=["2", "2"]) == 4
    server.press_ctrl_c()
    assert server.wait() == 0
    assert "Traceback" not in server.log


def test_lifespan_may_be_off(start, guest):
    server = start("run.py", "main:app", "--lifespan", "off")
    assert server.get("/task/add", args=["2", "2"]) == 4
    assert "Waiting for application startup" not in server.log


def test_lifespan_that_must_be_on_is_an_error_where_there_is_none(start, add):
    add(main=RAISES)
    server = start("run.py", "main:app", "--lifespan", "on")
    assert server.wait() == 3
    assert "Exception in 'lifespan' protocol" in server.log
