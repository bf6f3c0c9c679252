"""Fixtures that run the app and its worker in the test's process."""

import os
import socket
from collections.abc import Iterator

import pytest
from celery.contrib.testing.worker import start_worker
from fastapi.testclient import TestClient

from run import start_redis

# The tests have a Redis of their own, which ends with them. celeryconfig.py reads its URL, so set
# the URL before you import the app.
with socket.create_server(("localhost", 0)) as free:
    os.environ["REDIS_URL"] = f"redis://localhost:{free.getsockname()[1]}/0"

# These variables override the URL.
os.environ.pop("CELERY_BROKER_URL", None)
os.environ.pop("CELERY_RESULT_BACKEND", None)


@pytest.fixture(scope="session")
def client() -> Iterator[TestClient]:
    """Return an HTTP client for the app.

    The tasks run in threads of the test's process, so a debugger stops in them.
    """
    from main import app
    from tasks import app as celery_app

    start_redis(os.environ["REDIS_URL"])
    worker = start_worker(celery_app, pool="threads", concurrency=4, perform_ping_check=False)
    with worker, TestClient(app) as client:
        yield client
