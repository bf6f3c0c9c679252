"""Endless streams and WebSockets hold up no reload and no end beyond uvicorn's timeout."""

import contextlib
import threading

import httpx2 as httpx
import pytest
from command import listens, wait_for
from websockets.sync.client import connect

pytestmark = pytest.mark.slow

# By default, uvicorn waits for them.
TIMEOUT = ["--timeout-graceful-shutdown", "1"]


@pytest.fixture
def open_connection(request):
    """Keep a connection of the kind open to a port, and return once its first data has come."""
    with contextlib.ExitStack() as stack:

        def open_connection(kind, port):
            if kind == "websocket":
                websocket = stack.enter_context(connect(f"ws://127.0.0.1:{port}/websocket"))
                assert websocket.recv() == "0"
                return
            response = stack.enter_context(
                httpx.stream("GET", f"http://127.0.0.1:{port}/{kind}", timeout=60)
            )
            lines = response.iter_lines()
            assert "0" in next(lines)
            # A browser reads on like this.
            threading.Thread(target=drain, args=(lines,), daemon=True).start()

        yield open_connection


def drain(lines):
    with contextlib.suppress(httpx.TransportError, httpx.StreamError):
        list(lines)


@pytest.mark.parametrize("kind", ["stream", "events", "websocket"])
def test_reload_does_not_hang(start, faults, open_connection, kind):
    server = start("run.py", "main:app", "--reload", *TIMEOUT)
    wait_for(lambda: listens(server.port), lambda: server.log)
    open_connection(kind, server.port)
    (faults / "tasks.py").touch()
    server.wait_for_log("Application startup complete.", count=2)
    assert server.get() == {"2+2": 4}


@pytest.mark.parametrize("kind", ["stream", "events", "websocket"])
def test_end_does_not_hang(start, faults, open_connection, kind):
    server = start("run.py", "main:app", *TIMEOUT)
    wait_for(lambda: listens(server.port), lambda: server.log)
    open_connection(kind, server.port)
    server.press_ctrl_c()
    assert server.wait() == 0
    server.wait_until_nothing_is_left()
