"""The app in the test's own process, with its worker."""

import random
import socket
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from run import WorkerThread, ensure_redis


@pytest.fixture(scope="session")
def redis_url() -> str:
    """The URL of a Redis that run.py starts and that ends with the tests."""
    url = f"redis://localhost:{free_port()}/0"
    ensure_redis(url)
    return url


@pytest.fixture(scope="session")
def worker(redis_url: str) -> Iterator[None]:
    """A Celery worker for the app's tasks, in threads of this process: a debugger of the test stops in them."""
    from tasks import app

    app.conf.update(broker_url=redis_url, result_backend=redis_url)
    with WorkerThread(app):
        yield


@pytest.fixture
def client(worker: None) -> Iterator[TestClient]:
    """An HTTP client on the app."""
    from main import app

    with TestClient(app) as client:
        yield client


def free_port() -> int:
    """Return a port below those that the system gives to outgoing connections, so that none takes it meanwhile."""
    while True:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port := random.randrange(10_000, 32_000))):
                return port
